// What all kernels of attention agree about: the shape of the problem, and which keys a query sees with what score.

#pragma once

#include "millstream.cuh"

struct Attention {
    i64 batch, heads, kv_heads;  // heads is a multiple of kv_heads: head h reads keys and values h / (heads / kv_heads)
    i64 queries, keys;           // keys: how many there are at most; `lengths` may say less for each of the batch
    i64 size, value_size;        // elements of a query or key, and of a value; they are neighbours
    i64 q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, y_batch, y_head, y_row;  // strides
    i64 mask_batch, mask_head, mask_row;                                                                 // 0 repeats; keys are neighbours
    i64 past;    // query i stands at position i + past; with lengths at i + lengths[b] - queries
    i64 window;  // how many positions a query sees, its own included; 0: all
    i32 mask;    // 0 none, 1 added to scores (of the tensors' type), 2 bytes: 0 hides
    i32 causal;  // hides keys at positions after the query's
    i32 blind;   // what a query gives whose scores are all -inf: 0 zeros, 1 NaN, as softmax itself does
    i32 reserved;
    f32 scale, softcap;  // softcap c > 0: c tanh(score / c), before the mask
};

// Which keys the queries of one of the batch can see.
struct Sight {
    i64 keys, past, window;
    bool causal;
    MEMBER Sight(const Attention& s, const i32* lengths, i64 batch) {
        keys = lengths && lengths[batch] < s.keys ? lengths[batch] : s.keys;
        past = lengths ? keys - s.queries : s.past;
        window = s.window;
        causal = s.causal != 0;
    }
    // The first key that a query sees, and one past the last; later queries see no earlier ones.
    MEMBER i64 begin(i64 query) const {
        const i64 first = query + past - window + 1;
        return window > 0 && first > 0 ? (first < keys ? first : keys) : 0;
    }
    MEMBER i64 end(i64 query) const {
        const i64 past_last = query + past + 1;
        return causal && past_last < keys ? (past_last > 0 ? past_last : 0) : keys;
    }
    MEMBER bool sees(i64 query, i64 key) const { return key >= begin(query) && key < end(query); }
};

// What the sum of values is multiplied with, for the sum of their weights.
DEVICE f32 normaliser(f32 sum, const Attention& s) { return sum == 0.0f ? s.blind ? __int_as_float(0x7fc00000) : 0.0f : 1.0f / sum; }

// The score of a product of query and key as softmax sees it; -inf where the key is hidden.
template <class T> DEVICE f32 seen(f32 product, const Attention& s, const Sight& sight, const void* mask, i64 batch, i64 head, i64 query, i64 key) {
    if (query >= s.queries || !sight.sees(query, key)) return -infinity();
    f32 score = product * s.scale;
    if (s.softcap > 0.0f) score = s.softcap * tanhf(score / s.softcap);
    const i64 at = batch * s.mask_batch + head * s.mask_head + query * s.mask_row + key;
    if (s.mask == 1) score += to_f32(static_cast<const T*>(mask)[at]);
    if (s.mask == 2 && static_cast<const u8*>(mask)[at] == 0) score = -infinity();
    return score;
}
