// Quantised weights: linear layers that take them apart in registers, and conversions between bytes and floats.
//
// An int8 weight is q scale[n], or as an int4 one (q - zero) scale in blocks along k, as ONNX Runtime's MatMulNBits lays them
// out: rows of whole blocks, a scale a block. A block of 4 bits is 32 << shape.shift weights, whose bytes hold elements 2 i
// (low) and 2 i + 1 (high); zero points are packed likewise, two a byte, ceil(blocks / 2) bytes a row, and are 8 if absent. A
// block of 8 bits is 16 << shape.shift bytes; zero points are bytes, and 128 if absent.
//
// `rows` kernels are for few rows of x, where reading the weights is all: a warp computes one output of up to four rows, 16
// bytes of weights a lane at a time. `tiled` kernels are the product of gemm.cu over weights taken apart on their way into
// shared memory; for tensor cores see quant_tensor.cu. Sums are float32.

#include "quant.cuh"
#include "tile.cuh"

constexpr int ROWS_AT_ONCE = 4;
constexpr int WARPS = 256 / WARP;

// The product of COUNT weights with x[k..], of which those at `end` and after are none.
template <int COUNT, class T> DEVICE f32 dot(const T* x, i64 k, i64 end, const f32* w) {
    f32 sum = 0.0f;
    if (k + COUNT <= end && aligned<4 * sizeof(T)>(x + k)) {
        UNROLL for (int i = 0; i < COUNT; i += 4) {
            const auto pack = load<4>(x + k + i);
            UNROLL for (int j = 0; j < 4; j++) sum = fmaf(to_f32(pack.at[j]), w[i + j], sum);
        }
    } else {
        UNROLL for (int i = 0; i < COUNT; i++) {
            if (k + i < end) sum = fmaf(to_f32(x[k + i]), w[i], sum);
        }
    }
    return sum;
}

// fetch(n, k0) brings the 16 bytes of weights of output n from k0 on, PER_WORD weights in each of four words, and what takes
// them apart: run.apart(word, w) makes float32 of a word, without the scale of a whole row. The words go by in a loop that is
// not unrolled: registers hold the weights of one.
template <int PER_WORD, class T, class F, class G>
DEVICE void few_rows(const T* x, const T* bias, const T* residual, T* y, const Linear& s, F fetch, G row_scale) {
    constexpr int RUN = 4 * PER_WORD;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const i64 groups = (s.m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    ROLLED for (i64 t = blockIdx.x * static_cast<i64>(WARPS) + threadIdx.x / WARP; t < groups * s.n; t += static_cast<i64>(gridDim.x) * WARPS) {
        const i64 n = t % s.n, m0 = t / s.n * ROWS_AT_ONCE;
        f32 sum[ROWS_AT_ONCE] = {};
        ROLLED for (i64 k0 = lane * RUN; k0 < s.k; k0 += WARP * RUN) {
            auto run = fetch(n, k0);
            ROLLED for (i64 k = k0; k < k0 + RUN; k += PER_WORD) {
                f32 w[PER_WORD];
                run.apart(run.words.at[0], w);
                turn(run.words, 0);
                UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
                    if (m0 + r < s.m) sum[r] += dot<PER_WORD>(x + (m0 + r) * s.k, k, s.k, w);
                }
            }
        }
        f32 mine = 0.0f;
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            const f32 whole = over_warp<Sum>(sum[r]);
            if (lane == r) mine = whole;
        }
        if (lane < ROWS_AT_ONCE && m0 + lane < s.m) finish(y, bias, residual, s, m0 + lane, n, mine * row_scale(n));
    }
}

constexpr int TILE_K = 32;

// As gemm.cu, with one buffer: weight(n, k0, part, w) brings 8 weights from k0 + 8 part on, which stay within the tile.
template <class T, class F> DEVICE void many_rows(const T* x, const T* bias, const T* residual, T* y, const Linear& s, F weight) {
    SHARED(f32, memory, [tile_floats(TILE_K, 1)]);
    const auto left = [&](int k) { return &memory[k * PITCH]; };
    const auto right = [&](int k) { return &memory[(TILE_K + k) * PITCH]; };
    const int thread = static_cast<int>(threadIdx.x);
    const i64 down = (s.m + TILE_M - 1) / TILE_M, across = (s.n + TILE_N - 1) / TILE_N;
    ROLLED for (i64 tile = blockIdx.x; tile < down * across; tile += gridDim.x) {
        const i64 m0 = tile / across * TILE_M, n0 = tile % across * TILE_N;
        Tile sums;
        sums.clear();
        ROLLED for (i64 k0 = 0; k0 < s.k; k0 += TILE_K) {
            UNROLL for (int i = 0; i < TILE_M * TILE_K / 256; i++) {
                const int at = thread + i * 256;
                const i64 k = k0 + at % TILE_K, m = m0 + at / TILE_K;
                left(at % TILE_K)[at / TILE_K] = m < s.m && k < s.k ? to_f32(x[m * s.k + k]) : 0.0f;
            }
            const int n = thread / 4, part = thread % 4;
            f32 w[8] = {};
            if (n0 + n < s.n) weight(n0 + n, k0, part, w);
            UNROLL for (int i = 0; i < 8; i++) right(part * 8 + i)[n] = w[i];
            __syncthreads();
            UNROLL_BY_8 for (int k = 0; k < TILE_K; k++) sums.step(left(k), right(k));
            __syncthreads();
        }
        sums.finish(memory, s.m - m0, s.n - n0, [&](int i, int j, f32 sum) { finish(y, bias, residual, s, m0 + i, n0 + j, sum); });
    }
}

