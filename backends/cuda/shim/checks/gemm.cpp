// Checks of ../../kernels/gemm.cu against float64.

#include "../../kernels/gemm.cu"
#include "activation.h"
#include "check.h"

using namespace check;

template <class T, class K> static void product(Chance& chance, K kernel, const char* name) {
    Gemm s{};
    s.batch = chance.integer(1, 3), s.m = chance.integer(1, 90), s.n = chance.integer(1, 90), s.k = chance.integer(1, 50);
    const bool a_across = chance.coin(), b_across = chance.coin(), a_repeated = chance.coin(), b_repeated = chance.coin();
    const i64 pad = chance.integer(0, 3);
    s.a_row = a_across ? 1 : s.k + pad, s.a_column = a_across ? s.m : 1;
    s.b_row = b_across ? 1 : s.n + pad, s.b_column = b_across ? s.k : 1;
    const i64 a_size = a_across ? s.m * s.k : s.m * (s.k + pad), b_size = b_across ? s.n * s.k : s.k * (s.n + pad);
    s.a_batch = a_repeated ? 0 : a_size, s.b_batch = b_repeated ? 0 : b_size;
    s.c_row = s.n + pad, s.c_batch = s.m * s.c_row;
    s.residual_row = s.n, s.residual_batch = s.m * s.n;
    s.bias = static_cast<i32>(chance.integer(0, 2)), s.activation = static_cast<i32>(chance.integer(NONE, HARD_SIGMOID));
    s.scale = 0.5f, s.alpha = 0.25f, s.beta = 0.5f;
    Buffer<T> a(a_size * (a_repeated ? 1 : s.batch), chance, -1, 1), b(b_size * (b_repeated ? 1 : s.batch), chance, -1, 1);
    Buffer<T> bias(s.bias == 2 ? s.m : s.n, chance, -1, 1), residual(s.batch * s.m * s.n, chance, -1, 1), c(s.batch * s.c_batch);
    const bool added = chance.coin();
    start(kernel, name, chance.integer(1, 6), 256, 0, a.data(), b.data(), s.bias ? bias.data() : nullptr, added ? residual.data() : nullptr, c.data(), s);
    for (i64 batch = 0; batch < s.batch; batch++) {
        for (i64 m = 0; m < s.m; m++) {
            for (i64 n = 0; n < s.n; n++) {
                double sum = 0, magnitude = 0;
                for (i64 k = 0; k < s.k; k++) {
                    const double term = a(batch * s.a_batch + m * s.a_row + k * s.a_column) * b(batch * s.b_batch + k * s.b_row + n * s.b_column);
                    sum += term, magnitude += std::fabs(term);
                }
                double want = d_activated(0.5 * sum + (s.bias == 2 ? bias(m) : s.bias == 1 ? bias(n) : 0), s.activation, s.alpha, s.beta);
                if (added) want += residual((batch * s.m + m) * s.n + n);
                close(c[batch * s.c_batch + m * s.c_row + n], want, (magnitude * static_cast<double>(s.k) + 20) * 0x1p-24, name, (batch * s.m + m) * s.n + n);
            }
        }
    }
}

CHECK(products) {
    for (int i = 0; i < 2; i++) {
        product<f32>(chance, gemm_f32, "gemm_f32");
        product<f16>(chance, gemm_f16, "gemm_f16");
        product<bf16>(chance, gemm_bf16, "gemm_bf16");
    }
}

template <class T, class K, class G> static void epilogue(Chance& chance, K kernel, const char* name, G gated, const char* gated_name) {
    const i64 rows = chance.integer(1, 20), columns = chance.integer(1, 30) * (chance.coin() ? 4 : 1);
    const i32 activation = static_cast<i32>(chance.integer(NONE, HARD_SIGMOID));
    Buffer<T> x(rows * columns * 2, chance, -4, 4), bias(columns, chance, -1, 1), residual(rows * columns, chance, -1, 1), y(rows * columns, chance.coin());
    const bool biased = chance.coin(), added = chance.coin();
    start(kernel, name, chance.integer(1, 3), 256, 0, x.data(), biased ? bias.data() : nullptr, added ? residual.data() : nullptr, y.data(), rows, columns, activation, 0.25, 0.5);
    for (i64 i = 0; i < rows * columns; i++) {
        const double want = d_activated(x(i) + (biased ? bias(i % columns) : 0), activation, 0.25, 0.5) + (added ? residual(i) : 0);
        close(y[i], want, 40 * 0x1p-24, name, i);
    }
    start(gated, gated_name, 2, 256, 0, x.data(), y.data(), rows, columns, activation, 0.25, 0.5);
    for (i64 i = 0; i < rows * columns; i++) {
        const i64 at = i / columns * 2 * columns + i % columns;
        close(y[i], d_activated(x(at), activation, 0.25, 0.5) * x(at + columns), 120 * 0x1p-24, gated_name, i);
    }
}

CHECK(what_follows_a_product) {
    for (int i = 0; i < 4; i++) {
        epilogue<f32>(chance, epilogue_f32, "epilogue_f32", gated_f32, "gated_f32");
        epilogue<f16>(chance, epilogue_f16, "epilogue_f16", gated_f16, "gated_f16");
        epilogue<bf16>(chance, epilogue_bf16, "epilogue_bf16", gated_bf16, "gated_bf16");
    }
}
