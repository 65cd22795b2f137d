// What every kernel of this folder is written in: the macros that mean one thing to a CUDA compiler and another to the
// host shim, element types, conversions, loads of 16 bytes, walks over elements, reductions within a warp and a block.
//
// Rules that hold for every kernel (README.md is the contract with whoever launches them):
// - it is right for any one-dimensional grid; the grid that its comment states is the one to take;
// - elements are counted in 64 bits; float16 and bfloat16 are computed in float32;
// - every thread of a block meets the same barriers, and every lane of a warp the same collectives.

#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// A kernel: its name, the threads of its block, its parameters.
#define KERNEL(name, threads, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
// The same with registers for so many blocks at once on a processor.
#define KERNEL_BESIDE(name, threads, blocks, ...) extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
// A function of an object.
#define MEMBER __device__ __forceinline__
// Static shared memory, aligned for loads of 16 bytes whatever its type: SHARED(float, tile, [32][33]);
#define SHARED(type, name, shape) __shared__ __align__(16) type name shape
// All the dynamic shared memory of the launch, aligned to 16 bytes.
#define DYN_SHARED(type, name)                         \
    extern __shared__ uint4 dynamic_shared_memory[];   \
    type* const name = reinterpret_cast<type*>(dynamic_shared_memory)
using f16 = __half;
using bf16 = __nv_bfloat16;
#else
#include "../shim/shim.h"
#endif

using f32 = float;
using i8 = signed char;
using u8 = unsigned char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define UNROLL_BY_8 _Pragma("unroll 8")
#else
#define UNROLL
#define ROLLED
#define UNROLL_BY_8
#endif
#define FOR_FLOATS(M) M(f32) M(f16) M(bf16)
#define FOR_HALVES(M) M(f16) M(bf16)
// Types of nothing but a width, for kernels that only move elements.
#define FOR_WIDTHS(M) M(b1, u8) M(b2, u16) M(b4, u32) M(b8, u64)

constexpr u32 WHOLE_WARP = 0xffffffffu;
constexpr int WARP = 32;

// ---- Elements ----

DEVICE f32 to_f32(f32 x) { return x; }
DEVICE f32 to_f32(f16 x) { return __half2float(x); }
DEVICE f32 to_f32(bf16 x) { return __bfloat162float(x); }

template <class T> struct Rounded;
template <> struct Rounded<f32> {
    DEVICE f32 from(f32 x) { return x; }
};
template <> struct Rounded<f16> {
    DEVICE f16 from(f32 x) { return __float2half_rn(x); }
};
template <> struct Rounded<bf16> {
    DEVICE bf16 from(f32 x) { return __float2bfloat16_rn(x); }
};

// The element nearest to a float32, ties to even.
template <class T> DEVICE T rounded(f32 x) { return Rounded<T>::from(x); }

DEVICE f32 infinity() { return __int_as_float(0x7f800000); }

// ---- Loads and stores of several elements ----

template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

// How many elements a load of 16 bytes brings.
template <class T> constexpr int LANES = 16 / static_cast<int>(sizeof(T));

template <int BYTES = 16> DEVICE bool aligned(const void* p) { return reinterpret_cast<u64>(p) % BYTES == 0; }

