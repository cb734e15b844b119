// Models of new kinds where their random tensors would not show a mistake: by hand.
#include "tests/catch.h"
#include "tests/laws.h"
#include "tests/tiny_run.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// Rows first .. first + count of a tensor [..][width], times a factor.
void scale_rows(TinyModel& m, const std::string& tensor, int64_t first, int64_t count, float by) {
    std::vector<float>& values = m.weights.at(tensor);
    const int64_t row = m.extents.at(tensor).back();
    for (int64_t i = first * row; i < (first + count) * row; ++i) values[size_t(i)] *= by;
}

void check_on_all(const TinyModel& tiny, const std::vector<int32_t>& tokens, int32_t first = 0) {
    const std::vector<double> expected = tiny.forward(tokens, first);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        CHECK(distance(run_on(*backend, tiny, tokens, tokens.size(), first), expected) < 1e-5);
        CHECK(distance(run_on(*backend, tiny, tokens, 3, first), expected) < 1e-5);
    }
}

}  // namespace

// With sum(k^2) about as large as epsilon, x / sqrt(sum + epsilon) is far from x / max(|x|, ..).
TEST_CASE("model: keys and queries that are next to nothing keep the epsilon of their length") {
    TinyModel tiny = TinyModel::make("qwen35");
    const int64_t keys = tiny.delta.key_heads * tiny.delta.d;
    const std::vector<int32_t> tokens = some_tokens(12);
    const std::vector<double> before = tiny.forward(tokens);
    for (const int64_t l : {0, 1, 2})
        scale_rows(tiny, blk(l, "attn_qkv.weight"), 0, 2 * keys, 3e-4f);
    CHECK(distance(tiny.forward(tokens), before) > 1e-2);
    check_on_all(tiny, tokens);
}

TEST_CASE("model: llama4's chunks begin at position 8192, and its queries grow one before") {
    const std::vector<int32_t> tokens = some_tokens(14);
    for (const bool uneven : {false, true}) {
        const TinyModel tiny = TinyModel::make("llama4", uneven);
        check_on_all(tiny, tokens, 8185);
        TinyModel open = tiny, cool = tiny;
        open.window *= 2;
        cool.temperature = 0;
        const std::vector<double> expected = tiny.forward(tokens, 8185);
        CHECK(distance(open.forward(tokens, 8185), expected) > 1e-3);
        CHECK(distance(cool.forward(tokens, 8185), expected) > 1e-4);
    }
}

TEST_CASE("model: matrices of experts may be of several types, rows too short for the widest") {
    TinyModel tiny = TinyModel::make("ernie4_5-moe", false, 64);
    tiny.round(blk(1, "ffn_gate_exps.weight"), DType::q4_0);
    tiny.round(blk(1, "ffn_up_exps.weight"), DType::q5_0);
    tiny.round(blk(1, "ffn_down_exps.weight"), DType::q8_0);
    tiny.round(blk(2, "ffn_gate_exps.weight"), DType::q5_1);
    tiny.round(blk(2, "ffn_up_exps.weight"), DType::iq4_nl);
    tiny.round(blk(2, "ffn_down_exps.weight"), DType::q4_1);
    tiny.round(blk(3, "ffn_down_exps.weight"), DType::bf16);
    check_on_all(tiny, some_tokens(19));  // of the values that these types hold
}

TEST_CASE("model: a group of experts that is worth as much as another comes after it") {
    TinyModel tiny = TinyModel::make("deepseek2");
    for (int64_t l = 1; l < TinyModel::layers; ++l) {
        std::vector<float>& router = tiny.weights.at(blk(l, "ffn_gate_inp.weight"));
        std::vector<float>& bias = tiny.weights.at(blk(l, "exp_probs_b.bias"));
        std::copy_n(router.begin(), router.size() / 2, router.begin() + int64_t(router.size() / 2));
        std::copy_n(bias.begin(), 4, bias.begin() + 4);
    }
    check_on_all(tiny, some_tokens(19));  // groups 0 and 2, 1 and 3 are equal in everything
}

TEST_CASE("model: latent rows and keys of all heads are one model, heads differing by layer") {
    const TinyModel legacy = TinyModel::make("deepseek2", true);
    const std::vector<int32_t> tokens = some_tokens(19);
    TinyModel tiny = legacy;
    const TinyLatent& shape = tiny.latent;
    tiny.latent.absorbed = true;
    for (int64_t l = 0; l < TinyModel::layers; ++l) {
        TinyHeads& heads = tiny.heads[size_t(l)];
        const std::vector<float> both = tiny.weights.at(blk(l, "attn_kv_b.weight"));
        tiny.weights.erase(blk(l, "attn_kv_b.weight"));
        std::vector<float> keys, values;
        const auto row = [&](int64_t head, int64_t i) {
            return &both[size_t((head * (shape.still + shape.d_v) + i) * shape.rank)];
        };
        for (int64_t head = 0; head < heads.q; ++head) {
            for (int64_t r = 0; r < shape.rank; ++r) {
                for (int64_t i = 0; i < shape.still; ++i) keys.push_back(row(head, i)[r]);
            }
            for (int64_t i = 0; i < shape.d_v; ++i) {
                const float* v = row(head, shape.still + i);
                values.insert(values.end(), v, v + shape.rank);
            }
        }
        tiny.weights[blk(l, "attn_k_b.weight")] = keys;
        tiny.extents[blk(l, "attn_k_b.weight")] = {heads.q, shape.rank, shape.still};
        tiny.weights[blk(l, "attn_v_b.weight")] = values;
        tiny.extents[blk(l, "attn_v_b.weight")] = {heads.q, shape.d_v, shape.rank};
        heads.kv = 1;
        heads.d = shape.rank + shape.turning;
        heads.d_v = shape.rank;
    }
    CHECK(distance(tiny.forward(tokens), legacy.forward(tokens)) < 1e-12);
    check_on_all(legacy, tokens);
    check_on_all(tiny, tokens);
}

// sigmoid(100) is 1 in f32.
TEST_CASE("model: queries whose gates stand open attend as if they had none") {
    for (const char* name : {"qwen3next", "qwen35", "qwen35moe"}) {
        TinyModel gated = TinyModel::make(name), plain = gated;
        plain.query_gate = false;
        const TinyHeads& heads = gated.heads[3];
        std::vector<float> bias, queries;
        const std::vector<float>& both = gated.weights.at(blk(3, "attn_q.weight"));
        for (int64_t h = 0; h < heads.q; ++h) {
            bias.insert(bias.end(), size_t(heads.d), 0.0f);
            bias.insert(bias.end(), size_t(heads.d_v), 100.0f);
            const int64_t row = h * (heads.d + heads.d_v);
            queries.insert(queries.end(), both.begin() + row * gated.width,
                           both.begin() + (row + heads.d) * gated.width);
            scale_rows(gated, blk(3, "attn_q.weight"), row + heads.d, heads.d_v, 0);
        }
        gated.weights[blk(3, "attn_q.bias")] = bias;
        gated.extents[blk(3, "attn_q.bias")] = {int64_t(bias.size())};
        plain.weights[blk(3, "attn_q.weight")] = queries;
        const std::vector<int32_t> tokens = some_tokens(12);
        INFO(name);
        CHECK(distance(gated.forward(tokens), plain.forward(tokens)) < 1e-12);
        check_on_all(gated, tokens);
    }
}
