// Random linear layers of quantised weights, and their results in float64.

#pragma once

#include "../../kernels/quant.cuh"
#include "activation.h"
#include "int4.h"

using namespace check;

template <class T> struct Layer {
    Linear s{};
    Buffer<T> x, bias, residual, y;
    bool biased, added;
    explicit Layer(Chance& chance, i64 most_m)
        : s{chance.integer(1, most_m), chance.integer(1, 80), chance.integer(1, 5) * (chance.coin() ? 32 : 13), static_cast<i32>(chance.integer(NONE, HARD_SIGMOID)), 0, 0.25f, 0.5f},
          x(s.m * s.k, chance, -1, 1, chance.coin()), bias(s.n, chance, -1, 1), residual(s.m * s.n, chance, -1, 1), y(s.m * s.n), biased(chance.coin()), added(chance.coin()) {}
    const T* bias_data() const { return biased ? bias.data() : nullptr; }
    const T* residual_data() const { return added ? residual.data() : nullptr; }
    template <class W> void verify(const char* name, W weight) {
        for (i64 m = 0; m < s.m; m++) {
            for (i64 n = 0; n < s.n; n++) {
                double sum = biased ? bias(n) : 0, magnitude = 0;
                for (i64 k = 0; k < s.k; k++) sum += x(m * s.k + k) * weight(n, k), magnitude += std::fabs(x(m * s.k + k) * weight(n, k));
                const double want = d_activated(sum, s.activation, 0.25, 0.5) + (added ? residual(m * s.n + n) : 0);
                close(y[m * s.n + n], want, (magnitude * (static_cast<double>(s.k) / 8 + 12) + 20) * 0x1p-24, name, m * s.n + n);
            }
        }
    }
};
