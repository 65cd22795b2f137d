// Choices: the largest element of a row, and a token by chance from a row of logits.
//
// Sampling keeps the k largest logits, of those the fewest whose probability reaches p, and takes the first token at which
// the sum of probabilities passes the given random number. No sorting: the k-th largest is found digit by digit (radix
// selection over the bits of float32, 8 at a time), the last of the p by the same descent over masses. Masses are integers,
// exp((logit - largest) / temperature) in units of 2^-32, so that their sums do not depend on any order: the same logits
// and number give the same token whatever the schedule. Logits equal to the last one kept are kept too.

#include "millstream.cuh"

// Bits that sort as unsigned integers like the floats do; NaN sorts below all.
DEVICE u32 sortable(f32 x) {
    if (x != x) return 0;
    const u32 bits = static_cast<u32>(__float_as_int(x));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The larger key, and of equal ones the smaller index.
struct Candidate {
    u32 key;
    i64 index;
};
DEVICE Candidate better(Candidate a, Candidate b) { return a.key > b.key || (a.key == b.key && a.index < b.index) ? a : b; }

constexpr int THREADS = 256, WARPS = THREADS / WARP, DIGITS = 256;

// The best of a row, in every thread.
template <class F> DEVICE Candidate best_of(i64 length, F key, Candidate* scratch) {
    Candidate best{0, 0x7fffffffffffffffll};
    ROLLED for (i64 k = threadIdx.x; k < length; k += THREADS) best = better(best, {key(k), k});
    UNROLL for (int distance = WARP / 2; distance > 0; distance /= 2) {
        best = better(best, {__shfl_xor_sync(WHOLE_WARP, best.key, distance), __shfl_xor_sync(WHOLE_WARP, best.index, distance)});
    }
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = best;
    __syncthreads();
    UNROLL for (int w = 0; w < WARPS; w++) best = better(best, scratch[w]);
    __syncthreads();
    return best;
}

// entries: argmax_{f32,f16,bf16}
// launch: block=256 grid=rows shared=0 registers=48
// args: x, y (i64), rows, length, smallest. The index of each row's largest element (with smallest != 0 of its smallest),
// the first of equals. NaN is never chosen unless there is nothing else.
#define ARGMAX(T) \
    KERNEL(argmax_##T, 256, const T* x, i64* y, i64 rows, i64 length, i32 smallest) { \
        SHARED(Candidate, scratch, [WARPS]); \
        ROLLED for (i64 row = blockIdx.x; row < rows; row += gridDim.x) { \
            const T* const from = x + row * length; \
            const Candidate best = best_of(length, [=](i64 k) { return sortable(smallest ? -to_f32(from[k]) : to_f32(from[k])); }, scratch); \
            if (threadIdx.x == 0) y[row] = best.index; \
        } \
    }
FOR_FLOATS(ARGMAX)

// The sum over the threads up to this one, and over all of them in `whole`.
DEVICE u64 running_sum(u64 x, u64* scratch, u64& whole) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    UNROLL for (int distance = 1; distance < WARP; distance *= 2) {
        const u64 below = __shfl_up_sync(WHOLE_WARP, x, distance);
        if (lane >= distance) x += below;
    }
    if (lane == WARP - 1) scratch[warp] = x;
    __syncthreads();
    whole = 0;
    UNROLL for (int w = 0; w < WARPS; w++) {
        if (w < warp) x += scratch[w];
        whole += scratch[w];
    }
    __syncthreads();
    return x;
}

struct Descent {
    u64 bins[DIGITS];
    u64 sums[WARPS];
    u64 missing;
    u32 digit;
};

