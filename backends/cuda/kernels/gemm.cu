// Products of matrices where no library of the vendor's is at hand, and what follows a product.
//
// Tiles of A and B of 16 steps lie in shared memory in two buffers: the next one is loaded into registers while this one
// is multiplied. Sums are float32, in the order of k whatever the grid. cuBLAS uses tensor cores for halves: this is its
// twin for machines without it, and the reference for it.

#include "tile.cuh"

constexpr int TILE_K = 16;

struct Gemm {
    i64 batch, m, n, k;
    i64 a_batch, a_row, a_column;  // strides; 0 for a batch repeats the matrix
    i64 b_batch, b_row, b_column;
    i64 c_batch, c_row;            // C's columns are neighbours
    i64 residual_batch, residual_row;
    i32 bias;                      // 0 none, 1 one element a column, 2 one element a row
    i32 activation;
    f32 scale, alpha, beta;
};

// entries: gemm_{f32,f16,bf16}
// launch: block=256 grid=batch * ceil(m / 64) * ceil(n / 64) shared=0 registers=128
// args: a, b, bias (may be null), residual (may be null), c, shape (Gemm by value).
// c = activation(scale a b + bias) + residual. c may be `residual` where their strides agree, and overlaps nothing else.
#define GEMM(T) \
    KERNEL(gemm_##T, 256, const T* a, const T* b, const T* bias, const T* residual, T* c, Gemm shape) { gemm(a, b, bias, residual, c, shape); }

template <class T> DEVICE void gemm(const T* a, const T* b, const T* bias, const T* residual, T* c, const Gemm& s) {
    // A by columns, so that a thread's four rows are neighbours.
    SHARED(f32, memory, [tile_floats(TILE_K, 2)]);
    const auto left = [&](int buffer, int k) { return &memory[(buffer * TILE_K + k) * PITCH]; };
    const auto right = [&](int buffer, int k) { return &memory[((2 + buffer) * TILE_K + k) * PITCH]; };
    const int thread = static_cast<int>(threadIdx.x);
    const i64 down = (s.m + TILE_M - 1) / TILE_M, across = (s.n + TILE_N - 1) / TILE_N;
    const i64 steps = (s.k + TILE_K - 1) / TILE_K;
    // Neighbouring threads read neighbouring elements, along whichever axis of the matrix they lie.
    const bool a_by_rows = s.a_column == 1, b_by_rows = s.b_column == 1;

    ROLLED for (i64 tile = blockIdx.x; tile < s.batch * down * across; tile += gridDim.x) {
        const i64 batch = tile / (down * across), m0 = tile / across % down * TILE_M, n0 = tile % across * TILE_N;
        const T* const a_tile = a + batch * s.a_batch;
        const T* const b_tile = b + batch * s.b_batch;
        f32 next_a[4], next_b[4];
        const auto fetch = [&](i64 k0) {
            UNROLL for (int i = 0; i < 4; i++) {
                const int at = thread + i * 256;
                const i64 ak = k0 + (a_by_rows ? at % TILE_K : at / TILE_M), am = m0 + (a_by_rows ? at / TILE_K : at % TILE_M);
                next_a[i] = am < s.m && ak < s.k ? to_f32(a_tile[am * s.a_row + ak * s.a_column]) : 0.0f;
                const i64 bk = k0 + (b_by_rows ? at / TILE_N : at % TILE_K), bn = n0 + (b_by_rows ? at % TILE_N : at / TILE_K);
                next_b[i] = bn < s.n && bk < s.k ? to_f32(b_tile[bk * s.b_row + bn * s.b_column]) : 0.0f;
            }
        };
        const auto put = [&](int buffer) {
            UNROLL for (int i = 0; i < 4; i++) {
                const int at = thread + i * 256;
                if (a_by_rows) left(buffer, at % TILE_K)[at / TILE_K] = next_a[i];
                else left(buffer, at / TILE_M)[at % TILE_M] = next_a[i];
                if (b_by_rows) right(buffer, at / TILE_N)[at % TILE_N] = next_b[i];
                else right(buffer, at % TILE_K)[at / TILE_K] = next_b[i];
            }
        };

        Tile sums;
        sums.clear();
        fetch(0);
        put(0);
        __syncthreads();
        ROLLED for (i64 step = 0; step < steps; step++) {
            const int buffer = static_cast<int>(step % 2);
            if (step + 1 < steps) fetch((step + 1) * TILE_K);
            UNROLL for (int k = 0; k < TILE_K; k++) sums.step(left(buffer, k), right(buffer, k));
            // The other buffer was read before the last barrier.
            if (step + 1 < steps) put(1 - buffer);
            __syncthreads();
        }
        sums.finish(memory, s.m - m0, s.n - n0, [&](int i, int j, f32 sum) {
            const i64 m = m0 + i, n = n0 + j;
            f32 v = s.scale * sum;
            if (bias) v += to_f32(bias[s.bias == 2 ? m : n]);
            v = activated(v, s.activation, s.alpha, s.beta);
            if (residual) v += to_f32(residual[batch * s.residual_batch + m * s.residual_row + n]);
            c[batch * s.c_batch + m * s.c_row + n] = rounded<T>(v);
        });
    }
}
FOR_FLOATS(GEMM)

// entries: epilogue_{f32,f16,bf16}
// launch: block=256 grid=ceil(rows * columns / 1024) shared=0 registers=48
// args: x, bias (may be null), residual (may be null), y, rows, columns, activation, alpha, beta.
// y = activation(x + bias) + residual, one bias a column: what follows a library's product. y may be x or residual.
#define EPILOGUE(T) \
    KERNEL(epilogue_##T, 256, const T* x, const T* bias, const T* residual, T* y, i64 rows, i64 columns, i32 activation, f32 alpha, f32 beta) { \
        const i64 n = rows * columns; \
        constexpr int L = 4; \
        const auto one = [=](i64 i, i64 column, T e) { \
            const f32 v = activated(to_f32(e) + (bias ? to_f32(bias[column]) : 0.0f), activation, alpha, beta); \
            return rounded<T>(v + (residual ? to_f32(residual[i]) : 0.0f)); \
        }; \
        const bool vectors = columns % L == 0 && aligned<L * sizeof(T)>(x) && aligned<L * sizeof(T)>(y); \
        const i64 width = vectors ? L : 1; \
        ROLLED for (i64 i = thread_of_grid() * width; i < n; i += threads_of_grid() * width) { \
            const i64 column = i % columns; \
            if (vectors) { \
                auto pack = load<L>(x + i); \
                Pack<T, L> to; \
                ROLLED for (int k = 0; k < L; k++) { \
                    const T made = one(i + k, column + k, pack.at[0]); \
                    UNROLL for (int j = 0; j + 1 < L; j++) pack.at[j] = pack.at[j + 1], to.at[j] = to.at[j + 1]; \
                    to.at[L - 1] = made; \
                } \
                store<L>(y + i, to); \
            } else { \
                y[i] = one(i, column, x[i]); \
            } \
        } \
    }
FOR_FLOATS(EPILOGUE)

// entries: gated_{f32,f16,bf16}
// launch: block=256 grid=ceil(rows * columns / 1024) shared=0 registers=48
// args: x, y, rows, columns, activation, alpha, beta. x is rows × 2 columns: y[r][c] = activation(x[r][c]) x[r][columns + c],
// as SwiGLU (silu) and GeGLU (gelu) have it.
#define GATED(T) \
    KERNEL(gated_##T, 256, const T* x, T* y, i64 rows, i64 columns, i32 activation, f32 alpha, f32 beta) { \
        ROLLED for (i64 i = thread_of_grid(); i < rows * columns; i += threads_of_grid()) { \
            const T* const gate = x + i / columns * columns + i; \
            y[i] = rounded<T>(activated(to_f32(gate[0]), activation, alpha, beta) * to_f32(gate[columns])); \
        } \
    }
FOR_FLOATS(GATED)
