// The cache's operations: kv_store, kv_shift.
#include "metal/operations.h"

namespace rotkv::metal {

namespace {

constexpr int64_t k_longest_row = 4096;  // channels: kv_shift keeps a row in threadgroup memory

std::string kernel_of(const char* name, DType type, uint32_t registers) {
    return name + name_of(type) + "_" + std::to_string(registers);
}

void store_side(Commands& commands, const KvStoreArgs& args, const TensorView& cache,
                const TensorView& src, const Rotation& rotation) {
    if (cache.empty() || src.empty()) return;
    const uint32_t registers = registers_of(rotation), part = registers * k_lanes;
    const uint32_t row = uint32_t(src.n[3]), parts = (row + part - 1) / part;
    const uint32_t heads = uint32_t(src.n[2]);
    const metal_args::KvStore job{rows_of(cache),
                                  rows_of(src),
                                  turn_of(rotation),
                                  heads,
                                  row,
                                  parts,
                                  uint32_t(src.rows()) * parts};
    commands.dispatch(kernel_of("kv_store_", cache.type, registers), job,
                      {cache, src, args.stream, args.cell}, by_simdgroups(job.simdgroups));
}

}  // namespace

Support can(const KvStoreArgs& args) {
    const Support k = block_up_to(args.k_rotation, 16);
    return k.yes ? block_up_to(args.v_rotation, 16) : k;
}

void run(Commands& commands, const KvStoreArgs& args) {
    store_side(commands, args, args.k_cache, args.k, args.k_rotation);
    store_side(commands, args, args.v_cache, args.v, args.v_rotation);
}

Support can(const KvShiftArgs& args) {
    if (args.k_cache.n[3] > k_longest_row) {
        return {false, "rows of at most " + std::to_string(k_longest_row) + " channels"};
    }
    return block_up_to(args.k_rotation, 16);
}

void run(Commands& commands, const KvShiftArgs& args) {
    const TensorView& cache = args.k_cache;
    if (cache.empty()) return;
    const uint32_t registers = registers_of(args.k_rotation), part = registers * k_lanes;
    const uint32_t row = uint32_t(cache.n[3]), parts = (row + part - 1) / part;
    const metal_args::KvShift job{rows_of(cache),
                                  args.table.stride[1],
                                  args.row.stride[2],
                                  turn_of(args.k_rotation),
                                  uint32_t(cache.n[1]),
                                  uint32_t(cache.n[2]),
                                  row,
                                  parts,
                                  uint32_t(args.table.n[2]),
                                  args.pairs == RopePairs::neox ? 1u : 0u};
    const Grid grid{
        {uint32_t(cache.rows()), 1, 1}, k_lanes, uint32_t(parts * part * sizeof(float))};
    commands.dispatch(kernel_of("kv_shift_", cache.type, registers), job,
                      {cache, args.table, args.row}, grid);
}

}  // namespace rotkv::metal
