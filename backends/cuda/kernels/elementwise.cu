// Elementwise kernels: functions of one element and of two, comparisons, choices, casts, fills.
//
// Contiguous operands are read and written several elements at a time where all of them are aligned to that, and one by
// one otherwise; the result is the same. Any output may be one of the inputs. Functions are those of CUDA's
// single-precision library without fast mathematics, rounded once to the element type.

#include "millstream.cuh"

// ---- One operand ----

// y[i] = f(x[i]) for n elements. The loop over the words of a load is not unrolled: f stands in the code three times at
// most instead of nine, and memory is what these kernels wait for.
template <class T, class F> DEVICE void map(const T* x, T* y, i64 n, F f) {
    i64 done = 0;
    if (aligned(x) && aligned(y)) {
        constexpr int L = LANES<T>;
        ROLLED for (i64 i = thread_of_grid(); i < n / L; i += threads_of_grid()) {
            auto words = load<4>(reinterpret_cast<const u32*>(x) + i * 4);
            ROLLED for (int k = 0; k < 4; k++) {
                Word<T> word{words.at[0]};
                UNROLL for (int j = 0; j < IN_WORD<T>; j++) word.elements.at[j] = rounded<T>(f(to_f32(word.elements.at[j])));
                turn(words, word.bits);
            }
            store<4>(reinterpret_cast<u32*>(y) + i * 4, words);
        }
        done = n / L * L;
    }
    ROLLED for (i64 i = done + thread_of_grid(); i < n; i += threads_of_grid()) y[i] = rounded<T>(f(to_f32(x[i])));
}

DEVICE f32 softplus(f32 x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }

// entries: unary_{abs,neg,sqrt,rsqrt,reciprocal,exp,log,sin,cos,tanh,sigmoid,erf,floor,ceil,round,sign,relu,clip,leaky_relu,elu,silu,gelu,gelu_tanh,softplus,mish,hard_swish,hard_sigmoid,softsign,affine}_{f32,f16,bf16}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=48
// args: x, y, n, alpha, beta. y[i] = f(x[i]). clip: to [alpha, beta]; leaky_relu, elu: alpha; hard_sigmoid: alpha x + beta,
// clipped to [0, 1]; affine: alpha x + beta; the others use neither. round: ties to even, as ONNX's.
#define UNARY(name, T, body) \
    KERNEL(unary_##name##_##T, 256, const T* x, T* y, i64 n, f32 alpha, f32 beta) { \
        (void)alpha, (void)beta; \
        map(x, y, n, [=](f32 v) -> f32 { return body; }); \
    }
#define UNARIES(T) \
    UNARY(abs, T, fabsf(v)) \
    UNARY(neg, T, -v) \
    UNARY(sqrt, T, sqrtf(v)) \
    UNARY(rsqrt, T, 1.0f / sqrtf(v)) \
    UNARY(reciprocal, T, 1.0f / v) \
    UNARY(exp, T, expf(v)) \
    UNARY(log, T, logf(v)) \
    UNARY(sin, T, sinf(v)) \
    UNARY(cos, T, cosf(v)) \
    UNARY(tanh, T, tanhf(v)) \
    UNARY(sigmoid, T, sigmoid(v)) \
    UNARY(erf, T, erff(v)) \
    UNARY(floor, T, floorf(v)) \
    UNARY(ceil, T, ceilf(v)) \
    UNARY(round, T, rintf(v)) \
    UNARY(sign, T, v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v) \
    UNARY(relu, T, v < 0.0f ? 0.0f : v) \
    UNARY(clip, T, clip(v, alpha, beta)) \
    UNARY(leaky_relu, T, v < 0.0f ? alpha * v : v) \
    UNARY(elu, T, v < 0.0f ? alpha * expm1f(v) : v) \
    UNARY(silu, T, silu(v)) \
    UNARY(gelu, T, gelu(v)) \
    UNARY(gelu_tanh, T, gelu_tanh(v)) \
    UNARY(softplus, T, softplus(v)) \
    UNARY(mish, T, v * tanhf(softplus(v))) \
    UNARY(hard_swish, T, v * hard_sigmoid(v, 1.0f / 6.0f, 0.5f)) \
    UNARY(hard_sigmoid, T, hard_sigmoid(v, alpha, beta)) \
    UNARY(softsign, T, v / (1.0f + fabsf(v))) \
    UNARY(affine, T, fmaf(alpha, v, beta))
FOR_FLOATS(UNARIES)

// entries: not_u8
// launch: block=256 grid=ceil(n / 256) shared=0 registers=24
// args: x, y, n. y[i] = x[i] == 0.
KERNEL(not_u8, 256, const u8* x, u8* y, i64 n) {
    ROLLED for (i64 i = thread_of_grid(); i < n; i += threads_of_grid()) y[i] = x[i] == 0;
}

// ---- Two operands ----

