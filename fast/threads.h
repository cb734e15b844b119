#pragma once
// A team of threads for work that is shared out some two hundred times a token. Beside OpenMP's
// regions: who is free takes the next task, nobody waits for a thread that has not begun, and who
// waits spins for some microseconds and then sleeps. So a token costs little more on a machine
// whose cores others use, where a thread that OpenMP waits for may not run for milliseconds.
// Docs: docs/performance.md

#include <algorithm>
#include <cstdint>

namespace rotkv::fast {

/// How many threads OpenMP and share() take, while it lives. The number belongs to the calling
/// thread: set for one operation, then put back.
class ThreadCount {
  public:
    explicit ThreadCount(int threads);
    ~ThreadCount();
    ThreadCount(const ThreadCount&) = delete;
    ThreadCount& operator=(const ThreadCount&) = delete;

  private:
    int before_;
};

/// A function of a task's number.
struct Task {
    void (*call)(const void* function, int64_t task);
    const void* function;
};

/// task(i) for i = 0 .. tasks - 1, each once, in any order, by this thread and its team: as many
/// threads as OpenMP would take. Has finished when it returns. Every calling thread has a team of
/// its own; it is started when it is first needed, and again in a process that was forked off.
/// What a task shares out itself, its thread does alone; a task that throws ends the program, as in
/// OpenMP's regions, which stand in for the team where OMP_PROC_BIND binds threads to cores.
void share(int64_t tasks, const Task& task);

template <class Function>
void share(int64_t tasks, const Function& function) {
    share(tasks,
          Task{[](const void* f, int64_t i) { (*static_cast<const Function*>(f))(i); }, &function});
}

/// How often the calling thread has shared out work, to its team or to OpenMP's threads by
/// for_each_row(): each time, threads meet.
int64_t rounds();
void count_round();

/// Fewer elements than this are not worth waking the other threads for.
inline constexpr int64_t k_parallel_from = 16384;

/// Whose threads multiply for a batch of so many tokens: the team (packed_products.h), or OpenMP's
/// (panel.h)? The batch's other work is theirs too: they are awake, and threads that still spin
/// after their own work would take processors from the others'.
bool team_multiplies(int64_t tokens);

/// function(i) for i = 0 .. tasks - 1, as share(), by whoever multiplies for so many tokens.
template <class Function>
void share_batch(int64_t tokens, int64_t tasks, const Function& function) {
    if (team_multiplies(tokens)) return share(tasks, function);
    count_round();
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks; ++i) function(i);
}

/// function(r) for rows 0 .. rows - 1, shared out where that is worth it. `of_row` is what a row
/// costs, in elements that are read, changed and written once: more than it has where each takes
/// longer. `tokens` of the batch, whose rows may be more: one for each head.
template <class Function>
void for_each_row(int64_t tokens, int64_t rows, int64_t of_row, const Function& function) {
    constexpr int64_t elements = 4096;  // of a task, at least
    if (rows * of_row < k_parallel_from || rows == 1) {
        for (int64_t r = 0; r < rows; ++r) function(r);
        return;
    }
    const int64_t together = elements / std::max<int64_t>(1, of_row) + 1;
    share_batch(tokens, (rows + together - 1) / together, [&](int64_t task) {
        const int64_t end = std::min(rows, (task + 1) * together);
        for (int64_t r = task * together; r < end; ++r) function(r);
    });
}
/// The same where each row is a token.
template <class Function>
void for_each_row(int64_t tokens, int64_t of_row, const Function& function) {
    for_each_row(tokens, tokens, of_row, function);
}

}  // namespace rotkv::fast
