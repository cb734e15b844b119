// RoPE: y0 = x0 c - x1 s, y1 = x0 s + x1 c on each pair; channels from n_rot on are copied.
//   A thread owns one pair, or one copied channel, of one head. Must equal ref::rope bit for bit.
//   Cost: 8 bytes an element; the table's row is read once per head, from the caches.
//   q and k, turned alike, are one launch, each with blocks of its own.
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/rope.cuh"

namespace rotkv::cuda {
namespace {

// The rows of one call, and where its blocks of threads begin.
struct Turn {
    Rows dst, src;
    uint32_t rows, heads, first_block;

    Turn(const RopeArgs& args, unsigned block)
        : dst(args.dst),
          src(args.src),
          rows(uint32_t(args.src.rows())),
          heads(uint32_t(args.src.n[2])),
          first_block(block) {}
};

struct Job {
    Turn turn[k_most_turns];
    TensorView table;
    const int32_t* table_row;
    RopePairs pairs;
    uint32_t items;  // of a row
};

__global__ void __launch_bounds__(k_threads) rope_kernel(const __grid_constant__ Job job) {
    const Turn& turn = job.turn[blockIdx.x >= job.turn[1].first_block];
    const uint32_t thread = (blockIdx.x - turn.first_block) * k_threads + threadIdx.x;
    const uint32_t row = thread / job.items;
    wait_for_earlier();
    let_next_come();
    if (row >= turn.rows) return;
    const int64_t angle = job.table_row[row / turn.heads];
    const std::byte* turns = job.table.data + angle * job.table.stride[1];
    rope_item(turn.dst.row<float>(row), turn.src.row<const float>(row),
              reinterpret_cast<const float*>(turns), thread - row * job.items,
              2 * uint32_t(job.table.n[2]), job.pairs);
}

}  // namespace

void rope(std::span<const RopeArgs> calls, Stream stream) {
    const RopeArgs& args = calls.front();
    const int64_t items = args.src.n[3] - args.table.n[2];
    const auto blocks_of = [&](const RopeArgs& call) {
        return blocks_for(call.src.rows() * items, k_threads);
    };
    if (args.src.empty()) return;
    const unsigned first = blocks_of(args), second = calls.size() > 1 ? blocks_of(calls[1]) : 0;
    const Job job{{Turn(args, 0), Turn(calls.back(), first)},
                  args.table,
                  args.row.row<const int32_t>(0),
                  args.pairs,
                  uint32_t(items)};
    launch_dependent(rope_kernel, first + second, k_threads, 0, stream, job);
}

}  // namespace rotkv::cuda
