// Operations on rows by themselves: hadamard, quantize, dequantize, rope, turn, rms_norm,
// layer_norm, scale, act_mul, add.
#include "metal/operations.h"

namespace rotkv::metal {

namespace {

constexpr int64_t k_longest_turned = 8192;  // a row of f32 in 32 KiB of threadgroup memory
constexpr uint32_t k_part = 128;  // channels of a simdgroup where they do not depend on each other

// `part` channels of a row for each simdgroup.
metal_args::RowParts parts_of(const TensorView& dst, const TensorView& src, uint32_t part) {
    const uint32_t row = uint32_t(src.n[3]), parts = (row + part - 1) / part;
    return {rows_of(dst), rows_of(src), uint32_t(src.n[1]),           uint32_t(src.n[2]),
            row,          parts,        uint32_t(src.rows()) * parts, 0};
}

// A row for each threadgroup, whose simdgroups tell each other a number.
Grid by_rows(const TensorView& src) {
    return {{uint32_t(src.rows()), 1, 1}, k_simdgroups * k_lanes, 16};
}

}  // namespace

uint32_t registers_of(const Rotation& rotation) {
    return channels_of_part(rotation.on() ? rotation.block : 1) / k_lanes;
}

Support can(const HadamardArgs& args) { return block_up_to(args.rotation, 32); }

void run(Commands& commands, const HadamardArgs& args) {
    if (args.src.empty()) return;
    const uint32_t registers = registers_of(args.rotation);
    const metal_args::Hadamard job{parts_of(args.dst, args.src, registers * k_lanes),
                                   turn_of(args.rotation), args.inverse ? 1u : 0u, 0};
    commands.dispatch("hadamard_" + name_of(args.src.type) + "_" + std::to_string(registers), job,
                      {args.dst, args.src}, by_simdgroups(job.rows.simdgroups));
}

Support can(const QuantizeArgs&) { return {}; }

void run(Commands& commands, const QuantizeArgs& args) {
    if (args.src.empty()) return;
    const metal_args::RowParts job = parts_of(args.dst, args.src, k_lanes);
    commands.dispatch("quantize_" + name_of(args.dst.type), job, {args.dst, args.src},
                      by_simdgroups(job.simdgroups));
}

Support can(const DequantizeArgs&) { return {}; }

void run(Commands& commands, const DequantizeArgs& args) {
    if (args.src.empty()) return;
    const metal_args::RowParts job = parts_of(args.dst, args.src, k_lanes);
    commands.dispatch("dequantize_" + name_of(args.src.type), job, {args.dst, args.src},
                      by_simdgroups(job.simdgroups));
}

Support can(const RopeArgs&) { return {}; }

void run(Commands& commands, const RopeArgs& args) {
    if (args.src.empty()) return;
    metal_args::Rope job{parts_of(args.dst, args.src, uint32_t(args.src.n[3])),
                         args.table.stride[1], uint32_t(args.table.n[2]),
                         args.pairs == RopePairs::neox ? 1u : 0u};
    commands.dispatch("rope", job, {args.dst, args.src, args.table, args.row},
                      by_simdgroups(job.rows.simdgroups));
}

Support can(const TurnArgs& args) {
    if (args.src.n[3] <= k_longest_turned) return {};
    return {false, "rows of more than " + std::to_string(k_longest_turned) + " channels"};
}

void run(Commands& commands, const TurnArgs& args) {
    if (args.src.empty()) return;
    const metal_args::ByMatrix job{
        parts_of(args.dst, args.src, uint32_t(args.src.n[3])), args.matrix.stride[1],
        args.matrix.stride[2], uint32_t(args.src.n[2] / args.matrix.n[1]), args.inverse ? 1u : 0u};
    Grid grid = by_rows(args.src);
    grid.memory = (uint32_t(args.src.n[3]) * uint32_t(sizeof(float)) + 15) / 16 * 16;
    commands.dispatch("turn", job, {args.dst, args.src, args.matrix}, grid);
}

Support can(const RmsNormArgs&) { return {}; }

void run(Commands& commands, const RmsNormArgs& args) {
    if (args.src.empty()) return;
    const metal_args::Norm job{parts_of(args.dst, args.src, uint32_t(args.src.n[3])), args.epsilon,
                               args.weight.empty() ? 0u : 1u};
    commands.dispatch("rms_norm", job, {args.dst, args.src, args.weight}, by_rows(args.src));
}

Support can(const LayerNormArgs&) { return {}; }

void run(Commands& commands, const LayerNormArgs& args) {
    if (args.src.empty()) return;
    const metal_args::Norm job{parts_of(args.dst, args.src, uint32_t(args.src.n[3])), args.epsilon,
                               args.weight.empty() ? 0u : 1u};
    commands.dispatch("layer_norm", job, {args.dst, args.src, args.weight}, by_rows(args.src));
}

Support can(const ScaleArgs&) { return {}; }

void run(Commands& commands, const ScaleArgs& args) {
    if (args.src.empty()) return;
    const metal_args::Scale job{parts_of(args.dst, args.src, k_part), args.scale,
                                args.row.empty() ? 0u : 1u};
    commands.dispatch("scale", job, {args.dst, args.src, args.factor, args.row},
                      by_simdgroups(job.rows.simdgroups));
}

Support can(const ActMulArgs&) { return {}; }

void run(Commands& commands, const ActMulArgs& args) {
    if (args.dst.empty()) return;
    const metal_args::Join job{parts_of(args.dst, args.gate, k_part), rows_of(args.up),
                               uint32_t(args.activation), 0};
    commands.dispatch("act_mul", job, {args.dst, args.gate, args.up},
                      by_simdgroups(job.rows.simdgroups));
}

Support can(const AddArgs&) { return {}; }

void run(Commands& commands, const AddArgs& args) {
    if (args.dst.empty()) return;
    const metal_args::Join job{parts_of(args.dst, args.a, k_part), rows_of(args.b), 0, 0};
    commands.dispatch("add", job, {args.dst, args.a, args.b}, by_simdgroups(job.rows.simdgroups));
}

}  // namespace rotkv::metal
