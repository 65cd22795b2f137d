// The shim's machine: fibers, their scheduler, barriers, collectives, shared memory. See shim.h for what it promises.
//
// Compiled without ThreadSanitizer even where kernels are compiled with it (SHIM_TSAN then tells it to name its fibers to
// the sanitizer): the machine's own memory is no kernel's business.

#include "shim.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "fiber.h"

namespace shim {

namespace {

constexpr unsigned MOST_THREADS = 1024;
// What a block may hold without asking for more, and what it may ask for: of compute capability 8.0.
constexpr size_t MOST_STATIC_SHARED = 48 * 1024, MOST_SHARED = 163 * 1024;

enum class State : uint8_t { READY, AT_BARRIER, IN_COLLECTIVE, DONE };
enum class Order { FIXED, INTERLEAVED, GREEDY };

struct Thread {
    Fiber fiber;
    Here here;
    State state = State::DONE;
    Where where;
    Meeting meet = nullptr;
    uint32_t mask = 0;
    unsigned choice = 0;
    Words words{};
};

struct Allocation {
    const void* key;
    void* memory;
    size_t bytes;
};

struct Machine {
    std::vector<Thread> threads{MOST_THREADS};
    Fiber host;
    Thread* current = nullptr;
    unsigned count = 0, finished = 0, waiting = 0, generation = 0;
    uint32_t ready[MOST_THREADS / 32] = {};  // a bit a lane
    void (*call)(void**) = nullptr;
    void** arguments = nullptr;
    size_t dynamic_bytes = 0;
    std::vector<Allocation> shared;
    uint64_t seed = 0, chance = 0;
    const char* name = "";
};

Machine& machine() {
    static Machine it;
    return it;
}

std::mutex& one_launch() {
    static std::mutex it;
    return it;
}

// splitmix64
uint64_t chance(Machine& m) {
    uint64_t z = (m.chance += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

Order order(const Machine& m) { return static_cast<Order>(m.seed % 3); }

unsigned number(const Machine& m, const Thread& t) { return static_cast<unsigned>(&t - m.threads.data()); }

void set_state(Machine& m, Thread& t, State state) {
    const unsigned i = number(m, t);
    t.state = state;
    const uint32_t bit = 1u << i % 32;
    m.ready[i / 32] = state == State::READY ? m.ready[i / 32] | bit : m.ready[i / 32] & ~bit;
}

// A ready lane of a warp that has one, at or after `lane` by preference, or by chance.
unsigned lane_of(Machine& m, unsigned warp, unsigned lane, bool random) {
    const uint32_t ready = m.ready[warp];
    if (random) lane = static_cast<unsigned>(chance(m) % 32);
    const uint32_t after = ready & (~0u << lane);
    return warp * 32 + static_cast<unsigned>(__builtin_ctz(after ? after : ready));
}

// The thread that goes on after the current one, or none.
Thread* next(Machine& m) {
    const unsigned warps = m.count / 32, here = m.current ? number(m, *m.current) : 0;
    const Order by = order(m);
    unsigned warp = here / 32, lane = here % 32;
    if (by == Order::INTERLEAVED || (by == Order::GREEDY && (m.ready[warp] == 0 || !m.current))) warp = static_cast<unsigned>(chance(m) % warps);
    for (unsigned i = 0; i < warps; i++, warp = (warp + 1) % warps, lane = 0) {
        if (m.ready[warp]) return &m.threads[lane_of(m, warp, lane, by != Order::FIXED)];
    }
    return nullptr;
}

const char* standing(State state) { return state == State::DONE ? "returned" : state == State::AT_BARRIER ? "at a barrier" : "in a warp collective"; }

// No thread can go on: tells where some of them stand.
[[noreturn]] void stuck(Machine& m) {
    std::fprintf(stderr, "shim: %s: no thread can go on, block %u\n", m.name, m.threads[0].here.block.x);
    unsigned told = 0, line = 0;
    State state = State::READY;
    for (unsigned i = 0; i < m.count && told < 8; i++) {
        const Thread& t = m.threads[i];
        if (t.state == state && t.where.line() == line) continue;
        state = t.state, line = t.where.line(), told++;
        std::fprintf(stderr, "  from thread %u on: %s, last at %s:%u\n", i, standing(state), t.where.file_name(), line);
    }
    fail("a barrier or a collective that not all meet");
}

// Gives the processor to the next thread that can go on; returns when this one can again.
void go_on(Machine& m) {
    Thread* const mine = m.current;
    Thread* const other = next(m);
    if (!other) stuck(m);
    if (other == mine) return;
    m.current = other;
    switch_to(mine->fiber, other->fiber);
}

// What a fiber runs: one thread of a block. It is entered anew for each block.
void body() {
    Machine& m = machine();
    acquire(&m.call);
    m.call(m.arguments);
    release(&m.arguments);
    Thread& mine = *m.current;
    mine.where = Where::current();
    set_state(m, mine, State::DONE);
    m.finished++;
    if (m.finished == m.count) leave_to(mine.fiber, m.host);
    Thread* const other = next(m);
    if (!other) stuck(m);
    m.current = other;
    leave_to(mine.fiber, other->fiber);
}

void fill_with_nan(void* memory, size_t bytes) {
    for (volatile unsigned char* p = static_cast<unsigned char*>(memory); bytes > 0; bytes--) *p++ = 0xff;
}

void run_block(Machine& m, unsigned block) {
    m.finished = m.waiting = 0;
    m.current = nullptr;
    for (unsigned i = 0; i < m.count; i++) {
        Thread& t = m.threads[i];
        t.here.thread.x = i;
        t.here.block.x = block;
        set_state(m, t, State::READY);
        enter_anew(t.fiber, body);
    }
    release(&m.call);
    m.current = next(m);
    switch_to(m.host, m.current->fiber);
    acquire(&m.arguments);
    for (const Allocation& a : m.shared) give_back(a.memory, a.bytes);
    m.shared.clear();
}

}  // namespace

Here& here() { return machine().current->here; }
unsigned lane() { return machine().current->here.thread.x % 32; }

[[noreturn]] void fail(const char* message) {
    const Machine& m = machine();
    std::fprintf(stderr, "shim: %s: %s", m.name, message);
    if (m.current) std::fprintf(stderr, " (thread %u of block %u, last seen at %s:%u)", m.current->here.thread.x, m.current->here.block.x, m.current->where.file_name(), m.current->where.line());
    std::fprintf(stderr, "\n");
    std::fflush(stderr);
    std::abort();
}

// ---- Launching ----

static const Entry*& entries() {
    static const Entry* first = nullptr;
    return first;
}

Entry::Entry(const char* name, unsigned threads, void (*call)(void**)) : name(name), threads(threads), call(call), next(entries()) { entries() = this; }

const Entry* find(const char* name) {
    for (const Entry* e = entries(); e; e = e->next) {
        if (std::strcmp(e->name, name) == 0) return e;
    }
    return nullptr;
}

void set_seed(uint64_t seed) {
    Machine& m = machine();
    m.seed = m.chance = seed;
}

void launch(const Entry& entry, unsigned grid, unsigned block, size_t shared_bytes, void** arguments) {
    const std::lock_guard lock(one_launch());
    Machine& m = machine();
    m.name = entry.name;
    m.current = nullptr;
    if (block != entry.threads) fail("launched with a block that is not the one it declares");
    if (block == 0 || block > MOST_THREADS || block % 32) fail("declares a block that is not made of whole warps");
    if (grid == 0 || grid > 0x7fffffffu) fail("launched with a grid that a GPU refuses");
    if (shared_bytes > MOST_SHARED) fail("launched with more shared memory than a block may have");
    m.count = block;
    m.call = entry.call;
    m.arguments = arguments;
    m.dynamic_bytes = shared_bytes;
    for (unsigned i = 0; i < block; i++) m.threads[i].here = {{i}, {0}, {block}, {grid}};
    // Blocks in their order, or from somewhere on and around, backwards or forwards.
    const bool in_order = order(m) == Order::FIXED, backwards = !in_order && chance(m) % 2;
    const unsigned first = in_order ? 0 : static_cast<unsigned>(chance(m) % grid);
    for (unsigned i = 0; i < grid; i++) {
        const unsigned at = static_cast<unsigned>((static_cast<uint64_t>(first) + i) % grid);
        run_block(m, backwards ? grid - 1 - at : at);
    }
    m.current = nullptr;
}

// ---- What kernels call ----

void* shared(const void* key, size_t bytes) {
    Machine& m = machine();
    size_t used = 0;
    for (const Allocation& a : m.shared) {
        if (a.key == key) return a.memory;
        used += a.key ? a.bytes : 0;
    }
    if (key && used + bytes > MOST_STATIC_SHARED) fail("has more static shared memory than a block may have");
    void* const memory = lend(bytes);
    fill_with_nan(memory, bytes);
    m.shared.push_back({key, memory, bytes});
    return memory;
}

void* dynamic_shared() { return shared(nullptr, machine().dynamic_bytes); }

void barrier(Where where) {
    Machine& m = machine();
    Thread& mine = *m.current;
    mine.where = where;
    // Two places by turns, so that who is already past a barrier tells nothing to those who are still leaving it.
    const unsigned generation = m.generation;
    release(&m.ready[generation % 2]);
    set_state(m, mine, State::AT_BARRIER);
    m.waiting++;
    if (m.waiting == m.count) {
        for (unsigned i = 0; i < m.count; i++) {
            Thread& t = m.threads[i];
            if (t.where.line() != where.line() || std::strcmp(t.where.file_name(), where.file_name()) != 0) fail("threads of a block stand at different barriers");
            set_state(m, t, State::READY);
        }
        m.waiting = 0;
        m.generation++;
    }
    if (order(m) != Order::GREEDY || mine.state != State::READY) go_on(m);
    acquire(&m.ready[generation % 2]);
}

Words collective(Meeting meet, uint32_t mask, const Words& given, unsigned choice, Where where) {
    Machine& m = machine();
    Thread& mine = *m.current;
    const unsigned own = number(m, mine) % 32;
    Thread* const warp = &mine - own;
    mine.where = where;
    if (!(mask >> own & 1)) fail("a lane calls a warp collective whose mask leaves it out");
    mine.meet = meet, mine.mask = mask, mine.choice = choice;
    for (int i = 0; i < WORDS; i++) mine.words.at[i] = given.at[i];
    set_state(m, mine, State::IN_COLLECTIVE);

    bool all = true;
    for (unsigned l = 0; l < 32; l++) {
        if (!(mask >> l & 1)) continue;
        const Thread& t = warp[l];
        if (t.state == State::DONE) fail("a warp collective names a lane that has returned");
        if (t.state != State::IN_COLLECTIVE) {
            all = false;
        } else if (t.mask != mask || t.meet != meet || t.where.line() != where.line()) {
            fail("lanes of a warp stand in different collectives");
        }
    }
    if (all) {
        Words given_by[32], got_by[32];
        const Words* inputs[32] = {};
        Words* outputs[32] = {};
        unsigned choices[32] = {};
        for (unsigned l = 0; l < 32; l++) {
            if (!(mask >> l & 1)) continue;
            given_by[l] = warp[l].words;
            inputs[l] = &given_by[l], outputs[l] = &got_by[l], choices[l] = warp[l].choice;
        }
        meet(mask, inputs, outputs, choices);
        for (unsigned l = 0; l < 32; l++) {
            if (!(mask >> l & 1)) continue;
            warp[l].words = got_by[l];
            set_state(m, warp[l], State::READY);
        }
    }
    if (order(m) != Order::GREEDY || mine.state != State::READY) go_on(m);
    return mine.words;
}

void warp_fence(bool before) {
    Machine& m = machine();
    void* const place = &m.threads[number(m, *m.current) / 32 * 32].words;
    if (before) release(place);
    else acquire(place);
}

}  // namespace shim
