// Convolutions of two dimensions, of any groups, with bias, activation and residual: NCHW, weights output channel ×
// channel of the group × kernel height × kernel width. A convolution of one dimension is one with a height of 1.
//
// Three ways: `tiled` is a product of the weights with windows gathered on the fly (implicit GEMM), for groups of 8 output
// channels and more; `direct` sums one output element a thread, for small groups; `depthwise` knows that a group is one
// channel and keeps the channel's weights in shared memory.

#include "tile.cuh"

struct Conv {
    i64 batch, channels, height, width;
    i64 outputs, out_height, out_width;  // output channels and their planes
    i64 group_channels, group_outputs;   // channels and output channels of a group
    i32 kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, dilation_y, dilation_x;
    i32 activation, reserved;
    f32 alpha, beta;
};

template <class T> DEVICE void finish(T* y, i64 at, f32 sum, i64 channel, const T* bias, const T* residual, const Conv& s) {
    if (bias) sum += to_f32(bias[channel]);
    sum = activated(sum, s.activation, s.alpha, s.beta);
    if (residual) sum += to_f32(residual[at]);
    y[at] = rounded<T>(sum);
}

constexpr int TILE_K = 16;

// entries: conv2d_tiled_{f32,f16,bf16}
// launch: block=256 grid=batch * groups * ceil(group_outputs / 64) * ceil(out_height * out_width / 64) shared=0 registers=128
// args: x, weights, bias (may be null), residual (may be null, laid out as y), y, shape (Conv by value).
// y = activation(conv(x) + bias) + residual. y may be `residual`.
//
// entries: conv2d_direct_{f32,f16,bf16}
// launch: block=256 grid=ceil(batch * outputs * out_height * out_width / 256) shared=0 registers=96
// args: as above.
//
// entries: conv2d_depthwise_{f32,f16,bf16}
// launch: block=256 grid=batch * outputs * ceil(out_height * out_width / 1024) shared=4 * kernel_height * kernel_width registers=96
// args: as above, with group_channels = 1.
#define CONVS(T) \
    KERNEL(conv2d_tiled_##T, 256, const T* x, const T* weights, const T* bias, const T* residual, T* y, Conv shape) { tiled(x, weights, bias, residual, y, shape); } \
    KERNEL(conv2d_direct_##T, 256, const T* x, const T* weights, const T* bias, const T* residual, T* y, Conv shape) { direct(x, weights, bias, residual, y, shape); } \
    KERNEL(conv2d_depthwise_##T, 256, const T* x, const T* weights, const T* bias, const T* residual, T* y, Conv shape) { depthwise(x, weights, bias, residual, y, shape); }

// The product of one group's weights (outputs × window) with the windows of one picture (window × places), tile by tile,
// as in gemm.cu: sums are in the order of the window's elements.
template <class T> DEVICE void tiled(const T* x, const T* weights, const T* bias, const T* residual, T* y, const Conv& s) {
    SHARED(f32, memory, [tile_floats(TILE_K, 1)]);
    const auto left = [&](int k) { return &memory[k * PITCH]; };
    const auto right = [&](int k) { return &memory[(TILE_K + k) * PITCH]; };
    const int thread = static_cast<int>(threadIdx.x);
    const i64 places = s.out_height * s.out_width, groups = s.outputs / s.group_outputs;
    const i64 window = s.kernel_height * s.kernel_width, depth = s.group_channels * window;
    const i64 down = (s.group_outputs + TILE_M - 1) / TILE_M, across = (places + TILE_N - 1) / TILE_N;

    ROLLED for (i64 tile = blockIdx.x; tile < s.batch * groups * down * across; tile += gridDim.x) {
        const i64 n0 = tile % across * TILE_N, m0 = tile / across % down * TILE_M, group = tile / (across * down) % groups, batch = tile / (across * down * groups);
        const T* const picture = x + (batch * s.channels + group * s.group_channels) * s.height * s.width;
        const T* const filter = weights + group * s.group_outputs * depth;
        // A thread gathers the windows of one place, whose corner is known beforehand.
        const i64 place = n0 + thread % TILE_N;
        const i64 top = place / s.out_width * s.stride_y - s.pad_top, left_edge = place % s.out_width * s.stride_x - s.pad_left;

        Tile sums;
        sums.clear();
        ROLLED for (i64 k0 = 0; k0 < depth; k0 += TILE_K) {
            UNROLL for (int i = 0; i < 4; i++) {
                const int at = thread + i * 256;
                const i64 k = k0 + at % TILE_K, m = m0 + at / TILE_K;
                left(at % TILE_K)[at / TILE_K] = m < s.group_outputs && k < depth ? to_f32(filter[m * depth + k]) : 0.0f;
            }
            UNROLL for (int i = 0; i < 4; i++) {
                const int slot = thread / TILE_N + i * 4;
                const u32 k = static_cast<u32>(k0) + slot;
                const u32 channel = k / static_cast<u32>(window), within = k % static_cast<u32>(window);
                const i64 line = top + within / s.kernel_width * static_cast<i64>(s.dilation_y), at = left_edge + within % s.kernel_width * static_cast<i64>(s.dilation_x);
                const bool inside = k < depth && place < places && line >= 0 && line < s.height && at >= 0 && at < s.width;
                right(slot)[thread % TILE_N] = inside ? to_f32(picture[(channel * s.height + line) * s.width + at]) : 0.0f;
            }
            __syncthreads();
            UNROLL for (int k = 0; k < TILE_K; k++) sums.step(left(k), right(k));
            __syncthreads();
        }
        sums.finish(memory, s.group_outputs - m0, places - n0, [&](int i, int j, f32 sum) {
            const i64 channel = group * s.group_outputs + m0 + i;
            finish(y, (batch * s.outputs + channel) * places + n0 + j, sum, channel, bias, residual, s);
        });
    }
}

// The sum over one plane's window at (top, left); `weight(i)` is the window's element i.
template <class T, class F> DEVICE f32 window_sum(const T* plane, i64 top, i64 left, const Conv& s, f32 sum, F weight) {
    ROLLED for (int ky = 0; ky < s.kernel_height; ky++) {
        const i64 line = top + static_cast<i64>(ky) * s.dilation_y;
        if (line < 0 || line >= s.height) continue;
        ROLLED for (int kx = 0; kx < s.kernel_width; kx++) {
            const i64 at = left + static_cast<i64>(kx) * s.dilation_x;
            if (at >= 0 && at < s.width) sum = fmaf(to_f32(plane[line * s.width + at]), weight(ky * s.kernel_width + kx), sum);
        }
    }
    return sum;
}

template <class T> DEVICE void direct(const T* x, const T* weights, const T* bias, const T* residual, T* y, const Conv& s) {
    const i64 places = s.out_height * s.out_width, window = s.kernel_height * s.kernel_width;
    ROLLED for (i64 i = thread_of_grid(); i < s.batch * s.outputs * places; i += threads_of_grid()) {
        const i64 place = i % places, channel = i / places % s.outputs, batch = i / places / s.outputs;
        const i64 top = place / s.out_width * s.stride_y - s.pad_top, left = place % s.out_width * s.stride_x - s.pad_left;
        const T* plane = x + (batch * s.channels + channel / s.group_outputs * s.group_channels) * s.height * s.width;
        const T* filter = weights + channel * s.group_channels * window;
        f32 sum = 0.0f;
        ROLLED for (i64 c = 0; c < s.group_channels; c++) {
            sum = window_sum(plane, top, left, s, sum, [=](int k) { return to_f32(filter[k]); });
            plane += s.height * s.width;
            filter += window;
        }
        finish(y, i, sum, channel, bias, residual, s);
    }
}

constexpr i64 STRETCH = 1024;  // places of a plane that a block computes

template <class T> DEVICE void depthwise(const T* x, const T* weights, const T* bias, const T* residual, T* y, const Conv& s) {
    DYN_SHARED(f32, filter);
    const i64 places = s.out_height * s.out_width, stretches = (places + STRETCH - 1) / STRETCH;
    const int window = s.kernel_height * s.kernel_width;
    ROLLED for (i64 t = blockIdx.x; t < s.batch * s.outputs * stretches; t += gridDim.x) {
        const i64 first = t % stretches * STRETCH, plane = t / stretches, channel = plane % s.outputs;
        ROLLED for (int k = threadIdx.x; k < window; k += 256) filter[k] = to_f32(weights[channel * window + k]);
        __syncthreads();
        const i64 end = first + STRETCH < places ? first + STRETCH : places;
        const T* const from = x + (plane / s.outputs * s.channels + channel / s.group_outputs) * s.height * s.width;
        ROLLED for (i64 place = first + threadIdx.x; place < end; place += 256) {
            const i64 top = place / s.out_width * s.stride_y - s.pad_top, left = place % s.out_width * s.stride_x - s.pad_left;
            const f32 sum = window_sum(from, top, left, s, 0.0f, [=](int k) { return filter[k]; });
            finish(y, plane * places + place, sum, channel, bias, residual, s);
        }
        __syncthreads();
    }
}
FOR_FLOATS(CONVS)
