// Which side is rotated and why: the policy, the switches, the saved form.
#include "ref/error.h"
#include "ref/rotation.h"
#include "tests/catch.h"

#include <cstdlib>
#include <string>

using namespace rotkv;

namespace {

RotationRequest asked(const char* k, const char* v) {
    RotationRequest request;
    request.k = parse_rotation(k, "--rot-k");
    request.v = parse_rotation(v, "--rot-v");
    return request;
}

std::string decided(const char* k, DType type_k, int64_t d_k, const char* v, DType type_v,
                    int64_t d_v) {
    return RotationSpec::decide(asked(k, v), type_k, d_k, type_v, d_v).serialize();
}

// Sets a variable for the life of the object.
class Environment {
  public:
    Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
    ~Environment() { unsetenv(name_); }

  private:
    const char* name_;
};

}  // namespace

TEST_CASE("rotation: the policy, side by side") {
    struct Row {
        DType k;
        int64_t d_k;
        DType v;
        int64_t d_v;
        const char* expected;
    };
    const Row rows[] = {
        {DType::q8_0, 64, DType::q8_0, 64, "k=sylvester/64 v=sylvester/64"},
        {DType::q4_0, 128, DType::f16, 128, "k=sylvester/128 v=none"},
        {DType::f16, 256, DType::q4_1, 256, "k=none v=sylvester/64"},
        {DType::q5_0, 192, DType::iq4_nl, 192, "k=sylvester/64 v=sylvester/64"},
        {DType::q5_1, 320, DType::q5_1, 576, "k=sylvester/64 v=sylvester/64"},
        {DType::q4_0, 96, DType::q4_0, 32, "k=none v=none"},
        {DType::f32, 64, DType::bf16, 64, "k=none v=none"},
    };
    for (const Row& row : rows) {
        INFO("D = " << row.d_k << ", " << row.d_v);
        CHECK(decided("auto", row.k, row.d_k, "auto", row.v, row.d_v) == row.expected);
    }
}

TEST_CASE("rotation: what a user asks for wins over the policy") {
    CHECK(decided("off", DType::q4_0, 64, "auto", DType::q4_0, 64) == "k=none v=sylvester/64");
    CHECK(decided("on", DType::f16, 128, "on", DType::f32, 128) ==
          "k=sylvester/128 v=sylvester/64");
    CHECK(decided("32", DType::q4_0, 96, "16", DType::f16, 80) == "k=sylvester/32 v=sylvester/16");
    RotationRequest request = asked("auto", "off");
    request.signs = 7;
    const RotationSpec spec = RotationSpec::decide(request, DType::q4_0, 64, DType::q4_0, 64);
    CHECK(spec.serialize() == "k=signs/64/7 v=none");
    CHECK(spec.words(Side::k) == "signs, block 64, seed 7 (policy: q4_0 is quantized, D = 64)");
    CHECK(spec.words(Side::v) == "off (--rot-v)");
}

TEST_CASE("rotation: what cannot be is refused, with who asked") {
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
    CHECK(refused("-64", 64).find("found '-64'") != std::string::npos);
    CHECK(refused("99999999999999999999", 64).find("--rot-k") == 0);
    CHECK(refused("", 64).find("found ''") != std::string::npos);
    CHECK(refused("32", 64) == "accepted");
}

TEST_CASE("rotation: the environment, as llama.cpp reads it, and its overrides") {
    const auto now = [] {
        return RotationSpec::decide(rotation_from_environment(), DType::q4_0, 64, DType::q4_0, 64);
    };
    CHECK(now().serialize() == "k=sylvester/64 v=sylvester/64");
    {
        const Environment disable("LLAMA_ATTN_ROT_DISABLE", "1");
        CHECK(now().serialize() == "k=none v=none");
        CHECK(now().words(Side::k) == "off (LLAMA_ATTN_ROT_DISABLE)");
        const Environment k("LLAMA_ATTN_ROT_K_OVERRIDE", "1");
        CHECK(now().serialize() == "k=sylvester/64 v=none");
    }
    {
        const Environment disable("LLAMA_ATTN_ROT_DISABLE", "no");  // atoi gives 0
        CHECK(now().serialize() == "k=sylvester/64 v=sylvester/64");
        const Environment v("LLAMA_ATTN_ROT_V_OVERRIDE", "0");
        CHECK(now().serialize() == "k=sylvester/64 v=none");
    }
    const Environment k("LLAMA_ATTN_ROT_K_OVERRIDE", "yes");
    CHECK_THROWS_AS(rotation_from_environment(), Error);
}

TEST_CASE("rotation: V as a view of K takes K's rotation, signs included") {
    RotationRequest request = asked("auto", "auto");
    request.signs = 3;
    const RotationSpec spec = RotationSpec::decide_shared(request, DType::q8_0, 576, 64, 512);
    CHECK(spec.serialize() == "k=signs/64/3 v=signs/64/3/64");
    const RotationSpec plain =
        RotationSpec::decide_shared(asked("auto", "auto"), DType::q8_0, 576, 64, 512);
    CHECK(RotationSpec::parse(plain.serialize()) == plain);
    CHECK_THROWS_AS(RotationSpec::decide_shared(request, DType::q8_0, 576, 32, 512), Error);
    CHECK_THROWS_AS(RotationSpec::decide_shared(asked("auto", "off"), DType::q8_0, 576, 0, 512),
                    Error);
}

TEST_CASE("rotation: the saved form comes back, and nothing else does") {
    for (const char* text : {"k=none v=none", "k=sylvester/128 v=none", "k=none v=signs/64/0",
                             "k=signs/64/18446744073709551615 v=signs/64/5/64"}) {
        CHECK(RotationSpec::parse(text).serialize() == text);
    }
    for (const char* text :
         {"", "k=none", "k=none v=", "k=sylvester v=none", "k=sylvester/48 v=none",
          "k=signs/64 v=none", "k=signs/64/-1 v=none", "k=signs/64/18446744073709551616 v=none",
          "k=none/64 v=none", "k=haar/64 v=none", "v=none k=none", "k=none v=none v=none"}) {
        INFO(text);
        CHECK_THROWS_AS(RotationSpec::parse(text), Error);
    }
    CHECK(RotationSpec::parse("k=signs/64/1 v=none") != RotationSpec::parse("k=signs/64/2 v=none"));
}
