// GGUF files as they should be: what the writer writes, the reader reads; values in the types that
// callers ask for; files that vanish, devices that fill up. Broken files: test_gguf_hostile.cpp.
// Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

namespace fs = std::filesystem;

/// Bytes without a pattern that a shift by one could hide behind.
std::vector<std::byte> noise(int64_t n, uint32_t seed) {
    std::mt19937 generator(seed);
    std::vector<std::byte> bytes(size_t(n), std::byte{0});
    for (std::byte& b : bytes) b = std::byte(generator() & 0xFF);
    return bytes;
}

/// What the error says that `action` ends with, or "" without one.
template <class Action>
std::string error_of(ErrorCode code, const Action& action) {
    try {
        action();
    } catch (const Error& error) {
        CHECK(error.code() == code);
        return error.what();
    }
    return "";
}

struct Named {
    const char* key;
    GgufValue value;
};

/// One value of every type, and one array of every type that has arrays.
std::vector<Named> one_of_each() {
    return {
        {"u8", uint8_t{200}},
        {"i8", int8_t{-100}},
        {"u16", uint16_t{60000}},
        {"i16", int16_t{-30000}},
        {"u32", uint32_t{4000000000}},
        {"i32", int32_t{-2000000000}},
        {"f32", 0.1f},
        {"true", true},
        {"false", false},
        {"string", "line one\nline two"},
        {"string.empty", ""},
        {"u64", uint64_t{1} << 63},
        {"i64", std::numeric_limits<int64_t>::min()},
        {"f64", 0.1},
        {"array.u8", std::vector<uint8_t>{0, 255}},
        {"array.i8", std::vector<int8_t>{-128, 127}},
        {"array.u16", std::vector<uint16_t>{0, 65535}},
        {"array.i16", std::vector<int16_t>{-32768, 32767}},
        {"array.u32", std::vector<uint32_t>{0, 4294967295}},
        {"array.i32", std::vector<int32_t>{-1, 0, 1}},
        {"array.f32", std::vector<float>{-1.5f, 1e-30f}},
        {"array.bool", std::vector<bool>{true, false, true}},
        {"array.string", std::vector<std::string_view>{"", "a", std::string_view("\0\xff", 2)}},
        {"array.u64", std::vector<uint64_t>{1, uint64_t{1} << 40}},
        {"array.i64", std::vector<int64_t>{-1, int64_t{1} << 40}},
        {"array.f64", std::vector<double>{-1e300, 1e-300}},
        {"array.empty", std::vector<std::string_view>{}},
    };
}

}  // namespace

TEST_CASE("gguf: every type of value survives writing and reading", "[gguf]") {
    const TemporaryFolder folder;
    const std::string path = folder.file("values.gguf");
    const std::vector<Named> values = one_of_each();
    GgufWriter writer;
    for (const Named& named : values) writer.add(named.key, named.value);
    writer.write(path);

    const GgufFile file = GgufFile::open(path);
    CHECK(file.version() == 3);
    CHECK(file.path() == path);
    CHECK(file.file_bytes() == fs::file_size(path));
    CHECK(file.tensors().empty());
    REQUIRE(file.metadata().size() == values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        INFO(values[i].key);
        CHECK(file.metadata()[i].key == values[i].key);
        const bool equal = file.metadata()[i].value == values[i].value;  // same type, same value
        CHECK(equal);
        CHECK(file.find(values[i].key) == &file.metadata()[i].value);
    }
    CHECK(file.find("no such key") == nullptr);
}

