// Who computes a call of attention, and the list of it for people.
#include "cuda/attention_path.h"

#include "cuda/decode_team.h"
#include "cuda/decode_warpgroup.h"
#include "cuda/kernels.h"

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>

namespace rotkv::cuda {

namespace {

// Shared memory that a kernel gets without asking, less what it declares itself.
constexpr int64_t k_most_unasked = k_shared_bytes - 64;

// More rows than a product of decode.cu has columns, over blocks of codes.
KernelPlan some_rows_plan(const AttentionArgs& args, const DeviceLimits& device) {
    if (const KernelPlan plan = decode_warpgroup_plan(args, device)) return plan;
    return decode_team_plan(args, device);
}

// Tokens that share a stream can share a read of its cells, as rows of one tile. How many do, only
// the device knows; the host takes them for shared out evenly. Where a tile would have no more rows
// than a product of decode has columns, or tokens have streams of their own, each part of the cache
// is read at the speed of memory. So it is of some more rows over blocks of codes.
bool is_few(const AttentionArgs& args, const DeviceLimits& device) {
    const int64_t streams = std::max<int64_t>(1, args.k_cache.n[0]);
    const int64_t tokens = (args.q.n[1] + streams - 1) / streams;
    const int64_t rows = tokens * args.q.n[2] / std::max<int64_t>(1, args.k_cache.n[2]);
    const bool is_f16 = args.precision == Precision::f16;
    return tokens <= 1 || rows <= k_most_heads || (is_f16 && some_rows_plan(args, device));
}

KernelPlan plan_of(AttentionKind kind, const AttentionArgs& args, const DeviceLimits& device) {
    switch (kind) {
        case AttentionKind::tensor:
            if (const KernelPlan plan = some_rows_plan(args, device)) return plan;
            return decode_plan(args, 1, device);
        case AttentionKind::cluster:
            return decode_cluster_plan(args, device);
        case AttentionKind::terms:
            return decode_plan(args, 2, device);
        case AttentionKind::prefill:
            return prefill_plan(args, device);
        case AttentionKind::prefill_f32:
            return prefill_f32_plan(args, device);
        case AttentionKind::split:
            break;
    }
    return split_plan(args);
}

}  // namespace

// Few tokens are decode's (decode.cu, decode_team.cu, decode_warpgroup.cu); of more, tiles of the
// cache are expanded once for the rows of a block of threads (prefill.cu, prefill_f32.cu).
AttentionPath attention_path(const AttentionArgs& args, const DeviceLimits& device) {
    using Kind = AttentionKind;
    static constexpr Kind few_f32[] = {Kind::cluster, Kind::terms, Kind::split};
    static constexpr Kind many_f32[] = {Kind::prefill_f32, Kind::terms, Kind::split};
    static constexpr Kind few_f16[] = {Kind::cluster, Kind::tensor, Kind::prefill, Kind::split};
    static constexpr Kind many_f16[] = {Kind::prefill, Kind::prefill_f32, Kind::tensor,
                                        Kind::split};
    const bool few = is_few(args, device);
    const auto kinds = args.precision == Precision::f32
                           ? (few ? std::span<const Kind>(few_f32) : many_f32)
                           : (few ? std::span<const Kind>(few_f16) : many_f16);
    for (const Kind kind : kinds) {
        if (const KernelPlan plan = plan_of(kind, args, device)) return {kind, plan};
    }
    return {Kind::split, split_plan(args)};  // is the last of all
}

std::string attention_refusal(const AttentionArgs& args, const DeviceLimits& device) {
    const AttentionPath path = attention_path(args, device);
    const int64_t bytes = path.plan.shared_bytes;
    if (path.kind != AttentionKind::split || bytes <= k_most_unasked) return "";
    return "heads that fit in " + std::to_string(k_most_unasked) +
           " bytes of shared memory, found " + std::to_string(bytes);
}

namespace {

constexpr int64_t k_usual_cells = 4096;

// A call over memory that nobody looks at: rows lie as in a cache of `kv_heads`, on 16 bytes.
AttentionArgs example(DType type, int64_t tokens, int64_t cells, int64_t d_k, int64_t d_v,
                      Precision precision) {
    constexpr int64_t kv_heads = 8, heads = 32;
    std::byte* const somewhere = reinterpret_cast<std::byte*>(uintptr_t(1) << 20);
    const auto view = [&](DType of, std::initializer_list<int64_t> extents) {
        return rotkv::view(somewhere, of, extents);
    };
    AttentionArgs args;
    args.dst = view(DType::f32, {tokens, heads, d_v});
    args.q = view(DType::f32, {tokens, heads, d_k});
    const bool is_latent = d_k != d_v;
    args.k_cache = view(type, {1, cells, is_latent ? 1 : kv_heads, d_k});
    args.v_cache = view(type, {1, cells, is_latent ? 1 : kv_heads, d_v});
    if (is_latent) std::copy_n(args.k_cache.stride, 4, args.v_cache.stride);
    args.position = view(DType::i32, {1, cells});
    args.used = view(DType::i32, {1});
    args.q_stream = args.q_position = view(DType::i32, {tokens});
    args.precision = precision;
    return args;
}

std::string count_of(uint32_t n, const std::string& what) {
    return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

// Of caches of some types, those that take the same path together: "decode.cu, ... (f16, q8_0)".
std::string paths_of(int64_t tokens, int64_t cells, int64_t d_k, int64_t d_v, Precision precision,
                     const DeviceLimits& device) {
    std::string text, last;
    for (const DType type : {DType::f16, DType::q8_0, DType::f32}) {
        const AttentionArgs args = example(type, tokens, cells, d_k, d_v, precision);
        const std::string words = words_of(attention_path(args, device).plan);
        if (words == last) {
            text += std::string(", ") + type_info(type).name;
        } else {
            text += (last.empty() ? "" : "); ") + words + " (" + type_info(type).name;
        }
        last = words;
    }
    return text + ")";
}

}  // namespace

std::string words_of(const KernelPlan& plan) {
    return std::string(plan.kernel) + ", " + count_of(plan.warps, "warp") + ", " +
           count_of(plan.stages, "stage") + ", " +
           std::to_string((plan.shared_bytes + 1023) / 1024) + " KiB";
}

std::vector<std::string> list_attention_paths(const DeviceLimits& device) {
    std::vector<std::string> lines;
    const auto list = [&](int64_t d_k, int64_t d_v, uint32_t tokens, int64_t cells) {
        const std::string heads =
            std::to_string(d_k) + (d_k != d_v ? " / " + std::to_string(d_v) : "");
        for (const Precision precision : {Precision::f16, Precision::f32}) {
            lines.push_back("attention, heads of " + heads + ", " + count_of(tokens, "token") +
                            (cells < k_usual_cells ? " over few cells" : "") +
                            (precision == Precision::f16 ? ", f16: " : ", f32: ") +
                            paths_of(tokens, cells, d_k, d_v, precision, device));
        }
    };
    constexpr int64_t few_cells = 512;
    const std::pair<int64_t, int64_t> heads[] = {{64, 64},   {96, 96},   {128, 128},
                                                 {256, 256}, {512, 512}, {576, 512}};
    for (const auto& [d_k, d_v] : heads) {
        list(d_k, d_v, 1, few_cells);
        for (const uint32_t tokens : {1u, 4u, 512u}) list(d_k, d_v, tokens, k_usual_cells);
    }
    return lines;
}

}  // namespace rotkv::cuda