// What operators compute in: floats in float32, integers in themselves.
DEVICE f32 wide(f32 x) { return x; }
DEVICE f32 wide(f16 x) { return to_f32(x); }
DEVICE f32 wide(bf16 x) { return to_f32(x); }
DEVICE i64 wide(i64 x) { return x; }
DEVICE u8 wide(u8 x) { return x; }

template <class R, class W> struct Narrow {
    DEVICE R from(W x) { return rounded<R>(x); }
};
template <class R> struct Narrow<R, i64> {
    DEVICE R from(i64 x) { return static_cast<R>(x); }
};
template <class R> struct Narrow<R, bool> {
    DEVICE R from(bool x) { return x; }
};
template <class R, class W> DEVICE R narrow(W x) { return Narrow<R, W>::from(x); }

template <int N, class T> DEVICE Pack<T, N> repeated(const T* x) {
    Pack<T, N> pack;
    UNROLL for (int k = 0; k < N; k++) pack.at[k] = x[0];
    return pack;
}

// y[i] = f(a[i], b[i]), L elements at a time, where an operand of step 0 is one element for all.
template <int L, class T, class R, class F> DEVICE void zip(const T* a, const T* b, R* y, i64 n, i32 step_a, i32 step_b, F f) {
    i64 done = 0;
    const bool whole_a = step_a != 0, whole_b = step_b != 0;
    if ((!whole_a || aligned<L * sizeof(T)>(a)) && (!whole_b || aligned<L * sizeof(T)>(b)) && aligned<L * sizeof(R)>(y)) {
        ROLLED for (i64 i = thread_of_grid(); i < n / L; i += threads_of_grid()) {
            Pack<T, L> left, right;
            left = whole_a ? load<L>(a + i * L) : repeated<L>(a);
            right = whole_b ? load<L>(b + i * L) : repeated<L>(b);
            Pack<R, L> result;
            UNROLL for (int k = 0; k < L; k++) result.at[k] = narrow<R>(f(wide(left.at[k]), wide(right.at[k])));
            store<L>(y + i * L, result);
        }
        done = n / L * L;
    }
    ROLLED for (i64 i = done + thread_of_grid(); i < n; i += threads_of_grid()) y[i] = narrow<R>(f(wide(a[i * step_a]), wide(b[i * step_b])));
}

// Division by zero gives zero, and the one quotient without a place wraps: integers never stop a kernel.
DEVICE f32 quotient(f32 a, f32 b) { return a / b; }
DEVICE i64 quotient(i64 a, i64 b) { return b == 0 ? 0 : b == -1 ? static_cast<i64>(0 - static_cast<u64>(a)) : a / b; }
// Sums and products of integers wrap, as ONNX Runtime's do.
DEVICE f32 plus(f32 a, f32 b) { return a + b; }
DEVICE i64 plus(i64 a, i64 b) { return static_cast<i64>(static_cast<u64>(a) + static_cast<u64>(b)); }
DEVICE f32 minus(f32 a, f32 b) { return a - b; }
DEVICE i64 minus(i64 a, i64 b) { return static_cast<i64>(static_cast<u64>(a) - static_cast<u64>(b)); }
DEVICE f32 times(f32 a, f32 b) { return a * b; }
DEVICE i64 times(i64 a, i64 b) { return static_cast<i64>(static_cast<u64>(a) * static_cast<u64>(b)); }
// NaN on either side gives NaN.
template <class W> DEVICE W larger(W a, W b) { return a != a || a > b ? a : b; }
template <class W> DEVICE W smaller(W a, W b) { return a != a || a < b ? a : b; }

// entries: binary_{add,sub,mul,div,max,min}_{f32,f16,bf16,i64}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=48
// args: a, b, y, n, step_a, step_b. y[i] = a[i step_a] op b[i step_b]; a step is 1, or 0 for one element for all.
// i64: sums and products wrap, a division by zero gives 0.
//
// entries: binary_{pow,prelu}_{f32,f16,bf16}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=72
// args: as above. prelu: a < 0 ? a b : a.
//
// entries: compare_{equal,less,less_equal}_{f32,f16,bf16,i64}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=48
// args: as above, with y of u8 (0 or 1). The other comparisons are these with a and b exchanged, and not_u8.
//
// entries: logic_{and,or,xor}_u8
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=48
// args: as above. Operands are true unless 0.
#define BINARY(kind, name, T, R, body) BINARY_OF((sizeof(T) == 8 ? 2 : 4), kind, name, T, R, body)
#define BINARY_OF(lanes, kind, name, T, R, body) \
    KERNEL(kind##_##name##_##T, 256, const T* a, const T* b, R* y, i64 n, i32 step_a, i32 step_b) { \
        zip<lanes>(a, b, y, n, step_a, step_b, [](auto l, auto r) { return body; }); \
    }
#define ARITHMETIC(T) \
    BINARY(binary, add, T, T, plus(l, r)) \
    BINARY(binary, sub, T, T, minus(l, r)) \
    BINARY(binary, mul, T, T, times(l, r)) \
    BINARY(binary, div, T, T, quotient(l, r)) \
    BINARY(binary, max, T, T, larger(l, r)) \
    BINARY(binary, min, T, T, smaller(l, r)) \
    BINARY(compare, equal, T, u8, l == r) \
    BINARY(compare, less, T, u8, l < r) \
    BINARY(compare, less_equal, T, u8, l <= r)
