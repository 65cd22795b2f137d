// The activations that end other kernels, in float64.

#pragma once

#include <cmath>

#include "../../kernels/millstream.cuh"

static inline double d_activated(double x, i32 activation, double alpha, double beta) {
    const auto hard = [](double v) { return std::fmin(1, std::fmax(0, v)); };
    switch (activation) {
        case RELU: return std::fmax(x, 0);
        case CLIP: return std::fmin(std::fmax(x, alpha), beta);
        case LEAKY_RELU: return x < 0 ? alpha * x : x;
        case SIGMOID: return 1 / (1 + std::exp(-x));
        case SILU: return x / (1 + std::exp(-x));
        case GELU: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
        case GELU_TANH: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
        case TANH: return std::tanh(x);
        case HARD_SWISH: return x * hard(x / 6 + 0.5);
        case HARD_SIGMOID: return hard(alpha * x + beta);
        default: return x;
    }
}
