// Fibers: a stack and a place to go on. On x86-64 a switch is a few instructions of our own; elsewhere it is ucontext's,
// which also saves the signal mask and takes many times as long. Sanitizers are told of every switch.

#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

struct Fiber {
#if defined(__x86_64__)
    void* top = nullptr;  // of the stack, where the registers lie
#else
    ucontext_t context;
#endif
    unsigned char* stack = nullptr;
    size_t stack_bytes = 0;
    void* asan = nullptr;
    void* tsan = nullptr;
};

// Leaves `from` and goes on in `to`; returns when somebody switches back.
void switch_to(Fiber& from, Fiber& to);
// As switch_to, for a fiber that is at its end.
[[noreturn]] void leave_to(Fiber& from, Fiber& to);
// The next switch to the fiber calls `entry`, which never returns. It gets a stack if it has none.
void enter_anew(Fiber& fiber, void (*entry)());

// What ThreadSanitizer is to take for an order in time: all before `release` is before all after `acquire` of the place.
void release(void* place);
void acquire(void* place);

// Shared memory of a block: of the heap, except where ThreadSanitizer would see a race in the allocation itself.
void* lend(size_t bytes);
void give_back(void* memory, size_t bytes);

}  // namespace shim