#define OF_FLOATS(T) \
    ARITHMETIC(T) \
    BINARY_OF(2, binary, pow, T, T, powf(l, r)) \
    BINARY(binary, prelu, T, T, l < 0.0f ? l * r : l)
FOR_FLOATS(OF_FLOATS)
ARITHMETIC(i64)
BINARY(logic, and, u8, u8, (l != 0) && (r != 0))
BINARY(logic, or, u8, u8, (l != 0) || (r != 0))
BINARY(logic, xor, u8, u8, (l != 0) != (r != 0))

// The operators of kernels that take theirs at run time.
enum Operator : i32 { ADD, SUB, MUL, DIV, MAX, MIN, POW, PRELU, EQUAL, LESS, LESS_EQUAL, AND, OR, XOR };

DEVICE f32 power(f32 a, f32 b) { return powf(a, b); }
DEVICE i64 power(i64 a, i64) { return a; }

template <class W> DEVICE W arithmetic(i32 op, W a, W b) {
    switch (op) {
        case ADD: return plus(a, b);
        case SUB: return minus(a, b);
        case MUL: return times(a, b);
        case DIV: return quotient(a, b);
        case MAX: return larger(a, b);
        case MIN: return smaller(a, b);
        case POW: return power(a, b);
        default: return a < W(0) ? times(a, b) : a;
    }
}

template <class W> DEVICE bool relation(i32 op, W a, W b) {
    switch (op) {
        case EQUAL: return a == b;
        case LESS: return a < b;
        case LESS_EQUAL: return a <= b;
        case AND: return a != W(0) && b != W(0);
        case OR: return a != W(0) || b != W(0);
        default: return (a != W(0)) != (b != W(0));
    }
}

// entries: binary_strided_{f32,f16,bf16,i64}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=80
// args: op, a, b, y, n, walk (Walk<2> by value: strides of a and of b). y is contiguous. op: 0 add, 1 sub, 2 mul, 3 div,
// 4 max, 5 min, 6 pow (floats), 7 prelu.
//
// entries: compare_strided_{f32,f16,bf16,i64,u8}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=64
// args: as above, y of u8. op: 8 equal, 9 less, 10 less_equal, 11 and, 12 or, 13 xor (of elements that are true unless 0).
#define BINARY_STRIDED(T) \
    KERNEL(binary_strided_##T, 256, i32 op, const T* a, const T* b, T* y, i64 n, Walk<2> walk) { \
        walk_over(walk, n, [=](i64 i, const i64* at) { y[i] = narrow<T>(arithmetic(op, wide(a[at[0]]), wide(b[at[1]]))); }); \
    }
#define COMPARE_STRIDED(T) \
    KERNEL(compare_strided_##T, 256, i32 op, const T* a, const T* b, u8* y, i64 n, Walk<2> walk) { \
        walk_over(walk, n, [=](i64 i, const i64* at) { y[i] = relation(op, wide(a[at[0]]), wide(b[at[1]])); }); \
    }
FOR_FLOATS(BINARY_STRIDED)
BINARY_STRIDED(i64)
FOR_FLOATS(COMPARE_STRIDED)
COMPARE_STRIDED(i64)
COMPARE_STRIDED(u8)

// ---- Choices and fills, by width alone ----

// entries: where_{b1,b2,b4,b8}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=40
// args: condition (u8), a, b, y, n, step_condition, step_a, step_b. y[i] = condition ? a : b; steps are 1, or 0 for one
// element for all.
//
// entries: where_strided_{b1,b2,b4,b8}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=64
// args: condition (u8), a, b, y, n, walk (Walk<3>: strides of the condition, of a and of b). y is contiguous.
//
// entries: fill_{b1,b2,b4,b8}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=24
// args: y, n, bits (u64, of which the low bytes count).
#define BY_WIDTH(W, T) \
    KERNEL(where_##W, 256, const u8* condition, const T* a, const T* b, T* y, i64 n, i32 step_condition, i32 step_a, i32 step_b) { \
        ROLLED for (i64 i = thread_of_grid(); i < n; i += threads_of_grid()) y[i] = condition[i * step_condition] ? a[i * step_a] : b[i * step_b]; \
    } \
    KERNEL(where_strided_##W, 256, const u8* condition, const T* a, const T* b, T* y, i64 n, Walk<3> walk) { \
        walk_over(walk, n, [=](i64 i, const i64* at) { y[i] = condition[at[0]] ? a[at[1]] : b[at[2]]; }); \
    } \
    KERNEL(fill_##W, 256, T* y, i64 n, u64 bits) { \
        ROLLED for (i64 i = thread_of_grid(); i < n; i += threads_of_grid()) y[i] = static_cast<T>(bits); \
    }
FOR_WIDTHS(BY_WIDTH)
