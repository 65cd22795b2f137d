// Runs every check that is linked in, each under several schedules: PROGRAM [schedules [check]]. The exit status is 0 if
// all hold.

#include "check.h"

#include <chrono>

namespace check {

Tally& tally() {
    static Tally it;
    return it;
}

static Check*& checks() {
    static Check* first = nullptr;
    return first;
}

Check::Check(const char* name, void (*run)(Chance&)) : name(name), run(run), next(checks()) { checks() = this; }

}  // namespace check

int main(int count, char** words) {
    const int schedules = count > 1 ? std::atoi(words[1]) : 6;
    int failed = 0, done = 0;
    for (const check::Check* c = check::checks(); c; c = c->next) {
        if (count > 2 && std::string(words[2]) != c->name) continue;
        const auto start = std::chrono::steady_clock::now();
        check::tally() = {c->name};
        for (int seed = 0; seed < schedules && check::tally().failures == 0; seed++) {
            shim::set_seed(static_cast<uint64_t>(seed));
            check::Chance chance{static_cast<uint64_t>(seed) * 7919};
            c->run(chance);
            if (check::tally().failures) std::printf("%s: FAILED under schedule %d\n", c->name, seed);
        }
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        if (check::tally().compared == 0) std::printf("%s compares nothing\n", c->name), failed++;
        failed += check::tally().failures != 0, done++;
        std::printf("  %-40s %10lld results  %6.2f s\n", c->name, check::tally().compared, seconds);
    }
    std::printf("%d checks, %d failed, %d schedules each\n", done, failed, schedules);
    return failed || !done;
}
