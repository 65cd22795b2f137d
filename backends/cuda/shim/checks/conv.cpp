// Checks of ../../kernels/conv.cu and pool.cu against float64.

#include "../../kernels/conv.cu"
#include "../../kernels/pool.cu"
#include "activation.h"
#include "check.h"

using namespace check;

static i64 out_size(i64 size, i64 before, i64 after, i64 kernel, i64 dilation, i64 stride) { return (size + before + after - (kernel - 1) * dilation - 1) / stride + 1; }

// A convolution by chance, with at least one place.
static Conv random_conv(Chance& chance, bool depthwise) {
    Conv s{};
    const i64 groups = chance.integer(1, 3) * (depthwise ? 3 : 1);
    s.batch = chance.integer(1, 2);
    s.group_channels = depthwise ? 1 : chance.integer(1, 6), s.group_outputs = depthwise ? chance.integer(1, 2) : chance.integer(1, chance.coin() ? 5 : 70);
    s.channels = groups * s.group_channels, s.outputs = groups * s.group_outputs;
    s.kernel_height = static_cast<i32>(chance.integer(1, 4)), s.kernel_width = static_cast<i32>(chance.integer(1, 4));
    s.stride_y = static_cast<i32>(chance.integer(1, 3)), s.stride_x = static_cast<i32>(chance.integer(1, 3));
    s.dilation_y = static_cast<i32>(chance.integer(1, 2)), s.dilation_x = static_cast<i32>(chance.integer(1, 2));
    s.pad_top = static_cast<i32>(chance.integer(0, 3)), s.pad_left = static_cast<i32>(chance.integer(0, 3));
    s.height = chance.integer(7, 15), s.width = chance.integer(7, depthwise ? 40 : 15);
    s.out_height = out_size(s.height, s.pad_top, chance.integer(0, 2), s.kernel_height, s.dilation_y, s.stride_y);
    s.out_width = out_size(s.width, s.pad_left, chance.integer(0, 2), s.kernel_width, s.dilation_x, s.stride_x);
    s.activation = static_cast<i32>(chance.integer(NONE, HARD_SIGMOID)), s.alpha = 0.25f, s.beta = 0.5f;
    return s;
}

template <class T, class K> static void convolution(Chance& chance, K kernel, const char* name, bool depthwise) {
    const Conv s = random_conv(chance, depthwise);
    const i64 window = s.kernel_height * s.kernel_width, n = s.batch * s.outputs * s.out_height * s.out_width;
    Buffer<T> x(s.batch * s.channels * s.height * s.width, chance, -1, 1), weights(s.outputs * s.group_channels * window, chance, -1, 1);
    Buffer<T> bias(s.outputs, chance, -1, 1), residual(n, chance, -1, 1), y(n);
    const bool biased = chance.coin(), added = chance.coin();
    start(kernel, name, chance.integer(1, 7), 256, depthwise ? static_cast<size_t>(4 * window) : 0, x.data(), weights.data(), biased ? bias.data() : nullptr, added ? residual.data() : nullptr, y.data(), s);
    for (i64 i = 0; i < n; i++) {
        const i64 column = i % s.out_width, line = i / s.out_width % s.out_height, channel = i / s.out_width / s.out_height % s.outputs, batch = i / (s.out_width * s.out_height * s.outputs);
        double sum = biased ? bias(channel) : 0, magnitude = 0;
        for (i64 c = 0; c < s.group_channels; c++) {
            for (i64 ky = 0; ky < s.kernel_height; ky++) {
                for (i64 kx = 0; kx < s.kernel_width; kx++) {
                    const i64 h = line * s.stride_y - s.pad_top + ky * s.dilation_y, w = column * s.stride_x - s.pad_left + kx * s.dilation_x;
                    if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
                    const i64 from = batch * s.channels + channel / s.group_outputs * s.group_channels + c;
                    const double term = x((from * s.height + h) * s.width + w) * weights((channel * s.group_channels + c) * window + ky * s.kernel_width + kx);
                    sum += term, magnitude += std::fabs(term);
                }
            }
        }
        const double want = d_activated(sum, s.activation, 0.25, 0.5) + (added ? residual(i) : 0);
        close(y[i], want, (magnitude * static_cast<double>(s.group_channels * window) + 20) * 0x1p-24, name, i);
    }
}

