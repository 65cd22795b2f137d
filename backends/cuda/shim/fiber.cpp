// Fibers, and the calls by which sanitizers follow them. See fiber.h.

#include "fiber.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define SHIM_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SHIM_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace shim {

namespace {

constexpr size_t GUARD = 4096;
// A sanitizer's frames are several times as large.
#if defined(SHIM_ASAN) || defined(SHIM_TSAN)
constexpr size_t STACK = 256 * 1024;
#else
constexpr size_t STACK = 64 * 1024;
#endif

void before_switch([[maybe_unused]] Fiber& from, [[maybe_unused]] Fiber& to, [[maybe_unused]] bool last) {
#if defined(SHIM_ASAN)
    __sanitizer_start_switch_fiber(last ? nullptr : &from.asan, to.stack, to.stack_bytes);
#endif
#if defined(SHIM_TSAN)
    if (!from.tsan) from.tsan = __tsan_get_current_fiber();
    if (!to.tsan) to.tsan = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
}

// Whoever comes first from the host learns the bounds of the host's stack.
Fiber* left = nullptr;

void after_switch([[maybe_unused]] Fiber* mine) {
#if defined(SHIM_ASAN)
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(mine ? mine->asan : nullptr, &bottom, &bytes);
    if (left && !left->stack) left->stack = static_cast<unsigned char*>(const_cast<void*>(bottom)), left->stack_bytes = bytes;
#endif
}

}  // namespace

#if defined(__x86_64__)

extern "C" void shim_switch(void** save, void* load);
// What a called function keeps: rbx, rbp, r12 to r15. Floating-point modes are the same everywhere.
asm(R"(
    .text
    .globl shim_switch
    .type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size shim_switch, . - shim_switch
)");

static void go(Fiber& from, Fiber& to) { shim_switch(&from.top, to.top); }

static void prepare(Fiber& fiber, void (*entry)()) {
    auto* top = reinterpret_cast<uintptr_t*>(fiber.stack + fiber.stack_bytes);
    *--top = 0;  // whom `entry` would return to
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; i++) *--top = 0;
    fiber.top = top;
}

#else

static void go(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

static void prepare(Fiber& fiber, void (*entry)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = fiber.stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
}

#endif

// The entry of the fiber that is entered next; all fibers of a launch have the same.
static void (*entered)() = nullptr;
static void begin() {
    after_switch(nullptr);
    entered();
}

void switch_to(Fiber& from, Fiber& to) {
    left = &from;
    before_switch(from, to, false);
    go(from, to);
    after_switch(&from);
}

void leave_to(Fiber& from, Fiber& to) {
    left = &from;
    before_switch(from, to, true);
    go(from, to);
    std::abort();
}

void enter_anew(Fiber& fiber, void (*entry)()) {
    if (!fiber.stack) {
        void* const memory = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        mprotect(memory, GUARD, PROT_NONE);
        fiber.stack = static_cast<unsigned char*>(memory) + GUARD;
        fiber.stack_bytes = STACK;
    }
#if defined(SHIM_ASAN)
    // The frames of who left for good are at the top; all others were left in order.
    __asan_unpoison_memory_region(fiber.stack + fiber.stack_bytes - 4096, 4096);
#endif
    entered = entry;
    prepare(fiber, begin);
}

void release([[maybe_unused]] void* place) {
#if defined(SHIM_TSAN)
    __tsan_release(place);
#endif
}

void acquire([[maybe_unused]] void* place) {
#if defined(SHIM_TSAN)
    __tsan_acquire(place);
#endif
}

#if defined(SHIM_TSAN)

// One block at a time, and few allocations in it. Shared memory is never the subject of an allocator that the sanitizer
// knows, which would take the first thread's allocation for a write that nobody waits for.
static unsigned char pool[1 << 20];
static size_t lent = 0;

void* lend(size_t bytes) {
    if (lent + bytes > sizeof pool) std::abort();
    void* const memory = pool + lent;
    lent += (bytes + 63) / 64 * 64;
    return memory;
}
void give_back(void*, size_t) { lent = 0; }

#else

void* lend(size_t bytes) { return ::operator new(bytes ? bytes : 1, std::align_val_t{16}); }
void give_back(void* memory, size_t) { ::operator delete(memory, std::align_val_t{16}); }

#endif

}  // namespace shim