// entries: linear_int8_{rows,tiled}_{f32,f16,bf16}
// launch: block=256 grid=ceil(m / 4) * ceil(n / 8) (rows), ceil(m / 64) * ceil(n / 64) (tiled) shared=0 registers=128
// args: x (m × k), weights (i8, n × k), scales (f32, n), bias (may be null), residual (may be null, m × n), y (m × n),
// shape (Linear by value). y = activation(x weightsᵀ + bias) + residual. y may be `residual`.
#define INT8(T) \
    KERNEL(linear_int8_rows_##T, 256, const T* x, const i8* weights, const f32* scales, const T* bias, const T* residual, T* y, Linear shape) { \
        few_rows<4>( \
            x, bias, residual, y, shape, [=](i64 n, i64 k0) { return Bytes{words_of<4>(weights + n * shape.k, k0, shape.k)}; }, [=](i64 n) { return scales[n]; }); \
    } \
    KERNEL(linear_int8_tiled_##T, 256, const T* x, const i8* weights, const f32* scales, const T* bias, const T* residual, T* y, Linear shape) { \
        many_rows(x, bias, residual, y, shape, [=](i64 n, i64 k0, int part, f32* w) { \
            const auto words = words_of<2>(weights + n * shape.k, k0 + part * 8, shape.k); \
            bytes(words.at[0], w); \
            bytes(words.at[1], w + 4); \
            UNROLL for (int i = 0; i < 8; i++) w[i] *= scales[n]; \
        }); \
    }
FOR_FLOATS(INT8)

// entries: linear_int8_blocks_{rows,tiled}_{f32,f16,bf16}
// launch: block=256 grid=ceil(m / 4) * ceil(n / 8) (rows), ceil(m / 64) * ceil(n / 64) (tiled) shared=0 registers=168
// args: x (m × k), weights (u8, aligned to 16 bytes), scales (of x's type), zeros (u8, may be null), bias (may be null),
// residual (may be null), y, shape (Linear by value). As above.
#define INT8_BLOCKS(T) \
    KERNEL(linear_int8_blocks_rows_##T, 256, const T* x, const u8* weights, const T* scales, const u8* zeros, const T* bias, const T* residual, T* y, Linear shape) { \
        const auto blocks = ByteBlocks<T>::of(weights, scales, zeros, shape.k, shape.shift); \
        few_rows<4>( \
            x, bias, residual, y, shape, [=](i64 n, i64 k0) { return blocks.whole(n, k0); }, [](i64) { return 1.0f; }); \
    } \
    KERNEL(linear_int8_blocks_tiled_##T, 256, const T* x, const u8* weights, const T* scales, const u8* zeros, const T* bias, const T* residual, T* y, Linear shape) { \
        const auto blocks = ByteBlocks<T>::of(weights, scales, zeros, shape.k, shape.shift); \
        many_rows(x, bias, residual, y, shape, [=](i64 n, i64 k0, int part, f32* w) { blocks.eight(n, k0 + part * 8, w); }); \
    }
FOR_FLOATS(INT8_BLOCKS)

// entries: linear_int4_{rows,tiled}_{f32,f16,bf16}
// launch: block=256 grid=ceil(m / 4) * ceil(n / 8) (rows), ceil(m / 64) * ceil(n / 64) (tiled) shared=0 registers=168
// args: x (m × k), weights (u8, aligned to 16 bytes), scales (of x's type), zeros (u8, may be null), bias (may be null),
// residual (may be null), y, shape (Linear by value). As above.
#define INT4(T) \
    KERNEL(linear_int4_rows_##T, 256, const T* x, const u8* weights, const T* scales, const u8* zeros, const T* bias, const T* residual, T* y, Linear shape) { \
        const auto blocks = Blocks<T>::of(weights, scales, zeros, shape.k, shape.shift); \
        few_rows<8>( \
            x, bias, residual, y, shape, [=](i64 n, i64 k0) { return blocks.whole(n, k0 / 32); }, [](i64) { return 1.0f; }); \
    } \
    KERNEL(linear_int4_tiled_##T, 256, const T* x, const u8* weights, const T* scales, const u8* zeros, const T* bias, const T* residual, T* y, Linear shape) { \
        const auto blocks = Blocks<T>::of(weights, scales, zeros, shape.k, shape.shift); \
        many_rows(x, bias, residual, y, shape, [=](i64 n, i64 k0, int part, f32* w) { blocks.quarter(n, k0 / 32, part, w); }); \
    }
