// What a decoder does around attention: rotary embedding, appending to caches of keys and values.

#include "millstream.cuh"

struct Rotary {
    i64 batch, heads, length, size;   // size: elements of a head; they are neighbours
    i64 rotated;                      // how many of them turn: even; the others are copied
    i64 x_batch, x_head, x_row, y_batch, y_head, y_row;
    i64 table_rows, table_row;        // of cos and sin, which have rotated / 2 columns
    i64 positions_batch;              // 0: the same positions for all
    i64 first;                        // without positions, row i stands at first + i
    i32 interleaved;                  // 0: pairs are (i, i + rotated / 2); 1: (2 i, 2 i + 1)
    i32 reserved;
};

// entries: rotary_{f32,f16,bf16}
// launch: block=256 grid=ceil(batch * heads * length * (size - rotated / 2) / 256) shared=0 registers=56
// args: x, cos, sin, positions (i64, may be null), y, shape (Rotary by value), fault. y may be x with the same strides.
// A negative position counts from the table's end. One without a row in the table leaves its row as it is and sets *fault.
#define ROTARY(T) \
    KERNEL(rotary_##T, 256, const T* x, const T* cosine, const T* sine, const i64* positions, T* y, Rotary s, i32* fault) { \
        const i64 half = s.rotated / 2, slots = s.size - half; \
        ROLLED for (i64 i = thread_of_grid(); i < s.batch * s.heads * s.length * slots; i += threads_of_grid()) { \
            const i64 slot = i % slots, row = i / slots % s.length, head = i / slots / s.length % s.heads, batch = i / slots / s.length / s.heads; \
            const T* const from = x + batch * s.x_batch + head * s.x_head + row * s.x_row; \
            T* const to = y + batch * s.y_batch + head * s.y_head + row * s.y_row; \
            if (slot >= half) { \
                to[slot + half] = from[slot + half]; \
                continue; \
            } \
            i64 position = positions ? positions[batch * s.positions_batch + row] : s.first + row; \
            if (position < 0) position += s.table_rows; \
            const i64 left = s.interleaved ? 2 * slot : slot, right = s.interleaved ? left + 1 : left + half; \
            const f32 a = to_f32(from[left]), b = to_f32(from[right]); \
            f32 c = 1.0f, d = 0.0f; \
            if (position < 0 || position >= s.table_rows) { \
                atomicExch(fault, 1); \
            } else { \
                c = to_f32(cosine[position * s.table_row + slot]); \
                d = to_f32(sine[position * s.table_row + slot]); \
            } \
            to[left] = rounded<T>(a * c - b * d); \
            to[right] = rounded<T>(b * c + a * d); \
        } \
    }
FOR_FLOATS(ROTARY)

struct Append {
    i64 batch, heads, length, size;
    i64 x_batch, x_head, x_row, cache_batch, cache_head, cache_row;
    i64 capacity;  // rows of a head in the cache
    i64 first;     // without starts: where the rows go
    i32 circular;  // 1: rows past the capacity go to the front
    i32 reserved;
};

// entries: cache_append_{b1,b2,b4}
// launch: block=256 grid=ceil(batch * heads * length * size / 1024) shared=0 registers=48
// args: x, starts (i64, one of the batch each; may be null), cache, shape (Append by value), fault. Row i of x becomes row
// starts[b] + i of the cache. A row past the capacity is not written and sets *fault.
#define CACHE_APPEND(W, T) \
    KERNEL(cache_append_##W, 256, const T* x, const i64* starts, T* cache, Append s, i32* fault) { \
        ROLLED for (i64 i = thread_of_grid(); i < s.batch * s.heads * s.length * s.size; i += threads_of_grid()) { \
            const i64 column = i % s.size, row = i / s.size % s.length, head = i / s.size / s.length % s.heads, batch = i / s.size / s.length / s.heads; \
            i64 at = (starts ? starts[batch] : s.first) + row; \
            if (s.circular) at = (at % s.capacity + s.capacity) % s.capacity; \
            if (at < 0 || at >= s.capacity) atomicExch(fault, 1); \
            else cache[batch * s.cache_batch + head * s.cache_head + at * s.cache_row + column] = x[batch * s.x_batch + head * s.x_head + row * s.x_row + column]; \
        } \
    }
CACHE_APPEND(b1, u8)
CACHE_APPEND(b2, u16)
CACHE_APPEND(b4, u32)