TEST_CASE("gguf: tensors survive writing and reading", "[gguf]") {
    struct Row {
        const char* name;
        DType type;
        std::vector<int64_t> extents;  // outermost first
        int n_dims;                    // in the file, which drops leading ones
    };
    const Row rows[] = {
        {"one element", DType::f32, {1}, 1},     {"odd", DType::f16, {7, 3}, 2},
        {"bf16", DType::bf16, {2, 3, 5}, 3},     {"four", DType::f32, {2, 3, 4, 5}, 4},
        {"inner one", DType::f32, {5, 1}, 2},    {"q4_0", DType::q4_0, {3, 64}, 2},
        {"q8_0", DType::q8_0, {1, 1, 3, 32}, 2}, {"q6_k", DType::q6_k, {2, 256}, 2},
        {"mxfp4", DType::mxfp4, {2, 2, 32}, 3},
    };
    const TemporaryFolder folder;
    const std::string path = folder.file("tensors.gguf");
    std::vector<std::vector<std::byte>> data;
    std::vector<TensorView> views;
    GgufWriter writer;
    for (const Row& row : rows) {
        int64_t n[4] = {1, 1, 1, 1};
        std::copy_backward(row.extents.begin(), row.extents.end(), n + 4);
        const int64_t bytes = n[0] * n[1] * n[2] * row_bytes(row.type, n[3]);
        data.push_back(noise(bytes, uint32_t(data.size())));
        views.push_back(view(data.back().data(), row.type, {n[0], n[1], n[2], n[3]}));
        writer.add_tensor(row.name, views.back());
    }
    writer.write(path);

    const GgufFile opened = GgufFile::open(path);
    CHECK(opened.data_offset() % opened.alignment() == 0);
    REQUIRE(opened.tensors().size() == std::size(rows));
    for (size_t i = 0; i < std::size(rows); ++i) {
        INFO(rows[i].name);
        const GgufTensor& tensor = opened.tensor(rows[i].name);
        CHECK(&tensor == &opened.tensors()[i]);
        CHECK(tensor.n_dims == rows[i].n_dims);
        CHECK(tensor.type == rows[i].type);
        CHECK(describe(tensor.view) == describe(views[i]));
        CHECK(
            std::equal(std::begin(views[i].stride), std::end(views[i].stride), tensor.view.stride));
        for (int axis = 0; axis < 4; ++axis) CHECK(tensor.n[axis] == views[i].n[3 - axis]);
        CHECK(tensor.offset % opened.alignment() == 0);
        REQUIRE(tensor.bytes == data[i].size());
        CHECK(std::memcmp(tensor.view.data, data[i].data(), data[i].size()) == 0);
    }
}

TEST_CASE("gguf: a strided tensor is written without its gaps", "[gguf]") {
    const TemporaryFolder folder;
    const std::vector<float> memory = {1, 2, 3, -1, 4, 5, 6, -1};
    TensorView every_other = view(memory.data(), DType::f32, {2, 3});
    every_other.stride[2] = 4 * int64_t(sizeof(float));
    GgufWriter writer;
    writer.add_tensor("rows", every_other);
    writer.write(folder.file("strided.gguf"));

    const GgufFile file = GgufFile::open(folder.file("strided.gguf"));
    const float* read = file.tensor("rows").view.row<const float>(0);
    CHECK(std::vector<float>(read, read + 6) == std::vector<float>{1, 2, 3, 4, 5, 6});
}

// The reader is written from the same understanding of the format as the writer. This is the
// format itself.
TEST_CASE("gguf: the bytes of a small file, one by one", "[gguf]") {
    const TemporaryFolder folder;
    const std::vector<float> data = {1.0f, 2.0f};
    GgufWriter writer;
    writer.add("key", uint32_t{0x01020304});
    writer.add("list", std::vector<std::string_view>{"ab"});
    writer.add_tensor("t", view(data.data(), DType::f32, {2, 1}));
    writer.write(folder.file("small.gguf"));

    using namespace std::string_literals;
    const std::string expected =
        "GGUF"s + "\3\0\0\0"s + "\1\0\0\0\0\0\0\0"s + "\2\0\0\0\0\0\0\0"s +  // header
        "\3\0\0\0\0\0\0\0"s + "key"s + "\4\0\0\0"s + "\4\3\2\1"s +           // u32
        "\4\0\0\0\0\0\0\0"s + "list"s + "\x9\0\0\0"s +                       // array
        "\x8\0\0\0"s + "\1\0\0\0\0\0\0\0"s + "\2\0\0\0\0\0\0\0"s + "ab"s +   //   of string
        "\1\0\0\0\0\0\0\0"s + "t"s + "\2\0\0\0"s +                           // tensor
        "\1\0\0\0\0\0\0\0"s + "\2\0\0\0\0\0\0\0"s +                          //   extents
        "\0\0\0\0"s + "\0\0\0\0\0\0\0\0"s +                                  //   type, offset
        std::string(6, '\0') +                                               // up to 128
        "\0\0\x80\x3f"s + "\0\0\0\x40"s + std::string(24, '\0');             // data
    CHECK(read_all(folder.file("small.gguf")) == expected);
}

