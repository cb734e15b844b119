// GGUF files as they should not be. Every row of the tables is a small file put together by hand
// with one thing wrong, and a part of the message that must come of it; then a good file is cut at
// every length and damaged at every byte. Worth most under address and undefined sanitizers.
// Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "tests/catch.h"
#include "tests/gguf_bytes.h"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr uint64_t k_huge = ~uint64_t{0};

/// Touches all that a parsed file hands out.
uint64_t use_everything(const GgufFile& file) {
    uint64_t sum = 0;
    for (const GgufEntry& entry : file.metadata()) {
        sum += entry.key.size() + describe(entry.value).size();
    }
    for (const GgufTensor& tensor : file.tensors()) {
        const std::span<const std::byte> data = file.data(tensor);
        CHECK(data.size() == tensor.bytes);
        if (tensor.readable) CHECK(uint64_t(span_bytes(tensor.view)) == tensor.bytes);
        for (const std::byte b : data) sum += uint64_t(b);
    }
    return sum;
}

constexpr ErrorCode bad_file = ErrorCode::bad_file, unsupported = ErrorCode::unsupported;

struct HostileFile {
    const char* name;
    std::string text;
    std::string message;  ///< the error, or a part of it
    ErrorCode code = bad_file;
};

std::vector<HostileFile> headers() {
    return {
        {"empty", "", "bad.gguf: offset 0: expected a GGUF file, found an empty file"},
        {"shorter than the magic", "GGU", "offset 0: expected 4 bytes for the magic, found 3"},
        {"other magic", "GGUX" + std::string(20, '\0'), "expected the magic 'GGUF', found 'GGUX'"},
        {"unprintable magic", "\n\x01\xff\x7f" + std::string(20, '\0'),
         "found '\\x0a\\x01\\xff\\x7f'"},
        {"zip", "PK\x03\x04" + std::string(20, '\0'), "found a zip archive"},
        {"GGML", "lmgg" + std::string(20, '\0'), "found a GGML model from before GGUF"},
        {"GGMF", "fmgg" + std::string(20, '\0'), "found a GGMF model from before GGUF"},
        {"GGJT", "tjgg" + std::string(20, '\0'), "found a GGJT model from before GGUF"},
        {"web page", "<!DOCTYPE html><html>", "found a web page"},
        {"LFS pointer", "version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"},
        {"gzip", "\x1f\x8b\x08" + std::string(20, '\0'), "found a gzip archive"},
        {"safetensors", Bytes().u64(40).raw("{\"__metadata__\":").zeros(40), "found safetensors"},
        {"no version", "GGUF\3\0", "offset 4: expected 4 bytes for the version, found 1"},
        {"version 0", Bytes().header(0, 0, 0), "version 0 is not supported", unsupported},
        {"version 1", Bytes().header(0, 0, 1),
         "bad.gguf: offset 4: version 1 is not supported, versions 2 and 3 are", unsupported},
        {"version 4", Bytes().header(0, 0, 4), "version 4 is not supported, versions 2 and 3 are",
         unsupported},
        {"big endian", Bytes().header(0, 0, 0x03000000), "the file is big endian (version 3",
         unsupported},
        {"no tensor count", Bytes().raw("GGUF").u32(3).zeros(7),
         "offset 8: expected 8 bytes for the tensor count, found 7"},
        {"no metadata count", Bytes().raw("GGUF").u32(3).zeros(15),
         "offset 16: expected 8 bytes for the metadata count, found 7"},
        {"tensor count past the end", Bytes().header(2, 0).zeros(49 - 8),
         "offset 8: tensor count 2 does not fit in the 49 bytes left"},
        {"tensor count that just fits", Bytes().header(2, 0).zeros(50 - 8),
         "tensor 0: the name is empty"},
        {"tensor count of all ones", Bytes().header(k_huge, 0),
         "offset 8: tensor count 18446744073709551615 does not fit in the 8 bytes left"},
        {"tensor count that wraps", Bytes().header(k_huge / 25 + 1, 0).zeros(75),
         "tensor count 737869762948382065 does not fit"},
        {"metadata count past the end", Bytes().header(0, 2).zeros(27),
         "offset 16: metadata count 2 does not fit in the 27 bytes left"},
        {"metadata count of all ones", Bytes().header(0, k_huge).zeros(12),
         "bad.gguf: offset 16: metadata count 18446744073709551615 does not fit in the 12 bytes "
         "left"},
    };
}

/// A file with one metadata entry, "key".
std::string entry(GgufType type, const Bytes& value) {
    return Bytes().header(0, 1).key("key", type).raw(std::string(value));
}

