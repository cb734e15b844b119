#include "tools/ranks.h"

#include "ref/error.h"

#ifdef ROTKV_HAS_MPI
#define OMPI_SKIP_MPICXX 1  // the C interface is all that is used
#include <mpi.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace rotkv::tools {

namespace {

std::FILE* g_errors = stderr;

int number_of(const char* variable) {
    const char* text = std::getenv(variable);
    return text == nullptr ? 0 : std::atoi(text);
}

// How many processes the launcher says it has started; 0: there is none. Open MPI; MPICH, Intel MPI
// and srun --mpi=pmi2; srun --mpi=pmix, which names the job's size only in Slurm's words.
int launched() {
    const int of_pmix = std::getenv("PMIX_RANK") != nullptr ? number_of("SLURM_NTASKS") : 0;
    return std::max({number_of("OMPI_COMM_WORLD_SIZE"), number_of("PMI_SIZE"), of_pmix});
}

#ifdef ROTKV_HAS_MPI

Ranks join() {
    Ranks all;
    MPI_Init(nullptr, nullptr);
    MPI_Comm_rank(MPI_COMM_WORLD, &all.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &all.size);
    MPI_Comm local;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
    MPI_Comm_rank(local, &all.local_rank);
    MPI_Comm_size(local, &all.local_size);
    MPI_Comm_free(&local);
    return all;
}

void leave() { MPI_Finalize(); }
void abort_all(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

// Of any length: counts of MPI are ints.
void send_to_first(std::span<const std::byte> bytes) {
    uint64_t left = bytes.size();
    MPI_Send(&left, 1, MPI_UINT64_T, 0, 0, MPI_COMM_WORLD);
    for (constexpr std::size_t k_most = 1 << 30; !bytes.empty();) {
        const std::size_t n = std::min(k_most, bytes.size());
        MPI_Send(bytes.data(), int(n), MPI_BYTE, 0, 0, MPI_COMM_WORLD);
        bytes = bytes.subspan(n);
    }
}

std::vector<std::byte> receive_from(int rank) {
    uint64_t size = 0;
    MPI_Recv(&size, 1, MPI_UINT64_T, rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    std::vector<std::byte> bytes(size);
    for (std::size_t done = 0, n; done < bytes.size(); done += n) {
        n = std::min<std::size_t>(1 << 30, bytes.size() - done);
        MPI_Recv(bytes.data() + done, int(n), MPI_BYTE, rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    return bytes;
}

void broadcast(int64_t& value) { MPI_Bcast(&value, 1, MPI_INT64_T, 0, MPI_COMM_WORLD); }

#else

Ranks join() { return {}; }
void leave() {}
void abort_all(int) {}
void send_to_first(std::span<const std::byte>) {}
std::vector<std::byte> receive_from(int) { return {}; }
void broadcast(int64_t&) {}

#endif

// Devices as the driver lists them: asking CUDA would settle the choice.
int gpus_of_machine() {
    int count = 0;
    std::error_code none;
    while (std::filesystem::exists("/dev/nvidia" + std::to_string(count), none)) ++count;
    return count;
}

void be_silent() {
    const int errors = dup(STDERR_FILENO);
    g_errors = errors < 0 ? stderr : fdopen(errors, "w");
    if (std::freopen("/dev/null", "w", stdout) == nullptr ||
        std::freopen("/dev/null", "w", stderr) == nullptr) {
        throw Error(ErrorCode::io, "/dev/null cannot be opened");
    }
}

}  // namespace

const Ranks& ranks() {
    static const Ranks all = launched() > 0 ? join() : Ranks{};
    return all;
}

void join_ranks(RunAs program) {
    const Ranks& all = ranks();
    if (all.size < launched()) {
        throw Error(ErrorCode::unsupported,
                    "started as " + std::to_string(launched()) + " processes that do not find " +
                        "each other: built without MPI, or with another one than the launcher's");
    }
    if (all.size == 1) return;
    if (program == RunAs::one_process) {
        throw Error(ErrorCode::usage, "started as " + std::to_string(all.size) +
                                          " processes, but this program runs as one");
    }
    if (!all.first()) be_silent();
    const int gpus = gpus_of_machine();
    if (gpus > 0) setenv("CUDA_VISIBLE_DEVICES", std::to_string(all.local_rank % gpus).c_str(), 0);
}

std::FILE* error_stream() { return g_errors; }

std::string rank_prefix() {
    return ranks().size == 1 ? "" : "rank " + std::to_string(ranks().rank) + ": ";
}

void end_all_ranks(int code) {
    if (ranks().size == 1) return;
    if (!ranks().first()) std::this_thread::sleep_for(std::chrono::seconds(1));
    std::fflush(g_errors);
    abort_all(code);
}

void leave_ranks() {
    if (launched() > 0) leave();
}

int cores_per_rank() {
    const int machine = std::max(1, int(std::thread::hardware_concurrency()));
    int mine = machine;
#ifdef __linux__
    cpu_set_t bound;  // mpirun binds a process to some of the cores
    if (sched_getaffinity(0, sizeof bound, &bound) == 0) mine = CPU_COUNT(&bound);
#endif
    return std::max(1, std::min(mine, machine / ranks().local_size));
}

int64_t from_first(int64_t value) {
    if (ranks().size > 1) broadcast(value);
    return value;
}

std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    const Ranks& all = ranks();
    if (!all.first()) {
        send_to_first(mine);
        return {};
    }
    std::vector<std::vector<std::byte>> result;
    result.emplace_back(mine.begin(), mine.end());
    for (int r = 1; r < all.size; ++r) result.push_back(receive_from(r));
    return result;
}

}  // namespace rotkv::tools