#define CONVS_CHECKED(T) \
    convolution<T>(chance, conv2d_tiled_##T, "conv2d_tiled_" #T, false); \
    convolution<T>(chance, conv2d_direct_##T, "conv2d_direct_" #T, false); \
    convolution<T>(chance, conv2d_depthwise_##T, "conv2d_depthwise_" #T, true);

CHECK(convolutions) { FOR_FLOATS(CONVS_CHECKED) }

// A plane of more places than a block takes at once.
CHECK(a_large_depthwise_plane) {
    Conv s{};
    s.batch = 1, s.channels = s.outputs = 2, s.group_channels = s.group_outputs = 1, s.height = 40, s.width = 60;
    s.kernel_height = s.kernel_width = 5, s.stride_x = s.stride_y = s.dilation_x = s.dilation_y = 1, s.pad_left = s.pad_top = 2;
    s.out_height = 40, s.out_width = 60;
    Buffer<f32> x(2 * 2400, chance, 1, 1), weights(50, chance, 1, 1), y(2 * 2400);
    LAUNCH(conv2d_depthwise_f32, 4, 256, 100, x.data(), weights.data(), nullptr, nullptr, y.data(), s);
    const auto in_reach = [](i64 at, i64 size) { return static_cast<double>(std::fmin(static_cast<double>(at) + 2, static_cast<double>(size) - 1) - std::fmax(static_cast<double>(at) - 2, 0) + 1); };
    for (i64 i = 0; i < 4800; i++) close(y[i], in_reach(i % 60, 60) * in_reach(i / 60 % 40, 40), 0, "a sum of ones", i);
}

template <class T, class M, class A> static void pooling(Chance& chance, M max_kernel, const char* max_name, A average_kernel, const char* average_name) {
    Pool s{};
    s.planes = chance.integer(1, 4), s.height = chance.integer(7, 15), s.width = chance.integer(7, 15);
    s.kernel_height = static_cast<i32>(chance.integer(1, 4)), s.kernel_width = static_cast<i32>(chance.integer(1, 4));
    s.stride_y = static_cast<i32>(chance.integer(1, 3)), s.stride_x = static_cast<i32>(chance.integer(1, 3));
    s.dilation_y = static_cast<i32>(chance.integer(1, 2)), s.dilation_x = static_cast<i32>(chance.integer(1, 2));
    // Padding of less than a window, so that none is empty.
    const i64 reach_y = (s.kernel_height - 1) / 2, reach_x = (s.kernel_width - 1) / 2;
    s.pad_top = static_cast<i32>(chance.integer(0, reach_y)), s.pad_bottom = static_cast<i32>(chance.integer(0, reach_y));
    s.pad_left = static_cast<i32>(chance.integer(0, reach_x)), s.pad_right = static_cast<i32>(chance.integer(0, reach_x));
    s.out_height = out_size(s.height, s.pad_top, s.pad_bottom, s.kernel_height, s.dilation_y, s.stride_y);
    s.out_width = out_size(s.width, s.pad_left, s.pad_right, s.kernel_width, s.dilation_x, s.stride_x);
    s.count_padding = chance.coin();
    const i64 n = s.planes * s.out_height * s.out_width;
    Buffer<T> x(s.planes * s.height * s.width, chance, -4, 4), largest(n), mean(n);
    start(max_kernel, max_name, chance.integer(1, 3), 256, 0, x.data(), largest.data(), s);
    start(average_kernel, average_name, chance.integer(1, 3), 256, 0, x.data(), mean.data(), s);
    for (i64 i = 0; i < n; i++) {
        double high = -INFINITY, sum = 0;
        i64 inside = 0;
        for (i64 ky = 0; ky < s.kernel_height; ky++) {
            for (i64 kx = 0; kx < s.kernel_width; kx++) {
                const i64 h = i / s.out_width % s.out_height * s.stride_y - s.pad_top + ky * s.dilation_y, w = i % s.out_width * s.stride_x - s.pad_left + kx * s.dilation_x;
                if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
                const double e = x((i / (s.out_width * s.out_height) * s.height + h) * s.width + w);
                high = std::fmax(high, e), sum += e, inside++;
            }
        }
        close(largest[i], high, 0, max_name, i);
        const double count = s.count_padding ? s.kernel_height * s.kernel_width : static_cast<double>(inside);
        close(mean[i], sum / count, 64 * 0x1p-24, average_name, i);
    }
}

CHECK(pools) {
    for (int i = 0; i < 4; i++) {
        pooling<f32>(chance, max_pool2d_f32, "max_pool2d_f32", average_pool2d_f32, "average_pool2d_f32");
        pooling<f16>(chance, max_pool2d_f16, "max_pool2d_f16", average_pool2d_f16, "average_pool2d_f16");
        pooling<bf16>(chance, max_pool2d_bf16, "max_pool2d_bf16", average_pool2d_bf16, "average_pool2d_bf16");
    }
}