FOR_FLOATS(INT4)

// entries: dequantize_int4_{f32,f16,bf16}
// launch: block=256 grid=ceil(n * ceil(k / 32) / 64) shared=0 registers=48
// args: weights (u8), scales, zeros (may be null), y (n × k), n, k.
#define DEQUANTIZE_INT4(T) \
    KERNEL(dequantize_int4_##T, 256, const u8* weights, const T* scales, const u8* zeros, T* y, i64 n, i64 k) { \
        const auto blocks = Blocks<T>::of(weights, scales, zeros, k, 0); \
        ROLLED for (i64 i = thread_of_grid(); i < n * blocks.groups * 4; i += threads_of_grid()) { \
            const i64 row = i / 4 / blocks.groups, block = i / 4 % blocks.groups, first = block * 32 + i % 4 * 8; \
            f32 w[8]; \
            blocks.quarter(row, block, static_cast<int>(i % 4), w); \
            UNROLL for (int j = 0; j < 8; j++) { \
                if (first + j < k) y[row * k + first + j] = rounded<T>(w[j]); \
            } \
        } \
    }
FOR_FLOATS(DEQUANTIZE_INT4)

// entries: quantize_{f32,f16,bf16}_{i8,u8}
// launch: block=256 grid=ceil(outer * axis * inner / 1024) shared=0 registers=40
// args: x, scales, zeros (may be null: 0), y, outer, axis, inner. x is outer × axis × inner, one scale and zero point an
// element of the axis (1 for one of the whole tensor): y = x / scale, rounded with ties to even, plus zero, saturated.
//
// entries: dequantize_{i8,u8}_{f32,f16,bf16}
// launch: block=256 grid=ceil(outer * axis * inner / 1024) shared=0 registers=40
// args: x, scales, zeros (may be null: 0), y, outer, axis, inner. y = (x - zero) scale.
#define CONVERT(T, Q, low, high) \
    KERNEL(quantize_##T##_##Q, 256, const T* x, const T* scales, const Q* zeros, Q* y, i64 outer, i64 axis, i64 inner) { \
        ROLLED for (i64 i = thread_of_grid(); i < outer * axis * inner; i += threads_of_grid()) { \
            const i64 c = i / inner % axis; \
            /* Saturated before the zero point too, so that it stays an exact sum; NaN becomes the lowest. */ \
            const f32 steps = rintf(to_f32(x[i]) / to_f32(scales[c])); \
            const f32 q = (steps > -1024.0f ? steps < 1024.0f ? steps : 1024.0f : -1024.0f) + (zeros ? static_cast<f32>(zeros[c]) : 0.0f); \
            y[i] = static_cast<Q>(static_cast<i32>(clip(q, low, high))); \
        } \
    } \
    KERNEL(dequantize_##Q##_##T, 256, const Q* x, const T* scales, const Q* zeros, T* y, i64 outer, i64 axis, i64 inner) { \
        ROLLED for (i64 i = thread_of_grid(); i < outer * axis * inner; i += threads_of_grid()) { \
            const i64 c = i / inner % axis; \
            y[i] = rounded<T>(static_cast<f32>(x[i] - (zeros ? zeros[c] : 0)) * to_f32(scales[c])); \
        } \
    }
#define CONVERTS(T) CONVERT(T, i8, -128.0f, 127.0f) CONVERT(T, u8, 0.0f, 255.0f)
FOR_FLOATS(CONVERTS)

constexpr int ALL = 512;

// entries: quantize_parameters_f32
// launch: block=512 grid=1 shared=0 registers=40
// args: x, scale (f32), zero (u8), n. The scale and the zero point with which n numbers and 0 become 0..255, as ONNX's
// DynamicQuantizeLinear has them. One block does it.
KERNEL(quantize_parameters_f32, 512, const f32* x, f32* scale, u8* zero, i64 n) {
    SHARED(f32, scratch, [ALL / WARP]);
    if (blockIdx.x > 0) return;
    f32 least = 0.0f, greatest = 0.0f;
    ROLLED for (i64 i = threadIdx.x; i < n; i += ALL) {
        least = Smallest::join(least, x[i]);
        greatest = Largest::join(greatest, x[i]);
    }
    least = over_block<Smallest, ALL>(least, scratch);
    greatest = over_block<Largest, ALL>(greatest, scratch);
    if (threadIdx.x == 0) {
        const f32 step = greatest > least ? (greatest - least) / 255.0f : 1.0f;
        *scale = step;
        *zero = static_cast<u8>(clip(rintf(-least / step), 0.0f, 255.0f));
    }
}
