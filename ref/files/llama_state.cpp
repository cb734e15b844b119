#include "ref/files/llama_state.h"

#include "ref/files/byte_cursor.h"
#include "ref/files/whole_file.h"

#include <cstring>
#include <set>

namespace rotkv {

namespace {

constexpr uint32_t k_sequence_magic = 0x67677371, k_session_magic = 0x6767736e;  // "ggsq", "ggsn"
constexpr uint64_t k_most_streams = 256;    // llama.cpp's LLAMA_MAX_SEQ
// From these versions on a file says how rows are rotated; of both kinds the one before is read too.
constexpr uint32_t k_sequence_version = 4, k_session_version = 11;

DType type_of(ByteCursor& cursor) {
    const int32_t number = cursor.number<int32_t>("type");
    for (const DType type : cache_types()) {
        if (int32_t(type) == number) return type;
    }
    cursor.fail("expected the number of a type that caches have, found " + std::to_string(number));
}

std::vector<std::byte> taken(ByteCursor& cursor, uint64_t cells, uint64_t bytes) {
    if (bytes == 0 || (cells > 0 && bytes > cursor.left() / cells)) {
        cursor.fail(std::to_string(cells) + " cells of " + std::to_string(bytes) +
                    " bytes do not fit in the " + std::to_string(cursor.left()) + " bytes left");
    }
    const std::span<const std::byte> rows = cursor.take(cells * bytes, "rows");
    return {rows.begin(), rows.end()};
}

LlamaRows read_rows(ByteCursor& cursor, uint64_t cells) {
    LlamaRows side;
    side.type = type_of(cursor);
    const uint64_t bytes = cursor.number<uint64_t>("bytes of a cell");
    side.rows = taken(cursor, cells, bytes);
    side.row_bytes = int64_t(bytes);
    return side;
}

// Element by element over all cells, turned back into rows.
LlamaRows read_transposed(ByteCursor& cursor, uint64_t cells) {
    LlamaRows side;
    side.type = type_of(cursor);
    const uint64_t element = cursor.number<uint32_t>("bytes of an element");
    if (is_block_type(side.type) || int64_t(element) != row_bytes(side.type, 1)) {
        cursor.fail("expected elements of a plain type, found " + std::to_string(element) +
                    " bytes of " + type_info(side.type).name);
    }
    const uint64_t n = cursor.number<uint32_t>("elements of a cell");
    const std::vector<std::byte> columns = taken(cursor, n, cells * element);
    side.row_bytes = int64_t(n * element);
    side.rows.resize(columns.size());
    for (uint64_t i = 0; i < n * cells; ++i) {
        const uint64_t at = (i % cells * n + i / cells) * element;
        std::memcpy(side.rows.data() + at, columns.data() + i * element, element);
    }
    return side;
}

int64_t read_block(ByteCursor& cursor, const char* side) {
    const uint32_t n = cursor.number<uint32_t>(side);
    if ((n & (n - 1)) != 0) {
        cursor.fail("expected a power of two as the rotation's block, found " + std::to_string(n));
    }
    return n;
}

LlamaStream read_stream(ByteCursor& cursor, bool says_rotation) {
    LlamaStream stream;
    const uint64_t cells = cursor.count<uint32_t>("number of cells", 8);
    std::set<int32_t> sequences;
    for (uint64_t c = 0; c < cells; ++c) {
        stream.position.push_back(cursor.number<int32_t>("position"));
        const uint64_t of = cursor.count<uint32_t>("number of sequences", 4);
        for (uint64_t i = 0; i < of; ++i) sequences.insert(cursor.number<int32_t>("sequence"));
    }
    stream.sequences = int64_t(sequences.size());
    if (cells == 0) return stream;
    const uint32_t transposed = cursor.number<uint32_t>("flag of a transposed V");
    if (transposed > 1) cursor.fail("expected 0 or 1, found " + std::to_string(transposed));
    const uint64_t layers = cursor.count<uint32_t>("number of layers", 12);
    if (says_rotation) {
        stream.k_block = read_block(cursor, "rotation block of K");
        stream.v_block = read_block(cursor, "rotation block of V");
    }
    for (uint64_t l = 0; l < layers; ++l) {
        cursor.enter("K of layer " + std::to_string(l) + " of this cache");
        stream.k.push_back(read_rows(cursor, cells));
    }
    const bool inside_k = cursor.left() == 0;  // or the file is cut there: it looks the same
    for (uint64_t l = 0; l < layers && !inside_k; ++l) {
        cursor.enter("V of layer " + std::to_string(l) + " of this cache");
        stream.v.push_back(transposed == 1 ? read_transposed(cursor, cells)
                                           : read_rows(cursor, cells));
    }
    cursor.enter("cache");
    return stream;
}

void check_version(ByteCursor& cursor, LlamaState& state) {
    const uint32_t version = cursor.number<uint32_t>("version");
    const uint32_t newest = state.is_session ? k_session_version : k_sequence_version;
    if (version != newest && version != newest - 1) {
        cursor.fail("expected version " + std::to_string(newest - 1) + " or " +
                    std::to_string(newest) + ", found " + std::to_string(version));
    }
    state.version = version;
    state.says_rotation = version == newest;
}

std::vector<int32_t> read_tokens(ByteCursor& cursor) {
    const uint64_t n = cursor.count<uint32_t>("number of tokens", 4);
    std::vector<int32_t> list;
    for (uint64_t t = 0; t < n; ++t) list.push_back(cursor.number<int32_t>("token"));
    if (list.empty() || list[0] != -1) return list;
    const bool packed = n >= 4 && list[1] == 1 && list[2] == int64_t(n) - 4 && list.back() == 0;
    if (!packed) cursor.fail("expected tokens, or a server's list of text alone");
    return {list.begin() + 3, list.end() - 1};
}

}  // namespace

LlamaState parse_llama_state(std::span<const std::byte> bytes, const std::string& path) {
    ByteCursor cursor(bytes, path);
    LlamaState state;
    state.path = path;
    const uint32_t magic = cursor.number<uint32_t>("magic");
    if (magic != k_sequence_magic && magic != k_session_magic) {
        cursor.fail("expected \"ggsq\" or \"ggsn\": not a cache that llama.cpp saved");
    }
    state.is_session = magic == k_session_magic;
    check_version(cursor, state);
    state.tokens = read_tokens(cursor);
    if (state.is_session) {
        const std::span<const std::byte> name =
            cursor.take(cursor.count<uint32_t>("length of the architecture", 1), "architecture");
        state.architecture.assign(reinterpret_cast<const char*>(name.data()), name.size());
    }
    while (cursor.left() > 0) {
        cursor.enter("cache");
        if (state.caches.size() == 2) cursor.fail("expected the end of the file behind two caches");
        state.caches.emplace_back();
        const uint64_t streams = cursor.count<uint32_t>("number of streams", 4);
        if (streams > k_most_streams) {
            cursor.fail("expected at most " + std::to_string(k_most_streams) + " streams, found " +
                        std::to_string(streams));
        }
        for (uint64_t s = 0; s < streams; ++s) {
            state.caches.back().push_back(read_stream(cursor, state.says_rotation));
        }
    }
    if (state.caches.empty()) cursor.fail("expected a cache behind the tokens, found the end");
    return state;
}

LlamaState read_llama_state(const std::string& path) {
    const std::vector<std::byte> beginning = whole_file(path, 4);
    uint32_t magic = 0;
    if (beginning.size() == sizeof magic) std::memcpy(&magic, beginning.data(), sizeof magic);
    const bool known = magic == k_sequence_magic || magic == k_session_magic;
    return parse_llama_state(known ? whole_file(path) : beginning, path);
}

}  // namespace rotkv
