// Reductions and normalisations: what looks at a whole row of elements before it writes any.
//
// A row is `length` neighbours. `block` kernels take a row with a whole block, `warp` kernels with one warp (rows of up to
// about 1024 elements, of which there are many). Sums run in float32: each thread adds its own elements, then threads join
// in a fixed tree, so that a row's result depends on nothing but the row. Means and variances are taken in two passes over
// the row, which the second time is in the cache: no difference of large squares. Outputs may be their inputs.

#include "millstream.cuh"

// Who works on a row: a block of THREADS threads, or each warp of it on a row of its own.
template <int THREADS, bool BLOCK> struct Team {
    static constexpr int SIZE = BLOCK ? THREADS : WARP;
    static constexpr int ROWS = BLOCK ? 1 : THREADS / WARP;
    f32* scratch;
    MEMBER int rank() const { return static_cast<int>(threadIdx.x) % SIZE; }
    template <class R> MEMBER f32 over(f32 x) const {
        if constexpr (BLOCK) return over_block<R, THREADS>(x, scratch);
        else return over_warp<R>(x);
    }
    // Calls f(row) for the team's rows. All threads of a block go through the same barriers.
    template <class F> MEMBER void rows(i64 count, F f) const {
        ROLLED for (i64 row = blockIdx.x * static_cast<i64>(ROWS) + threadIdx.x / SIZE; row < count; row += static_cast<i64>(gridDim.x) * ROWS) f(row);
    }
};

#define TEAM(BLOCK)                  \
    SHARED(f32, scratch, [256 / 32]); \
    const Team<256, BLOCK> team{scratch};

// What R makes of f(element) over a thread's share of a row, with loads of several elements where the row is aligned.
template <class R, class T, class F> DEVICE f32 share_of(const T* x, int rank, int size, i64 length, F f) {
    constexpr int L = 4;
    f32 sum = R::nothing();
    i64 done = 0;
    if (aligned<L * sizeof(T)>(x)) {
        ROLLED for (i64 k = rank; k < length / L; k += size) {
            const auto pack = load<L>(x + k * L);
            UNROLL for (int j = 0; j < L; j++) sum = R::join(sum, f(to_f32(pack.at[j])));
        }
        done = length / L * L;
    }
    ROLLED for (i64 k = done + rank; k < length; k += size) sum = R::join(sum, f(to_f32(x[k])));
    return sum;
}

// ---- Reductions ----

// What a reduction does, as an argument.
enum Reduction : i32 { SUM, MEAN, SUM_SQUARE, L1, L2, PROD, MAXIMUM, MINIMUM };

DEVICE f32 start_of(i32 op) { return op == PROD ? 1.0f : op == MAXIMUM ? -infinity() : op == MINIMUM ? infinity() : 0.0f; }
// One more element, and the join of two shares.
DEVICE f32 with(i32 op, f32 v, f32 e) {
    switch (op) {
        case SUM_SQUARE:
        case L2: return fmaf(e, e, v);
        case L1: return v + fabsf(e);
        case PROD: return v * e;
        case MAXIMUM: return Largest::join(v, e);
        case MINIMUM: return Smallest::join(v, e);
        default: return v + e;
    }
}
DEVICE f32 end_of(i32 op, f32 v, i64 length) { return op == MEAN ? v / static_cast<f32>(length) : op == L2 ? sqrtf(v) : v; }

// entries: reduce_rows_{block,warp}_{f32,f16,bf16}
// launch: block=256 grid=rows (block), ceil(rows / 8) (warp) shared=0 registers=48
// args: op, x, y, rows, length. y[row] of each row of x. op: 0 sum, 1 mean, 2 sum_square, 3 l1, 4 l2, 5 prod, 6 max, 7 min.
// NaN in a row gives NaN.
#define REDUCE_ROWS(name, BLOCK, T) \
    KERNEL(reduce_rows_##name##_##T, 256, i32 op, const T* x, T* y, i64 rows, i64 length) { \
        TEAM(BLOCK) \
        team.rows(rows, [=](i64 row) { \
            const T* const from = x + row * length; \
            f32 v = start_of(op); \
            ROLLED for (i64 k = team.rank(); k < length; k += team.SIZE) v = with(op, v, to_f32(from[k])); \
            v = op == PROD ? team.template over<Product>(v) : op == MAXIMUM ? team.template over<Largest>(v) : op == MINIMUM ? team.template over<Smallest>(v) : team.template over<Sum>(v); \
            if (team.rank() == 0) y[row] = rounded<T>(end_of(op, v, length)); \
        }); \
    }
#define REDUCTIONS(T) REDUCE_ROWS(block, true, T) REDUCE_ROWS(warp, false, T)
FOR_FLOATS(REDUCTIONS)

// entries: reduce_columns_{f32,f16,bf16}
// launch: block=256 grid=ceil(outer * inner / 256) shared=0 registers=48
// args: op, x, y, outer, length, inner. x is outer × length × inner, y outer × inner: an axis that is not the last.
// op: as above.
#define REDUCE_COLUMNS(T) \
    KERNEL(reduce_columns_##T, 256, i32 op, const T* x, T* y, i64 outer, i64 length, i64 inner) { \
        ROLLED for (i64 i = thread_of_grid(); i < outer * inner; i += threads_of_grid()) { \
            const T* const first = x + i / inner * length * inner + i % inner; \
            f32 v = start_of(op); \
            ROLLED for (i64 k = 0; k < length; k++) v = with(op, v, to_f32(first[k * inner])); \
            y[i] = rounded<T>(end_of(op, v, length)); \
        } \
    }
