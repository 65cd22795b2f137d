// The two instructions of tensor cores that our kernels use, from compute capability 8.0 on. On the shim they are emulated
// by the arrangement of fragments that the PTX ISA documents.

#pragma once

#include "millstream.cuh"

// Lane l holds of a 16 × 8 result: rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next: sum[0..1] and sum[2..3].
// Of A (16 × 16): a[0], a[1] rows l / 4 and l / 4 + 8 of columns 2 (l % 4) and the next, a[2], a[3] those 8 columns on. Of B
// (16 × 8): b[0] column l / 4 of rows 2 (l % 4) and the next, b[1] those 8 rows on.
template <class T> struct Mma;

#ifdef __CUDACC__
#define MMA(T, type) \
    template <> struct Mma<T> { \
        DEVICE void add(f32* sum, const u32* a, u32 b0, u32 b1) { \
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                         : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)); \
        } \
    };
MMA(f16, "f16")
MMA(bf16, "bf16")

// Four 8 × 8 matrices of halves from shared memory: lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void matrices(u32* got, const void* row) {
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(got[0]), "=r"(got[1]), "=r"(got[2]), "=r"(got[3]) : "r"(address) : "memory");
}
// The same, transposed.
DEVICE void matrices_across(u32* got, const void* row) {
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(got[0]), "=r"(got[1]), "=r"(got[2]), "=r"(got[3]) : "r"(address) : "memory");
}
#else
#define MMA(T, meeting) \
    template <> struct Mma<T> { \
        DEVICE void add(f32* sum, const u32* a, u32 b0, u32 b1, shim::Where where = shim::Where::current()) { \
            const shim::Words made = shim::collective(shim::meeting, WHOLE_WARP, {{a[0], a[1], a[2], a[3], b0, b1}}, 0, where); \
            UNROLL for (int i = 0; i < 4; i++) sum[i] += __int_as_float(static_cast<i32>(made.at[i])); \
        } \
    };
MMA(f16, meet_mma_f16)
MMA(bf16, meet_mma_bf16)

DEVICE void matrices_by(u32* got, const void* row, unsigned transposed, shim::Where where) {
    const auto words = load<4>(static_cast<const u32*>(row));
    const shim::Words made = shim::collective(shim::meet_matrices, WHOLE_WARP, {{words.at[0], words.at[1], words.at[2], words.at[3]}}, transposed, where);
    UNROLL for (int i = 0; i < 4; i++) got[i] = made.at[i];
}
DEVICE void matrices(u32* got, const void* row, shim::Where where = shim::Where::current()) { matrices_by(got, row, 0, where); }
DEVICE void matrices_across(u32* got, const void* row, shim::Where where = shim::Where::current()) { matrices_by(got, row, 1, where); }
#endif

// Two halves as a word, the first one low.
template <class T> DEVICE u32 pair(f32 first, f32 second) {
    Word<T> word;
    word.elements.at[0] = rounded<T>(first);
    word.elements.at[1] = rounded<T>(second);
    return word.bits;
}

// Halves [row, row + ROWS) × [0, COLUMNS) of a matrix into shared memory, rows of COLUMNS + 8, by THREADS threads; what is
// not there becomes 0.
template <int ROWS, int COLUMNS, int THREADS, class T> DEVICE void bring_halves(T* to, const T* from, i64 stride, i64 row, i64 rows, i64 column, i64 columns) {
    constexpr int RUNS = COLUMNS / 8;
    ROLLED for (int at = threadIdx.x; at < ROWS * RUNS; at += THREADS) {
        const i64 r = row + at / RUNS, c = column + at % RUNS * 8;
        const T* const source = from + r * stride + c;
        Pack<T, 8> pack;
        if (r < rows && c + 8 <= columns && aligned(source)) {
            pack = load<8>(source);
        } else {
            UNROLL for (int i = 0; i < 8; i++) pack.at[i] = r < rows && c + i < columns ? source[i] : rounded<T>(0.0f);
        }
        store<8>(to + at / RUNS * (COLUMNS + 8) + at % RUNS * 8, pack);
    }
}