/// The same with an array, of which `bytes_left` bytes of zeros are there.
std::string array(GgufType element, uint64_t length, size_t bytes_left) {
    return entry(GgufType::array, Bytes().u32(uint32_t(element)).u64(length).zeros(bytes_left));
}

std::string two_keys(std::string_view a, std::string_view b) {
    return Bytes().header(0, 2).key(a, GgufType::u8).u8(1).key(b, GgufType::u8).u8(1);
}

std::string alignment(GgufType type, const Bytes& value) {
    return Bytes().header(0, 1).key("general.alignment", type).raw(std::string(value));
}

std::vector<HostileFile> metadata() {
    return {
        {"key past the end", Bytes().header(0, 1).u64(21).zeros(20),
         "offset 24: metadata entry 0: string length 21 does not fit in the 20 bytes left"},
        {"key length of all ones", Bytes().header(0, 1).u64(k_huge).zeros(20),
         "string length 18446744073709551615 does not fit"},
        {"empty key", Bytes().header(0, 1).key("", GgufType::u8).zeros(20),
         "metadata entry 0: the name is empty"},
        {"key twice", two_keys("key", "key"), "bad.gguf: metadata key 'key' occurs twice"},
        {"key of many lines", two_keys("a\nb\x7f", "a\nb\x7f"), "'a\\x0ab\\x7f'"},
        {"no value type", Bytes().header(0, 1).string("a long key").zeros(3),
         "metadata key 'a long key': expected 4 bytes for the value type, found 3"},
        {"value type 13", entry(GgufType(13), Bytes().zeros(8)),
         "metadata key 'key': expected value type 0 to 12, found 13"},
        {"value type of all ones", entry(GgufType(0xFFFFFFFF), Bytes().zeros(8)),
         "found 4294967295"},
        {"value cut", entry(GgufType::u64, Bytes().zeros(7)),
         "offset 39: metadata key 'key': expected 8 bytes for the value, found 7"},
        {"bool 2", entry(GgufType::boolean, Bytes().u8(2)),
         "metadata key 'key': expected a bool of 0 or 1, found 2"},
        {"string past the end", entry(GgufType::string, Bytes().u64(9).zeros(8)),
         "string length 9 does not fit in the 8 bytes left"},
        {"string length of all ones", entry(GgufType::string, Bytes().u64(k_huge)),
         "string length 18446744073709551615 does not fit in the 0 bytes left"},
        {"array of unknown type", array(GgufType(13), 1, 8),
         "expected element type 0 to 12, found 13"},
        {"array past the end", array(GgufType::u8, 9, 8),
         "array length 9 does not fit in the 8 bytes left"},
        {"array of u32 past the end", array(GgufType::u32, 3, 11),
         "array length 3 does not fit in the 11 bytes left"},
        {"array of f64 that wraps", array(GgufType::f64, k_huge / 8 + 2, 64),
         "array length 2305843009213693953 does not fit"},
        {"array of bool of all ones", array(GgufType::boolean, k_huge, 64),
         "does not fit in the 64 bytes left"},
        {"array with a bool 3", entry(GgufType::array, Bytes().u32(7).u64(2).u8(1).u8(3)),
         "expected a bool of 0 or 1, found 3"},
        {"array of strings past the end", array(GgufType::string, 4, 31),
         "array length 4 does not fit in the 31 bytes left"},
        {"string in an array past the end", entry(GgufType::array, Bytes().u32(8).u64(1).u64(1)),
         "string length 1 does not fit in the 0 bytes left"},
        {"array of arrays", array(GgufType::array, 1, 64),
         "metadata key 'key': arrays of arrays are not supported", unsupported},
        {"alignment 0", alignment(GgufType::u32, Bytes().u32(0)),
         "'general.alignment': expected a u32, a power of two from 8 to 65536, found u32 0"},
        {"alignment 4", alignment(GgufType::u32, Bytes().u32(4)), "found u32 4"},
        {"alignment 48", alignment(GgufType::u32, Bytes().u32(48)), "found u32 48"},
        {"alignment of 2 GiB", alignment(GgufType::u32, Bytes().u32(1u << 31)),
         "found u32 2147483648"},
        {"alignment of another type", alignment(GgufType::u64, Bytes().u64(32)), "found u64 32"},
        {"part of a split model",
         Bytes().header(0, 1).key("split.count", GgufType::u16).number(uint16_t{3}),
         "one of 3 parts of a split model", unsupported},
        {"split count of another type",
         Bytes().header(0, 1).key("split.count", GgufType::boolean).u8(1),
         "'split.count': expected an integer from 0 to 4294967295, found bool true"},
    };
}

