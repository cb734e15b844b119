// Parsing a GGUF file in the order of its bytes: header, metadata, and then the tensors, which are
// in gguf_tensors.cpp. What a count or a length says is compared with the bytes that are left
// before anything is allocated for it. Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/files/byte_cursor.h"
#include "ref/files/gguf.h"
#include "ref/files/gguf_tensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace rotkv {
namespace {

static_assert(std::endian::native == std::endian::little, "the file's bytes are used in place");
static_assert(sizeof(size_t) == 8, "offsets are 64 bits wide");

// The fewest bytes that one of a counted kind can take.
constexpr uint64_t k_least_string = 8;                  // the length of an empty one
constexpr uint64_t k_least_entry = 8 + 1 + 4 + 1;       // key, type, value
constexpr uint64_t k_least_tensor = 8 + 1 + 4 + 4 + 8;  // name, n_dims, type, offset

constexpr uint64_t k_default_alignment = 32;
constexpr uint32_t k_least_alignment = 8;  // of an f64, the widest element
constexpr uint32_t k_most_alignment = 65536;

// What else a program that wants a model is handed, by its first bytes.
constexpr struct {
    std::string_view magic;
    const char* name;
} k_other_files[] = {
    {"PK\x03\x04", "a zip archive (a wheel, a PyTorch checkpoint)"},
    {"lmgg", "a GGML model from before GGUF"},
    {"fmgg", "a GGMF model from before GGUF"},
    {"tjgg", "a GGJT model from before GGUF"},
    {"<!DOCTYPE", "a web page"},
    {"<!doctype", "a web page"},
    {"<html", "a web page"},
    {"version https://git-lfs", "a Git LFS pointer, the file itself was not fetched"},
    {"\x1f\x8b", "a gzip archive"},
};

[[noreturn]] void bad_file(const std::string& file, const std::string& problem) {
    throw Error(ErrorCode::bad_file, file + ": " + problem);
}

struct Header {
    uint32_t version;
    uint64_t n_tensors, n_entries;
};

void check_magic(ByteCursor& cursor, std::span<const std::byte> bytes) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.empty()) cursor.fail("expected a GGUF file, found an empty file");
    for (const auto& other : k_other_files) {
        if (text.starts_with(other.magic)) {
            cursor.fail(std::string("expected a GGUF file, found ") + other.name);
        }
    }
    cursor.take(4, "magic");
    if (text.starts_with("GGUF")) return;
    // safetensors opens with the u64 length of a JSON header, and the header with a brace.
    if (text.size() > 9 && text.substr(8, 2) == "{\"") {
        cursor.fail("expected a GGUF file, found safetensors");
    }
    cursor.fail("expected the magic 'GGUF', found " + in_quotes(text.substr(0, 4)));
}

Header read_header(ByteCursor& cursor, std::span<const std::byte> bytes) {
    check_magic(cursor, bytes);
    const uint32_t version = cursor.number<uint32_t>("version");
    if (version != 0 && (version & 0xFFFFFF) == 0) {
        cursor.fail("the file is big endian (version " + std::to_string(version >> 24) +
                        " in reverse), little endian is supported",
                    ErrorCode::unsupported);
    }
    if (version != 2 && version != 3) {
        cursor.fail(
            "version " + std::to_string(version) + " is not supported, versions 2 and 3 are",
            ErrorCode::unsupported);
    }
    const uint64_t n_tensors = cursor.count("tensor count", k_least_tensor);
    const uint64_t n_entries = cursor.count("metadata count", k_least_entry);
    return {version, n_tensors, n_entries};
}

template <class Number>
GgufValue read_number(ByteCursor& cursor) {
    return cursor.number<Number>("value");
}

GgufValue read_bool(ByteCursor& cursor) { return cursor.boolean(); }

GgufValue read_string(ByteCursor& cursor) { return cursor.string(); }

