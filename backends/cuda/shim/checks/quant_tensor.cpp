// Checks of ../../kernels/quant_tensor.cu against float64, its instructions being the shim's.

#include "../../kernels/quant_tensor.cu"
#include "layer.h"

template <class T, class K> static void int4(Chance& chance, K kernel, const char* name) {
    Layer<T> l(chance, 100);
    l.s.shift = static_cast<i32>(chance.integer(0, 3));
    Int4<T> w(chance, l.s.n, l.s.k, l.s.shift);
    start(kernel, name, chance.integer(1, 5), 128, 0, l.x.data(), w.weights.data(), w.scales.data(), w.zero_data(), l.bias_data(), l.residual_data(), l.y.data(), l.s);
    // The reference's weights are rounded as the kernel's are.
    l.verify(name, [&](i64 n, i64 k) { return value(element<T>(w(n, k))); });
}

CHECK(int4_by_fragments) {
    for (int i = 0; i < 2; i++) {
        int4<f16>(chance, linear_int4_tensor_f16, "linear_int4_tensor_f16");
        int4<bf16>(chance, linear_int4_tensor_bf16, "linear_int4_tensor_bf16");
    }
}
