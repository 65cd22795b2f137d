// Attention on tensor cores, for float16 and bfloat16: the same contract as attention.cu, with the weights of softmax
// rounded to the element type before they meet the values.
//
// A block of four warps takes 64 queries, a warp 16 of them, against tiles of 64 keys. Queries stay in registers as
// fragments; scores of 16 × 64 come out of the product as fragments and, rounded, go into the next one as they are (Dao
// 2023); keys and values go through shared memory, rows 16 bytes longer than needed, so that eight rows lie in all banks.

#include "attention.cuh"
#include "tensor.cuh"

constexpr int QUERIES = 64, KEYS = 64, THREADS = 128;

// entries: attention_tensor_{d64,d128}_{f16,bf16}
// launch: block=128 grid=batch * heads * ceil(queries / 64) shared=128 * (64 + 8) * 2 (d64), 128 * (128 + 8) * 2 (d128) registers=255
// args: q, k, v, mask (may be null), lengths (may be null), y, shape (Attention by value). size and value_size are at most
// what the name says. y overlaps no input.
#define ATTENTION(T) \
    KERNEL(attention_tensor_d64_##T, 128, const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, Attention shape) { attention<64>(q, k, v, mask, lengths, y, shape); } \
    KERNEL(attention_tensor_d128_##T, 128, const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, Attention shape) { attention<128>(q, k, v, mask, lengths, y, shape); }

// What R makes of the values of the four lanes that hold a row.
template <class R> DEVICE f32 over_row(f32 x) {
    x = R::join(x, __shfl_xor_sync(WHOLE_WARP, x, 1));
    return R::join(x, __shfl_xor_sync(WHOLE_WARP, x, 2));
}

template <int SIZE, class T> DEVICE void attention(const T* q, const T* k, const T* v, const void* mask, const i32* lengths, T* y, const Attention& s) {
    constexpr int PITCH = SIZE + 8, STEPS = SIZE / 16, TILES = KEYS / 8;
    DYN_SHARED(T, memory);
    T* const keys = memory;  // queries first
    T* const values = memory + KEYS * PITCH;
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    const int group = lane / 4, within = lane % 4;
    const i64 down = (s.queries + QUERIES - 1) / QUERIES;

    ROLLED for (i64 t = blockIdx.x; t < s.batch * s.heads * down; t += gridDim.x) {
        const i64 first = t % down * QUERIES, head = t / down % s.heads, batch = t / down / s.heads;
        const i64 shared_head = head / (s.heads / s.kv_heads);
        const Sight sight(s, lengths, batch);
        const i64 last = first + QUERIES < s.queries ? first + QUERIES : s.queries;
        const i64 begin = sight.begin(first) / KEYS * KEYS, end = sight.end(last - 1);
        const i64 row = first + warp * 16 + group;  // and the one 8 below

        bring_halves<QUERIES, SIZE, THREADS>(keys, q + batch * s.q_batch + head * s.q_head, s.q_row, first, s.queries, 0, s.size);
        __syncthreads();
        u32 asks[STEPS][4];
        UNROLL for (int i = 0; i < STEPS; i++) matrices(asks[i], keys + (warp * 16 + lane % 16) * PITCH + i * 16 + lane / 16 * 8);
        __syncthreads();

        f32 largest[2] = {-infinity(), -infinity()}, sum[2] = {};
        f32 out[SIZE / 8][4] = {};
        ROLLED for (i64 k0 = begin; k0 < end; k0 += KEYS) {
            bring_halves<KEYS, SIZE, THREADS>(keys, k + batch * s.k_batch + shared_head * s.k_head, s.k_row, k0, end, 0, s.size);
            bring_halves<KEYS, SIZE, THREADS>(values, v + batch * s.v_batch + shared_head * s.v_head, s.v_row, k0, end, 0, s.value_size);
            __syncthreads();
            f32 score[TILES][4] = {};
            UNROLL for (int j = 0; j < TILES; j++) {
                UNROLL for (int i = 0; i < STEPS; i += 2) {
                    u32 b[4];
                    matrices(b, keys + (j * 8 + lane % 8) * PITCH + i * 16 + lane / 8 * 8);
                    Mma<T>::add(score[j], asks[i], b[0], b[1]);
                    Mma<T>::add(score[j], asks[i + 1], b[2], b[3]);
                }
            }
            // Most tiles are seen by all queries. For others the code stands here once: fragments go by in turn.
            if (s.mask == 0 && !(s.softcap > 0.0f) && sight.begin(last - 1) <= k0 && k0 + KEYS <= sight.end(first)) {
                UNROLL for (int j = 0; j < TILES; j++) {
                    UNROLL for (int i = 0; i < 4; i++) score[j][i] *= s.scale;
                }
            } else {
                ROLLED for (int j = 0; j < TILES; j++) {
                    UNROLL for (int i = 0; i < 4; i++) {
                        const f32 mine = seen<T>(score[0][i], s, sight, mask, batch, head, row + i / 2 * 8, k0 + j * 8 + within * 2 + i % 2);
                        UNROLL for (int n = 0; n + 1 < TILES; n++) score[n][i] = score[n + 1][i];
                        score[TILES - 1][i] = mine;
                    }
                }
            }
            f32 highest[2] = {largest[0], largest[1]};
            UNROLL for (int j = 0; j < TILES; j++) {
                UNROLL for (int i = 0; i < 4; i++) highest[i / 2] = Largest::join(highest[i / 2], score[j][i]);
            }
            f32 shrink[2], added[2] = {}, from[2];
            UNROLL for (int h = 0; h < 2; h++) {
                highest[h] = over_row<Largest>(highest[h]);
                // A row that has seen nothing yet: exp(-inf - -inf) must not come up, and exp(-inf - 0) is 0.
                from[h] = highest[h] == -infinity() ? 0.0f : highest[h];
                shrink[h] = expf(largest[h] - from[h]);
                largest[h] = highest[h];
            }
            UNROLL for (int j = 0; j < TILES; j++) {
                UNROLL for (int i = 0; i < 4; i++) {
                    score[j][i] = expf(score[j][i] - from[i / 2]);
                    added[i / 2] += score[j][i];
                }
            }
            UNROLL for (int h = 0; h < 2; h++) sum[h] = sum[h] * shrink[h] + over_row<Sum>(added[h]);
            UNROLL for (int d = 0; d < SIZE / 8; d++) {
                UNROLL for (int i = 0; i < 4; i++) out[d][i] *= shrink[i / 2];
            }
            UNROLL for (int i = 0; i < KEYS / 16; i++) {
                const u32 weights[4] = {pair<T>(score[2 * i][0], score[2 * i][1]), pair<T>(score[2 * i][2], score[2 * i][3]), pair<T>(score[2 * i + 1][0], score[2 * i + 1][1]), pair<T>(score[2 * i + 1][2], score[2 * i + 1][3])};
                UNROLL for (int d = 0; d < SIZE / 8; d += 2) {
                    u32 b[4];
                    matrices_across(b, values + (i * 16 + lane % 16) * PITCH + (d + lane / 16) * 8);
                    Mma<T>::add(out[d], weights, b[0], b[1]);
                    Mma<T>::add(out[d + 1], weights, b[2], b[3]);
                }
            }
            __syncthreads();
        }
        UNROLL for (int h = 0; h < 2; h++) {
            const f32 factor = normaliser(sum[h], s);
            T* const to = y + batch * s.y_batch + head * s.y_head + (row + h * 8) * s.y_row;
            UNROLL for (int d = 0; d < SIZE / 8; d++) {
                UNROLL for (int i = 0; i < 2; i++) {
                    const int column = d * 8 + within * 2 + i;
                    if (row + h * 8 < s.queries && column < s.value_size) to[column] = rounded<T>(out[d][h * 2 + i] * factor);
                }
            }
        }
    }
}
FOR_HALVES(ATTENTION)
