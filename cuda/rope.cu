// RoPE: y0 = x0 c - x1 s, y1 = x0 s + x1 c on each pair; channels from n_rot on are copied.
//   A thread owns one pair, or one copied channel, of one head. Must equal ref::rope bit for bit.
//   Cost: 8 bytes an element; the table's row is read once per head, from the caches.
//   q and k, turned alike, are one launch, each with blocks of its own.
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/rope.cuh"

namespace rotkv::cuda {
namespace {

struct Job {
    TurnedRows turned[k_most_turns];
    Angles angles;
    uint32_t second_block;  // where those of the second call begin
};

__global__ void __launch_bounds__(k_threads) rope_kernel(const __grid_constant__ Job job) {
    const bool is_second = blockIdx.x >= job.second_block;
    const uint32_t block = blockIdx.x - (is_second ? job.second_block : 0);
    wait_for_earlier();
    let_next_come();
    job.turned[is_second].turn(job.angles, block * k_threads + threadIdx.x);
}

}  // namespace

void rope(std::span<const RopeArgs> calls, Stream stream) {
    const RopeArgs& args = calls.front();
    if (args.src.empty()) return;
    const auto blocks_of = [](const TurnedRows& rows) {
        return blocks_for(rows.threads(), k_threads);
    };
    Job job{{TurnedRows(args), TurnedRows(calls.back())}, Angles(args), 0};
    job.second_block = blocks_of(job.turned[0]);
    const unsigned second = calls.size() > 1 ? blocks_of(job.turned[1]) : 0;
    launch_dependent(rope_kernel, job.second_block + second, k_threads, 0, stream, job);
}

}  // namespace rotkv::cuda
