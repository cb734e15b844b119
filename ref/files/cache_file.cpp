#include "ref/files/cache_file.h"

#include "ref/error.h"
#include "ref/files/byte_cursor.h"
#include "ref/files/fnv1a.h"
#include "ref/files/output_file.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace rotkv {

static_assert(std::endian::native == std::endian::little, "saved caches are little endian");

static constexpr std::string_view k_magic = "rotkv-kv";
static constexpr uint32_t k_version = 1;
static constexpr std::size_t k_file_bytes_offset = k_magic.size() + sizeof k_version;
static constexpr std::size_t k_checksum_bytes = 8;
static constexpr std::size_t k_sample_bytes = 4096;  // of a tensor, for the fingerprint

using Bytes = std::vector<std::byte>;

namespace {

// Bytes under construction: numbers as they lie in memory, texts after their length.
class Packer {
  public:
    void put(std::span<const std::byte> more) {
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
    template <class Number>
    requires std::is_arithmetic_v<Number>
    void put(Number number) { put(std::as_bytes(std::span(&number, 1))); }
    void put(std::string_view text) {
        put(uint64_t(text.size()));
        put(std::as_bytes(std::span(text)));
    }
    template <class Element>
    void put(const std::vector<Element>& elements) {
        put(uint64_t(elements.size()));
        for (const Element element : elements) put(element);
    }
    void put(const GgufArray& array) {
        put(uint32_t(array.index()));
        std::visit([this](const auto& elements) { put(elements); }, array);
    }
    void put(std::monostate) {}

    Bytes bytes;
};

}  // namespace

uint64_t model_fingerprint(const GgufFile& model) {
    Fnv1a hash;
    for (const GgufEntry& entry : model.metadata()) {
        if (entry.key.starts_with("general.") || entry.key.starts_with("tokenizer.")) continue;
        Packer packer;
        packer.put(std::string_view(entry.key));
        packer.put(uint32_t(entry.value.index()));
        std::visit([&](const auto& value) { packer.put(value); }, entry.value);
        hash.add(packer.bytes);
    }
    for (const GgufTensor& tensor : model.tensors()) {
        Packer packer;
        packer.put(std::string_view(tensor.name));
        packer.put(int32_t(tensor.type));
        for (const int64_t extent : tensor.n) packer.put(extent);
        const std::size_t sample = std::min(k_sample_bytes, std::size_t(tensor.bytes));
        packer.put(std::span<const std::byte>(tensor.view.data, sample));
        hash.add(packer.bytes);
    }
    return hash.sum();
}

// The extents that two caches must share, in the order in which they stand in the file. The number
// of cells is not among them.
static std::vector<std::pair<const char*, int64_t>> extents(const KvShape& shape) {
    return {{"layers", shape.layers},
            {"streams", shape.streams},
            {"kv_heads", shape.kv_heads},
            {"d_k", shape.d_k},
            {"d_v", shape.d_v},
            {"v_in_k", shape.v_in_k},
            {"v_first", shape.v_in_k ? shape.v_first : 0}};
}

namespace {

// The strip of one stream: the cells up to the last token, and how many of them hold one.
struct Strip {
    std::span<const int32_t> position;
    int64_t tokens = 0;

