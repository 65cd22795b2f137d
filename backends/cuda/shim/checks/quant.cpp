// Checks of ../../kernels/quant.cu against float64.

#include "../../kernels/quant.cu"
#include "layer.h"

template <class T, class K> static void int8(Chance& chance, K kernel, const char* name, i64 most_m) {
    Layer<T> l(chance, most_m);
    Buffer<i8> weights(l.s.n * l.s.k, chance, -128, 127, chance.coin());
    Buffer<f32> scales(l.s.n, chance, 0.001, 0.02);
    start(kernel, name, chance.integer(1, 5), 256, 0, l.x.data(), weights.data(), scales.data(), l.bias_data(), l.residual_data(), l.y.data(), l.s);
    l.verify(name, [&](i64 n, i64 k) { return weights(n * l.s.k + k) * scales(n); });
}

template <class T, class K> static void int4(Chance& chance, K kernel, const char* name, i64 most_m) {
    Layer<T> l(chance, most_m);
    l.s.shift = static_cast<i32>(chance.integer(0, 3));
    Int4<T> w(chance, l.s.n, l.s.k, l.s.shift);
    start(kernel, name, chance.integer(1, 5), 256, 0, l.x.data(), w.weights.data(), w.scales.data(), w.zero_data(), l.bias_data(), l.residual_data(), l.y.data(), l.s);
    l.verify(name, [&](i64 n, i64 k) { return w(n, k); });
}

template <class T, class K> static void int8_blocks(Chance& chance, K kernel, const char* name, i64 most_m) {
    Layer<T> l(chance, most_m);
    l.s.shift = static_cast<i32>(chance.integer(0, 4));
    Narrow<T, 8> w(chance, l.s.n, l.s.k, i64{16} << l.s.shift);
    start(kernel, name, chance.integer(1, 5), 256, 0, l.x.data(), w.weights.data(), w.scales.data(), w.zero_data(), l.bias_data(), l.residual_data(), l.y.data(), l.s);
    l.verify(name, [&](i64 n, i64 k) { return w(n, k); });
}

CHECK(linear_layers_of_few_bits) {
#define FEW_BITS(T) \
    int8<T>(chance, linear_int8_rows_##T, "linear_int8_rows_" #T, 6); \
    int8<T>(chance, linear_int8_tiled_##T, "linear_int8_tiled_" #T, 80); \
    int8_blocks<T>(chance, linear_int8_blocks_rows_##T, "linear_int8_blocks_rows_" #T, 6); \
    int8_blocks<T>(chance, linear_int8_blocks_tiled_##T, "linear_int8_blocks_tiled_" #T, 80); \
    int4<T>(chance, linear_int4_rows_##T, "linear_int4_rows_" #T, 6); \
    int4<T>(chance, linear_int4_tiled_##T, "linear_int4_tiled_" #T, 80);
    FOR_FLOATS(FEW_BITS)
}

CHECK(blocks_taken_apart) {
    const i64 n = chance.integer(1, 5), k = chance.integer(1, 100);
    Int4<f16> w(chance, n, k);
    Buffer<f16> y(n * k);
    LAUNCH(dequantize_int4_f16, chance.integer(1, 2), 256, 0, w.weights.data(), w.scales.data(), w.zero_data(), y.data(), n, k);
    for (i64 i = 0; i < n * k; i++) close(y[i], w(i / k, i % k), 0, "dequantize_int4_f16", i);
}

template <class T, class Q, class K, class D> static void convert(Chance& chance, K quantize, const char* name, D dequantize, const char* back) {
    const i64 outer = chance.integer(1, 4), axis = chance.integer(1, 5), inner = chance.integer(1, 60), n = outer * axis * inner;
    const double low = std::is_same_v<Q, i8> ? -128 : 0, high = low + 255;
    Buffer<T> x(n, chance, -4, 4), scales(axis), y(n);
    for (i64 i = 0; i < axis; i++) scales[i] = element<T>(std::ldexp(1, static_cast<int>(chance.integer(-7, -4))));  // quotients are exact
    x[0] = element<T>(INFINITY);
    Buffer<Q> zeros(axis, chance, low, high), q(n);
    const bool zeroed = chance.coin();
    start(quantize, name, chance.integer(1, 3), 256, 0, x.data(), scales.data(), zeroed ? zeros.data() : nullptr, q.data(), outer, axis, inner);
    start(dequantize, back, chance.integer(1, 3), 256, 0, q.data(), scales.data(), zeroed ? zeros.data() : nullptr, y.data(), outer, axis, inner);
    for (i64 i = 0; i < n; i++) {
        const double zero = zeroed ? zeros(i / inner % axis) : 0, scale = scales(i / inner % axis);
        same(q[i], static_cast<Q>(std::fmin(high, std::fmax(low, std::nearbyint(x(i) / scale) + zero))), name, i);
        close(y[i], (q(i) - zero) * scale, 0, back, i);
    }
}

CHECK(bytes_and_floats) {
#define CONVERTED(T) \
    convert<T, i8>(chance, quantize_##T##_i8, "quantize_" #T "_i8", dequantize_i8_##T, "dequantize_i8_" #T); \
    convert<T, u8>(chance, quantize_##T##_u8, "quantize_" #T "_u8", dequantize_u8_##T, "dequantize_u8_" #T);
    for (int i = 0; i < 3; i++) {
        FOR_FLOATS(CONVERTED)
    }
}

CHECK(ranges_of_numbers) {
    const i64 n = chance.integer(1, 2000);
    const double offset = static_cast<double>(chance.integer(-2, 2));
    Buffer<f32> x(n, chance, offset - 1, offset + 1), scale(1);
    Buffer<u8> zero(1);
    LAUNCH(quantize_parameters_f32, chance.integer(1, 3), 512, 0, x.data(), scale.data(), zero.data(), n);
    f32 least = 0, greatest = 0;
    for (i64 i = 0; i < n; i++) least = std::fmin(least, x[i]), greatest = std::fmax(greatest, x[i]);
    const f32 step = greatest > least ? (greatest - least) / 255.0f : 1.0f;
    same(scale[0], step, "scale", 0);
    same(zero[0], static_cast<u8>(std::nearbyint(-least / step)), "zero", 0);
}
