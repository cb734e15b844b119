// Attention and what joins its parts: attention, merge.
#include "metal/operations.h"

#include <algorithm>

namespace rotkv::metal {

namespace {

constexpr uint32_t k_heads = 4;           // query heads of a threadgroup
constexpr int64_t k_few = 64;             // threadgroups, below which cells are split too
constexpr int64_t k_cells_of_part = 256;  // cells, at least
constexpr int64_t k_most_parts = 16;
constexpr int64_t k_rows = 8;  // of a simdgroup, in prefill
constexpr int64_t k_widest_prefill = 256;
constexpr uint32_t k_registers[] = {2, 4, 8, 18};  // of a lane, as there are kernels

uint32_t registers_for(int64_t channels) {
    for (const uint32_t registers : k_registers) {
        if (channels <= int64_t(registers * k_lanes)) return registers;
    }
    return 0;
}

int64_t longest_row(const AttentionArgs& args) { return std::max(args.q.n[3], args.dst.n[3]); }

uint32_t heads_of_group(const AttentionArgs& args) {
    return uint32_t(args.q.n[2] / args.k_cache.n[2]);
}

// Do simdgroup matrices pay? A stream's query heads of one KV head fill a matrix.
bool is_prefill(const AttentionArgs& args) {
    const int64_t rows = args.q.n[1] * heads_of_group(args);
    return args.precision == Precision::f16 && longest_row(args) <= k_widest_prefill &&
           rows >= k_rows * args.k_cache.n[0];
}

// Of one part of the cells.
uint32_t plain_threadgroups(const AttentionArgs& args) {
    const uint32_t bands = (heads_of_group(args) + k_heads - 1) / k_heads;
    return uint32_t(args.q.n[1] * args.k_cache.n[2]) * bands;
}

uint32_t prefill_threadgroups(const AttentionArgs& args) {
    const uint32_t rows = uint32_t(args.q.n[1]) * heads_of_group(args);
    const uint32_t of_group = uint32_t(k_rows) * k_simdgroups;
    return (rows + of_group - 1) / of_group * uint32_t(args.k_cache.n[2]);
}

uint32_t threadgroups(const AttentionArgs& args) {
    return is_prefill(args) ? prefill_threadgroups(args) : plain_threadgroups(args);
}

// Parts into which the cells are split, so that few tokens fill the device too.
int64_t parts_of(const AttentionArgs& args) {
    if (threadgroups(args) >= k_few) return 1;
    return std::clamp(args.k_cache.n[1] / k_cells_of_part, int64_t(1), k_most_parts);
}

metal_args::Attention job_of(const AttentionArgs& args, const TensorView& q, int64_t parts) {
    const int64_t cells = args.k_cache.n[1];
    metal_args::Attention job{};
    job.dst = rows_of(args.dst);
    job.q = rows_of(q);
    job.k_cache = rows_of(args.k_cache);
    job.v_cache = rows_of(args.v_cache);
    job.lse_stride = args.lse.stride[2];
    job.position_stride = args.position.stride[2];
    job.position_from = args.bounds.position.from;
    job.position_to = args.bounds.position.to;
    job.distance_from = args.bounds.distance.from;
    job.distance_to = args.bounds.distance.to;
    job.window = args.window;
    job.chunked = args.chunked ? 1 : 0;
    job.scale = args.scale;
    job.softcap = args.softcap;
    job.heads = uint32_t(args.q.n[2]);
    job.kv_heads = uint32_t(args.k_cache.n[2]);
    job.k_type = uint32_t(args.k_cache.type);
    job.v_type = uint32_t(args.v_cache.type);
    job.d_k = uint32_t(args.q.n[3]);
    job.d_v = uint32_t(args.dst.n[3]);
    job.cells_of_part = uint32_t((cells + parts - 1) / parts);
    job.sinks = args.sinks.empty() ? 0 : 1;
    job.lse = args.lse.empty() ? 0 : 1;
    job.tokens = uint32_t(args.q.n[1]);
    return job;
}

// One of the kernels that take attention's tensors.
struct Kernel {
    std::string name;
    uint32_t threadgroups, floats;  // threadgroup memory
};

Kernel plain_kernel(const AttentionArgs& args) {
    const uint32_t registers = registers_for(longest_row(args));
    return {"attention_" + std::to_string(registers), plain_threadgroups(args),
            k_simdgroups * (k_heads * 2 + registers * k_lanes)};
}

// prefill.metal's Room, and which row sees which cell.
Kernel prefill_kernel(const AttentionArgs& args) {
    const uint32_t longest = uint32_t(longest_row(args));
    const uint32_t width = longest <= 64 ? 64 : longest <= 128 ? 128 : 256;
    const uint32_t cells = width == 256 ? 16 : 32, rows = uint32_t(k_rows);
    const uint32_t of_simdgroup = 2 * cells + rows * cells / 2 * 3 + rows * rows;
    return {"prefill_" + std::to_string(width), prefill_threadgroups(args),
            cells * width + k_simdgroups * of_simdgroup};
}

// Where a call's kernels write, and what they read as q.
struct Places {
    TensorView dst, lse, q;
    int64_t parts;
};

void dispatch(Commands& commands, const Kernel& kernel, const AttentionArgs& args,
              const metal_args::Attention& job, const Places& at) {
    const Grid grid{{kernel.threadgroups, uint32_t(at.parts), 1},
                    k_simdgroups * k_lanes,
                    uint32_t(kernel.floats * sizeof(float))};
    commands.dispatch(kernel.name, job,
                      {at.dst, at.lse, at.q, args.k_cache, args.v_cache, args.position, args.used,
                       args.q_stream, args.q_position, args.sinks},
                      grid);
}

// What f16 did not hold, the plain kernel computes again.
void attend(Commands& commands, const AttentionArgs& args, metal_args::Attention job,
            const Places& at) {
    if (is_prefill(args)) {
        dispatch(commands, prefill_kernel(args), args, job, at);
        job.repair = 1;
    }
    dispatch(commands, plain_kernel(args), args, job, at);
}

// The parts' outputs and logs side by side, then one of them.
void attend_in_parts(Commands& commands, const AttentionArgs& args, const TensorView& q,
                     int64_t parts) {
    const int64_t tokens = args.q.n[1], heads = args.q.n[2], d = args.dst.n[3];
    const TensorView outputs = commands.scratch(DType::f32, {parts, tokens, heads, d});
    const TensorView logs = commands.scratch(DType::f32, {parts, tokens, heads});
    metal_args::Attention job = job_of(args, q, parts);
    job.dst = rows_of(outputs);
    job.part_stride = outputs.stride[0];
    job.lse_part_stride = logs.stride[1];
    job.lse_stride = logs.stride[2];
    job.lse = 1;
    attend(commands, args, job, {outputs, logs, q, parts});
    const metal_args::JoinParts join{rows_of(args.dst),
                                     args.lse.stride[2],
                                     uint32_t(parts),
                                     uint32_t(tokens),
                                     uint32_t(heads),
                                     uint32_t(d),
                                     args.lse.empty() ? 0u : 1u,
                                     0};
    commands.dispatch("join_parts", join, {args.dst, args.lse, outputs, logs},
                      by_simdgroups(uint32_t(tokens * heads)));
}

}  // namespace

Support can(const AttentionArgs& args) {
    if (registers_for(longest_row(args)) == 0) {
        return {false, "heads of at most 576 channels, found " + std::to_string(longest_row(args))};
    }
    for (const TensorView* cache : {&args.k_cache, &args.v_cache}) {
        if (!is_cache_type_here(cache->type)) return {false, "caches of " + name_of(cache->type)};
    }
    for (const Rotation& rotation : {args.k_rotation, args.v_rotation}) {
        const Support turned = block_up_to(rotation, 32);
        if (!turned.yes) return turned;
    }
    return {};
}

void run(Commands& commands, const AttentionArgs& args) {
    if (args.dst.empty()) return;
    TensorView q = args.q;
    if (args.k_rotation.on()) {
        q = commands.scratch(DType::f32, {args.q.n[1], args.q.n[2], args.q.n[3]});
        run(commands, HadamardArgs{.dst = q, .src = args.q, .rotation = args.k_rotation});
    }
    const int64_t parts = parts_of(args);
    if (parts == 1) {
        attend(commands, args, job_of(args, q, 1), {args.dst, args.lse, q, 1});
    } else {
        attend_in_parts(commands, args, q, parts);
    }
    if (!args.v_rotation.on()) return;
    run(commands,
        HadamardArgs{
            .dst = args.dst, .src = args.dst, .rotation = args.v_rotation, .inverse = true});
}

void prefill(Commands& commands, const AttentionArgs& args) {
    dispatch(commands, prefill_kernel(args), args, job_of(args, args.q, 1),
             {args.dst, args.lse, args.q, 1});
}

Support can(const MergeArgs&) { return {}; }

void run(Commands& commands, const MergeArgs& args) {
    if (args.dst.empty()) return;
    const metal_args::Merge job{rows_of(args.dst),         rows_of(args.a),
                                rows_of(args.b),           args.lse.stride[2],
                                args.lse_a.stride[2],      args.lse_b.stride[2],
                                uint32_t(args.dst.n[2]),   uint32_t(args.dst.n[3]),
                                uint32_t(args.dst.rows()), 0};
    commands.dispatch("merge", job, {args.dst, args.lse, args.a, args.b, args.lse_a, args.lse_b},
                      by_simdgroups(job.simdgroups));
}

}  // namespace rotkv::metal
