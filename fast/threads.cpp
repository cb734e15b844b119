// One word says how a round of work stands: its number, whether it is open, how many workers are
// in it. A worker joins an open round or stays out of it; whoever opened it takes tasks too, closes
// it when none is left, and waits only for those who joined.
//
//   state = round << 12 | workers inside << 2 | caller sleeps << 1 | open
//
// Tasks are cut into as many parts as there are threads. A thread begins with its own part, so that
// it walks through memory in one direction, as what fetches ahead of it expects; then it takes what
// is left of the others'.
#include "fast/threads.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rotkv::fast {
namespace {

constexpr uint32_t k_open = 1, k_caller_sleeps = 2, k_inside = 4, k_round = 1 << 12;
constexpr int k_most_threads = k_round / k_inside;

uint32_t inside(uint32_t state) { return state % k_round / k_inside; }

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until done() or for fifty microseconds: longer than one operation of a token takes, and
// short beside what a scheduler gives to others. Returns done().
template <class Done>
bool spin_until(Done done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    do {
        for (int i = 0; i < 64; ++i) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return done();
}

thread_local bool t_in_task = false;

class Team {
  public:
    // With as many as the system starts.
    explicit Team(int threads) : parts_(size_t(threads)) {
        try {
            for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(size_t(i)); });
        } catch (const std::system_error&) {
        }
    }
    ~Team() {
        end_ = true;
        state_ += k_round;
        state_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int threads() const { return int(parts_.size()); }  // that were asked for

    void run(int64_t tasks, const Task& task) {
        task_ = task;
        const int64_t count = int64_t(parts_.size());
        for (int64_t p = 0; p < count; ++p) {
            parts_[size_t(p)].next = tasks * p / count;
            parts_[size_t(p)].end = tasks * (p + 1) / count;
        }
        const uint32_t round = state_.load() / k_round + 1;
        state_.store(round * k_round + k_open);
        state_.notify_all();
        take_tasks(0);
        uint32_t state = state_.fetch_and(~k_open) & ~k_open;
        if (spin_until([&] { return inside(state_.load()) == 0; })) return;
        while (inside(state = state_.fetch_or(k_caller_sleeps) | k_caller_sleeps) != 0) {
            state_.wait(state);
        }
    }

  private:
    // Lines of memory that one thread writes and others read are by themselves.
    static constexpr size_t k_apart = 128;

    struct alignas(k_apart) Part {
        std::atomic<int64_t> next;  // its first task that nobody has taken
        int64_t end;
    };

    void take_tasks(size_t thread) noexcept {
        t_in_task = true;
        for (size_t p = 0; p < parts_.size(); ++p) {
            Part& part = parts_[(thread + p) % parts_.size()];
            while (part.next.load() < part.end) {
                const int64_t i = part.next.fetch_add(1);
                if (i < part.end) task_.call(task_.function, i);
            }
        }
        t_in_task = false;
    }

    void work(size_t thread) {
        uint32_t seen = 0;  // the round that this worker was in
        while (!end_) {
            uint32_t state = state_.load();
            const auto idle = [&] { return (state & k_open) == 0 || state / k_round == seen; };
            if (idle() && !spin_until([&] { return state = state_.load(), !idle() || end_; })) {
                state_.wait(state);
            }
            if (idle() || !state_.compare_exchange_strong(state, state + k_inside)) continue;
            seen = state / k_round;
            take_tasks(thread);
            state = state_.fetch_sub(k_inside);
            if (inside(state) == 1 && (state & k_caller_sleeps) != 0) state_.notify_all();
        }
    }

    alignas(k_apart) std::atomic<uint32_t> state_{0};
    std::atomic<bool> end_{false};
    alignas(k_apart) Task task_{};  // this and the parts change only while nobody is inside
    std::vector<Part> parts_;
    std::vector<std::thread> workers_;
};

// A process that was forked off has none of its parent's threads.
std::atomic<int> forks{0};

struct OwnTeam {
    std::unique_ptr<Team> team;
    int of_fork = 0;

    Team& with(int threads) {
        const int now = forks.load();
        if (team != nullptr && of_fork != now)
            (void)team.release();  // its threads cannot be joined
        if (team == nullptr || team->threads() != threads) {
            team.reset();
            team = std::make_unique<Team>(threads);
            of_fork = now;
        }
        return *team;
    }
    ~OwnTeam() {
        if (of_fork != forks.load()) (void)team.release();
    }
};

}  // namespace

namespace {
thread_local int64_t t_rounds = 0;
}
int64_t rounds() { return t_rounds; }
void count_round() { ++t_rounds; }

ThreadCount::ThreadCount(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
}
ThreadCount::~ThreadCount() { omp_set_num_threads(before_); }

void share(int64_t tasks, const Task& task) {
    const bool is_nested = t_in_task || omp_in_parallel();
    const int threads = is_nested ? 1 : std::min(omp_get_max_threads(), k_most_threads);
    if (threads == 1 || tasks <= 1) {
        for (int64_t i = 0; i < tasks; ++i) task.call(task.function, i);
        return;
    }
    count_round();
    // Where OpenMP's threads are bound to cores, so is this one, and a team of its own would be
    // bound to the same core.
    if (omp_get_proc_bind() != omp_proc_bind_false) {
#pragma omp parallel for schedule(dynamic)
        for (int64_t i = 0; i < tasks; ++i) task.call(task.function, i);
        return;
    }
#if defined(__unix__) || defined(__APPLE__)
    static const int watched = pthread_atfork(nullptr, nullptr, [] { ++forks; });
    (void)watched;
#endif
    thread_local OwnTeam own;
    own.with(threads).run(tasks, task);
}

}  // namespace rotkv::fast
