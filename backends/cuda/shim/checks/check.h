// What the checks of kernels are written with: buffers that end where their memory ends, launches by type, numbers by
// chance, and comparisons with results computed in float64.
//
// A check is a function that runs kernels on random inputs of awkward sizes and compares; CHECK names it, and main
// (check.cpp) runs each under many schedules. Inputs are rounded to the element type before the reference sees them, so
// that a tolerance holds what the kernel's arithmetic may lose, and the rounding of its result.

#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "../../kernels/millstream.cuh"

namespace check {

// ---- Chance ----

struct Chance {
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // low..=high
    i64 integer(i64 low, i64 high) { return low + static_cast<i64>(next() % static_cast<uint64_t>(high - low + 1)); }
    double real(double low, double high) { return low + (high - low) * static_cast<double>(next() >> 11) * 0x1p-53; }
    bool coin() { return next() & 1; }
};

// ---- Elements ----

template <class T> double value(T x) {
    if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) return static_cast<double>(to_f32(x));
    else return static_cast<double>(x);
}
template <class T> T element(double x) {
    if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) return rounded<T>(static_cast<float>(x));
    else return static_cast<T>(x);
}
// Half of the distance between 1 and the next element.
template <class T> inline constexpr double UNIT = 0;
template <> inline constexpr double UNIT<f32> = 0x1p-24;
template <> inline constexpr double UNIT<f16> = 0x1p-11;
template <> inline constexpr double UNIT<bf16> = 0x1p-8;

template <class T> const char* type_name() {
    if constexpr (std::is_same_v<T, f32>) return "f32";
    else if constexpr (std::is_same_v<T, f16>) return "f16";
    else if constexpr (std::is_same_v<T, bf16>) return "bf16";
    else return "integers";
}

// ---- Buffers ----

// Elements on the heap of their exact size, beginning `shift` elements after an aligned address.
template <class T> class Buffer {
    unsigned char* memory;
    T* first;
    i64 length;

  public:
    explicit Buffer(i64 n, i64 shift = 0) : memory(static_cast<unsigned char*>(std::malloc(static_cast<size_t>((n + shift) * static_cast<i64>(sizeof(T)) + (n + shift == 0))))), first(reinterpret_cast<T*>(memory) + shift), length(n) {
        std::memset(memory, 0xff, static_cast<size_t>((n + shift) * static_cast<i64>(sizeof(T))));
    }
    Buffer(i64 n, Chance& chance, double low, double high, i64 shift = 0) : Buffer(n, shift) {
        for (i64 i = 0; i < n; i++) first[i] = std::is_integral_v<T> ? static_cast<T>(chance.integer(static_cast<i64>(low), static_cast<i64>(high))) : element<T>(chance.real(low, high));
    }
    Buffer(Buffer&& other) : memory(other.memory), first(other.first), length(other.length) { other.memory = nullptr; }
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(memory); }
    T* data() { return first; }
    const T* data() const { return first; }
    i64 size() const { return length; }
    T& operator[](i64 i) { return first[i]; }
    double operator()(i64 i) const { return value(first[i]); }
};

// ---- Launches ----

template <class... P, class... A> void start(void (*)(P...), const char* name, i64 grid, unsigned block, size_t shared_bytes, A... arguments) {
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
    const shim::Entry* entry = shim::find(name);
    if (!entry) std::printf("no kernel %s\n", name), std::abort();
    std::tuple<std::remove_cv_t<P>...> values{static_cast<P>(arguments)...};
    std::apply([&](auto&... each) {
        void* pointers[] = {static_cast<void*>(&each)...};
        shim::launch(*entry, static_cast<unsigned>(grid), block, shared_bytes, pointers);
    }, values);
}
// LAUNCH(kernel, grid, block, shared bytes, arguments...)
#define LAUNCH(kernel, grid, block, shared_bytes, ...) check::start(kernel, #kernel, grid, block, shared_bytes, __VA_ARGS__)

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// ---- Comparisons ----

struct Tally {
    const char* what = "";
    i64 failures = 0, compared = 0;
};
Tally& tally();

// The result is `want` rounded to T, give or take `error` before rounding.
template <class T> void close(T got, double want, double error, const std::string& what, i64 at) {
    tally().compared++;
    const double g = value(got);
    if (std::isnan(want) && std::isnan(g)) return;
    if (g == want) return;
    const double bound = error + UNIT<T> * (std::fabs(want) + error) + (std::is_same_v<T, f16> ? 0x1p-25 : 1e-40);
    if (std::isfinite(want) && std::fabs(g - want) <= bound) return;
    // Past the largest element.
    if (std::is_same_v<T, f16> && std::isinf(g) && std::fabs(want) >= 65519.0 && (g > 0) == (want > 0)) return;
    if (tally().failures++ < 5) std::printf("%s [%s]: %s[%lld] is %.9g, not %.9g (within %.3g)\n", tally().what, type_name<T>(), what.c_str(), at, g, want, bound);
}

template <class T> void same(T got, T want, const std::string& what, i64 at) {
    tally().compared++;
    if (std::memcmp(&got, &want, sizeof(T)) == 0) return;
    if (tally().failures++ < 5) std::printf("%s: %s[%lld] is %.17g, not %.17g\n", tally().what, what.c_str(), at, value(got), value(want));
}

// ---- The list of checks ----

struct Check {
    const char* name;
    void (*run)(Chance&);
    Check* next;
    Check(const char* name, void (*run)(Chance&));
};
#define CHECK(name)                                  \
    static void name(check::Chance& chance);         \
    static check::Check name##_check{#name, name};   \
    static void name([[maybe_unused]] check::Chance& chance)

}  // namespace check
