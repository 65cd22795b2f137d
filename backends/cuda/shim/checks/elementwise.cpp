// Checks of ../../kernels/elementwise.cu and cast.cu against float64.

#include "../../kernels/elementwise.cu"
#include "../../kernels/cast.cu"
#include "check.h"

using namespace check;

// f32 functions of CUDA err by a few units in the last place; the host's do too.
constexpr double FEW = 8 * 0x1p-24;

template <class T, class K> static void unary(Chance& chance, K kernel, const char* name, double (*f)(double, double, double), double low, double high) {
    const i64 n = chance.integer(0, 3000), shift = chance.coin() ? 0 : 1;
    Buffer<T> x(n, chance, low, high, shift), y(n, chance.coin() ? shift : 0);
    const double alpha = 0.25, beta = 0.5;
    start(kernel, name, chance.integer(1, 4), 256, 0, x.data(), y.data(), n, alpha, beta);
    // An error of the argument's own size near 0 is no error of the function's: inputs are exact.
    for (i64 i = 0; i < n; i++) {
        const double want = f(x(i), alpha, beta);
        close(y[i], want, FEW * (std::fabs(want) + std::fabs(x(i)) * 0.5), name, i);
    }
}

static double d_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
static double d_softplus(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }
static double d_hard(double x, double a, double b) { return std::fmin(1, std::fmax(0, a * x + b)); }

#define ONE(name, low, high, body) \
    unary<f32>(chance, unary_##name##_f32, "unary_" #name "_f32", [](double v, double a, double b) -> double { (void)a, (void)b; return body; }, low, high); \
    unary<f16>(chance, unary_##name##_f16, "unary_" #name "_f16", [](double v, double a, double b) -> double { (void)a, (void)b; return body; }, low, high); \
    unary<bf16>(chance, unary_##name##_bf16, "unary_" #name "_bf16", [](double v, double a, double b) -> double { (void)a, (void)b; return body; }, low, high);

CHECK(functions_of_one_element) {
    ONE(abs, -5, 5, std::fabs(v))
    ONE(neg, -5, 5, -v)
    ONE(sqrt, 0, 9, std::sqrt(v))
    ONE(rsqrt, 0.01, 9, 1 / std::sqrt(v))
    ONE(reciprocal, 0.1, 9, 1 / v)
    ONE(exp, -9, 9, std::exp(v))
    ONE(log, 0.01, 99, std::log(v))
    ONE(sin, -9, 9, std::sin(v))
    ONE(cos, -9, 9, std::cos(v))
    ONE(tanh, -5, 5, std::tanh(v))
    ONE(sigmoid, -30, 30, d_sigmoid(v))
    ONE(erf, -4, 4, std::erf(v))
    ONE(floor, -9, 9, std::floor(v))
    ONE(ceil, -9, 9, std::ceil(v))
    ONE(round, -9, 9, std::nearbyint(v))
    ONE(sign, -1, 1, double((v > 0) - (v < 0)))
    ONE(relu, -5, 5, std::fmax(v, 0))
    ONE(clip, -2, 2, std::fmin(std::fmax(v, a), b))
    ONE(leaky_relu, -5, 5, v < 0 ? a * v : v)
    ONE(elu, -5, 5, v < 0 ? a * std::expm1(v) : v)
    ONE(silu, -30, 30, v * d_sigmoid(v))
    ONE(gelu, -6, 6, 0.5 * v * (1 + std::erf(v * std::sqrt(0.5))))
    ONE(gelu_tanh, -6, 6, 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))))
    ONE(softplus, -30, 30, d_softplus(v))
    ONE(mish, -9, 9, v * std::tanh(d_softplus(v)))
    ONE(hard_swish, -5, 5, v * d_hard(v, 1.0 / 6, 0.5))
    ONE(hard_sigmoid, -5, 5, d_hard(v, a, b))
    ONE(softsign, -5, 5, v / (1 + std::fabs(v)))
    ONE(affine, -5, 5, a * v + b)
}

