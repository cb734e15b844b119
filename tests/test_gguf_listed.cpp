// What a GGUF file may hold that no model can be computed with: it is listed, it does not hide what
// is beside it, and whoever asks for it by name is refused.
// Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "tests/catch.h"
#include "tests/gguf_bytes.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

/// What an error says that asking for tensor `name` ends with, or "" without one.
std::string refusal(ErrorCode code, const GgufFile& file, const std::string& name) {
    std::string message;
    try {
        file.find_tensor(name);
    } catch (const Error& error) {
        CHECK(error.code() == code);
        message = error.what();
    }
    try {
        file.tensor(name);
        CHECK(message.empty());
    } catch (const Error& error) {
        CHECK(error.what() == message);
    }
    return message;
}

/// "odd" of a type and extents, then "weight", two floats; both where writers put them.
std::string beside_a_weight(const std::vector<uint64_t>& extents, uint32_t type, size_t n_bytes) {
    Bytes file;
    const size_t end = n_bytes + (32 - n_bytes % 32) % 32;
    file.header(2, 0).tensor("odd", extents, type, 0).tensor("weight", {2}, 0, end).align(32);
    for (size_t i = 0; i < n_bytes; ++i) file.u8(uint8_t(i + 1));
    return file.align(32).number(1.5f).number(-2.0f);
}

void check_weight(const GgufFile& file) {
    const float* values = file.tensor("weight").view.row<const float>(0);
    CHECK(values[0] == 1.5f);
    CHECK(values[1] == -2.0f);
}

}  // namespace

TEST_CASE("gguf: a tensor without elements is listed, and is no weight", "[gguf]") {
    for (const std::vector<uint64_t>& extents : std::vector<std::vector<uint64_t>>{
             {0}, {32, 0}, {0, 3}, {2, 0, 5, 1}, {0, uint64_t{1} << 60}}) {
        parse(beside_a_weight(extents, 0, 0), [&](const GgufFile& file) {
            const GgufTensor* odd = file.find_listed("odd");
            REQUIRE(odd != nullptr);
            CHECK(odd->empty());
            CHECK(odd->n_dims == int(extents.size()));
            CHECK(odd->n[0] == int64_t(extents[0]));
            CHECK(odd->bytes == 0);
            CHECK(odd->view.empty());
            CHECK(odd->view.data == nullptr);
            CHECK(file.data(*odd).empty());
            CHECK(refusal(ErrorCode::bad_file, file, "odd") ==
                  "bad.gguf: tensor 'odd': expected a weight, found a tensor without elements");
            check_weight(file);
        });
    }
    // It has no place, so any offset that is aligned will do: behind the end, inside another one.
    for (const uint64_t offset : {uint64_t{0}, uint64_t{32}, uint64_t{1} << 40}) {
        Bytes file;
        file.header(2, 0).tensor("weight", {2}, 0, 0).tensor("odd", {0}, 0, offset).align(32);
        file.number(1.5f).number(-2.0f);
        parse(file, [&](const GgufFile& parsed) { check_weight(parsed); });
    }
    parse(Bytes().header(1, 0).tensor("odd", {0}, 8, 0), [](const GgufFile& file) {
        CHECK(file.data(file.tensors()[0]).empty());  // the file ends before data would begin
    });
}

TEST_CASE("gguf: a tensor without dimensions is one element", "[gguf]") {
    parse(beside_a_weight({}, 0, 4), [](const GgufFile& file) {
        const GgufTensor& one = file.tensor("odd");
        CHECK(one.n_dims == 0);
        CHECK(one.bytes == 4);
        CHECK(describe(one.view) == "f32 [1][1][1][1]");
        check_weight(file);
    });
}

TEST_CASE("gguf: every tensor type number is listed, weights are read", "[gguf]") {
    for (uint32_t type = 0; type < 256; ++type) {
        INFO(type);
        const bool weight = std::ranges::any_of(
            weight_types(), [&](DType known) { return uint32_t(known) == type; });
        parse(beside_a_weight({256}, type, 1024), [&](const GgufFile& file) {
            const GgufTensor* odd = file.find_listed("odd");
            REQUIRE(odd != nullptr);
            CHECK(odd->readable == weight);
            CHECK(odd->type_number == type);
            CHECK(odd->n[0] == 256);
            CHECK(refusal(ErrorCode::unsupported, file, "odd").empty() == weight);
            check_weight(file);
        });
    }
}

TEST_CASE("gguf: a tensor of a type that is not read here has bytes and no view", "[gguf]") {
    struct Row {
        uint32_t type;
        const char* words;
    };
    for (const Row& row :
         {Row{4, "type 4 (Q4_2)"}, Row{16, "type 16 (IQ2_XXS)"}, Row{21, "type 21 (IQ3_S)"},
          Row{26, "type 26 (I32)"}, Row{41, "type 41 (Q1_0)"}, Row{42, "type 42 (Q2_0)"},
          Row{43, "type 43"}, Row{105, "type 105"}, Row{0xFFFFFFFF, "type 4294967295"}}) {
        INFO(row.type);
        parse(beside_a_weight({256}, row.type, 110), [&](const GgufFile& file) {
            const GgufTensor* odd = file.find_listed("odd");
            REQUIRE(odd != nullptr);
            CHECK(describe_type(*odd) == row.words);
            CHECK(odd->bytes == 128);  // 110 are its own, but who knows: up to the next tensor
            CHECK(file.data(*odd)[109] == std::byte{110});
            CHECK(odd->view.data == nullptr);
            CHECK(refusal(ErrorCode::unsupported, file, "odd") ==
                  "bad.gguf: tensor 'odd': " + std::string(row.words) + " is not readable here");
            check_weight(file);
        });
    }
    parse(Bytes().header(1, 0).tensor("odd", {256}, 21, 0).align(32).zeros(110),
          [](const GgufFile& file) { CHECK(file.tensors()[0].bytes == 110); });  // or to the end
    parse(beside_a_weight({0}, 42, 0), [](const GgufFile& file) {
        CHECK(file.tensors()[0].bytes == 0);
        CHECK(describe_type(file.tensors()[0]) == "type 42 (Q2_0)");
    });
    parse(beside_a_weight({32}, 8, 34),
          [](const GgufFile& file) { CHECK(describe_type(file.tensor("odd")) == "q8_0"); });
}

TEST_CASE("gguf: a part of a split model is opened where a part will do", "[gguf]") {
    const std::string part =
        Bytes().header(0, 1).key("split.count", GgufType::u16).number(uint16_t{3});
    parse(
        part, [](const GgufFile& file) { CHECK(file.n_parts() == 3); }, GgufParts::taken);
    for (const uint16_t whole : {uint16_t{0}, uint16_t{1}}) {
        parse(Bytes().header(0, 1).key("split.count", GgufType::u16).number(whole),
              [](const GgufFile& file) { CHECK(file.n_parts() == 1); });
    }
    std::string message;
    try {
        parse(part, [](const GgufFile&) {});
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::unsupported);
        message = error.what();
    }
    CHECK(message ==
          "bad.gguf: one of 3 parts of a split model, which have to be merged into one file first");
}
