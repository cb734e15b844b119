// A mixture of experts: route, expert_matmul, expert_sum.
#include "metal/operations.h"

#include <algorithm>

namespace rotkv::metal {

namespace {

constexpr uint32_t k_tokens = 8;    // uses of an expert for which a row is unpacked once
constexpr uint32_t k_part = 128;    // channels of a simdgroup
constexpr int64_t k_memory = 4096;  // numbers of 8 bytes in threadgroup memory

int64_t numbers_of(const RouteArgs& args) {
    return 2 * args.logits.n[3] + args.groups + args.id.n[3];
}

// Uses sorted by expert, and their chunks.
struct Sorted {
    TensorView order, chunks;
};

Sorted sort_uses(Commands& commands, const ExpertMatmulArgs& args, uint32_t uses) {
    const uint32_t experts = uint32_t(args.weight.n[1]);
    const Sorted sorted{commands.scratch(DType::i32, {uses}),
                        commands.scratch(DType::i32, {uses / k_tokens + experts, 3})};
    const metal_args::SortUses job{args.id.stride[2], uint32_t(args.dst.n[1]),
                                   uint32_t(args.dst.n[2]), experts, 0};
    commands.dispatch("sort_uses", job, {sorted.order, sorted.chunks, args.id},
                      by_threads(experts));
    return sorted;
}

}  // namespace

Support can(const RouteArgs& args) {
    if (numbers_of(args) <= k_memory) return {};
    return {false, "threadgroup memory for 4096 numbers, found " +
                       std::to_string(numbers_of(args)) + " of experts, groups and uses"};
}

void run(Commands& commands, const RouteArgs& args) {
    if (args.logits.empty()) return;
    const metal_args::Route job{args.id.stride[2],
                                args.weight.stride[2],
                                args.logits.stride[2],
                                uint32_t(args.logits.n[3]),
                                uint32_t(args.id.n[3]),
                                uint32_t(args.groups),
                                uint32_t(args.groups_used),
                                uint32_t(args.gating),
                                args.selection_bias.empty() ? 0u : 1u,
                                args.expert_scale.empty() ? 0u : 1u,
                                args.normalise ? 1u : 0u,
                                args.scale,
                                0};
    const uint32_t bytes = uint32_t(numbers_of(args) * 8 + 15) / 16 * 16;
    commands.dispatch("route", job,
                      {args.id, args.weight, args.logits, args.selection_bias, args.expert_scale},
                      Grid{{uint32_t(args.logits.n[2]), 1, 1}, k_lanes, bytes});
}

// Nothing is rounded: f16 and bf16 allow it, and ask for no more.
Support can(const ExpertMatmulArgs&) { return {}; }

void run(Commands& commands, const ExpertMatmulArgs& args) {
    if (args.dst.empty()) return;
    const uint32_t uses = uint32_t(args.dst.n[1] * args.dst.n[2]);
    const uint32_t experts = uint32_t(args.weight.n[1]);
    const bool is_sorted = uses > experts;
    const Sorted sorted = is_sorted ? sort_uses(commands, args, uses) : Sorted{};
    const metal_args::ExpertMatmul job{args.dst.stride[1],      args.dst.stride[2],
                                       args.src.stride[1],      args.src.stride[2],
                                       args.id.stride[2],       args.weight.stride[1],
                                       args.weight.stride[2],   args.bias.stride[2],
                                       uint32_t(args.dst.n[2]), uint32_t(args.weight.n[2]),
                                       uint32_t(args.src.n[3]), args.bias.empty() ? 0u : 1u,
                                       is_sorted ? 1u : 0u,     0};
    Grid grid = by_simdgroups(job.out);
    grid.groups[1] = is_sorted ? uses / k_tokens + experts : uses;
    commands.dispatch(
        "expert_matmul_" + name_of(args.weight.type), job,
        {args.dst, args.weight, args.src, args.id, args.bias, sorted.order, sorted.chunks}, grid);
}

Support can(const ExpertSumArgs&) { return {}; }

void run(Commands& commands, const ExpertSumArgs& args) {
    if (args.dst.empty()) return;
    const uint32_t row = uint32_t(args.dst.n[3]), parts = (row + k_part - 1) / k_part;
    const metal_args::ExpertSum job{args.dst.stride[2],
                                    args.weight.stride[2],
                                    args.src.stride[1],
                                    args.src.stride[2],
                                    row,
                                    parts,
                                    uint32_t(args.dst.n[2]) * parts,
                                    uint32_t(args.src.n[2])};
    commands.dispatch("expert_sum", job, {args.dst, args.src, args.weight},
                      by_simdgroups(job.simdgroups));
}

}  // namespace rotkv::metal