CHECK(nan_and_infinity_go_through) {
    Buffer<f32> x(6), y(6);
    const f32 inputs[] = {NAN, INFINITY, -INFINITY, -0.0f, 0.0f, -1000.0f};
    for (int i = 0; i < 6; i++) x[i] = inputs[i];
    const auto all = [&](auto kernel, const char* name, std::vector<double> want) {
        start(kernel, name, 1, 256, 0, x.data(), y.data(), 6, -1.0, 1.0);
        for (int i = 0; i < 6; i++) close(y[i], want[static_cast<size_t>(i)], 0, name, i);
    };
    all(unary_relu_f32, "unary_relu_f32", {NAN, INFINITY, 0, 0, 0, 0});
    all(unary_clip_f32, "unary_clip_f32", {NAN, 1, -1, 0, 0, -1});
    all(unary_silu_f32, "unary_silu_f32", {NAN, INFINITY, NAN, 0, 0, 0});
    all(unary_sigmoid_f32, "unary_sigmoid_f32", {NAN, 1, 0, 0.5, 0.5, 0});
    all(unary_softplus_f32, "unary_softplus_f32", {NAN, INFINITY, 0, std::log(2.0), std::log(2.0), 0});
    all(unary_sign_f32, "unary_sign_f32", {NAN, 1, -1, 0, 0, -1});
}

template <class T, class R, class K> static void binary(Chance& chance, K kernel, const char* name, double (*f)(double, double), double low, double high) {
    const i64 n = chance.integer(1, 3000), shift = chance.coin() ? 0 : 3;
    const i64 step_a = chance.integer(0, 3) != 0, step_b = chance.integer(0, 3) != 0;
    Buffer<T> a(step_a ? n : 1, chance, low, high, shift), b(step_b ? n : 1, chance, low, high);
    Buffer<R> y(n, shift);
    start(kernel, name, chance.integer(1, 4), 256, 0, a.data(), b.data(), y.data(), n, step_a, step_b);
    for (i64 i = 0; i < n; i++) {
        const double want = f(a(i * step_a), b(i * step_b));
        if constexpr (std::is_integral_v<R>) same(y[i], static_cast<R>(want), name, i);
        else close(y[i], want, 2 * FEW * std::fabs(want), name, i);
    }
}

#define TWO(T, R, name, low, high, body) binary<T, R>(chance, name##_##T, #name "_" #T, [](double a, double b) -> double { return body; }, low, high);
#define TWO_OF(T) \
    TWO(T, T, binary_add, 1, 9, a + b) \
    TWO(T, T, binary_sub, 1, 9, a - b) \
    TWO(T, T, binary_mul, -9, 9, a * b) \
    TWO(T, T, binary_max, -9, 9, std::fmax(a, b)) \
    TWO(T, T, binary_min, -9, 9, std::fmin(a, b)) \
    TWO(T, u8, compare_equal, -2, 2, a == b) \
    TWO(T, u8, compare_less, -2, 2, a < b) \
    TWO(T, u8, compare_less_equal, -2, 2, a <= b)
#define TWO_OF_FLOATS(T) \
    TWO_OF(T) \
    TWO(T, T, binary_div, 1, 9, a / b) \
    TWO(T, T, binary_pow, 0.5, 3, std::pow(a, b)) \
    TWO(T, T, binary_prelu, -3, 3, a < 0 ? a * b : a)

CHECK(functions_of_two_elements) {
    FOR_FLOATS(TWO_OF_FLOATS)
    TWO_OF(i64)
    TWO(i64, i64, binary_div, 1, 9, std::trunc(a / b))
    TWO(u8, u8, logic_and, 0, 2, a != 0 && b != 0)
    TWO(u8, u8, logic_or, 0, 2, a != 0 || b != 0)
    TWO(u8, u8, logic_xor, 0, 2, (a != 0) != (b != 0))
}

CHECK(integers_never_stop_a_kernel) {
    const i64 least = -9223372036854775807ll - 1;
    Buffer<i64> a(3), b(3), y(3);
    a[0] = 7, b[0] = 0, a[1] = least, b[1] = -1, a[2] = least, b[2] = 3;
    LAUNCH(binary_div_i64, 1, 256, 0, a.data(), b.data(), y.data(), 3, 1, 1);
    same<i64>(y[0], 0, "7 / 0", 0);
    same<i64>(y[1], least, "least / -1", 1);
    same<i64>(y[2], least / 3, "least / 3", 2);
    LAUNCH(binary_mul_i64, 1, 256, 0, a.data(), b.data(), y.data(), 3, 1, 1);
    same<i64>(y[1], least, "least * -1", 1);
}

