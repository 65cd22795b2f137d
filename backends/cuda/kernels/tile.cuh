// The tile that products of this folder share: 64 × 64 results a block of 256 threads, 4 × 4 a thread, so that a step of k
// takes 8 loads from shared memory for 16 multiply-adds. Its sums go through shared memory at the end, so that neighbouring
// threads finish and write neighbouring results, and what follows a product stands in the code once.

#pragma once

#include "millstream.cuh"

constexpr int TILE_M = 64, TILE_N = 64;
constexpr int PITCH = 64 + 4;  // rows begin at multiples of 16 bytes, in different banks

// What a tile needs of shared memory: two operands of `depth` steps, `buffers` times, and afterwards the sums.
constexpr int tile_floats(int depth, int buffers) { return 2 * buffers * depth > TILE_M ? 2 * buffers * depth * PITCH : TILE_M * PITCH; }

// Calls each(i, j, sum) for the sums of a tile in shared memory that are among m × n, of THREADS threads that wrote them.
template <int THREADS, class F> DEVICE void finish_tile(const f32* memory, i64 m, i64 n, F each) {
    __syncthreads();
    ROLLED for (int at = threadIdx.x; at < TILE_M * TILE_N; at += THREADS) {
        const int i = at / TILE_N, j = at % TILE_N;
        if (i < m && j < n) each(i, j, memory[i * PITCH + j]);
    }
    __syncthreads();
}

struct Tile {
    f32 sum[4][4];
    MEMBER int row() const { return static_cast<int>(threadIdx.x) / 16 * 4; }
    MEMBER int column() const { return static_cast<int>(threadIdx.x) % 16 * 4; }
    MEMBER void clear() {
        UNROLL for (int i = 0; i < 4; i++) {
            UNROLL for (int j = 0; j < 4; j++) sum[i][j] = 0.0f;
        }
    }
    // One step: `left` and `right` are a row of 64 of each operand.
    MEMBER void step(const f32* left, const f32* right) {
        const auto l = load<4>(left + row());
        const auto r = load<4>(right + column());
        UNROLL for (int i = 0; i < 4; i++) {
            UNROLL for (int j = 0; j < 4; j++) sum[i][j] = fmaf(l.at[i], r.at[j], sum[i][j]);
        }
    }
    // Calls finish(m, n, sum) for each result of the tile that is one of m × n. All threads have left the operands, and may
    // write the memory again afterwards.
    template <class F> MEMBER void finish(f32* memory, i64 m, i64 n, F each) const {
        UNROLL for (int i = 0; i < 4; i++) store<4>(memory + (row() + i) * PITCH + column(), Pack<f32, 4>{{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}});
        finish_tile<256>(memory, m, n, each);
    }
};
