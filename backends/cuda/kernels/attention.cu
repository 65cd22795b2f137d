// Attention without stored scores, by online softmax: masks, causal and sliding windows, heads that share keys and values,
// caches that are read as they lie, capped scores.
//
// A row of softmax keeps its largest score so far, the sum of exp(score - largest), and the sum of values with those
// weights; a larger score scales both sums down (Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao 2022). All of that
// is float32. A query that sees no key, or whose scores are all -inf, gives what `blind` says.
//
// `attention` takes 16 queries a block against tiles of 32 keys; `attention_decode` splits the keys of few queries over
// blocks, and `attention_join` joins the splits. For tensor cores see attention_tensor.cu.

#include "attention.cuh"
#include "millstream.cuh"

constexpr int QUERIES = 16, KEYS = 32, THREADS = 128;
constexpr int BESIDE = THREADS / QUERIES;  // threads that share a query; they are neighbours in a warp

// What R makes of the values of a query's threads, in each of them.
template <class R> DEVICE f32 over_query(f32 x) {
    UNROLL for (int distance = BESIDE / 2; distance > 0; distance /= 2) x = R::join(x, __shfl_xor_sync(WHOLE_WARP, x, distance));
    return x;
}

// Rows [first, first + count) of a matrix of `size` columns into shared memory, as float32, rows of `pitch`; what is not
// there becomes 0.
template <class T> DEVICE void bring(f32* to, int pitch, const T* from, i64 stride, i64 first, int count, i64 end, int size) {
    ROLLED for (int at = threadIdx.x; at < count * size; at += THREADS) {
        const int row = at / size, column = at - row * size;
        to[row * pitch + column] = first + row < end ? to_f32(from[(first + row) * stride + column]) : 0.0f;
    }
}