// A random walk with broadcast and reversed axes: sizes, strides and where the operand begins.
template <int OPERANDS> struct RandomWalk {
    Walk<OPERANDS> walk{};
    i64 n = 1;
    i64 first[OPERANDS] = {}, span[OPERANDS] = {};
    explicit RandomWalk(Chance& chance) {
        walk.rank = chance.integer(0, MOST_AXES);
        for (int axis = 0; axis < walk.rank; axis++) n *= walk.size[axis] = chance.integer(1, n > 200 ? 2 : 5);
        for (int o = 0; o < OPERANDS; o++) {
            i64 stride = 1;
            for (i64 axis = walk.rank; axis-- > 0;) {
                const i64 kind = chance.integer(0, 3);
                if (kind == 0) continue;  // broadcast
                walk.stride[o][axis] = kind == 1 ? -stride : stride;
                if (kind == 1) first[o] += stride * (walk.size[axis] - 1);
                stride *= walk.size[axis];
            }
            span[o] = stride;
        }
    }
    i64 offset(int o, i64 index) const {
        i64 at = first[o];
        for (i64 axis = walk.rank; axis-- > 0;) at += index % walk.size[axis] * walk.stride[o][axis], index /= walk.size[axis];
        return at;
    }
};

template <class T, class K, class C> static void strided(Chance& chance, K kernel, const char* name, C compare, const char* compare_name) {
    const RandomWalk<2> r(chance);
    Buffer<T> a(r.span[0], chance, 1, 5), b(r.span[1], chance, 1, 5), y(r.n);
    Buffer<u8> relation_(r.n);
    const i32 op = static_cast<i32>(chance.integer(ADD, PRELU - 2 * std::is_integral_v<T>));
    start(kernel, name, chance.integer(1, 3), 256, 0, op, a.data() + r.first[0], b.data() + r.first[1], y.data(), r.n, r.walk);
    start(compare, compare_name, 1, 256, 0, LESS, a.data() + r.first[0], b.data() + r.first[1], relation_.data(), r.n, r.walk);
    for (i64 i = 0; i < r.n; i++) {
        const double l = a(r.offset(0, i)), m = b(r.offset(1, i));
        const double want[] = {l + m, l - m, l * m, std::is_integral_v<T> ? std::trunc(l / m) : l / m, std::fmax(l, m), std::fmin(l, m), std::pow(l, m), l};
        if constexpr (std::is_integral_v<T>) same(y[i], static_cast<T>(want[op]), name, i);
        else close(y[i], want[op], 2 * FEW * std::fabs(want[op]), name, i);
        same<u8>(relation_[i], l < m, compare_name, i);
    }
}

CHECK(operands_with_strides) {
    for (int i = 0; i < 4; i++) {
        strided<f32>(chance, binary_strided_f32, "binary_strided_f32", compare_strided_f32, "compare_strided_f32");
        strided<f16>(chance, binary_strided_f16, "binary_strided_f16", compare_strided_f16, "compare_strided_f16");
        strided<bf16>(chance, binary_strided_bf16, "binary_strided_bf16", compare_strided_bf16, "compare_strided_bf16");
        strided<i64>(chance, binary_strided_i64, "binary_strided_i64", compare_strided_i64, "compare_strided_i64");
    }
}

CHECK(choices_and_fills) {
    const RandomWalk<3> r(chance);
    Buffer<u8> condition(r.span[0], chance, 0, 1);
    Buffer<u16> a(r.span[1], chance, 0, 60000), b(r.span[2], chance, 0, 60000), y(r.n);
    LAUNCH(where_strided_b2, 2, 256, 0, condition.data() + r.first[0], a.data() + r.first[1], b.data() + r.first[2], y.data(), r.n, r.walk);
    for (i64 i = 0; i < r.n; i++) same(y[i], condition[r.offset(0, i)] ? a[r.offset(1, i)] : b[r.offset(2, i)], "where_strided", i);

    const i64 n = chance.integer(1, 2000);
    Buffer<u8> dense(n, chance, 0, 1);
    Buffer<u64> left(n, chance, 0, 1000), right(1, chance, 0, 1000), chosen(n);
    LAUNCH(where_b8, 2, 256, 0, dense.data(), left.data(), right.data(), chosen.data(), n, 1, 1, 0);
    for (i64 i = 0; i < n; i++) same(chosen[i], dense[i] ? left[i] : right[0], "where", i);
    LAUNCH(not_u8, 2, 256, 0, dense.data(), dense.data(), n);
    LAUNCH(where_b8, 2, 256, 0, dense.data(), left.data(), right.data(), left.data(), n, 1, 1, 0);
    for (i64 i = 0; i < n; i++) same(left[i], dense[i] ? left[i] : right[0], "where in place", i);
    LAUNCH(fill_b4, 1, 256, 0, reinterpret_cast<u32*>(chosen.data()), n, 0x1234567890ull);
    for (i64 i = 0; i < n; i++) same(reinterpret_cast<u32*>(chosen.data())[i], 0x34567890u, "fill", i);
}

