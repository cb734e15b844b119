// Products with the model's weights, and rows of them: matmul, logits, embed.
#include "metal/operations.h"

namespace rotkv::metal {

namespace {

constexpr uint32_t k_tokens = 8;  // for which a simdgroup unpacks a row of the weight once

void products(Commands& commands, const TensorView& dst, const TensorView& weight,
              const TensorView& src, float softcap) {
    if (dst.empty()) return;
    const metal_args::Matmul job{
        dst.stride[2],         weight.stride[2],   src.stride[2], uint32_t(src.n[2]),
        uint32_t(weight.n[2]), uint32_t(src.n[3]), softcap};
    Grid grid = by_simdgroups(job.out);
    grid.groups[1] = (job.tokens + k_tokens - 1) / k_tokens;
    commands.dispatch("matmul_" + name_of(weight.type), job, {dst, weight, src}, grid);
}

}  // namespace

// Nothing is rounded: f16 and bf16 allow it, and ask for no more.
Support can(const MatmulArgs&) { return {}; }

void run(Commands& commands, const MatmulArgs& args) {
    products(commands, args.dst, args.weight, args.src, 0);
}

Support can(const LogitsArgs&) { return {}; }

void run(Commands& commands, const LogitsArgs& args) {
    products(commands, args.dst, args.weight, args.hidden, args.softcap);
}

Support can(const EmbedArgs&) { return {}; }

void run(Commands& commands, const EmbedArgs& args) {
    if (args.dst.empty()) return;
    const uint32_t row = uint32_t(args.dst.n[3]), parts = (row + k_lanes - 1) / k_lanes;
    const metal_args::Embed job{
        args.dst.stride[2], args.weight.stride[2], row, parts, uint32_t(args.dst.n[2]) * parts,
        args.scale};
    commands.dispatch("embed_" + name_of(args.weight.type), job,
                      {args.dst, args.weight, args.token}, by_simdgroups(job.simdgroups));
}

}  // namespace rotkv::metal
