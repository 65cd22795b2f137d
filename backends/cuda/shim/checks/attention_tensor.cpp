// Checks of ../../kernels/attention_tensor.cu against float64, its instructions being the shim's.

#include "../../kernels/attention_tensor.cu"
#include "attention.h"

using namespace check;

template <class T, class K> static void attend(Chance& chance, K kernel, const char* name, i64 most) {
    const bool whole = chance.coin();  // aligned rows of the largest size, or any
    Problem<T> p(chance, Problem<T>::shape(chance, 90, 150, whole ? most : chance.integer(most / 4, most), whole ? most : chance.integer(most / 4, most)));
    start(kernel, name, chance.integer(1, 3), 128, static_cast<size_t>(128 * (most + 8) * 2), p.q.data(), p.k.data(), p.v.data(), p.mask(), p.length(), p.y.data(), p.s);
    // A weight is rounded to the element type; the sum of weights is not.
    p.verify(name, 1e-5 + 2 * UNIT<T>);
}

CHECK(attention_by_fragments) {
    attend<f16>(chance, attention_tensor_d64_f16, "attention_tensor_d64_f16", 64);
    attend<bf16>(chance, attention_tensor_d64_bf16, "attention_tensor_d64_bf16", 64);
    attend<f16>(chance, attention_tensor_d128_f16, "attention_tensor_d128_f16", 128);
}