// What a float becomes as an integer that holds low..=high, in plain words.
static i64 saturated(double x, i64 low, i64 high) {
    if (std::isnan(x)) return 0;
    x = std::trunc(x);
    return x <= static_cast<double>(low) ? low : x >= static_cast<double>(high) ? high : static_cast<i64>(x);
}

CHECK(casts) {
    const i64 n = 1000;
    Buffer<f32> x(n, chance, -300, 300);
    x[0] = NAN, x[1] = INFINITY, x[2] = -INFINITY, x[3] = 3e9f, x[4] = -3e9f, x[5] = 65520.0f, x[6] = 65519.0f, x[7] = 1e-7f, x[8] = 1e20f;
    Buffer<f16> h(n);
    Buffer<bf16> b(n);
    Buffer<i64> l(n);
    Buffer<i32> w(n);
    Buffer<i8> c(n);
    Buffer<u8> u(n), t(n);
    LAUNCH(cast_f32_f16, 2, 256, 0, x.data(), h.data(), n);
    LAUNCH(cast_f32_bf16, 2, 256, 0, x.data(), b.data(), n);
    LAUNCH(cast_f32_i64, 2, 256, 0, x.data(), l.data(), n);
    LAUNCH(cast_f32_i32, 2, 256, 0, x.data(), w.data(), n);
    LAUNCH(cast_f32_i8, 2, 256, 0, x.data(), c.data(), n);
    LAUNCH(cast_f32_u8, 2, 256, 0, x.data(), u.data(), n);
    LAUNCH(cast_f32_bool, 2, 256, 0, x.data(), t.data(), n);
    for (i64 i = 0; i < n; i++) {
        close(h[i], x(i), 0, "f16", i);
        close(b[i], x(i), 0, "bf16", i);
        same<i64>(l[i], saturated(x(i), -9223372036854775807ll - 1, 9223372036854775807ll), "i64", i);
        same<i32>(w[i], static_cast<i32>(saturated(x(i), -2147483648ll, 2147483647)), "i32", i);
        same<i8>(c[i], static_cast<i8>(saturated(x(i), -128, 127)), "i8", i);
        same<u8>(u[i], static_cast<u8>(saturated(x(i), 0, 255)), "u8", i);
        same<u8>(t[i], x(i) != 0, "bool", i);
    }
    // Back again: what was exact stays so.
    Buffer<f32> back(n, 1);
    LAUNCH(cast_i8_f32, 1, 256, 0, c.data(), back.data(), n);
    for (i64 i = 0; i < n; i++) close(back[i], c(i), 0, "i8 to f32", i);
    LAUNCH(cast_f16_f32, 1, 256, 0, h.data(), back.data(), n);
    for (i64 i = 0; i < n; i++) close(back[i], h(i), 0, "f16 to f32", i);
    Buffer<i32> narrow_(n);
    LAUNCH(cast_i64_i32, 1, 256, 0, l.data(), narrow_.data(), n);
    for (i64 i = 0; i < n; i++) same(narrow_[i], static_cast<i32>(l[i]), "i64 to i32", i);
}

// Every float16 and every bfloat16, there and back through the shim's conversions.
CHECK(halves_are_what_they_should_be) {
    for (u32 bits = 0; bits < 0x10000; bits++) {
        const f16 h{static_cast<uint16_t>(bits)};
        const f32 x = to_f32(h);
        if (x == x) same(rounded<f16>(x), h, "f16", bits);
        const u32 exponent = bits >> 10 & 31, fraction = bits & 1023;
        const double sign = bits >> 15 ? -1 : 1;
        if (exponent < 31) same<double>(x, sign * std::ldexp(exponent ? 1024 + fraction : fraction, static_cast<int>(exponent ? exponent : 1) - 25), "f16's value", bits);
        const bf16 b{static_cast<uint16_t>(bits)};
        if (to_f32(b) == to_f32(b)) same(rounded<bf16>(to_f32(b)), b, "bf16", bits);
    }
    for (int i = 0; i < 2000; i++) {
        const double x = chance.real(-70000, 70000) * std::pow(2.0, static_cast<double>(chance.integer(-40, 0)));
        close(rounded<f16>(static_cast<f32>(x)), static_cast<f32>(x), 0, "rounded to f16", i);
    }
}