TEST_CASE("gguf: no padding where the data is aligned without it", "[gguf]") {
    const TemporaryFolder folder;
    const std::vector<float> data(8, 3.0f);
    GgufWriter writer;
    writer.add_tensor("8 chars.", view(data.data(), DType::f32, {8}));  // the list ends at 64
    writer.write(folder.file("m.gguf"));
    const GgufFile file = GgufFile::open(folder.file("m.gguf"));
    CHECK(file.data_offset() == 64);
    CHECK(file.file_bytes() == 96);
}

TEST_CASE("gguf: values come in the type that is asked for", "[gguf]") {
    const TemporaryFolder folder;
    GgufWriter writer;
    for (const Named& named : one_of_each()) writer.add(named.key, named.value);
    writer.add("small", int64_t{7});
    writer.add("array.0 and 1", std::vector<uint32_t>{0, 1});
    writer.add("array.empty numbers", std::vector<int32_t>{});
    writer.write(folder.file("m.gguf"));
    const GgufFile file = GgufFile::open(folder.file("m.gguf"));

    CHECK(file.get_u32("u8") == 200);
    CHECK(file.get_u32("u16") == 60000);
    CHECK(file.get_u32("u32") == 4000000000);
    CHECK(file.get_u32("small") == 7);
    CHECK(file.get_f32("f32") == 0.1f);
    CHECK(file.get_bool("true"));
    CHECK_FALSE(file.get_bool("false"));
    CHECK(file.get_string("string") == "line one\nline two");
    CHECK(file.get_i32s("array.u8") == std::vector<int32_t>{0, 255});
    CHECK(file.get_i32s("array.i32") == std::vector<int32_t>{-1, 0, 1});
    CHECK(file.get_f32s("array.f32") == std::vector<float>{-1.5f, 1e-30f});
    CHECK(file.get_strings("array.string").at(1) == "a");
    CHECK(file.get_bools("array.bool") == std::vector<bool>{true, false, true});
    CHECK(file.get_bools("array.0 and 1") == std::vector<bool>{false, true});
    for (const char* key : {"array.empty", "array.empty numbers"}) {  // of every type
        INFO(key);
        CHECK(file.get_i32s(key).empty());
        CHECK(file.get_f32s(key).empty());
        CHECK(file.get_bools(key).empty());
        CHECK(file.get_strings(key).empty());
    }

    // The fallback is for keys that are absent, not for values that are wrong.
    CHECK(file.get_u32("absent", 5) == 5);
    CHECK(file.get_u32("u8", 5) == 200);
    CHECK(file.get_f32("absent", 0.5f) == 0.5f);
    CHECK(file.get_f32("f32", 0.5f) == 0.1f);
    CHECK(file.get_bool("absent", true));
    CHECK_FALSE(file.get_bool("false", true));
    CHECK(file.get_string("absent", "none") == "none");
    CHECK(file.get_string("string.empty", "none").empty());
}

