#pragma once
// Several processes that share one run, on one machine or many (MPI). Work is cut into units that
// do not depend on each other; results reach the first process in the order of the units, so that
// it adds, prints and writes what a single process would.
// Docs: docs/15-many-machines.md

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace rotkv::tools {

/// Where this process stands among those of its run. Alone: 0 of 1.
struct Ranks {
    int rank = 0, size = 1;
    int local_rank = 0, local_size = 1;  ///< among those on this machine

    bool first() const { return rank == 0; }
};

/// Of this process. The first call joins the others if a launcher (mpirun, srun) started it;
/// without one MPI is not touched.
const Ranks& ranks();

/// Can this program's work be shared?
enum class RunAs { one_process, many };

/// Makes all but the first process silent (their stdout, and of stderr all but errors), and gives
/// each the GPU of its local rank, unless CUDA_VISIBLE_DEVICES is set. Call it first of all.
/// Throws Error(unsupported) if a launcher started several and this build has no MPI, Error(usage)
/// if the program is for one.
void join_ranks(RunAs program);

/// Where errors go: a silent process still says why it failed.
std::FILE* error_stream();

/// "rank 3: " where there are several, else nothing.
std::string rank_prefix();

/// Ends every process of the run with this exit code. The first one speaks first: others give it a
/// second to report what may be everyone's mistake. Returns where there is only one.
void end_all_ranks(int code);

/// Waits for the others, then leaves MPI.
void leave_ranks();

/// Cores for each process on this machine: no more than it is bound to, nor than its share.
int cores_per_rank();

/// The first process's number, in all of them.
int64_t from_first(int64_t value);

/// The bytes of every process in the first one, in the order of ranks; nothing in the others.
std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine);

/// Computes work(i) for all i < count, process r those with i % size = r, and hands each result to
/// take(i, result) in the first process, in the order of i. Where take answers false all stop;
/// what was computed beyond is dropped.
template <class Value>
void share(int64_t count, const std::function<std::vector<Value>(int64_t)>& work,
           const std::function<bool(int64_t, std::span<const Value>)>& take) {
    static_assert(std::is_trivially_copyable_v<Value>);
    const Ranks& all = ranks();
    for (int64_t first = 0, go_on = 1; go_on != 0 && first < count; first += all.size) {
        const int64_t mine = first + all.rank;
        const std::vector<Value> result = mine < count ? work(mine) : std::vector<Value>();
        const auto results = gather(std::as_bytes(std::span(result)));
        for (std::size_t r = 0; go_on != 0 && r < results.size(); ++r) {
            if (first + int64_t(r) >= count) break;
            std::vector<Value> one(results[r].size() / sizeof(Value));
            if (!one.empty()) std::memcpy(one.data(), results[r].data(), results[r].size());
            go_on = take(first + int64_t(r), one) ? 1 : 0;
        }
        go_on = from_first(go_on);
    }
}

}  // namespace rotkv::tools
