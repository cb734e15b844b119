// Which side is rotated and why: the policy, and what is asked for instead.
#include "ref/error.h"
#include "ref/rotation_policy.h"
#include "tests/catch.h"
#include "tests/rotation_of.h"

#include <string>

using namespace rotkv;
using rotkv::test::words_of;

namespace {

RotationRequest asked(const char* k, const char* v) {
    return {.k = parse_request(k, "--rot-k").value(), .v = parse_request(v, "--rot-v").value()};
}

KvLayer layer_of(DType type_k, int64_t d_k, DType type_v, int64_t d_v) {
    return {.kv_heads = 1, .d_k = d_k, .d_v = d_v, .type_k = type_k, .type_v = type_v};
}

std::string decided(const char* k, DType type_k, int64_t d_k, const char* v, DType type_v,
                    int64_t d_v) {
    return words_of(decide_rotation(asked(k, v), {.layers = {layer_of(type_k, d_k, type_v, d_v)}}));
}

// K of 576 channels, V its channels first .. first + 512.
KvShape latent(int64_t first) {
    KvLayer layer = layer_of(DType::q8_0, 576, DType::q8_0, 512);
    layer.v_in_k = true;
    layer.v_first = first;
    return {.layers = {layer}};
}

}  // namespace

TEST_CASE("rotation_policy: llama.cpp's rule, side by side") {
    struct Row {
        DType k;
        int64_t d_k;
        DType v;
        int64_t d_v;
        const char* expected;
    };
    const Row rows[] = {
        {DType::q8_0, 64, DType::q8_0, 64, "k=64 v=64"},
        {DType::q4_0, 128, DType::f16, 128, "k=128 v=none"},
        {DType::f16, 256, DType::q4_1, 256, "k=none v=64"},
        {DType::q5_0, 192, DType::iq4_nl, 192, "k=64 v=64"},
        {DType::q5_1, 320, DType::q5_1, 576, "k=64 v=64"},
        {DType::q4_0, 96, DType::q4_0, 32, "k=none v=none"},
        {DType::f32, 64, DType::bf16, 64, "k=none v=none"},
    };
    for (const Row& row : rows) {
        INFO("D = " << row.d_k << ", " << row.d_v);
        CHECK(decided("auto", row.k, row.d_k, "auto", row.v, row.d_v) == row.expected);
    }
}

TEST_CASE("rotation_policy: what a user asks for wins over it") {
    CHECK(decided("off", DType::q4_0, 64, "auto", DType::q4_0, 64) == "k=none v=64");
    CHECK(decided("on", DType::f16, 128, "on", DType::f32, 128) == "k=128 v=64");
    CHECK(decided("32", DType::q4_0, 96, "16", DType::f16, 80) == "k=32 v=16");
    CHECK(decided("off", DType::q4_0, 64, "32:7", DType::f16, 64) == "k=none v=32:7");
    RotationRequest request = asked("auto", "off");
    request.signs = 7;
    const KvShape shape{.layers = {layer_of(DType::q4_0, 64, DType::q4_0, 64)}};
    const RotationSpec spec = decide_rotation(request, shape);
    CHECK(words_of(spec) == "k=64:7 v=none");
    CHECK(describe(spec, 0, Side::k) ==
          "signs, block 64, seed 7 (policy: q4_0 is quantized, D = 64)");
    CHECK(describe(spec, 0, Side::v) == "off (--rot-v)");
    request = asked("32:5", "32");  // a value that names its seed keeps it
    request.signs = 7;
    CHECK(words_of(decide_rotation(request, shape)) == "k=32:5 v=32:7");
}

TEST_CASE("rotation_policy: every layer by its own types and head sizes") {
    KvShape shape{.layers = {layer_of(DType::q8_0, 256, DType::q4_0, 256),
                             layer_of(DType::q8_0, 512, DType::q4_0, 512),
                             {},
                             layer_of(DType::f16, 512, DType::q4_0, 96)}};
    const auto words = [&](const RotationSpec& spec) {
        std::string all;
        for (int64_t l = 0; l < shape.n_layers(); ++l) {
            all += rotation_name(spec.at(l, Side::k)) + " " + rotation_name(spec.at(l, Side::v)) +
                   (l + 1 < shape.n_layers() ? ", " : "");
        }
        return all;
    };
    const RotationSpec spec = decide_rotation({}, shape);
    CHECK(words(spec) == "256 64, 512 64, none none, none none");
    CHECK(spec.reason(0, Side::k) == "policy: q8_0 is quantized, D = 256");
    CHECK(spec.reason(2, Side::k) == "no cache");
    CHECK(spec.reason(3, Side::k) == "policy: f16 is not quantized");
    CHECK(spec.reason(3, Side::v) == "policy: D = 96 is no multiple of 64");
    CHECK(words(decide_rotation(asked("32:5", "off"), shape)) ==
          "32:5 none, 32:5 none, none none, 32:5 none");
    CHECK_THROWS_AS(decide_rotation(asked("auto", "on"), shape), Error);  // 96
    shape.layers.resize(2);
    CHECK(decide_rotation({}, shape).entries() == 2);
    shape.layers[1] = shape.layers[0];
    CHECK(decide_rotation({}, shape).entries() == 1);
}

