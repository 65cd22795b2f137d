// Checks of ../../kernels/norm.cu against float64.

#include "../../kernels/norm.cu"
#include "check.h"

using namespace check;

// Rows by a block or by a warp: launches fit both.
template <class T> struct Rows {
    i64 rows, length, grid;
    Buffer<T> x, y;
    Rows(Chance& chance, i64 longest, double low, double high)
        : rows(chance.integer(1, 11)), length(chance.integer(1, longest)), grid(chance.integer(1, 5)), x(rows * length, chance, low, high, chance.integer(0, 1)), y(rows * length) {}
};

constexpr double EPS = 0x1p-24;

template <class T, class K> static void reduction(Chance& chance, K kernel, const char* name, int op) {
    Rows<T> r(chance, op == PROD ? 12 : 2000, op == PROD ? 0.5 : -2, 2);
    start(kernel, name, r.grid, 256, 0, op, r.x.data(), r.y.data(), r.rows, r.length);
    for (i64 row = 0; row < r.rows; row++) {
        double sum = 0, magnitude = 0, square = 0, product = 1, high = -INFINITY, low = INFINITY;
        for (i64 k = 0; k < r.length; k++) {
            const double e = r.x(row * r.length + k);
            sum += e, magnitude += std::fabs(e), square += e * e, product *= e, high = std::fmax(high, e), low = std::fmin(low, e);
        }
        const double n = static_cast<double>(r.length);
        const double want[] = {sum, sum / n, square, magnitude, std::sqrt(square), product, high, low};
        // Threads add a share each, then a tree joins them: the errors of about that many additions.
        const double steps = (n / 32 + 12) * EPS;
        const double error[] = {steps * magnitude, steps * magnitude / n, steps * square, steps * magnitude, steps * std::sqrt(square), 20 * EPS * std::fabs(product), 0, 0};
        close(r.y[row], want[op], error[op], name, row);
    }
}