    explicit Strip(std::span<const int32_t> cells) : position(cells) {
        while (!position.empty() && position.back() < 0)
            position = position.first(position.size() - 1);
        for (const int32_t p : position) tokens += p >= 0;
    }
};

// K or V of a layer, and the bytes that one token takes in it.
struct Part {
    Side side;
    std::size_t token_bytes;
};

}  // namespace

static Strip strip_of(const KvCache& cache, int64_t stream) {
    const std::size_t cells = std::size_t(cache.shape().cells);
    return Strip(cache.host_positions().subspan(std::size_t(stream) * cells, cells));
}

static std::vector<Part> parts(const KvShape& shape) {
    const auto bytes = [&](DType type, int64_t d) {
        return std::size_t(shape.kv_heads * row_bytes(type, d));
    };
    std::vector<Part> parts = {{Side::k, bytes(shape.type_k, shape.d_k)}};
    if (!shape.v_in_k) parts.push_back({Side::v, bytes(shape.type_v, shape.d_v)});
    return parts;
}

// Everything before the keys and values.
static Bytes pack_head(const KvCache& cache, uint64_t fingerprint) {
    const KvShape& shape = cache.shape();
    Packer head;
    head.put(std::as_bytes(std::span(k_magic)));
    head.put(k_version);
    head.put(uint64_t(0));  // of the file's bytes, known below
    head.put(fingerprint);
    head.put(std::string_view(type_info(shape.type_k).name));
    head.put(std::string_view(type_info(shape.type_v).name));
    head.put(std::string_view(saved_words(cache.spec(), 0)));
    head.put(shape.cells);
    for (const auto& [name, extent] : extents(shape)) head.put(extent);
    int64_t tokens = 0;
    for (int64_t stream = 0; stream < shape.streams; ++stream) {
        const Strip strip = strip_of(cache, stream);
        tokens += strip.tokens;
        head.put(uint64_t(strip.position.size()));
        head.put(std::as_bytes(strip.position));
    }
    const uint64_t file_bytes =
        head.bytes.size() + uint64_t(tokens * shape.bytes_per_token()) + k_checksum_bytes;
    std::memcpy(head.bytes.data() + k_file_bytes_offset, &file_bytes, sizeof file_bytes);
    return std::move(head.bytes);
}

void save_cache(const KvCache& cache, uint64_t fingerprint, const std::string& path) {
    OutputFile file(path);
    Fnv1a checksum;
    const auto write = [&](std::span<const std::byte> bytes) {
        checksum.add(bytes);
        file.write(bytes);
    };
    write(pack_head(cache, fingerprint));
    for (int64_t layer = 0; layer < cache.shape().layers; ++layer) {
        for (int64_t stream = 0; stream < cache.shape().streams; ++stream) {
            const Strip strip = strip_of(cache, stream);
            for (const Part& part : parts(cache.shape())) {
                Bytes cells(strip.position.size() * part.token_bytes);
                cache.read_cells(layer, stream, part.side, cells);
                for (std::size_t c = 0; c < strip.position.size(); ++c) {
                    if (strip.position[c] < 0) continue;
                    write(std::span(cells).subspan(c * part.token_bytes, part.token_bytes));
                }
            }
        }
    }
    const uint64_t sum = checksum.sum();
    file.write(std::as_bytes(std::span(&sum, 1)));
    file.finish();
}

static Bytes read_file(const std::string& path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        throw Error(ErrorCode::io, path + ": no such file, or not a regular one");
    }
    Bytes bytes(std::size_t(std::filesystem::file_size(path, error)));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
    if (error || !file) throw Error(ErrorCode::io, path + ": cannot be read");
    return bytes;
}

static std::string hexadecimal(uint64_t number) {
    char text[19];
    std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(number));
    return text;
}

// That the bytes are a whole saved cache of this version; returns them without the checksum.
static std::span<const std::byte> check_whole(std::span<const std::byte> bytes,
                                              const std::string& path) {
    ByteCursor cursor(bytes, path);
    if (!std::ranges::equal(cursor.take(k_magic.size(), "magic"),
                            std::as_bytes(std::span(k_magic)))) {
        cursor.fail("expected \"rotkv-kv\": not a saved cache");
    }
    const uint32_t version = cursor.number<uint32_t>("version");
    if (version != k_version) {
        cursor.fail("expected version " + std::to_string(k_version) + ", found " +
                    std::to_string(version));
    }
    const uint64_t file_bytes = cursor.number<uint64_t>("file's size");
    if (file_bytes != bytes.size()) {
        cursor.fail("expected a file of " + std::to_string(file_bytes) + " bytes, found " +
                    std::to_string(bytes.size()));
    }
    cursor.take(k_checksum_bytes, "checksum");  // there is room for one
    const auto body = bytes.first(bytes.size() - k_checksum_bytes);
    Fnv1a sum;
    sum.add(body);
    ByteCursor end(bytes, path);
    end.take(body.size(), "body");
    const uint64_t checksum = end.number<uint64_t>("checksum");
    if (checksum != sum.sum()) {
        end.fail("expected checksum " + hexadecimal(checksum) + ", found " +
                 hexadecimal(sum.sum()) + ": the file is damaged");
    }
    return body;
}

[[noreturn]] static void differs(const std::string& path, const std::string& what,
                                 const std::string& expected, const std::string& found) {
    throw Error(ErrorCode::bad_file,
                path + ": " + what + ": expected " + expected + ", found " + found);
}

