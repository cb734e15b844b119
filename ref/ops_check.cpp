// The shape rules of every operation, once, for all backends.
#include "ref/format.h"
#include "ref/ops_rules.h"

namespace rotkv {

namespace {

void check_one(const HadamardArgs& args) {
    const Rules rules(args.name);
    const int64_t* n = args.src.n;
    rules.float_type("src", args.src);
    rules.extents("src", args.src, {-1, -1, -1, -1});
    rules.type("dst", args.dst, args.src.type);
    rules.extents("dst", args.dst, {n[0], n[1], n[2], n[3]});
    rules.writable("dst", args.dst);
    rules.rotation("rotation", args.rotation, args.src.n[3]);
}

void check_one(const QuantizeArgs& args) {
    const Rules rules(args.name);
    const int64_t* n = args.src.n;
    rules.f32("src", args.src, {-1, -1, -1, -1});
    rules.cache_type("dst", args.dst);
    rules.extents("dst", args.dst, {n[0], n[1], n[2], n[3]});
    rules.writable("dst", args.dst);
}

void check_one(const DequantizeArgs& args) {
    const Rules rules(args.name);
    const int64_t* n = args.dst.n;
    rules.f32("dst", args.dst, {-1, -1, -1, -1});
    rules.writable("dst", args.dst);
    const TypeInfo& info = type_info(args.src.type);
    rules.holds(info.cache || info.weight, "src of a cache or weight type", describe(args.src));
    rules.extents("src", args.src, {n[0], n[1], n[2], n[3]});
}

void check_one(const RopeArgs& args) {
    const Rules rules(args.name);
    rules.f32("src", args.src, {1, -1, -1, -1});
    rules.like("dst", args.dst, args.src);
    rules.writable("dst", args.dst);
    rules.rope_table(args.table, args.src.n[3]);
    rules.i32("row", args.row, args.src.n[1]);
}

void check_one(const RmsNormArgs& args) {
    const Rules rules(args.name);
    rules.f32("src", args.src, {-1, -1, -1, -1});
    rules.like("dst", args.dst, args.src);
    rules.writable("dst", args.dst);
    if (args.weight.n[3] != 0) rules.f32("weight", args.weight, {1, 1, 1, args.src.n[3]});
}

void check_one(const LayerNormArgs& args) {
    const Rules rules(args.name);
    rules.f32("src", args.src, {-1, -1, -1, -1});
    rules.like("dst", args.dst, args.src);
    rules.writable("dst", args.dst);
    rules.f32("weight", args.weight, {1, 1, 1, args.src.n[3]});
}

void check_one(const ScaleArgs& args) {
    const Rules rules(args.name);
    rules.f32("src", args.src, {1, -1, -1, -1});
    rules.like("dst", args.dst, args.src);
    rules.writable("dst", args.dst);
    if (args.factor.n[3] == 0 && args.row.n[3] == 0) return;
    rules.f32("factor", args.factor, {1, 1, 1, -1});
    rules.holds(args.factor.n[3] > 0, "factor of one number or more", describe(args.factor));
    rules.i32("row", args.row, args.src.n[1]);
}

void check_one(const MatmulArgs& args) {
    const Rules rules(args.name);
    rules.f32("src", args.src, {1, 1, -1, -1});
    rules.weight("weight", args.weight, -1, args.src.n[3]);
    rules.f32("dst", args.dst, {1, 1, args.src.n[2], args.weight.n[2]});
    rules.writable("dst", args.dst);
}

void check_one(const TurnArgs& args) {
    const Rules rules(args.name);
    const int64_t heads = args.src.n[2], d = args.src.n[3], matrices = args.matrix.n[1];
    rules.f32("src", args.src, {1, -1, -1, -1});
    rules.like("dst", args.dst, args.src);
    rules.writable("dst", args.dst);
    rules.f32("matrix", args.matrix, {1, -1, d, d});
    rules.holds(matrices > 0 && heads % matrices == 0, "heads that are a multiple of the matrices",
                std::to_string(heads) + " and " + std::to_string(matrices));
}

// Cells that stand for rows of a format, which are d channels wide.
void check_format(const Rules& rules, const std::string& name, const FormatRows& rows,
                  const TensorView& cache, int64_t d) {
    if (rows.format == nullptr) return;
    rules.f32((name + ".cells").c_str(), rows.cells, {cache.n[0], cache.n[1], cache.n[2], d});
    rules.type(name.c_str(), cache, DType::f32);
    rules.holds(rows.codes != nullptr, name + ".codes", "none");
    const std::string refusal = rows.format->refusal(d);
    rules.holds(refusal.empty(), name + " that takes such heads", refusal);
}

void check_one(const KvStoreArgs& args) {
    const Rules rules(args.name);
    const int64_t* k = args.k.n;
    rules.f32("k", args.k, {1, -1, -1, -1});
    rules.cache_type("k_cache", args.k_cache);
    rules.extents("k_cache", args.k_cache, {-1, -1, k[2], k[3]});
    rules.writable("k_cache", args.k_cache);
    rules.rotation("k_rotation", args.k_rotation, k[3]);
    rules.i32("stream", args.stream, k[1]);
    rules.i32("cell", args.cell, k[1]);
    // k may be some channels of rows that lie without gaps, as in kv_shift.
    const int64_t row = args.k_cache.stride[2] / int64_t(sizeof(float));
    check_format(rules, "k_format", args.k_format, args.k_cache, row);
    const bool formats = args.k_format.format != nullptr || args.v_format.format != nullptr;
    if (formats) rules.i32("position", args.position, k[1]);
    // No channels: V is a view of K. No tokens: there is nothing to store, which is no mistake.
    rules.holds((args.v.n[3] == 0) == (args.v_cache.n[3] == 0),
                "v and v_cache both there or both empty", describe(args.v));
    if (args.v_cache.n[3] == 0) {
        rules.holds(args.v_format.format == nullptr, "no v_format where V is a view of K", "one");
        return;
    }
    rules.f32("v", args.v, {1, k[1], k[2], -1});
    rules.cache_type("v_cache", args.v_cache);
    rules.extents("v_cache", args.v_cache,
                  {args.k_cache.n[0], args.k_cache.n[1], k[2], args.v.n[3]});
    rules.writable("v_cache", args.v_cache);
    rules.rotation("v_rotation", args.v_rotation, args.v.n[3]);
    check_format(rules, "v_format", args.v_format, args.v_cache, args.v.n[3]);
}

void check_one(const AttentionArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.q.n[1], heads = args.q.n[2], d_k = args.q.n[3];
    const int64_t streams = args.k_cache.n[0], cells = args.k_cache.n[1];
    const int64_t kv_heads = args.k_cache.n[2];
    rules.f32("q", args.q, {1, -1, -1, -1});
    rules.f32("dst", args.dst, {1, tokens, heads, -1});
    rules.writable("dst", args.dst);
    rules.cache_type("k_cache", args.k_cache);
    rules.cache_type("v_cache", args.v_cache);
    rules.extents("k_cache", args.k_cache, {-1, -1, -1, d_k});
    rules.extents("v_cache", args.v_cache, {streams, cells, kv_heads, args.dst.n[3]});
    rules.holds(kv_heads > 0 && heads % kv_heads == 0,
                "query heads that are a multiple of the KV heads",
                std::to_string(heads) + " and " + std::to_string(kv_heads));
    rules.i32_rows("position", args.position, streams, cells);
    rules.i32("used", args.used, streams);
    rules.i32("q_stream", args.q_stream, tokens);
    rules.i32("q_position", args.q_position, tokens);
    if (!args.sinks.empty()) rules.f32("sinks", args.sinks, {1, 1, 1, heads});
    if (!args.lse.empty()) {
        rules.f32("lse", args.lse, {1, 1, tokens, heads});
        rules.writable("lse", args.lse);
    }
    rules.holds(args.window >= 0, "a window of 0 or more tokens", std::to_string(args.window));
    rules.holds(args.softcap >= 0, "a softcap of 0 or more", std::to_string(args.softcap));
    rules.range("bounds.position", args.bounds.position);
    rules.range("bounds.distance", args.bounds.distance);
    rules.rotation("k_rotation", args.k_rotation, d_k);
    rules.rotation("v_rotation", args.v_rotation, args.dst.n[3]);
}

void check_one(const MergeArgs& args) {
    const Rules rules(args.name);
    rules.f32("dst", args.dst, {1, -1, -1, -1});
    rules.writable("dst", args.dst);
    rules.f32("lse", args.lse, {1, 1, args.dst.n[1], args.dst.n[2]});
    rules.writable("lse", args.lse);
    rules.like("a", args.a, args.dst);
    rules.like("b", args.b, args.dst);
    rules.like("lse_a", args.lse_a, args.lse);
    rules.like("lse_b", args.lse_b, args.lse);
}

void check_one(const KvShiftArgs& args) {
    const Rules rules(args.name);
    rules.cache_type("k_cache", args.k_cache);
    rules.extents("k_cache", args.k_cache, {-1, -1, -1, -1});
    rules.writable("k_cache", args.k_cache);
    rules.rope_table(args.table, args.k_cache.n[3]);
    rules.i32_rows("row", args.row, args.k_cache.n[0], args.k_cache.n[1]);
    rules.rotation("k_rotation", args.k_rotation, args.k_cache.n[3]);
    check_format(rules, "k_format", args.k_format, args.k_cache, args.k_format.cells.n[3]);
    if (args.k_format.format != nullptr) {
        rules.i32_rows("position", args.position, args.k_cache.n[0], args.k_cache.n[1]);
    }
}

void check_one(const ConvStepArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.src.n[2], channels = args.src.n[3], taps = args.weight.n[3];
    rules.f32("src", args.src, {1, 1, -1, -1});
    rules.like("dst", args.dst, args.src);
    rules.writable("dst", args.dst);
    rules.f32("weight", args.weight, {1, 1, channels, -1});
    rules.holds(taps > 0, "weight of one column or more", describe(args.weight));
    rules.f32("state", args.state, {1, -1, taps - 1, channels});
    if (taps > 1) rules.writable("state", args.state);  // of one input alone there is no past
    rules.i32("stream", args.stream, tokens);
}

void check_one(const DeltaStepArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.v.n[1], heads = args.v.n[2], d = args.v.n[3];
    const int64_t key_heads = args.k.n[2];
    rules.f32("v", args.v, {1, -1, -1, -1});
    rules.like("dst", args.dst, args.v);
    rules.writable("dst", args.dst);
    rules.f32("k", args.k, {1, tokens, -1, d});
    rules.like("q", args.q, args.k);
    rules.holds(key_heads > 0 && heads % key_heads == 0,
                "value heads that are a multiple of the key heads",
                std::to_string(heads) + " and " + std::to_string(key_heads));
    rules.f32("alpha", args.alpha, {1, 1, tokens, heads});
    rules.f32("beta", args.beta, {1, 1, tokens, heads});
    rules.f32("decay", args.decay, {1, 1, 1, heads});
    rules.f32("dt", args.dt, {1, 1, 1, heads});
    rules.f32("state", args.state, {-1, heads, d, d});
    rules.writable("state", args.state);
    rules.i32("stream", args.stream, tokens);
}

void check_one(const ActMulArgs& args) {
    const Rules rules(args.name);
    rules.f32("dst", args.dst, {-1, -1, -1, -1});
    rules.writable("dst", args.dst);
    rules.like("gate", args.gate, args.dst);
    rules.like("up", args.up, args.dst);
}

void check_one(const AddArgs& args) {
    const Rules rules(args.name);
    rules.f32("dst", args.dst, {-1, -1, -1, -1});
    rules.writable("dst", args.dst);
    rules.like("a", args.a, args.dst);
    rules.like("b", args.b, args.dst);
}

void check_one(const RouteArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.logits.n[2], experts = args.logits.n[3], chosen = args.id.n[3];
    rules.f32("logits", args.logits, {1, 1, -1, -1});
    rules.i32_rows("id", args.id, tokens, -1);
    rules.writable("id", args.id);
    rules.f32("weight", args.weight, {1, 1, tokens, chosen});
    rules.writable("weight", args.weight);
    if (!args.selection_bias.empty()) {
        rules.f32("selection_bias", args.selection_bias, {1, 1, 1, experts});
    }
    if (!args.expert_scale.empty()) {
        rules.f32("expert_scale", args.expert_scale, {1, 1, 1, experts});
    }
    rules.holds(args.groups > 0 && experts % args.groups == 0,
                "groups that share out " + std::to_string(experts) + " experts",
                std::to_string(args.groups));
    rules.holds(args.groups_used > 0 && args.groups_used <= args.groups,
                "1 to " + std::to_string(args.groups) + " groups in use",
                std::to_string(args.groups_used));
    const int64_t most = experts / args.groups * args.groups_used;
    rules.holds(chosen > 0 && chosen <= most,
                "1 to " + std::to_string(most) + " experts for a token", std::to_string(chosen));
}

void check_one(const ExpertMatmulArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.src.n[1], uses = args.src.n[2];
    const int64_t experts = args.weight.n[1], rows = args.weight.n[2];
    rules.f32("src", args.src, {1, -1, -1, -1});
    rules.weight_type("weight", args.weight);
    rules.extents("weight", args.weight, {1, -1, -1, args.src.n[3]});
    rules.i32_rows("id", args.id, tokens, uses);
    rules.f32("dst", args.dst, {1, tokens, uses, rows});
    rules.writable("dst", args.dst);
    if (!args.bias.empty()) rules.f32("bias", args.bias, {1, 1, experts, rows});
    rules.holds(experts > 0 || args.id.empty(), "an expert for each id", describe(args.weight));
}

void check_one(const ExpertSumArgs& args) {
    const Rules rules(args.name);
    rules.f32("src", args.src, {1, -1, -1, -1});
    rules.f32("dst", args.dst, {1, 1, args.src.n[1], args.src.n[3]});
    rules.writable("dst", args.dst);
    rules.f32("weight", args.weight, {1, 1, args.src.n[1], args.src.n[2]});
}

void check_one(const EmbedArgs& args) {
    const Rules rules(args.name);
    rules.f32("dst", args.dst, {1, 1, -1, -1});
    rules.writable("dst", args.dst);
    rules.weight("weight", args.weight, -1, args.dst.n[3]);
    rules.i32("token", args.token, args.dst.n[2]);
}

void check_one(const NllArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.hidden.n[2];
    rules.f32("hidden", args.hidden, {1, 1, -1, -1});
    rules.weight("weight", args.weight, -1, args.hidden.n[3]);
    rules.i32("target", args.target, tokens);
    rules.i32("top", args.top, tokens);
    rules.type("nll", args.nll, DType::f64);
    rules.extents("nll", args.nll, {1, 1, 1, tokens});
    rules.holds(args.softcap >= 0, "a softcap of 0 or more", std::to_string(args.softcap));
}

void check_one(const KldArgs& args) {
    const Rules rules(args.name);
    const int64_t tokens = args.hidden_a.n[2];
    rules.f32("hidden_a", args.hidden_a, {1, 1, -1, -1});
    rules.like("hidden_b", args.hidden_b, args.hidden_a);
    rules.weight("weight", args.weight, -1, args.hidden_a.n[3]);
    rules.i32("target", args.target, tokens);
    rules.i32("top_a", args.top_a, tokens);
    rules.i32("top_b", args.top_b, tokens);
    for (const TensorView* out : {&args.kld, &args.nll_a, &args.nll_b}) {
        rules.type("kld, nll_a, nll_b", *out, DType::f64);
        rules.extents("kld, nll_a, nll_b", *out, {1, 1, 1, tokens});
    }
    rules.holds(args.softcap >= 0, "a softcap of 0 or more", std::to_string(args.softcap));
}

void check_one(const LogitsArgs& args) {
    const Rules rules(args.name);
    rules.f32("hidden", args.hidden, {1, 1, -1, -1});
    rules.weight("weight", args.weight, -1, args.hidden.n[3]);
    rules.f32("dst", args.dst, {1, 1, args.hidden.n[2], args.weight.n[2]});
    rules.writable("dst", args.dst);
    rules.holds(args.hidden.n[2] <= k_max_logit_rows,
                "at most " + std::to_string(k_max_logit_rows) + " rows",
                std::to_string(args.hidden.n[2]));
    rules.holds(args.softcap >= 0, "a softcap of 0 or more", std::to_string(args.softcap));
}

}  // namespace

void check(const Call& call) {
    std::visit([](const auto& args) { check_one(args); }, call);
}

}  // namespace rotkv