/// A file with one tensor of this type and offset, and `n_bytes` of data.
std::string tensor(const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset = 0,
                   size_t n_bytes = 64) {
    return Bytes().header(1, 0).tensor("w", extents, type, offset).align(32).zeros(n_bytes);
}

struct Placed {
    std::string_view name;
    uint64_t offset, n;
    uint32_t type = 0;
};

/// A file with two tensors of n floats each, or of another type, and 96 bytes of data.
std::string two_tensors(const Placed& a, const Placed& b) {
    Bytes file;
    file.header(2, 0).tensor(a.name, {a.n}, a.type, a.offset);
    file.tensor(b.name, {b.n}, b.type, b.offset);
    return file.align(32).zeros(96);
}

std::vector<HostileFile> tensors() {
    return {
        {"empty name", two_tensors({"", 0, 8}, {"b", 32, 8}), "tensor 0: the name is empty"},
        {"name past the end", Bytes().header(1, 0).u64(100).zeros(40),
         "offset 24: tensor 0: string length 100 does not fit in the 40 bytes left"},
        {"name twice", two_tensors({"a", 0, 8}, {"a", 32, 8}), "bad.gguf: tensor 'a' occurs twice"},
        {"five dimensions", tensor({1, 1, 1, 1, 1}, 0),
         "tensor 'w': expected 0 to 4 dimensions, found 5"},
        {"dimensions of all ones", Bytes().header(1, 0).string("w").u32(0xFFFFFFFF).zeros(64),
         "found 4294967295"},
        {"extent of all ones", tensor({k_huge}, 0),
         "extent 18446744073709551615 of dimension 0 is out of range"},
        {"extent of 2^63", tensor({1, uint64_t{1} << 63}, 0), "of dimension 1 is out of range"},
        {"extent of 2^63 times 0", tensor({uint64_t{1} << 63, 0}, 0),
         "dimension 0 is out of range"},
        {"product that wraps, times 0", tensor({uint64_t{1} << 31, 0, 1u << 31}, 0),
         "the product of the extents overflows"},
        {"product that wraps, of an unknown type", tensor({1u << 31, 2, 1u << 31}, 42),
         "the product of the extents overflows"},
        {"product that wraps to 0", tensor({uint64_t{1} << 32, uint64_t{1} << 32}, 0),
         "the product of the extents overflows"},
        {"product that wraps to 2", tensor({0x2AAAAAAAAAAAAAAB, 6}, 0),
         "the product of the extents overflows"},
        {"bytes that wrap", tensor({uint64_t{1} << 62}, 0), "the product of the extents overflows"},
        {"half a block", tensor({48}, 2),
         "a row of 48 elements is not whole blocks of 32, as q4_0 needs"},
        {"half a super-block", tensor({128, 2}, 12),
         "a row of 128 elements is not whole blocks of 256, as q4_K needs"},
    };
}

std::vector<HostileFile> places() {
    return {
        {"offset between alignments", tensor({8}, 0, 8),
         "tensor 'w': expected an offset that is a multiple of 32, found 8"},
        {"offset of almost all ones", tensor({8}, 0, k_huge - 31),
         "tensor 'w': offset 18446744073709551584 is out of range"},
        {"offset past the end", tensor({8}, 0, 96),
         "tensor 'w': expected data up to offset 192, found a file of 128 bytes (missing: 64)"},
        {"largest offset and size", tensor({uint64_t{1} << 60}, 0, uint64_t{1} << 62),
         "(missing: 9223372036854775744)"},
        {"data cut by a byte", tensor({16}, 0, 0, 63),
         "bad.gguf: tensor 'w': expected data up to offset 128, found a file of 127 bytes "
         "(missing: 1)"},
        {"no data", Bytes().header(1, 0).tensor("w", {8}, 0, 0),
         "tensor 'w': expected data up to offset 96, found a file of 57 bytes (missing: 39)"},
        {"same place", two_tensors({"a", 0, 8}, {"b", 0, 8}), "overlaps tensor"},
        {"overlap of a part", two_tensors({"a", 0, 16}, {"b", 32, 8}),
         "tensor 'b' at offset 128 overlaps tensor 'a', which ends at offset 160"},
        {"overlap against the order", two_tensors({"a", 32, 8}, {"b", 0, 16}),
         "tensor 'a' at offset 128 overlaps tensor 'b', which ends at offset 160"},
        {"unknown type past the end", tensor({256}, 21, 64),
         "tensor 'w': expected data up to offset 129, found a file of 128 bytes (missing: 1)"},
        {"unknown type in the place of another", two_tensors({"a", 0, 8, 21}, {"b", 0, 8, 21}),
         "overlaps tensor"},
        {"overlap with an unknown type", two_tensors({"a", 0, 16}, {"b", 32, 8, 42}),
         "tensor 'b' at offset 128 overlaps tensor 'a', which ends at offset 160"},
    };
}