TEST_CASE("rotation_policy: what cannot be is refused, with who asked") {
    const auto refused = [](const char* k, int64_t d) -> std::string {
        try {
            decided(k, DType::q4_0, d, "off", DType::f16, d);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::usage);
            return error.what();
        }
        return "accepted";
    };
    CHECK(refused("on", 96).find("--rot-k: 'on' needs") == 0);
    CHECK(refused("64", 96).find("power of two that divides D = 96, found 64") !=
          std::string::npos);
    CHECK(refused("24", 96).find("found 24") != std::string::npos);
    CHECK(refused("0", 64).find("found 0") != std::string::npos);
    CHECK(refused("0:7", 64).find("found 0") != std::string::npos);
    CHECK(refused("32", 64) == "accepted");
    for (const char* text : {"yes", "none", "64:7:32", "64:7:"}) {
        CHECK(!parse_request(text, "--rot-k").has_value());
    }
}

TEST_CASE("rotation_policy: a latent row stays as it is, unless somebody asks") {
    const auto words = [](const char* k, const char* v) {
        return words_of(decide_rotation(asked(k, v), latent(0)));
    };
    CHECK(words("auto", "auto") == "k=none v=none");
    CHECK(words("auto", "off") == "k=none v=none");
    CHECK(words("on", "auto") == "k=64 v=64");
    CHECK(words("on", "on") == "k=64 v=64");
    CHECK(words("64", "on") == "k=64 v=64");
    CHECK(words("32", "32") == "k=32 v=32");
    const RotationSpec spec = decide_rotation({}, latent(0));
    CHECK(describe(spec, 0, Side::k) == "off (policy: a latent row, as llama.cpp leaves it)");
    CHECK(describe(spec, 0, Side::v) ==
          "off (V is a view of K; policy: a latent row, as llama.cpp leaves it)");
    // 'on' takes 64 where a larger power of two divides the row.
    KvShape wide = latent(0);
    wide.layers[0].d_k = 512 + 128;
    CHECK(words_of(decide_rotation(asked("on", "auto"), wide)) == "k=64 v=64");
    KvShape plain = latent(0);
    plain.layers[0].type_k = plain.layers[0].type_v = DType::f16;
    CHECK(decide_rotation({}, plain).reason(0, Side::k) == "policy: f16 is not quantized");
}

TEST_CASE("rotation_policy: V as a view of K has K's rotation, signs included") {
    RotationRequest request = asked("on", "auto");
    CHECK(words_of(decide_rotation(request, latent(64))) == "k=64 v=64");
    request.signs = 3;
    CHECK(words_of(decide_rotation(request, latent(64))) == "k=64:3 v=64:3:64");
    CHECK(words_of(decide_rotation(asked("64:3", "64:3"), latent(64))) == "k=64:3 v=64:3:64");
    CHECK(words_of(decide_rotation(asked("32", "32"), latent(32))) == "k=32 v=32");
    const auto refused = [](const char* k, const char* v, const KvShape& shape) -> std::string {
        try {
            decide_rotation(asked(k, v), shape);
        } catch (const Error& error) {
            return error.what();
        }
        return "accepted";
    };
    CHECK(refused("on", "auto", latent(32)) ==
          "--rot-k: V is K's channels 32 to 543 in this model, expected whole blocks of 64");
    CHECK(refused("on", "off", latent(0)) ==
          "--rot-v: V is a part of K's rows in this model and takes K's rotation, 64 (--rot-k)");
    CHECK(refused("64", "32", latent(0)).find("takes K's rotation, 64") != std::string::npos);
    CHECK(refused("auto", "on", latent(0)).find("rotation, none (policy: a latent row") !=
          std::string::npos);
    KvShape mixed = latent(0);
    mixed.layers[0].type_v = DType::f16;
    CHECK(refused("off", "off", mixed) ==
          "V is a part of K's rows in this model (latent attention): expected one cache type for "
          "both, found two");
}

TEST_CASE("rotation_policy: signs that nothing takes are refused") {
    RotationRequest request;
    request.signs = 3;
    const KvShape odd{.layers = {layer_of(DType::q4_0, 96, DType::f16, 96)}};
    CHECK_THROWS_WITH(decide_rotation(request, odd),
                      "signs: expected a rotated side that takes them, found K off (policy: D = 96 "
                      "is no multiple of 64), V off (policy: f16 is not quantized)");
    KvShape hybrid = latent(0);
    hybrid.layers.insert(hybrid.layers.begin(), KvLayer{});
    CHECK_THROWS_WITH(decide_rotation(request, hybrid),
                      "signs: expected a rotated side that takes them, found K off (policy: a "
                      "latent row, as llama.cpp leaves it), V off (V is a view of K; policy: a "
                      "latent row, as llama.cpp leaves it)");
    hybrid.layers.push_back(layer_of(DType::q4_0, 64, DType::q4_0, 64));
    CHECK(decide_rotation(request, hybrid).at(2, Side::k).seed == 3);
}
