// Random problems of attention and their solution in float64, for whichever kernel.

#pragma once

#include "../../kernels/attention.cuh"
#include "check.h"

template <class T> struct Problem {
    Attention s{};
    check::Buffer<T> q, k, v, y, added;
    check::Buffer<u8> hiding;
    check::Buffer<i32> lengths;
    bool with_lengths;

    // Keys and values lie in caches with room for more; queries and results lie batch × row × head × element.
    static Attention shape(check::Chance& chance, i64 most_queries, i64 most_keys, i64 size, i64 value_size) {
        Attention s{};
        s.batch = chance.integer(1, 2), s.kv_heads = chance.integer(1, 2), s.heads = s.kv_heads * chance.integer(1, 3);
        s.queries = chance.integer(1, most_queries), s.keys = chance.integer(1, most_keys), s.size = size, s.value_size = value_size;
        s.q_head = size, s.q_row = s.heads * size, s.q_batch = s.queries * s.q_row;
        s.y_head = value_size, s.y_row = s.heads * value_size, s.y_batch = s.queries * s.y_row;
        const i64 capacity = s.keys + chance.integer(0, 5);
        s.k_row = size, s.k_head = capacity * size, s.k_batch = s.kv_heads * s.k_head;
        s.v_row = value_size, s.v_head = capacity * value_size, s.v_batch = s.kv_heads * s.v_head;
        s.mask = static_cast<i32>(chance.integer(0, 2));
        s.mask_row = chance.coin() ? s.keys : 0;
        s.mask_head = chance.coin() ? s.keys * s.queries : 0;
        s.mask_batch = chance.coin() ? s.keys * s.queries * s.heads : 0;
        s.causal = chance.coin(), s.past = chance.integer(-3, s.keys), s.window = chance.coin() ? chance.integer(1, 40) : 0;
        s.scale = static_cast<f32>(2 / std::sqrt(static_cast<double>(size))), s.softcap = chance.coin() ? 3.0f : 0.0f, s.blind = chance.coin();
        return s;
    }

    Problem(check::Chance& chance, Attention given)
        : s(given), q(s.batch * s.q_batch, chance, -2, 2), k(s.batch * s.k_batch, chance, -2, 2), v(s.batch * s.v_batch, chance, -2, 2), y(s.batch * s.y_batch),
          added(s.batch * s.heads * s.queries * s.keys, chance, -2, 2), hiding(s.batch * s.heads * s.queries * s.keys, chance, 0, 2), lengths(s.batch, chance, 0, static_cast<double>(s.keys + 1)), with_lengths(chance.integer(0, 2) == 0) {
        for (i64 i = 0; i < added.size(); i += 7) added[i] = check::element<T>(-INFINITY);
    }

    const void* mask() const { return s.mask == 1 ? static_cast<const void*>(added.data()) : s.mask == 2 ? hiding.data() : nullptr; }
    const i32* length() const { return with_lengths ? lengths.data() : nullptr; }

    // `weight_error`: what the kernel loses by rounding weights before they meet values, relative to one.
    void verify(const char* name, double weight_error) {
        for (i64 b = 0; b < s.batch; b++) {
            const i64 count = with_lengths ? std::min<i64>(lengths[b], s.keys) : s.keys, past = with_lengths ? count - s.queries : s.past;
            for (i64 h = 0; h < s.heads; h++) {
                for (i64 i = 0; i < s.queries; i++) {
                    const i64 kv = h / (s.heads / s.kv_heads);
                    std::vector<double> score(static_cast<size_t>(count));
                    double largest = -INFINITY, sum = 0;
                    for (i64 j = 0; j < count; j++) {
                        double dot = 0;
                        for (i64 e = 0; e < s.size; e++) dot += q(b * s.q_batch + h * s.q_head + i * s.q_row + e) * k(b * s.k_batch + kv * s.k_head + j * s.k_row + e);
                        dot *= s.scale;
                        if (s.softcap > 0) dot = 3 * std::tanh(dot / 3);
                        const i64 at = b * s.mask_batch + h * s.mask_head + i * s.mask_row + j;
                        if (s.mask == 1) dot += added(at);
                        const bool hidden = (s.mask == 2 && !hiding[at]) || (s.causal && j > i + past) || (s.window > 0 && j <= i + past - s.window);
                        score[static_cast<size_t>(j)] = hidden ? -INFINITY : dot;
                        largest = std::fmax(largest, score[static_cast<size_t>(j)]);
                    }
                    for (double& x : score) x = largest == -INFINITY ? 0 : std::exp(x - largest), sum += x;
                    for (i64 e = 0; e < s.value_size; e++) {
                        double want = 0;
                        for (i64 j = 0; j < count; j++) want += score[static_cast<size_t>(j)] * v(b * s.v_batch + kv * s.v_head + j * s.v_row + e);
                        const i64 at = b * s.y_batch + h * s.y_head + i * s.y_row + e;
                        // Scores are sums of `size` products of up to 4; weights turn their error into a relative one of values up to 2.
                        const double error = 2 * (weight_error + static_cast<double>(s.size) * 16 * 0x1p-24 * s.scale);
                        check::close(y[at], sum > 0 ? want / sum : s.blind ? NAN : 0, error, name, at);
                    }
                }
            }
        }
    }
};
