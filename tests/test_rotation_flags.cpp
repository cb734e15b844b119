// What flags and the environment ask for.
#include "ref/error.h"
#include "tests/catch.h"
#include "tests/rotation_of.h"
#include "tools/loaded_model.h"
#include "tools/rotation_flags.h"

#include <cstdlib>
#include <string>

using namespace rotkv;
using namespace rotkv::tools;
using rotkv::test::words_of;

namespace {

// Sets a variable for the life of the object.
class Environment {
  public:
    Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
    ~Environment() { unsetenv(name_); }

  private:
    const char* name_;
};

}  // namespace

TEST_CASE("rotation_flags: a flag that says nothing is named") {
    const auto refused = [](const char* text) -> std::string {
        try {
            parse_rotation_flag("--rot-k", text);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::usage);
            return error.what();
        }
        return "accepted";
    };
    for (const char* text :
         {"", "yes", "none", "-64", "99999999999999999999", "64:", "64:-1", "64:7:32"}) {
        CHECK(refused(text) ==
              std::string("--rot-k: expected ") + rotation_choices() + ", found '" + text + "'");
    }
    for (const char* text : {"auto", "off", "on", "64", "64:7"}) {
        CHECK(refused(text) == "accepted");
    }
}

TEST_CASE("rotation_flags: the environment, as llama.cpp reads it, and its overrides") {
    const KvShape shape{
        .layers = {
            {.kv_heads = 1, .d_k = 64, .d_v = 64, .type_k = DType::q4_0, .type_v = DType::q4_0}}};
    const auto now = [&] { return decide_rotation(rotation_from_environment(), shape); };
    CHECK(words_of(now()) == "k=64 v=64");
    {
        const Environment disable("LLAMA_ATTN_ROT_DISABLE", "1");
        CHECK(words_of(now()) == "k=none v=none");
        CHECK(describe(now(), 0, Side::k) == "off (LLAMA_ATTN_ROT_DISABLE)");
        const Environment k("LLAMA_ATTN_ROT_K_OVERRIDE", "1");
        CHECK(words_of(now()) == "k=64 v=none");
        CHECK(now().reason(0, Side::k) == "LLAMA_ATTN_ROT_K_OVERRIDE");
    }
    {
        const Environment disable("LLAMA_ATTN_ROT_DISABLE", "no");  // atoi gives 0
        CHECK(words_of(now()) == "k=64 v=64");
        const Environment v("LLAMA_ATTN_ROT_V_OVERRIDE", "0");
        CHECK(words_of(now()) == "k=64 v=none");
    }
    const Environment k("LLAMA_ATTN_ROT_K_OVERRIDE", "yes");
    CHECK_THROWS_AS(rotation_from_environment(), Error);
}

TEST_CASE("rotation_flags: a side is described once for all layers that store it alike") {
    const KvLayer coarse{.kv_heads = 1, .d_k = 64, .type_k = DType::q4_0};
    const KvLayer fine{.kv_heads = 1, .d_k = 64, .type_k = DType::q8_0};
    const KvLayer none{.kv_heads = 0};
    const RotationSpec off;
    CHECK(describe_side({.layers = {fine, none, fine}}, off, Side::k) ==
          "K q8_0: rotation off (not asked for)\n");
    CHECK(describe_side({.layers = {coarse, fine, none, coarse}}, off, Side::k) ==
          "K q4_0: rotation off (not asked for), in layers 0 3\n"
          "K q8_0: rotation off (not asked for), in layer 1\n");
}