template <int N, class T> DEVICE Pack<T, N> load(const T* p) {
#ifndef __CUDACC__
    shim::require(aligned<sizeof(T) * N>(p), "a load of several elements that is not aligned");
#endif
    return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, class T> DEVICE void store(T* p, const Pack<T, N>& pack) {
#ifndef __CUDACC__
    shim::require(aligned<sizeof(T) * N>(p), "a store of several elements that is not aligned");
#endif
    *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// The elements in a word of 32 bits.
template <class T> constexpr int IN_WORD = 4 / static_cast<int>(sizeof(T));

template <class T> union Word {
    u32 bits;
    Pack<T, IN_WORD<T>> elements;
};

// The four words of 16 bytes, turned so that the second becomes the first and `last` the fourth: a loop over words that
// keeps them in registers without being unrolled.
DEVICE void turn(Pack<u32, 4>& words, u32 last) {
    words.at[0] = words.at[1];
    words.at[1] = words.at[2];
    words.at[2] = words.at[3];
    words.at[3] = last;
}

// ---- Walks ----

// This thread's number in the grid, and the number of threads in the grid.
DEVICE i64 thread_of_grid() { return static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; }
DEVICE i64 threads_of_grid() { return static_cast<i64>(gridDim.x) * blockDim.x; }

constexpr int MOST_AXES = 6;

// A walk over the elements of a tensor of `rank` axes, the last one fastest, through operands with strides of their own
// (in elements; 0 repeats an operand along an axis). Passed to kernels by value.
template <int OPERANDS> struct Walk {
    i64 rank;
    i64 size[MOST_AXES];
    i64 stride[OPERANDS][MOST_AXES];
};

// Where element `index` of a walk lies in each operand. I is u32 where the walk has fewer than 2^32 elements, since a
// division of 64 bits takes several times as long.
template <class I, int OPERANDS> DEVICE void offsets_of(const Walk<OPERANDS>& walk, I index, i64* offset) {
    UNROLL for (int o = 0; o < OPERANDS; o++) offset[o] = 0;
    UNROLL for (int axis = MOST_AXES - 1; axis >= 0; axis--) {
        if (axis < walk.rank) {
            const I size = static_cast<I>(walk.size[axis]);
            const I rest = index / size;
            const i64 at = static_cast<i64>(index - rest * size);
            index = rest;
            UNROLL for (int o = 0; o < OPERANDS; o++) offset[o] += at * walk.stride[o][axis];
        }
    }
}

// Calls visit(index, offsets) for this thread's share of n elements.
template <int OPERANDS, class F> DEVICE void walk_over(const Walk<OPERANDS>& walk, i64 n, F visit) {
    const bool few = n <= 0xffffffffll;
    ROLLED for (i64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
        i64 offset[OPERANDS];
        if (few) offsets_of(walk, static_cast<u32>(i), offset);
        else offsets_of(walk, static_cast<u64>(i), offset);
        visit(i, offset);
    }
}

// ---- Reductions ----

struct Sum {
    DEVICE f32 join(f32 a, f32 b) { return a + b; }
    DEVICE f32 nothing() { return 0.0f; }
};
// A maximum and a minimum hand NaN on, which fmaxf does not.
struct Largest {
    DEVICE f32 join(f32 a, f32 b) { return a != a || a > b ? a : b; }
    DEVICE f32 nothing() { return -infinity(); }
};
struct Smallest {
    DEVICE f32 join(f32 a, f32 b) { return a != a || a < b ? a : b; }
    DEVICE f32 nothing() { return infinity(); }
};
struct Product {
    DEVICE f32 join(f32 a, f32 b) { return a * b; }
    DEVICE f32 nothing() { return 1.0f; }
};

// The whole warp's value in every lane, in the same order whatever the grid.
template <class R> DEVICE f32 over_warp(f32 x) {
    UNROLL for (int distance = WARP / 2; distance > 0; distance /= 2) x = R::join(x, __shfl_xor_sync(WHOLE_WARP, x, distance));
    return x;
}

// The value of THREADS threads, which are a whole block of WARPS warps, in each of them. Begins and ends with what the
// caller's barriers need: `scratch` (one float a warp) may be used again at once.
template <class R, int THREADS> DEVICE f32 over_block(f32 x, f32* scratch) {
    constexpr int WARPS = THREADS / WARP;
    x = over_warp<R>(x);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = threadIdx.x % WARP < WARPS ? scratch[threadIdx.x % WARP] : R::nothing();
    x = over_warp<R>(x);
    __syncthreads();
    return x;
}

// ---- Activations that end other kernels ----

enum Activation : i32 { NONE, RELU, CLIP, LEAKY_RELU, SIGMOID, SILU, GELU, GELU_TANH, TANH, HARD_SWISH, HARD_SIGMOID };

DEVICE f32 sigmoid(f32 x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE f32 silu(f32 x) { return x / (1.0f + expf(-x)); }
DEVICE f32 gelu(f32 x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
DEVICE f32 gelu_tanh(f32 x) { return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x))); }
// A NaN stays one, as everywhere: hence no fminf and fmaxf.
DEVICE f32 clip(f32 x, f32 low, f32 high) { return x < low ? low : x > high ? high : x; }
DEVICE f32 hard_sigmoid(f32 x, f32 alpha, f32 beta) { return clip(alpha * x + beta, 0.0f, 1.0f); }

DEVICE f32 activated(f32 x, i32 activation, f32 alpha, f32 beta) {
    switch (activation) {
        case RELU: return x < 0.0f ? 0.0f : x;
        case CLIP: return clip(x, alpha, beta);
        case LEAKY_RELU: return x < 0.0f ? alpha * x : x;
        case SIGMOID: return sigmoid(x);
        case SILU: return silu(x);
        case GELU: return gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        case TANH: return tanhf(x);
        case HARD_SWISH: return x * hard_sigmoid(x, 1.0f / 6.0f, 0.5f);
        case HARD_SIGMOID: return hard_sigmoid(x, alpha, beta);
        default: return x;
    }
}
