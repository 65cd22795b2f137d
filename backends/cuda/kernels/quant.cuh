// How quantised weights are taken apart in registers.

#pragma once

#include "millstream.cuh"

// A small unsigned integer less `zero`, exactly: 2^23 + q is a float32 whose low bits are q, and no conversion is needed.
DEVICE f32 small(u32 q, f32 zero) { return __int_as_float(static_cast<i32>(0x4b000000u | q)) - (8388608.0f + zero); }

// Four signed bytes.
DEVICE void bytes(u32 word, f32* w) {
    UNROLL for (int i = 0; i < 4; i++) w[i] = small((word >> 8 * i & 255u) ^ 128u, 128.0f);
}

// N words of bytes from k0 on, those past the end being 0.
template <int N> DEVICE Pack<u32, N> words_of(const i8* row, i64 k0, i64 k) {
    if (k0 + 4 * N <= k && aligned<4 * N>(row + k0)) return load<N>(reinterpret_cast<const u32*>(row + k0));
    Pack<u32, N> words;
    UNROLL for (int j = 0; j < N; j++) {
        words.at[j] = 0;
        UNROLL for (int i = 0; i < 4; i++) {
            if (k0 + 4 * j + i < k) words.at[j] |= static_cast<u32>(static_cast<u8>(row[k0 + 4 * j + i])) << 8 * i;
        }
    }
    return words;
}

// Blocks of 32 weights of 4 bits, `count` of them a row.
template <class T> struct Blocks {
    const u8* weights;
    const T* scales;
    const u8* zeros;
    i64 count;

    MEMBER f32 zero(i64 n, i64 block) const { return zeros ? static_cast<f32>(zeros[n * ((count + 1) / 2) + block / 2] >> block % 2 * 4 & 15) : 8.0f; }
    MEMBER Pack<u32, 4> words(i64 n, i64 block) const { return load<4>(reinterpret_cast<const u32*>(weights + (n * count + block) * 16)); }
    // Eight weights of a word of the block, as (q - zero) scale.
    MEMBER void apart(u32 word, i64 n, i64 block, f32* w) const {
        const f32 z = zero(n, block), scale = to_f32(scales[n * count + block]);
        UNROLL for (int i = 0; i < 8; i++) w[i] = small(word >> 4 * i & 15u, z) * scale;
    }
    // Weights 8 part and on.
    MEMBER void quarter(i64 n, i64 block, int part, f32* w) const {
        apart(reinterpret_cast<const u32*>(weights + (n * count + block) * 16)[part], n, block, w);
    }
};