TEST_CASE("gguf: a value of another type or range is an error that names it", "[gguf]") {
    const TemporaryFolder folder;
    const std::string path = folder.file("m.gguf");
    GgufWriter writer;
    for (const Named& named : one_of_each()) writer.add(named.key, named.value);
    writer.write(path);
    const GgufFile file = GgufFile::open(path);
    const auto error = [](const auto& action) { return error_of(ErrorCode::bad_file, action); };
    const std::string at = path + ": metadata key ";

    CHECK(error([&] { file.get_u32("nothing"); }) ==
          path + ": expected a metadata key 'nothing', found none");
    CHECK(error([&] { file.tensor("nothing"); }) ==
          path + ": expected a tensor 'nothing', found none");
    CHECK(error([&] { file.get_u32("i8"); }) ==
          at + "'i8': expected an integer from 0 to 4294967295, found i8 -100");
    CHECK(error([&] { file.get_u32("u64", 1); }) ==
          at + "'u64': expected an integer from 0 to 4294967295, found u64 9223372036854775808");
    CHECK(error([&] { file.get_u32("true"); }) ==
          at + "'true': expected an integer from 0 to 4294967295, found bool true");
    CHECK(error([&] { file.get_f32("f64", 1); }) == at + "'f64': expected f32, found f64 0.1");
    CHECK(error([&] { file.get_bool("u8", true); }) == at + "'u8': expected bool, found u8 200");
    CHECK(error([&] { file.get_string("array.string", ""); }) ==
          at + "'array.string': expected string, found array of 3 string");
    CHECK(error([&] { file.get_f32("string"); }) ==
          at + "'string': expected f32, found string 'line one\\x0aline two'");
    CHECK(error([&] { file.get_strings("string"); }) ==
          at + "'string': expected array of string, found string 'line one\\x0aline two'");
    CHECK(error([&] { file.get_f32s("array.f64"); }) ==
          at + "'array.f64': expected array of f32, found array of 2 f64");
    CHECK(error([&] { file.get_i32s("array.i64"); }) ==
          at + "'array.i64': expected array of signed integers of 32 bits, found 1099511627776 in "
               "place 1");
    CHECK(error([&] { file.get_bools("array.u8"); }) ==
          at + "'array.u8': expected array of bool, found 255 in place 1");
    CHECK(error([&] { file.get_bools("true"); }) ==
          at + "'true': expected array of bool, found bool true");
    for (const char* key : {"u32", "array.f64", "array.bool"}) {
        INFO(key);
        CHECK(error([&] { file.get_i32s(key); }) ==
              at + in_quotes(key) + ": expected array of signed integers of 32 bits, found " +
                  describe(*file.find(key)));
    }
    CHECK(in_quotes(std::string(200, 'x')) == "'" + std::string(80, 'x') + "...'");
}

TEST_CASE("gguf: a file keeps its values when it is moved", "[gguf]") {
    const TemporaryFolder folder;
    const std::vector<float> data(8, 3.0f);
    GgufWriter writer;
    writer.add("name", "short");
    writer.add_tensor("t", view(data.data(), DType::f32, {8}));
    writer.write(folder.file("m.gguf"));

    GgufFile first = GgufFile::open(folder.file("m.gguf"));
    GgufFile second = std::move(first);
    first = GgufFile::open(folder.file("m.gguf"));
    first = std::move(second);
    CHECK(first.get_string("name") == "short");
    CHECK(first.find_tensor("t") == &first.tensors()[0]);
    CHECK(first.tensor("t").view.row<const float>(0)[7] == 3.0f);
}

