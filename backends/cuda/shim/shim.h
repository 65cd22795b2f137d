// The host's stand-in for a GPU: what a kernel of ../kernels sees when it is compiled by an ordinary C++20 compiler.
//
// Every CUDA thread is a fiber, blocks run one after another, and a seed chooses the order in which fibers go on. It is
// there to check arithmetic, bounds, barriers and races of shared memory. It says nothing of speed, of a CUDA compiler's
// code, of races between blocks, or of the last bit of a hardware function. It is stricter than the hardware where that
// finds mistakes:
// - a barrier that not every thread of a block meets at the same line aborts, threads that have returned included;
// - a warp collective whose lanes are not all there, at the same line, aborts, and so does reading from a lane left out;
// - fresh shared memory is NaN (every bit set), on the heap, so that AddressSanitizer sees its bounds;
// - a block that differs from the one that the kernel declares aborts, and so does a load of many elements out of line.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>
#include <utility>

#include "half.h"

#define DEVICE static inline
#define MEMBER inline
#define SHARED(type, name, shape)                \
    using name##_shape = type shape;             \
    static const char name##_key = 0;            \
    name##_shape& name = *static_cast<name##_shape*>(shim::shared(&name##_key, sizeof(name##_shape)))
#define DYN_SHARED(type, name) type* const name = static_cast<type*>(shim::dynamic_shared())
#define KERNEL_BESIDE(name, threads, blocks, ...) KERNEL(name, threads, __VA_ARGS__)
#define KERNEL(name, threads, ...)                                          \
    extern "C" void name(__VA_ARGS__);                                      \
    namespace {                                                             \
    const shim::Entry name##_entry{#name, threads, shim::caller<name>};     \
    }                                                                       \
    extern "C" void name(__VA_ARGS__)

#define threadIdx (shim::here().thread)
#define blockIdx (shim::here().block)
#define blockDim (shim::here().block_size)
#define gridDim (shim::here().grid_size)

namespace shim {

using Where = std::source_location;

// One dimension, which is all that our kernels use.
struct One {
    unsigned x;
};

// What a thread may ask about itself.
struct Here {
    One thread, block, block_size, grid_size;
};
Here& here();

// ---- Launching ----

// A kernel by name; all of a program's kernels are in one list, by being defined.
struct Entry {
    const char* name;
    unsigned threads;
    void (*call)(void** arguments);
    const Entry* next;
    Entry(const char* name, unsigned threads, void (*call)(void**));
};
// None if there is no kernel of the name.
const Entry* find(const char* name);

// Runs a kernel to its end. `arguments` holds a pointer to each argument, as cuLaunchKernel takes them. Aborts with a
// line on standard error where the kernel does what a GPU would not bear. Launches wait for each other.
void launch(const Entry& entry, unsigned grid, unsigned block, size_t shared_bytes, void** arguments);

// Chooses the schedule of the launches that follow: by seed % 3 the threads in their order, the warps interleaved by
// chance, or one warp as far as it gets; the rest of the seed is chance.
void set_seed(uint64_t seed);

[[noreturn]] void fail(const char* message);
inline void require(bool holds, const char* message) {
    if (!holds) fail(message);
}

template <class F> struct Call;
template <class... A> struct Call<void (*)(A...)> {
    template <size_t... I> static void with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
    }
};
template <class... A> void call_with(void (*kernel)(A...), void** arguments) {
    Call<void (*)(A...)>::with(kernel, arguments, std::index_sequence_for<A...>{});
}
template <auto kernel> void caller(void** arguments) { call_with(kernel, arguments); }

// ---- What kernels call ----

void* shared(const void* key, size_t bytes);
void* dynamic_shared();
void barrier(Where where);

// What lanes give and get in a collective: as many words as the widest one needs.
constexpr int WORDS = 8;
struct Words {
    uint32_t at[WORDS];
};
// All lanes of `mask` meet; the last one to come calls `meet`, which makes what each gets from what each gave.
using Meeting = void (*)(uint32_t mask, const Words* const* given, Words** got, const unsigned* choice);
Words collective(Meeting meet, uint32_t mask, const Words& given, unsigned choice, Where where);