// What gives the bytes their meaning, field by field against the cache at hand. Returns the number
// of cells that the saved cache had.
static uint64_t check_same(ByteCursor& cursor, const KvCache& cache, uint64_t fingerprint,
                           const std::string& path) {
    const KvShape& shape = cache.shape();
    const uint64_t model = cursor.number<uint64_t>("model");
    if (model != fingerprint) differs(path, "model", hexadecimal(fingerprint), hexadecimal(model));
    const std::pair<const char*, std::string> texts[] = {
        {"type of K", type_info(shape.type_k).name},
        {"type of V", type_info(shape.type_v).name},
        {"rotation", saved_words(cache.spec(), 0)}};
    for (const auto& [what, expected] : texts) {
        const std::string_view found = cursor.string();
        if (found != expected) differs(path, what, in_quotes(expected), in_quotes(found));
    }
    const uint64_t cells = cursor.number<uint64_t>("cells");
    for (const auto& [what, expected] : extents(shape)) {
        const int64_t found = cursor.number<int64_t>(what);
        if (found != expected) differs(path, what, std::to_string(expected), std::to_string(found));
    }
    return cells;
}

// The positions of one stream, to the beginning of `strip`, the loading cache's cells.
static void read_positions(ByteCursor& cursor, uint64_t saved_cells, std::span<int32_t> strip,
                           const std::string& path) {
    const uint64_t used = cursor.count("number of used cells", sizeof(int32_t));
    if (used > saved_cells) {
        cursor.fail("expected at most " + std::to_string(saved_cells) + " used cells, found " +
                    std::to_string(used));
    }
    if (used > strip.size()) {
        differs(path, "cells", "at most " + std::to_string(strip.size()), std::to_string(used));
    }
    for (std::size_t c = 0; c < used; ++c) {
        strip[c] = cursor.number<int32_t>("position");
        const bool last = c + 1 == used;
        if (strip[c] < (last ? 0 : -1)) {
            cursor.fail("expected a position" + std::string(last ? "" : " or -1") + ", found " +
                        std::to_string(strip[c]));
        }
    }
}

// The tokens' keys and values into their cells, zeros into the empty cells between them.
static void restore(KvCache& cache, std::span<const int32_t> positions,
                    std::span<const std::byte> data) {
    cache.set_positions(positions);
    for (int64_t layer = 0; layer < cache.shape().layers; ++layer) {
        for (int64_t stream = 0; stream < cache.shape().streams; ++stream) {
            const Strip strip = strip_of(cache, stream);
            for (const Part& part : parts(cache.shape())) {
                Bytes cells(strip.position.size() * part.token_bytes);
                for (std::size_t c = 0; c < strip.position.size(); ++c) {
                    if (strip.position[c] < 0) continue;
                    std::ranges::copy(data.first(part.token_bytes),
                                      cells.begin() + std::ptrdiff_t(c * part.token_bytes));
                    data = data.subspan(part.token_bytes);
                }
                cache.write_cells(layer, stream, part.side, cells);
            }
        }
    }
}

void load_cache(KvCache& cache, uint64_t fingerprint, const std::string& path) {
    const Bytes file = read_file(path);
    const std::span<const std::byte> body = check_whole(file, path);
    ByteCursor cursor(body, path);
    cursor.take(k_file_bytes_offset + sizeof(uint64_t), "beginning");
    const uint64_t saved_cells = check_same(cursor, cache, fingerprint, path);

    const KvShape& shape = cache.shape();
    std::vector<int32_t> positions(cache.host_positions().size(), -1);
    for (int64_t stream = 0; stream < shape.streams; ++stream) {
        const std::size_t first = std::size_t(stream * shape.cells);
        read_positions(cursor, saved_cells,
                       std::span(positions).subspan(first, std::size_t(shape.cells)), path);
    }
    const int64_t tokens = std::ranges::count_if(positions, [](int32_t p) { return p >= 0; });
    const uint64_t data_bytes = uint64_t(tokens * shape.bytes_per_token());
    const std::span<const std::byte> data = cursor.take(data_bytes, "keys and values");
    if (cursor.offset() != body.size()) {
        cursor.fail("expected " + std::to_string(data_bytes) + " bytes of keys and values, found " +
                    std::to_string(data_bytes + body.size() - cursor.offset()));
    }
    restore(cache, positions, data);
}

}  // namespace rotkv
