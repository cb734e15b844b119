#include "fast/packed_products.h"
#include "fast/threads.h"
#include "tests/catch.h"

#include <omp.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace rotkv;

namespace {

// How often each of so many tasks was done.
std::vector<int> counts(int64_t tasks, std::chrono::microseconds each = {}) {
    std::vector<std::atomic<int>> done(static_cast<size_t>(tasks));
    fast::share(tasks, [&](int64_t i) {
        if (each.count() > 0) std::this_thread::sleep_for(each);
        ++done[size_t(i)];
    });
    return {done.begin(), done.end()};
}

}  // namespace

TEST_CASE("threads: every task of every round is done once") {
    const fast::ThreadCount many(8);  // more than cores: some rounds end before all have begun
    int64_t wrong = 0;
    for (int64_t round = 0; round < 20000; ++round) {
        const int64_t tasks = round % 13;
        wrong += counts(tasks) != std::vector<int>(size_t(tasks), 1);
    }
    CHECK(wrong == 0);
}

TEST_CASE("threads: who waits for a long task sleeps and is woken") {
    const fast::ThreadCount many(4);
    for (int round = 0; round < 20; ++round) {
        CHECK(counts(5, std::chrono::microseconds(500)) == std::vector<int>(5, 1));
    }
}

TEST_CASE("threads: what a task shares out, it does itself") {
    const fast::ThreadCount many(4);
    std::atomic<int> done{0};
    for (int round = 0; round < 50; ++round) {
        fast::share(8, [&](int64_t) { fast::share(8, [&](int64_t) { ++done; }); });
    }
    CHECK(done == 50 * 64);
}

// OpenMP's threads would spin for a while after their work, beside the team that multiplies next.
TEST_CASE("threads: heads of few tokens are work for whoever multiplies for these tokens") {
    const fast::WithoutTiles without;
    const fast::ThreadCount two(2);
    const int64_t few = fast::k_strip_tokens, heads = 32, d = 64;
    std::atomic<int64_t> rows{0}, by_openmp{0};
    const auto row = [&](int64_t) {
        ++rows;
        by_openmp += omp_in_parallel();
    };
    fast::for_each_row(few, few * heads, d, row);
    CHECK(rows == few * heads);
    CHECK(by_openmp == 0);
    fast::for_each_row(few + 1, (few + 1) * heads, d, row);
    CHECK(by_openmp == (few + 1) * heads);
}

TEST_CASE("threads: two threads share out work at the same time") {
    const auto rounds = [](int* right) {
        const fast::ThreadCount many(4);
        for (int round = 0; round < 2000; ++round) *right += counts(7) == std::vector<int>(7, 1);
    };
    int right[2] = {};
    std::thread other(rounds, &right[1]);
    rounds(&right[0]);
    other.join();
    CHECK(right[0] == 2000);
    CHECK(right[1] == 2000);
}

#if defined(__unix__) || defined(__APPLE__)
TEST_CASE("threads: a process that was forked off has a team of its own") {
    if (omp_get_proc_bind() != omp_proc_bind_false) return;  // OpenMP's threads are not forked
    const fast::ThreadCount many(3);
    CHECK(counts(9) == std::vector<int>(9, 1));
    const pid_t child = fork();
    if (child == 0) _exit(counts(9) == std::vector<int>(9, 1) ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(counts(9) == std::vector<int>(9, 1));
}
#endif
