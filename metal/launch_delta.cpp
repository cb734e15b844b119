// Layers that keep a state in place of cells: conv_step, delta_step.
#include "metal/operations.h"

#include <cmath>

namespace rotkv::metal {

namespace {

constexpr int64_t k_most_taps = 16;
constexpr uint32_t k_registers[] = {1, 4, 8, 16};  // of a lane, as there are kernels

uint32_t registers_for(int64_t channels) {
    for (const uint32_t registers : k_registers) {
        if (channels <= int64_t(registers * k_lanes)) return registers;
    }
    return 0;
}

// [T][Hv][2]: keep and gain.
TensorView gates_of(Commands& commands, const DeltaStepArgs& args) {
    const TensorView gates = commands.scratch(DType::f32, {args.v.n[1], args.v.n[2], 2});
    const metal_args::DeltaGates job{args.alpha.stride[2], args.beta.stride[2],
                                     uint32_t(args.v.n[1]), uint32_t(args.v.n[2])};
    commands.dispatch("delta_gates", job, {gates, args.alpha, args.beta, args.decay, args.dt},
                      by_threads(job.tokens * job.heads));
    return gates;
}

}  // namespace

Support can(const ConvStepArgs& args) {
    if (args.weight.n[3] <= k_most_taps) return {};
    return {false, "at most 16 taps, found " + std::to_string(args.weight.n[3])};
}

void run(Commands& commands, const ConvStepArgs& args) {
    if (args.src.empty()) return;
    const metal_args::ConvStep job{
        args.dst.stride[2],      args.src.stride[2],         args.weight.stride[2],
        args.state.stride[1],    args.state.stride[2],       uint32_t(args.src.n[2]),
        uint32_t(args.src.n[3]), uint32_t(args.weight.n[3]), 0};
    Grid grid = by_threads(job.channels);
    grid.groups[1] = uint32_t(args.state.n[1]);
    commands.dispatch(job.taps <= 4 ? "conv_step_4" : "conv_step_16", job,
                      {args.dst, args.src, args.weight, args.state, args.stream}, grid);
}

Support can(const DeltaStepArgs& args) {
    if (registers_for(args.v.n[3]) != 0) return {};
    return {false, "heads of at most 512 channels, found " + std::to_string(args.v.n[3])};
}

void run(Commands& commands, const DeltaStepArgs& args) {
    if (args.v.empty()) return;
    const TensorView gates = gates_of(commands, args);
    const int64_t d = args.v.n[3];
    const metal_args::DeltaStep job{rows_of(args.dst),
                                    rows_of(args.v),
                                    rows_of(args.q),
                                    rows_of(args.k),
                                    rows_of(args.state),
                                    uint32_t(args.v.n[1]),
                                    uint32_t(args.state.n[0]),
                                    uint32_t(args.v.n[2]),
                                    uint32_t(args.k.n[2]),
                                    uint32_t(d),
                                    args.key_heads == KeyHeads::grouped ? 1u : 0u,
                                    float(1.0 / std::sqrt(double(d))),
                                    0};
    Grid grid = by_simdgroups(job.row);
    grid.groups[1] = job.heads;
    grid.groups[2] = job.streams;
    commands.dispatch("delta_step_" + std::to_string(registers_for(d)), job,
                      {args.dst, args.v, args.q, args.k, args.state, args.stream, gates}, grid);
}

}  // namespace rotkv::metal