TEST_CASE("gguf: the writer refuses what no reader could accept", "[gguf]") {
    const std::vector<float> data(64, 0.0f);
    GgufWriter writer;
    writer.add("key", true);
    writer.add_tensor("t", view(data.data(), DType::f32, {64}));
    const auto refused = [&](const auto& action) {
        return !error_of(ErrorCode::bad_argument, action).empty();
    };
    CHECK(refused([&] { writer.add("key", false); }));
    CHECK(refused([&] { writer.add("", false); }));
    CHECK(refused([&] { writer.add("general.alignment", uint32_t{64}); }));
    CHECK(refused([&] { writer.add("nested", GgufArray(std::monostate())); }));
    CHECK(refused([&] { writer.add_tensor("t", view(data.data(), DType::f32, {64})); }));
    CHECK(refused([&] { writer.add_tensor("", view(data.data(), DType::f32, {64})); }));
    CHECK(refused([&] { writer.add_tensor("i", view(data.data(), DType::i32, {64})); }));
    CHECK(refused([&] { writer.add_tensor("e", view(data.data(), DType::f32, {2, 0})); }));
    TensorView cut = view(data.data(), DType::q4_0, {64});
    cut.n[3] = 33;
    CHECK(refused([&] { writer.add_tensor("c", cut); }));
}

TEST_CASE("gguf: a file that cannot be written leaves nothing behind", "[gguf]") {
    const TemporaryFolder folder;
    const std::vector<float> data(1 << 16, 0.0f);
    GgufWriter writer;
    writer.add_tensor("t", view(data.data(), DType::f32, {1 << 16}));
    const auto error = [&](const std::string& path) {
        return error_of(ErrorCode::io, [&] { writer.write(path); });
    };
    CHECK(error(folder.file("absent/m.gguf")) ==
          folder.file("absent/m.gguf") + " cannot be created: No such file or directory");
    CHECK_FALSE(error(folder.file("")).empty());
    CHECK(folder.n_files() == 0);

    writer.write(folder.file("m.gguf"));
    writer.write(folder.file("m.gguf"));  // replaces it
    CHECK(folder.n_files() == 1);

    if (!fs::exists("/dev/full")) return test::skip("there is no device that is full, /dev/full");
    CHECK(error("/dev/full") == "/dev/full cannot be written: No space left on device");
    CHECK(fs::exists("/dev/full"));
    fs::create_symlink("/dev/full", folder.file("n.gguf"));  // and a link is followed
    CHECK(error(folder.file("n.gguf")) ==
          folder.file("n.gguf") + " cannot be written: No space left on device");
    CHECK(folder.n_files() == 2);
}

TEST_CASE("gguf: what is no file is not opened", "[gguf]") {
    const TemporaryFolder folder;
    const auto error = [](ErrorCode code, const std::string& path) {
        return error_of(code, [&] { GgufFile::open(path); });
    };
    CHECK(error(ErrorCode::io, folder.file("absent")) ==
          folder.file("absent") + ": No such file or directory");
    CHECK(error(ErrorCode::io, folder.file("")) == folder.file("") + ": not a regular file");
    std::ofstream(folder.file("empty")).close();
    CHECK(error(ErrorCode::bad_file, folder.file("empty")) ==
          folder.file("empty") + ": offset 0: expected a GGUF file, found an empty file");
}

TEST_CASE("gguf: llama.cpp's own files open", "[gguf]") {
    if (test::data_dir().empty()) return test::skip("ROTKV_DATA is not set");
    const GgufFile vocabulary =
        GgufFile::open(test::data_dir() + "/vocab/ggml-vocab-llama-spm.gguf");
    CHECK(vocabulary.tensors().empty());
    CHECK(vocabulary.get_strings("tokenizer.ggml.tokens").size() == 32000);
    CHECK(vocabulary.get_f32s("tokenizer.ggml.scores").size() == 32000);
    CHECK(vocabulary.get_i32s("tokenizer.ggml.token_type").size() == 32000);

    const GgufFile model = GgufFile::open(test::data_dir() + "/golden/llama-hd64-q8_0.gguf");
    CHECK(model.get_string("general.architecture") == "llama");
    CHECK(model.get_u32("llama.vocab_size") == 270);
    CHECK(model.tensors().size() == 21);
    CHECK(model.tensor("token_embd.weight").type == DType::q8_0);
    CHECK(model.tensor("token_embd.weight").view.n[2] == 270);
}