void meet_shuffle(uint32_t, const Words* const*, Words**, const unsigned*);
void meet_ballot(uint32_t, const Words* const*, Words**, const unsigned*);
void meet_nothing(uint32_t, const Words* const*, Words**, const unsigned*);
void meet_mma_f16(uint32_t, const Words* const*, Words**, const unsigned*);
void meet_mma_bf16(uint32_t, const Words* const*, Words**, const unsigned*);
void meet_matrices(uint32_t, const Words* const*, Words**, const unsigned*);
// Happens-before among a warp's lanes, for ThreadSanitizer.
void warp_fence(bool before);
unsigned lane();

template <class T> T shuffle(uint32_t mask, T value, unsigned source, Where where) {
    static_assert(sizeof(T) <= sizeof(Words) && std::is_trivially_copyable_v<T>);
    Words given{};
    std::memcpy(given.at, &value, sizeof(T));
    const Words got = collective(meet_shuffle, mask, given, source, where);
    std::memcpy(&value, got.at, sizeof(T));
    return value;
}

}  // namespace shim

// ---- CUDA's own names ----

static inline void __syncthreads(shim::Where where = shim::Where::current()) { shim::barrier(where); }
static inline void __syncwarp(uint32_t mask = 0xffffffffu, shim::Where where = shim::Where::current()) {
    shim::warp_fence(true);
    shim::collective(shim::meet_nothing, mask, {}, 0, where);
    shim::warp_fence(false);
}

template <class T> T __shfl_sync(uint32_t mask, T value, int source, shim::Where where = shim::Where::current()) {
    return shim::shuffle(mask, value, static_cast<unsigned>(source) % 32, where);
}
template <class T> T __shfl_xor_sync(uint32_t mask, T value, int distance, shim::Where where = shim::Where::current()) {
    return shim::shuffle(mask, value, shim::lane() ^ static_cast<unsigned>(distance), where);
}
template <class T> T __shfl_up_sync(uint32_t mask, T value, unsigned distance, shim::Where where = shim::Where::current()) {
    return shim::shuffle(mask, value, shim::lane() < distance ? shim::lane() : shim::lane() - distance, where);
}
template <class T> T __shfl_down_sync(uint32_t mask, T value, unsigned distance, shim::Where where = shim::Where::current()) {
    return shim::shuffle(mask, value, shim::lane() + distance > 31 ? shim::lane() : shim::lane() + distance, where);
}
static inline uint32_t __ballot_sync(uint32_t mask, int holds, shim::Where where = shim::Where::current()) {
    shim::Words given{};
    given.at[0] = holds != 0;
    return shim::collective(shim::meet_ballot, mask, given, 0, where).at[0];
}
static inline int __any_sync(uint32_t mask, int holds, shim::Where where = shim::Where::current()) { return __ballot_sync(mask, holds, where) != 0; }
static inline int __all_sync(uint32_t mask, int holds, shim::Where where = shim::Where::current()) { return __ballot_sync(mask, holds, where) == mask; }

template <class T> T atomicAdd(T* at, std::type_identity_t<T> value) {
    if constexpr (std::is_integral_v<T>) {
        return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
    } else {
        static_assert(std::is_same_v<T, float>);
        uint32_t seen = __atomic_load_n(reinterpret_cast<uint32_t*>(at), __ATOMIC_RELAXED), next;
        float old;
        do {
            std::memcpy(&old, &seen, 4);
            const float sum = old + value;
            std::memcpy(&next, &sum, 4);
        } while (!__atomic_compare_exchange_n(reinterpret_cast<uint32_t*>(at), &seen, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        return old;
    }
}
template <class T> T atomicMax(T* at, std::type_identity_t<T> value) {
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(at, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
template <class T> T atomicExch(T* at, std::type_identity_t<T> value) { return __atomic_exchange_n(at, value, __ATOMIC_RELAXED); }

static inline float __int_as_float(int bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
static inline int __float_as_int(float x) {
    int bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
static inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(__float_as_int(x)); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