FOR_FLOATS(REDUCE_COLUMNS)

// ---- Softmax ----

// The largest element seen and the sum of exp(element - largest), of which two can be joined.
struct Mass {
    f32 largest, sum;
};
// A mass without elements is {-inf, 0}; exp(-inf - -inf) must not come up.
DEVICE Mass join(Mass a, Mass b) {
    const f32 largest = Largest::join(a.largest, b.largest);
    if (largest == -infinity()) return {largest, 0.0f};
    return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

// entries: softmax_{block,warp}_{f32,f16,bf16} log_softmax_{block,warp}_{f32,f16,bf16}
// launch: block=256 grid=rows (block), ceil(rows / 8) (warp) shared=0 registers=48
// args: x, y, rows, length. Of each row. Elements of -inf count nothing; a row of nothing else gives NaN.
#define SOFTMAX(kind, team_name, BLOCK, T, result) \
    KERNEL(kind##_##team_name##_##T, 256, const T* x, T* y, i64 rows, i64 length) { \
        TEAM(BLOCK) \
        team.rows(rows, [=](i64 row) { \
            const T* const from = x + row * length; \
            Mass mass{-infinity(), 0.0f}; \
            ROLLED for (i64 k = team.rank(); k < length; k += team.SIZE) mass = join(mass, {to_f32(from[k]), 1.0f}); \
            const f32 largest = team.template over<Largest>(mass.largest); \
            const f32 mine = mass.largest == -infinity() ? 0.0f : mass.sum * expf(mass.largest - largest); \
            const f32 sum = team.template over<Sum>(mine); \
            ROLLED for (i64 k = team.rank(); k < length; k += team.SIZE) { \
                const f32 e = to_f32(from[k]) - largest; \
                y[row * length + k] = rounded<T>(result); \
            } \
        }); \
    }
#define SOFTMAXES(T) \
    SOFTMAX(softmax, block, true, T, expf(e) / sum) \
    SOFTMAX(softmax, warp, false, T, expf(e) / sum) \
    SOFTMAX(log_softmax, block, true, T, e - logf(sum)) \
    SOFTMAX(log_softmax, warp, false, T, e - logf(sum))
FOR_FLOATS(SOFTMAXES)

// ---- Normalisations ----

// entries: layer_norm_{block,warp}_{f32,f16,bf16}
// launch: block=256 grid=rows (block), ceil(rows / 8) (warp) shared=0 registers=48
// args: x, scale (may be null: 1), bias (may be null: 0), y, rows, length, epsilon.
//
// entries: rms_norm_{block,warp}_{f32,f16,bf16}
// launch: block=256 grid=rows (block), ceil(rows / 8) (warp) shared=0 registers=48
// args: x, residual (may be null), scale (may be null: 1), sum (may be null), y, rows, length, epsilon. Normalises
// x + residual, as rounded to the element type, and writes it to `sum`: what the next layer adds to. `sum` may be
// `residual` or x; y may be neither x nor residual where `sum` is null and residual is not.
#define NORMS(team_name, BLOCK, T) \
    KERNEL(layer_norm_##team_name##_##T, 256, const T* x, const T* scale, const T* bias, T* y, i64 rows, i64 length, f32 epsilon) { \
        TEAM(BLOCK) \
        team.rows(rows, [=](i64 row) { \
            const T* const from = x + row * length; \
            const f32 count = static_cast<f32>(length); \
            const f32 mean = team.template over<Sum>(share_of<Sum>(from, team.rank(), team.SIZE, length, [](f32 e) { return e; })) / count; \
            const f32 square = team.template over<Sum>(share_of<Sum>(from, team.rank(), team.SIZE, length, [=](f32 e) { return (e - mean) * (e - mean); })); \
            const f32 factor = 1.0f / sqrtf(square / count + epsilon); \
            ROLLED for (i64 k = team.rank(); k < length; k += team.SIZE) { \
                const f32 e = (to_f32(from[k]) - mean) * factor * (scale ? to_f32(scale[k]) : 1.0f); \
                y[row * length + k] = rounded<T>(e + (bias ? to_f32(bias[k]) : 0.0f)); \
            } \
        }); \
    } \
    KERNEL(rms_norm_##team_name##_##T, 256, const T* x, const T* residual, const T* scale, T* sum, T* y, i64 rows, i64 length, f32 epsilon) { \
        TEAM(BLOCK) \
        team.rows(rows, [=](i64 row) { \
            const i64 first = row * length; \
            const auto element = [=](i64 k) { return residual ? rounded<T>(to_f32(x[first + k]) + to_f32(residual[first + k])) : x[first + k]; }; \
            f32 square = 0.0f; \
            ROLLED for (i64 k = team.rank(); k < length; k += team.SIZE) { \
                const f32 e = to_f32(element(k)); \
                square = fmaf(e, e, square); \
            } \
            square = team.template over<Sum>(square); \
            const f32 factor = 1.0f / sqrtf(square / static_cast<f32>(length) + epsilon); \
            ROLLED for (i64 k = team.rank(); k < length; k += team.SIZE) { \
                const T e = element(k); \
                if (sum) sum[first + k] = e; \
                y[first + k] = rounded<T>(to_f32(e) * factor * (scale ? to_f32(scale[k]) : 1.0f)); \
            } \
        }); \
    }
#define NORMS_OF(T) NORMS(block, true, T) NORMS(warp, false, T)
FOR_FLOATS(NORMS_OF)
