// Checks of ../../kernels/attention.cu and decoder.cu against float64.

#include "../../kernels/attention.cu"
#include "../../kernels/decoder.cu"
#include "attention.h"

using namespace check;

static size_t shared_of(const Attention& s) { return static_cast<size_t>(4 * (16 * (s.size + 1) + 32 * (std::max(s.size, s.value_size) + 1) + 16 * 33)); }

template <class T, class K> static void attend(Chance& chance, K kernel, const char* name, i64 most) {
    Problem<T> p(chance, Problem<T>::shape(chance, 40, 90, chance.integer(most / 4, most), chance.integer(most / 4, most)));
    start(kernel, name, chance.integer(1, 5), 128, shared_of(p.s), p.q.data(), p.k.data(), p.v.data(), p.mask(), p.length(), p.y.data(), p.s);
    p.verify(name, 1e-5);
}

CHECK(attention_of_many_queries) {
#define ATTEND(T) \
    attend<T>(chance, attention_d64_##T, "attention_d64_" #T, 64); \
    attend<T>(chance, attention_d128_##T, "attention_d128_" #T, 128);
    FOR_FLOATS(ATTEND)
    attend<bf16>(chance, attention_d256_bf16, "attention_d256_bf16", 256);
}

template <class T, class K, class J> static void decode_step(Chance& chance, K kernel, const char* name, J joining, const char* join_name) {
    Problem<T> p(chance, Problem<T>::shape(chance, 2, 200, chance.integer(1, 256), chance.integer(1, 256)));
    const i64 splits = chance.integer(1, 5), rows = p.s.batch * p.s.heads * p.s.queries;
    Buffer<f32> parts(rows * splits * (p.s.value_size + 2));
    start(kernel, name, chance.integer(1, 9), 128, 0, p.q.data(), p.k.data(), p.v.data(), p.mask(), p.length(), parts.data(), splits, p.s);
    start(joining, join_name, chance.integer(1, 3), 128, 0, parts.data(), splits, p.y.data(), p.s);
    p.verify(name, 1e-5);
}

CHECK(attention_of_few_queries) {
    decode_step<f32>(chance, attention_decode_f32, "attention_decode_f32", attention_join_f32, "attention_join_f32");
    decode_step<f16>(chance, attention_decode_f16, "attention_decode_f16", attention_join_f16, "attention_join_f16");
    decode_step<bf16>(chance, attention_decode_bf16, "attention_decode_bf16", attention_join_bf16, "attention_join_bf16");
}

template <class T, class K> static void rotary(Chance& chance, K kernel, const char* name) {
    Rotary s{};
    s.batch = chance.integer(1, 2), s.heads = chance.integer(1, 3), s.length = chance.integer(1, 9), s.size = 2 * chance.integer(1, 20);
    s.rotated = 2 * chance.integer(1, s.size / 2);
    s.x_head = s.y_head = s.size, s.x_row = s.y_row = s.heads * s.size, s.x_batch = s.y_batch = s.length * s.x_row;
    s.table_rows = 30, s.table_row = s.rotated / 2 + 1;
    s.interleaved = chance.coin(), s.first = chance.integer(0, 20), s.positions_batch = chance.coin() ? s.length : 0;
    const i64 n = s.batch * s.x_batch;
    Buffer<T> x(n, chance, -2, 2), cosine(30 * s.table_row, chance, -1, 1), sine(30 * s.table_row, chance, -1, 1), y(n);
    Buffer<i64> positions(s.batch * s.length, chance, -30, 29);
    Buffer<i32> fault(1);
    fault[0] = 0;
    const bool given = chance.coin();
    start(kernel, name, chance.integer(1, 3), 256, 0, x.data(), cosine.data(), sine.data(), given ? positions.data() : nullptr, y.data(), s, fault.data());
    for (i64 i = 0; i < n; i++) {
        const i64 e = i % s.size, row = i / s.x_row % s.length, batch = i / s.x_batch, half = s.rotated / 2;
        if (e >= s.rotated) {
            same(y[i], x[i], name, i);
            continue;
        }
        const i64 position = given ? positions[batch * s.positions_batch + row] : s.first + row;
        const i64 at = (position < 0 ? position + 30 : position) * s.table_row + (s.interleaved ? e / 2 : e % half);
        const bool second = s.interleaved ? e % 2 : e >= half;
        const double other = x(i + (second ? -1 : 1) * (s.interleaved ? 1 : half));
        close(y[i], x(i) * cosine(at) + (second ? other : -other) * sine(at), 4 * 0x1p-23, name, i);
    }
    same(fault[0], 0, "fault", 0);
    // In place, and past the table.
    s.first = 30;
    start(kernel, name, 1, 256, 0, x.data(), cosine.data(), sine.data(), nullptr, x.data(), s, fault.data());
    same(fault[0], 1, "fault of a position past the table", 0);
}

CHECK(rotary_embeddings) {
    rotary<f32>(chance, rotary_f32, "rotary_f32");
    rotary<f16>(chance, rotary_f16, "rotary_f16");
    rotary<bf16>(chance, rotary_bf16, "rotary_bf16");
}

CHECK(caches_grow) {
    Append s{};
    s.batch = 2, s.heads = 2, s.length = chance.integer(1, 5), s.size = chance.integer(1, 40), s.capacity = 9;
    s.x_row = s.size, s.x_head = s.length * s.size, s.x_batch = 2 * s.x_head;
    s.circular = chance.coin();
    s.cache_row = s.size, s.cache_head = 9 * s.size, s.cache_batch = 2 * s.cache_head;
    Buffer<u16> x(2 * s.x_batch, chance, 0, 60000), cache(2 * s.cache_batch, chance, 0, 60000), before(2 * s.cache_batch);
    for (i64 i = 0; i < cache.size(); i++) before[i] = cache[i];
    Buffer<i64> starts(2);
    Buffer<i32> fault(1);
    fault[0] = 0;
    starts[0] = chance.integer(0, 9 - s.length), starts[1] = 9 - s.length + 1;  // the last row of the second has no place
    LAUNCH(cache_append_b2, chance.integer(1, 3), 256, 0, x.data(), starts.data(), cache.data(), s, fault.data());
    for (i64 i = 0; i < cache.size(); i++) {
        const i64 b = i / s.cache_batch, h = i / s.cache_head % 2, past = i / s.size % 9 - starts[b], row = s.circular ? (past + 9) % 9 : past;
        const bool written = row >= 0 && row < s.length;
        same(cache[i], written ? x[b * s.x_batch + h * s.x_head + row * s.x_row + i % s.size] : before[i], "cache", i);
    }
    same(fault[0], s.circular ? 0 : 1, "fault of a row past the capacity", 0);
}