// The largest key such that the elements at or above it weigh `target` or more together; 0 if all do not. 1 <= target.
template <class F, class G> DEVICE u32 descend(i64 length, u64 target, F key, G weight, Descent& d) {
    u32 prefix = 0;
    ROLLED for (int shift = 24; shift >= 0; shift -= 8) {
        d.bins[threadIdx.x] = 0;
        __syncthreads();
        ROLLED for (i64 i = threadIdx.x; i < length; i += THREADS) {
            const u32 bits = key(i);
            // The digits above are settled; there are none in the first round.
            if (shift == 24 || bits >> (shift + 8) == prefix >> (shift + 8)) atomicAdd(&d.bins[bits >> shift & 255u], weight(i));
        }
        if (threadIdx.x == 0) d.digit = 0, d.missing = target;
        __syncthreads();
        // Thread t sees the digits from the largest down to its own.
        const u32 digit = DIGITS - 1 - threadIdx.x;
        const u64 mine = d.bins[digit];
        u64 whole;
        const u64 reached = running_sum(mine, d.sums, whole);
        if (reached >= target && reached - mine < target) d.digit = digit, d.missing = target - (reached - mine);
        __syncthreads();
        prefix |= d.digit << shift;
        target = d.missing;
        __syncthreads();
    }
    return prefix;
}

template <class T> DEVICE i64 sampled(const T* logits, i64 length, f32 random, f32 temperature, i64 top_k, f32 top_p, Candidate* candidates, Descent& d) {
    const auto key = [=](i64 i) { return sortable(to_f32(logits[i])); };
    const Candidate best = best_of(length, key, candidates);
    const f32 largest = to_f32(logits[best.index]);
    if (!(temperature > 0.0f) || !(fabsf(largest) < infinity())) return best.index;

    const auto mass = [=](i64 i) -> u64 {
        const f32 x = to_f32(logits[i]);
        return x == x ? static_cast<u64>(expf((x - largest) / temperature) * 4294967296.0f) : 0;
    };
    u32 lowest = 1;
    if (top_k > 0 && top_k < length) lowest = descend(length, static_cast<u64>(top_k), key, [](i64) -> u64 { return 1; }, d);
    const auto sum_from = [&](u32 least) {
        u64 mine = 0, whole;
        ROLLED for (i64 i = threadIdx.x; i < length; i += THREADS) mine += key(i) >= least ? mass(i) : 0;
        running_sum(mine, d.sums, whole);
        return whole;
    };
    u64 total = sum_from(lowest);
    if (top_p < 1.0f) {
        const u64 wanted = static_cast<u64>(static_cast<double>(top_p) * static_cast<double>(total));
        const u32 least = lowest;
        lowest = descend(length, wanted > 1 ? wanted : 1, key, [=](i64 i) -> u64 { return key(i) >= least ? mass(i) : 0; }, d);
        total = sum_from(lowest);
    }

    u64 passed = static_cast<u64>(static_cast<double>(random) * static_cast<double>(total));
    if (passed >= total) passed = total - 1;
    u64 before = 0;
    if (threadIdx.x == 0) candidates[0].index = best.index;
    ROLLED for (i64 first = 0; first < length; first += THREADS) {
        const i64 i = first + threadIdx.x;
        const u64 mine = i < length && key(i) >= lowest ? mass(i) : 0;
        u64 whole;
        const u64 reached = before + running_sum(mine, d.sums, whole);
        if (reached > passed && reached - mine <= passed) candidates[0].index = i;
        before += whole;
        if (before > passed) break;  // for all threads alike
    }
    __syncthreads();
    const i64 chosen = candidates[0].index;
    __syncthreads();
    return chosen;
}

// entries: sample_{f32,f16,bf16}
// launch: block=256 grid=rows shared=0 registers=64
// args: logits, random (f32, one a row, from 0 on and below 1), y (i64), rows, length, top_k (0: all), temperature (0: the largest logit),
// top_p (1: all). NaN and -inf are never chosen, unless there is nothing else; a row with +inf gives its first one.
#define SAMPLE(T) \
    KERNEL(sample_##T, 256, const T* logits, const f32* random, i64* y, i64 rows, i64 length, i64 top_k, f32 temperature, f32 top_p) { \
        SHARED(Candidate, candidates, [WARPS]); \
        SHARED(Descent, descent, [1]); \
        ROLLED for (i64 row = blockIdx.x; row < rows; row += gridDim.x) { \
            const i64 chosen = sampled(logits + row * length, length, random[row], temperature, top_k, top_p, candidates, descent[0]); \
            if (threadIdx.x == 0) y[row] = chosen; \
        } \
    }
FOR_FLOATS(SAMPLE)