template <class Number>
GgufArray read_numbers(ByteCursor& cursor) {
    std::vector<Number> numbers(cursor.count("array length", sizeof(Number)));
    const auto bytes = cursor.take(numbers.size() * sizeof(Number), "array");
    if (!numbers.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return numbers;
}

GgufArray read_bools(ByteCursor& cursor) {
    std::vector<bool> bools(cursor.count("array length", 1));
    for (size_t i = 0; i < bools.size(); ++i) bools[i] = cursor.boolean();
    return bools;
}

GgufArray read_strings(ByteCursor& cursor) {
    std::vector<std::string_view> strings(cursor.count("array length", k_least_string));
    for (std::string_view& string : strings) string = cursor.string();
    return strings;
}

GgufArray refuse_arrays(ByteCursor& cursor) {
    cursor.fail("arrays of arrays are not supported", ErrorCode::unsupported);
}

/// The type of the value or of the elements that follow.
size_t read_type(ByteCursor& cursor, const char* what) {
    const uint32_t type = cursor.number<uint32_t>(what);
    if (type >= std::variant_size_v<GgufValue>) {
        cursor.fail(std::string("expected ") + what + " 0 to 12, found " + std::to_string(type));
    }
    return type;
}

GgufValue read_array(ByteCursor& cursor) {
    // In the order of GgufType.
    constexpr GgufArray (*k_readers[])(ByteCursor&) = {
        read_numbers<uint8_t>,  read_numbers<int8_t>,
        read_numbers<uint16_t>, read_numbers<int16_t>,
        read_numbers<uint32_t>, read_numbers<int32_t>,
        read_numbers<float>,    read_bools,
        read_strings,           refuse_arrays,
        read_numbers<uint64_t>, read_numbers<int64_t>,
        read_numbers<double>};
    return k_readers[read_type(cursor, "element type")](cursor);
}

GgufValue read_value(ByteCursor& cursor) {
    // In the order of GgufType.
    constexpr GgufValue (*k_readers[])(ByteCursor&) = {
        read_number<uint8_t>,  read_number<int8_t>,  read_number<uint16_t>, read_number<int16_t>,
        read_number<uint32_t>, read_number<int32_t>, read_number<float>,    read_bool,
        read_string,           read_array,           read_number<uint64_t>, read_number<int64_t>,
        read_number<double>};
    return k_readers[read_type(cursor, "value type")](cursor);
}

std::vector<GgufEntry> read_metadata(ByteCursor& cursor, uint64_t n_entries) {
    std::vector<GgufEntry> entries;  // grown as they are read, for they may not all be there
    for (uint64_t i = 0; i < n_entries; ++i) {
        GgufEntry& entry = entries.emplace_back();
        cursor.enter("metadata entry " + std::to_string(i));
        entry.key = cursor.name();
        cursor.enter("metadata key " + in_quotes(entry.key));
        entry.value = read_value(cursor);
    }
    return entries;
}

uint64_t read_alignment(const GgufFile& file) {
    const GgufValue* value = file.find("general.alignment");
    if (value == nullptr) return k_default_alignment;
    const uint32_t* alignment = std::get_if<uint32_t>(value);
    if (alignment == nullptr || !std::has_single_bit(*alignment) ||
        *alignment < k_least_alignment || *alignment > k_most_alignment) {
        bad_file(file.path(),
                 "metadata key 'general.alignment': expected a u32, a power of two from 8 to "
                 "65536, found " +
                     describe(*value));
    }
    return *alignment;
}

/// Large models may come in several files, each with a part of the tensors.
void refuse_part(const GgufFile& file) {
    if (file.n_parts() == 1) return;
    throw Error(ErrorCode::unsupported,
                file.path() + ": one of " + std::to_string(file.n_parts()) +
                    " parts of a split model, which have to be merged into one file first");
}

/// The items by their names, which must differ.
template <class Item>
std::map<std::string_view, const Item*> index_items(const std::vector<Item>& items,
                                                    std::string Item::*name, const char* kind,
                                                    const std::string& file) {
    std::map<std::string_view, const Item*> index;
    for (const Item& item : items) {
        if (!index.emplace(item.*name, &item).second) {
            bad_file(file, std::string(kind) + " " + in_quotes(item.*name) + " occurs twice");
        }
    }
    return index;
}

}  // namespace

GgufFile GgufFile::parse(std::span<const std::byte> bytes, std::string name, GgufParts parts) {
    GgufFile file;
    file.bytes_ = bytes;
    file.path_ = std::move(name);
    ByteCursor cursor(bytes, file.path_);

    const Header header = read_header(cursor, bytes);
    file.version_ = header.version;

    file.metadata_ = read_metadata(cursor, header.n_entries);
    file.entry_of_ = index_items(file.metadata_, &GgufEntry::key, "metadata key", file.path_);
    file.n_parts_ = std::max(file.get_u32("split.count", 1), 1u);
    if (parts == GgufParts::refused) refuse_part(file);
    file.alignment_ = read_alignment(file);

    file.tensors_ = read_tensors(cursor, header.n_tensors, file.alignment_);
    file.tensor_of_ = index_items(file.tensors_, &GgufTensor::name, "tensor", file.path_);

    const uint64_t misaligned = cursor.offset() % file.alignment_;
    file.data_offset_ = cursor.offset() + (misaligned == 0 ? 0 : file.alignment_ - misaligned);
    place_tensors(file.tensors_, file.data_offset_, bytes, file.path_);
    return file;
}

}  // namespace rotkv
