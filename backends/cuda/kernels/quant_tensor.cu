// The linear layer of int4 weights on tensor cores, for many rows of float16 or bfloat16: the same contract as
// linear_int4_tiled (quant.cu), with each weight, (q - zero) scale, rounded to the element type.
//
// A block of four warps computes 64 × 64 results, a warp 16 rows of them. Rows of x go through shared memory. Weights do
// not: the words of a block of 32 weights are such that lane l % 4 = i of a fragment needs byte i of each of the four, so
// that every lane takes its share of a column apart in its own registers.

#include "quant.cuh"
#include "tensor.cuh"
#include "tile.cuh"

constexpr int THREADS = 128, BLOCK_K = 32;

// entries: linear_int4_tensor_{f16,bf16}
// launch: block=128 grid=ceil(m / 64) * ceil(n / 64) shared=0 registers=128
// args: x (m × k), weights (u8, aligned to 16 bytes), scales (of x's type), zeros (u8, may be null), bias (may be null),
// residual (may be null), y, shape (Linear by value). y may be `residual`.
#define INT4(T) \
    KERNEL_BESIDE(linear_int4_tensor_##T, 128, 4, const T* x, const u8* weights, const T* scales, const u8* zeros, const T* bias, const T* residual, T* y, Linear shape) { \
        by_fragments(x, Blocks<T>::of(weights, scales, zeros, shape.k, shape.shift), bias, residual, y, shape); \
    }

template <class T> DEVICE void by_fragments(const T* x, const Blocks<T>& blocks, const T* bias, const T* residual, T* y, const Linear& s) {
    constexpr int ROW = BLOCK_K + 8, TILES = TILE_N / 8;
    SHARED(T, rows, [TILE_M * ROW]);
    SHARED(f32, memory, [TILE_M * PITCH]);
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    const int group = lane / 4, within = lane % 4;
    const i64 down = (s.m + TILE_M - 1) / TILE_M, across = (s.n + TILE_N - 1) / TILE_N;

    ROLLED for (i64 tile = blockIdx.x; tile < down * across; tile += gridDim.x) {
        const i64 m0 = tile / across * TILE_M, n0 = tile % across * TILE_N;
        f32 sum[TILES][4] = {};
        ROLLED for (i64 block = 0; block * BLOCK_K < s.k; block++) {
            bring_halves<TILE_M, BLOCK_K, THREADS>(rows, x, s.k, m0, s.m, block * BLOCK_K, s.k);
            __syncthreads();
            u32 a[2][4];
            UNROLL for (int step = 0; step < 2; step++) matrices(a[step], rows + (warp * 16 + lane % 16) * ROW + step * 16 + lane / 16 * 8);
            UNROLL for (int j = 0; j < TILES; j++) {
                // Columns past the last one repeat it, and are not written.
                const i64 n = n0 + j * 8 + group < s.n ? n0 + j * 8 + group : s.n - 1;
                const Nibbles run = blocks.whole(n, block);
                u32 b[4];
                UNROLL for (int word = 0; word < 4; word++) {
                    const u32 byte = run.words.at[word] >> 8 * within;
                    b[word] = pair<T>((lifted(byte & 15u) - run.less) * run.scale, (lifted(byte >> 4 & 15u) - run.less) * run.scale);
                }
                Mma<T>::add(sum[j], a[0], b[0], b[1]);
                Mma<T>::add(sum[j], a[1], b[2], b[3]);
            }
            __syncthreads();
        }
        UNROLL for (int j = 0; j < TILES; j++) {
            UNROLL for (int i = 0; i < 4; i++) memory[(warp * 16 + group + i / 2 * 8) * PITCH + j * 8 + within * 2 + i % 2] = sum[j][i];
        }
        finish_tile<THREADS>(memory, s.m - m0, s.n - n0, [&](int i, int j, f32 v) { finish(y, bias, residual, s, m0 + i, n0 + j, v); });
    }
}
FOR_HALVES(INT4)