void check_refusals(const std::vector<HostileFile>& files) {
    for (const HostileFile& file : files) {
        INFO(file.name);
        std::string message = "no error";
        ErrorCode code = ErrorCode::usage;
        try {
            parse(file.text, [](const GgufFile&) {});
        } catch (const Error& error) {
            message = error.what();
            code = error.code();
        }
        INFO(message);
        CHECK(message.find(file.message) != std::string::npos);
        CHECK(message.starts_with("bad.gguf: "));
        CHECK(code == file.code);
        CHECK(
            std::all_of(message.begin(), message.end(), [](char c) { return c >= 32 && c < 127; }));
    }
}

/// A good file with something of everything in it, and where its last tensor ends.
std::string good_file(size_t& end) {
    Bytes file;
    file.header(3, 6, 2);
    file.key("a", GgufType::u8).u8(1).key("b", GgufType::boolean).u8(1);
    file.key("general.alignment", GgufType::u32).u32(64);
    file.key("s", GgufType::string).string("text");
    file.key("f", GgufType::array).u32(6).u64(2).number(1.0f).number(2.0f);
    file.key("t", GgufType::array).u32(8).u64(2).string("x").string("");
    file.tensor("last", {32, 2}, 8, 128).tensor("first", {3, 2, 1, 2}, 0, 0);
    file.tensor("middle", {5}, 1, 64).align(64);
    for (size_t i = 0; i < 128 + 2 * 34; ++i) file.u8(uint8_t(i));
    end = file.size();
    return file.zeros(28);
}

/// Whether the file is accepted; anything but an Error about the file fails the test.
bool accepted(const std::string& text) {
    try {
        parse(text, [](const GgufFile& file) { use_everything(file); });
        return true;
    } catch (const Error& error) {
        CHECK((error.code() == bad_file || error.code() == unsupported));
        return false;
    }
}

}  // namespace

TEST_CASE("gguf: broken headers are refused by name", "[gguf]") { check_refusals(headers()); }
TEST_CASE("gguf: broken metadata is refused by name", "[gguf]") { check_refusals(metadata()); }
TEST_CASE("gguf: broken tensors are refused by name", "[gguf]") {
    check_refusals(tensors());
    check_refusals(places());
}

TEST_CASE("gguf: unusual files that are right are read", "[gguf]") {
    size_t end = 0;
    parse(good_file(end), [](const GgufFile& file) {
        CHECK(file.version() == 2);
        CHECK(file.alignment() == 64);
        CHECK(file.tensors()[0].offset == file.data_offset() + 128);  // data in another order
        CHECK(file.tensor("first").view.n[0] == 2);
        CHECK(file.tensor("first").view.n[3] == 3);
        CHECK(use_everything(file) > 0);
    });
    CHECK(accepted(Bytes().header(0, 0)));  // ends before the data would begin
    CHECK(accepted(Bytes().header(0, 1).key("split.count", GgufType::u16).number(uint16_t{1})));
    CHECK(accepted(Bytes().header(0, 1).key("k", GgufType::u8).u8(0)));  // the smallest entry
    CHECK(accepted(array(GgufType::string, 0, 0)));
    CHECK(accepted(two_tensors({"a", 64, 8}, {"b", 0, 8})));  // with a hole
    for (const uint32_t n : {8u, 65536u}) {
        CHECK(accepted(alignment(GgufType::u32, Bytes().u32(n))));
    }
}

TEST_CASE("gguf: a file cut at any length is refused", "[gguf]") {
    size_t end = 0;
    const std::string good = good_file(end);
    for (size_t length = 0; length <= good.size(); ++length) {
        INFO(length);
        CHECK(accepted(good.substr(0, length)) == (length >= end));
    }
}

TEST_CASE("gguf: a file damaged at any byte is read or refused", "[gguf]") {
    size_t end = 0;
    const std::string good = good_file(end);
    int64_t refused = 0;
    for (size_t at = 0; at < good.size(); ++at) {
        INFO(at);
        for (const int mask : {0x01, 0x02, 0x40, 0x80, 0xFF}) {
            std::string bad = good;
            bad[at] = char(bad[at] ^ mask);
            refused += !accepted(bad);
        }
        std::string bad = good;  // counts, lengths, extents and offsets of almost and all ones
        for (size_t i = at; i < std::min(at + 8, bad.size()); ++i) bad[i] = '\xff';
        refused += !accepted(bad);
        bad[at] = '\xe0';
        refused += !accepted(bad);
    }
    CHECK(refused > 500);  // damage to names, values and weights cannot be seen
}
