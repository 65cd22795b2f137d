// Checks of ../../kernels/sample.cu: choices against sorting in float64.

#include <algorithm>
#include <numeric>

#include "../../kernels/sample.cu"
#include "check.h"

using namespace check;

CHECK(largest_and_smallest) {
    const i64 rows = chance.integer(1, 6), length = chance.integer(1, 900);
    Buffer<f16> x(rows * length, chance, -3, 3);
    for (i64 i = 0; i < x.size(); i += 5) x[i] = element<f16>(chance.coin() ? 3 : -3);  // equals
    x[0] = element<f16>(length > 1 ? NAN : 0);
    Buffer<i64> high(rows), low(rows);
    LAUNCH(argmax_f16, chance.integer(1, 3), 256, 0, x.data(), high.data(), rows, length, 0);
    LAUNCH(argmax_f16, chance.integer(1, 3), 256, 0, x.data(), low.data(), rows, length, 1);
    for (i64 row = 0; row < rows; row++) {
        i64 most = -1, least = -1;
        for (i64 k = 0; k < length; k++) {
            const double e = x(row * length + k);
            if (std::isnan(e)) continue;
            if (most < 0 || e > x(row * length + most)) most = k;
            if (least < 0 || e < x(row * length + least)) least = k;
        }
        same(high[row], most, "argmax", row);
        same(low[row], least, "argmin", row);
    }
}

template <class T, class K> static void sampling(Chance& chance, K kernel, const char* name) {
    const i64 rows = chance.integer(1, 4), length = chance.integer(1, 1500);
    const i64 top_k = chance.coin() ? chance.integer(1, length) : 0;
    const float top_p = chance.coin() ? static_cast<float>(chance.real(0.05, 0.99)) : 1.0f, temperature = static_cast<float>(chance.real(0.3, 2));
    Buffer<T> x(rows * length, chance, -5, 5);
    x[0] = element<T>(-INFINITY), x[length / 2] = element<T>(length > 2 ? NAN : 0);
    Buffer<f32> random(rows, chance, 0, 1);
    random[0] = chance.coin() ? 0.0f : 0x1.fffffep-1f;
    Buffer<i64> y(rows);
    start(kernel, name, chance.integer(1, 3), 256, 0, x.data(), random.data(), y.data(), rows, length, top_k, temperature, top_p);
    for (i64 row = 0; row < rows; row++) {
        const auto logit = [&](i64 k) { const double e = x(row * length + k); return std::isnan(e) ? -INFINITY : e; };
        std::vector<i64> order(static_cast<size_t>(length));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](i64 a, i64 b) { return logit(a) > logit(b); });
        const double largest = logit(order[0]);
        const auto mass = [&](i64 k) { return std::exp((logit(k) - largest) / temperature); };
        double lowest = top_k ? logit(order[static_cast<size_t>(top_k) - 1]) : -INFINITY;
        const auto total_from = [&](double least) {
            double sum = 0;
            for (i64 k = 0; k < length; k++) sum += logit(k) >= least ? mass(k) : 0;
            return sum;
        };
        const double total_k = total_from(lowest);
        // The last logit that p keeps, and the one after it where p falls on an edge, within the masses' precision.
        double sum = 0, strict = lowest, loose = lowest;
        if (top_p < 1) {
            strict = loose = INFINITY;
            for (i64 k : order) {
                if (logit(k) < lowest) break;
                if (std::isinf(strict) || sum < top_p * total_k * (1 - 1e-6)) strict = logit(k);
                if (std::isinf(loose) || sum < top_p * total_k * (1 + 1e-6)) loose = logit(k);
                sum += mass(k);
            }
        }
        const i64 got = y[row];
        bool holds = false;
        for (const double least : {strict, loose}) {
            const double total = total_from(least);
            if (got < 0 || got >= length || !(logit(got) >= least)) continue;
            double before = 0;
            for (i64 k = 0; k < got; k++) before += logit(k) >= least ? mass(k) : 0;
            const double at = random(row) * total;
            holds |= before <= at + 2e-6 * total && at <= before + mass(got) + 2e-6 * total;
        }
        same(holds, true, name, row);
    }
    // The same logits and numbers again, under this schedule's next chances.
    Buffer<i64> again(rows);
    start(kernel, name, 1, 256, 0, x.data(), random.data(), again.data(), rows, length, top_k, temperature, top_p);
    for (i64 row = 0; row < rows; row++) same(again[row], y[row], "the same token again", row);
    start(kernel, name, 1, 256, 0, x.data(), random.data(), again.data(), rows, length, top_k, 0.0f, top_p);
    for (i64 row = 0; row < rows; row++) {
        for (i64 k = 0; k < length; k++) same(!(x(row * length + k) > x(row * length + again[row])), true, "without a temperature", k);
    }
}

CHECK(tokens_by_chance) {
    for (int i = 0; i < 3; i++) {
        sampling<f32>(chance, sample_f32, "sample_f32");
        sampling<f16>(chance, sample_f16, "sample_f16");
        sampling<bf16>(chance, sample_bf16, "sample_bf16");
    }
}
