// Casts between element types.
//
// Floats become floats by rounding to nearest, ties to even. Floats become integers by cutting the fraction off; what does
// not fit becomes the nearest integer that does, and NaN becomes 0. Integers become narrower integers by keeping their low
// bits. Anything becomes a bool by comparing with 0. An i64 becomes a float16 or a bfloat16 by way of float32.

#include "millstream.cuh"

DEVICE f32 number(f32 x) { return x; }
DEVICE f32 number(f16 x) { return to_f32(x); }
DEVICE f32 number(bf16 x) { return to_f32(x); }
DEVICE i64 number(i64 x) { return x; }
DEVICE i64 number(i32 x) { return x; }
DEVICE i64 number(i8 x) { return x; }
DEVICE i64 number(u8 x) { return x; }

// The bounds are powers of two, so that they are exact in float32.
template <class T> DEVICE T cut(f32 x, f32 low, f32 past, T least, T most) {
    return x != x ? T(0) : x < low ? least : x >= past ? most : static_cast<T>(x);
}

template <class D> struct Cast {
    DEVICE D of(f32 x) { return rounded<D>(x); }
    DEVICE D of(i64 x) { return rounded<D>(static_cast<f32>(x)); }
};
template <> struct Cast<i64> {
    DEVICE i64 of(f32 x) { return cut<i64>(x, -9223372036854775808.0f, 9223372036854775808.0f, -9223372036854775807ll - 1, 9223372036854775807ll); }
    DEVICE i64 of(i64 x) { return x; }
};
template <> struct Cast<i32> {
    DEVICE i32 of(f32 x) { return cut<i32>(x, -2147483648.0f, 2147483648.0f, -2147483647 - 1, 2147483647); }
    DEVICE i32 of(i64 x) { return static_cast<i32>(x); }
};
template <> struct Cast<i8> {
    DEVICE i8 of(f32 x) { return static_cast<i8>(cut<i32>(x, -128.0f, 128.0f, -128, 127)); }
    DEVICE i8 of(i64 x) { return static_cast<i8>(x); }
};
template <> struct Cast<u8> {
    DEVICE u8 of(f32 x) { return static_cast<u8>(cut<i32>(x, 0.0f, 256.0f, 0, 255)); }
    DEVICE u8 of(i64 x) { return static_cast<u8>(x); }
};
template <> struct Cast<bool> {
    DEVICE u8 of(f32 x) { return x != 0.0f; }
    DEVICE u8 of(i64 x) { return x != 0; }
};

// entries: cast_{f32,f16,bf16,i64,i32,i8,u8}_{f32,f16,bf16,i64,i32,i8,u8,bool}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=40
// args: x, y, n. The source's type, then the destination's; a bool is a u8 of 0 or 1. A cast to the same type is a copy.
#define CAST(S, D, stored) \
    KERNEL(cast_##S##_##D, 256, const S* x, stored* y, i64 n) { \
        i64 done = 0; \
        if (aligned<4 * sizeof(S)>(x) && aligned<4 * sizeof(stored)>(y)) { \
            ROLLED for (i64 i = thread_of_grid(); i < n / 4; i += threads_of_grid()) { \
                const auto from = load<4>(x + i * 4); \
                Pack<stored, 4> to; \
                UNROLL for (int k = 0; k < 4; k++) to.at[k] = Cast<D>::of(number(from.at[k])); \
                store<4>(y + i * 4, to); \
            } \
            done = n / 4 * 4; \
        } \
        ROLLED for (i64 i = done + thread_of_grid(); i < n; i += threads_of_grid()) y[i] = Cast<D>::of(number(x[i])); \
    }
#define CASTS(S) \
    CAST(S, f32, f32) CAST(S, f16, f16) CAST(S, bf16, bf16) CAST(S, i64, i64) CAST(S, i32, i32) CAST(S, i8, i8) CAST(S, u8, u8) CAST(S, bool, u8)
CASTS(f32) CASTS(f16) CASTS(bf16) CASTS(i64) CASTS(i32) CASTS(i8) CASTS(u8)