// entries: attention_{d64,d128,d256}_{f32,f16,bf16}
// launch: block=128 grid=batch * heads * ceil(queries / 16) shared=4 * (16 * (size + 1) + 32 * (max(size, value_size) + 1) + 16 * 33) registers=128
// args: q, k, v, mask (may be null), lengths (may be null), y, shape (Attention by value). size and value_size are at most
// what the name says. y overlaps no input.
#define ATTENTION(T) \
    KERNEL(attention_d64_##T, 128, const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, Attention shape) { attention<64>(q, k, v, mask, lengths, y, shape); } \
    KERNEL(attention_d128_##T, 128, const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, Attention shape) { attention<128>(q, k, v, mask, lengths, y, shape); } \
    KERNEL(attention_d256_##T, 128, const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, Attention shape) { attention<256>(q, k, v, mask, lengths, y, shape); }

template <int MOST, class T> DEVICE void attention(const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, const Attention& s) {
    DYN_SHARED(f32, memory);
    const int size = static_cast<int>(s.size), value_size = static_cast<int>(s.value_size);
    const int q_pitch = size + 1, pitch = (size > value_size ? size : value_size) + 1;
    f32* const queries = memory;
    f32* const tile = queries + QUERIES * q_pitch;  // of keys, then of values
    f32* const weights = tile + KEYS * pitch;
    const int row = static_cast<int>(threadIdx.x) / BESIDE, lane = static_cast<int>(threadIdx.x) % BESIDE;
    const i64 down = (s.queries + QUERIES - 1) / QUERIES;

    ROLLED for (i64 t = blockIdx.x; t < s.batch * s.heads * down; t += gridDim.x) {
        const i64 first = t % down * QUERIES, head = t / down % s.heads, batch = t / down / s.heads;
        const i64 shared_head = head / (s.heads / s.kv_heads);
        const Sight sight(s, lengths, batch);
        const T* const keys = k + batch * s.k_batch + shared_head * s.k_head;
        const T* const values = v + batch * s.v_batch + shared_head * s.v_head;
        const i64 last = first + QUERIES < s.queries ? first + QUERIES : s.queries;
        const i64 begin = sight.begin(first) / KEYS * KEYS, end = sight.end(last - 1);
        bring(queries, q_pitch, q + batch * s.q_batch + head * s.q_head, s.q_row, first, QUERIES, s.queries, size);

        f32 largest = -infinity(), sum = 0.0f, out[MOST / BESIDE] = {};
        ROLLED for (i64 k0 = begin; k0 < end; k0 += KEYS) {
            bring(tile, pitch, keys, s.k_row, k0, KEYS, end, size);
            __syncthreads();
            f32 score[KEYS / BESIDE] = {};
            ROLLED for (int i = 0; i < size; i++) {
                const f32 element = queries[row * q_pitch + i];
                UNROLL for (int j = 0; j < KEYS / BESIDE; j++) score[j] = fmaf(element, tile[(lane + j * BESIDE) * pitch + i], score[j]);
            }
            f32 highest = largest;
            UNROLL for (int j = 0; j < KEYS / BESIDE; j++) {
                score[j] = seen<T>(score[j], s, sight, mask, batch, head, first + row, k0 + lane + j * BESIDE);
                highest = Largest::join(highest, score[j]);
            }
            highest = over_query<Largest>(highest);
            // A row that has seen nothing yet stays so: exp(-inf - -inf) must not come up.
            const f32 shrink = highest == -infinity() ? 1.0f : expf(largest - highest);
            f32 added = 0.0f;
            UNROLL for (int j = 0; j < KEYS / BESIDE; j++) {
                const f32 weight = highest == -infinity() ? 0.0f : expf(score[j] - highest);
                weights[row * (KEYS + 1) + lane + j * BESIDE] = weight;
                added += weight;
            }
            sum = sum * shrink + over_query<Sum>(added);
            largest = highest;
            __syncthreads();
            bring(tile, pitch, values, s.v_row, k0, KEYS, end, value_size);
            __syncthreads();
            UNROLL for (int j = 0; j < MOST / BESIDE; j++) out[j] *= shrink;
            ROLLED for (int key = 0; key < KEYS; key++) {
                const f32 weight = weights[row * (KEYS + 1) + key];
                UNROLL for (int j = 0; j < MOST / BESIDE; j++) {
                    if (lane + j * BESIDE < value_size) out[j] = fmaf(weight, tile[key * pitch + lane + j * BESIDE], out[j]);
                }
            }
            __syncthreads();
        }
        const f32 factor = normaliser(sum, s);
        T* const to = y + batch * s.y_batch + head * s.y_head + (first + row) * s.y_row;
        UNROLL for (int j = 0; j < MOST / BESIDE; j++) {
            const int column = lane + j * BESIDE;
            if (first + row < s.queries && column < value_size) to[column] = rounded<T>(out[j] * factor);
        }
        // The queries are read until here.
        __syncthreads();
    }
}
FOR_FLOATS(ATTENTION)

constexpr int WARPS = THREADS / WARP;
constexpr int MOST_SIZE = 256;

// entries: attention_decode_{f32,f16,bf16}
// launch: block=128 grid=batch * heads * queries * splits shared=0 registers=96
// args: q, k, v, mask (may be null), lengths (may be null), parts, splits, shape (Attention by value). size and value_size
// are at most 256. `parts` is float32, (batch heads queries) × splits × (value_size + 2), and goes to attention_join: the
// largest score, the sum of weights, the sum of values. A split takes a stretch of the keys; about as many splits as fill
// the device, and none of fewer than 64 keys, pay.
//
// entries: attention_join_{f32,f16,bf16}
// launch: block=128 grid=batch * heads * queries shared=0 registers=48
// args: parts, splits, y, shape (Attention by value).
#define DECODE(T) \
    KERNEL(attention_decode_##T, 128, const T* q, const T* k, const T* v, const void* mask, const i32* lengths, f32* parts, i64 splits, Attention shape) { decode(q, k, v, mask, lengths, parts, splits, shape); } \
    KERNEL(attention_join_##T, 128, const f32* parts, i64 splits, T* y, Attention shape) { joined(parts, splits, y, shape); }

template <class T> DEVICE void decode(const T* q, const T* k, const T* v, const void* mask, const i32* lengths, f32* parts, i64 splits, const Attention& s) {
    SHARED(f32, largest_of, [WARPS]);
    SHARED(f32, sum_of, [WARPS]);
    SHARED(f32, out_of, [WARPS][MOST_SIZE]);
    constexpr int SHARE = MOST_SIZE / WARP;
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;

    ROLLED for (i64 t = blockIdx.x; t < s.batch * s.heads * s.queries * splits; t += gridDim.x) {
        const i64 split = t % splits, row = t / splits, query = row % s.queries, head = row / s.queries % s.heads, batch = row / s.queries / s.heads;
        const i64 shared_head = head / (s.heads / s.kv_heads);
        const Sight sight(s, lengths, batch);
        const i64 begin = sight.begin(query), count = sight.end(query) - begin;
        const i64 stretch = count > 0 ? (count + splits - 1) / splits : 0;
        const i64 from = begin + split * stretch, past = begin + count;
        const i64 to = from + stretch < past ? from + stretch : past;
        const T* const keys = k + batch * s.k_batch + shared_head * s.k_head;
        const T* const values = v + batch * s.v_batch + shared_head * s.v_head;
        const T* const asks = q + batch * s.q_batch + head * s.q_head + query * s.q_row;

        f32 ask[SHARE], out[SHARE] = {}, largest = -infinity(), sum = 0.0f;
        UNROLL for (int i = 0; i < SHARE; i++) ask[i] = lane + i * WARP < s.size ? to_f32(asks[lane + i * WARP]) : 0.0f;
        ROLLED for (i64 key = from + warp; key < to; key += WARPS) {
            f32 score = 0.0f;
            UNROLL for (int i = 0; i < SHARE; i++) {
                if (lane + i * WARP < s.size) score = fmaf(ask[i], to_f32(keys[key * s.k_row + lane + i * WARP]), score);
            }
            score = seen<T>(over_warp<Sum>(score), s, sight, mask, batch, head, query, key);
            if (score == -infinity()) continue;
            const f32 highest = Largest::join(largest, score), shrink = expf(largest - highest), weight = expf(score - highest);
            sum = sum * shrink + weight;
            largest = highest;
            UNROLL for (int i = 0; i < SHARE; i++) {
                if (lane + i * WARP < s.value_size) out[i] = fmaf(weight, to_f32(values[key * s.v_row + lane + i * WARP]), out[i] * shrink);
            }
        }
        if (lane == 0) largest_of[warp] = largest, sum_of[warp] = sum;
        UNROLL for (int i = 0; i < SHARE; i++) out_of[warp][lane + i * WARP] = out[i];
        __syncthreads();
        f32 highest = -infinity();
        UNROLL for (int w = 0; w < WARPS; w++) highest = Largest::join(highest, largest_of[w]);
        f32* const part = parts + t * (s.value_size + 2);
        f32 total = 0.0f, factor[WARPS];
        UNROLL for (int w = 0; w < WARPS; w++) {
            factor[w] = largest_of[w] == -infinity() ? 0.0f : expf(largest_of[w] - highest);
            total = fmaf(sum_of[w], factor[w], total);
        }
        if (threadIdx.x == 0) part[0] = highest, part[1] = total;
        ROLLED for (int column = threadIdx.x; column < s.value_size; column += THREADS) {
            f32 element = 0.0f;
            UNROLL for (int w = 0; w < WARPS; w++) element = fmaf(out_of[w][column], factor[w], element);
            part[2 + column] = element;
        }
        __syncthreads();
    }
}

template <class T> DEVICE void joined(const f32* parts, i64 splits, T* y, const Attention& s) {
    ROLLED for (i64 row = blockIdx.x; row < s.batch * s.heads * s.queries; row += gridDim.x) {
        const i64 query = row % s.queries, head = row / s.queries % s.heads, batch = row / s.queries / s.heads;
        const i64 width = s.value_size + 2;
        const f32* const mine = parts + row * splits * width;
        f32 highest = -infinity(), total = 0.0f;
        ROLLED for (i64 i = 0; i < splits; i++) highest = Largest::join(highest, mine[i * width]);
        ROLLED for (i64 i = 0; i < splits; i++) total += mine[i * width] == -infinity() ? 0.0f : mine[i * width + 1] * expf(mine[i * width] - highest);
        ROLLED for (i64 column = threadIdx.x; column < s.value_size; column += THREADS) {
            f32 element = 0.0f;
            ROLLED for (i64 i = 0; i < splits; i++) element += mine[i * width] == -infinity() ? 0.0f : mine[i * width + 2 + column] * expf(mine[i * width] - highest);
            y[batch * s.y_batch + head * s.y_head + query * s.y_row + column] = rounded<T>(element * normaliser(total, s));
        }
    }
}
FOR_FLOATS(DECODE)