#define ALL_REDUCTIONS(T) \
    reduction<T>(chance, reduce_rows_block_##T, "reduce_rows_block_" #T, op); \
    reduction<T>(chance, reduce_rows_warp_##T, "reduce_rows_warp_" #T, op);

CHECK(reductions_of_rows) {
    for (int op = SUM; op <= MINIMUM; op++) {
        FOR_FLOATS(ALL_REDUCTIONS)
    }
}

CHECK(reductions_of_columns) {
    for (int op = SUM; op <= MINIMUM; op++) {
        const i64 outer = chance.integer(1, 5), length = chance.integer(1, op == PROD ? 12 : 60), inner = chance.integer(1, 100);
        Buffer<f16> x(outer * length * inner, chance, 0.5, 2), y(outer * inner);
        LAUNCH(reduce_columns_f16, chance.integer(1, 3), 256, 0, op, x.data(), y.data(), outer, length, inner);
        for (i64 o = 0; o < outer; o++) {
            for (i64 i = 0; i < inner; i++) {
                double sum = 0, square = 0, product = 1, high = 0, low = 9;
                for (i64 k = 0; k < length; k++) {
                    const double e = x((o * length + k) * inner + i);
                    sum += e, square += e * e, product *= e, high = std::fmax(high, e), low = std::fmin(low, e);
                }
                const double want[] = {sum, sum / static_cast<double>(length), square, sum, std::sqrt(square), product, high, low};
                close(y[o * inner + i], want[op], 60 * EPS * std::fabs(want[op]), "reduce_columns", o * inner + i);
            }
        }
    }
}

CHECK(a_nan_reaches_the_result) {
    Buffer<f32> x(1000, chance, -1, 1), y(1);
    x[chance.integer(0, 999)] = NAN;
    for (int op = SUM; op <= MINIMUM; op++) {
        LAUNCH(reduce_rows_block_f32, 1, 256, 0, op, x.data(), y.data(), 1, 1000);
        close(y[0], NAN, 0, "reduce_rows_block", op);
        LAUNCH(reduce_rows_warp_f32, 1, 256, 0, op, x.data(), y.data(), 1, 1000);
        close(y[0], NAN, 0, "reduce_rows_warp", op);
    }
}

template <class T, class K> static void softmax(Chance& chance, K kernel, const char* name, bool logarithm) {
    Rows<T> r(chance, 1500, -20, 20);
    // A row of masked elements, all but one.
    for (i64 k = 1; k < r.length; k++) r.x[k] = element<T>(-INFINITY);
    const bool in_place = chance.coin();
    Buffer<T> kept(r.rows * r.length);
    for (i64 i = 0; i < kept.size(); i++) kept[i] = r.x[i];
    T* const to = in_place ? r.x.data() : r.y.data();
    start(kernel, name, r.grid, 256, 0, r.x.data(), to, r.rows, r.length);
    for (i64 row = 0; row < r.rows; row++) {
        double largest = -INFINITY, sum = 0;
        for (i64 k = 0; k < r.length; k++) largest = std::fmax(largest, kept(row * r.length + k));
        for (i64 k = 0; k < r.length; k++) sum += std::exp(kept(row * r.length + k) - largest);
        for (i64 k = 0; k < r.length; k++) {
            const double e = kept(row * r.length + k) - largest;
            const double want = logarithm ? e - std::log(sum) : std::exp(e) / sum;
            close(to[row * r.length + k], want, (logarithm ? 60 + std::fabs(want) : want * (60 + std::fabs(e))) * 2 * EPS, name, row * r.length + k);
        }
    }
}

#define SOFTMAXES_OF(T) \
    softmax<T>(chance, softmax_block_##T, "softmax_block_" #T, false); \
    softmax<T>(chance, softmax_warp_##T, "softmax_warp_" #T, false); \
    softmax<T>(chance, log_softmax_block_##T, "log_softmax_block_" #T, true); \
    softmax<T>(chance, log_softmax_warp_##T, "log_softmax_warp_" #T, true);

CHECK(softmaxes) { FOR_FLOATS(SOFTMAXES_OF) }

template <class T, class K> static void layer_norm(Chance& chance, K kernel, const char* name) {
    // Far from 0: a variance by a difference of squares would lose every digit.
    Rows<T> r(chance, 1500, 99, 101);
    Buffer<T> scale(r.length, chance, 0.5, 2), bias(r.length, chance, -1, 1);
    const bool scaled = chance.coin(), biased = chance.coin();
    start(kernel, name, r.grid, 256, 0, r.x.data(), scaled ? scale.data() : nullptr, biased ? bias.data() : nullptr, r.y.data(), r.rows, r.length, 1e-3);
    for (i64 row = 0; row < r.rows; row++) {
        double mean = 0, square = 0;
        for (i64 k = 0; k < r.length; k++) mean += r.x(row * r.length + k) / static_cast<double>(r.length);
        for (i64 k = 0; k < r.length; k++) square += std::pow(r.x(row * r.length + k) - mean, 2) / static_cast<double>(r.length);
        for (i64 k = 0; k < r.length; k++) {
            const double e = (r.x(row * r.length + k) - mean) / std::sqrt(square + 1e-3);
            const double s = scaled ? scale(k) : 1.0;
            // The mean's own error, a few units of 100.
            const double error = 800 * EPS * s / std::sqrt(square + 1e-3) + std::fabs(e * s) * 200 * EPS;
            close(r.y[row * r.length + k], e * s + (biased ? bias(k) : 0), error, name, row * r.length + k);
        }
    }
}

template <class T, class K> static void rms_norm(Chance& chance, K kernel, const char* name) {
    Rows<T> r(chance, 1500, -3, 3);
    Buffer<T> residual(r.rows * r.length, chance, -3, 3), scale(r.length, chance, 0.5, 2), kept(r.rows * r.length);
    const bool added = chance.coin(), scaled = chance.coin();
    for (i64 i = 0; i < kept.size(); i++) kept[i] = added ? element<T>(r.x(i) + residual(i)) : r.x[i];
    T* const sum = chance.coin() ? residual.data() : nullptr;
    start(kernel, name, r.grid, 256, 0, r.x.data(), added ? residual.data() : nullptr, scaled ? scale.data() : nullptr, sum, r.y.data(), r.rows, r.length, 1e-5);
    for (i64 row = 0; row < r.rows; row++) {
        double square = 0;
        for (i64 k = 0; k < r.length; k++) square += std::pow(kept(row * r.length + k), 2) / static_cast<double>(r.length);
        for (i64 k = 0; k < r.length; k++) {
            const i64 i = row * r.length + k;
            const double want = kept(i) / std::sqrt(square + 1e-5) * (scaled ? scale(k) : 1);
            close(r.y[i], want, std::fabs(want) * 80 * EPS, name, i);
            if (sum) same(sum[i], kept[i], "the sum with the residual", i);
        }
    }
}

#define NORMS_OF_CHECKED(T) \
    layer_norm<T>(chance, layer_norm_block_##T, "layer_norm_block_" #T); \
    layer_norm<T>(chance, layer_norm_warp_##T, "layer_norm_warp_" #T); \
    rms_norm<T>(chance, rms_norm_block_##T, "rms_norm_block_" #T); \
    rms_norm<T>(chance, rms_norm_warp_##T, "rms_norm_warp_" #T);

CHECK(normalisations) { FOR_FLOATS(NORMS_OF_CHECKED) }
