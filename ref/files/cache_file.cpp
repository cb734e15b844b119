#include "ref/files/cache_file.h"

#include "ref/error.h"
#include "ref/files/byte_cursor.h"
#include "ref/files/byte_packer.h"
#include "ref/files/fnv1a.h"
#include "ref/files/gguf.h"
#include "ref/files/output_file.h"
#include "ref/files/whole_file.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rotkv {

static_assert(std::endian::native == std::endian::little, "saved caches are little endian");
static constexpr std::string_view k_magic = "rotkv-kv";
static constexpr uint32_t k_version = 2, k_alike_version = 1;  // of layers that are all alike
static constexpr uint32_t k_state_version = 3;                 // with states beside the cells
static constexpr std::size_t k_file_bytes_offset = k_magic.size() + sizeof k_version;
static constexpr std::size_t k_checksum_bytes = 8;

using Bytes = std::vector<std::byte>;

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

// K or V of a layer, and the bytes that one token takes in it; none where a layer keeps nothing.
struct Part {
    Side side;
    std::size_t token_bytes;
};

// Something that gives the bytes their meaning, as it stands in the file: a number or a text.
struct Field {
    const char* name;
    std::variant<int64_t, std::string> value;
};

}  // namespace

static Strip strip_of(const KvCache& cache, int64_t stream) {
    const std::size_t cells = std::size_t(cache.shape().cells);
    return Strip(cache.host_positions().subspan(std::size_t(stream) * cells, cells));
}

static std::vector<Part> parts_of(const KvLayer& layer) {
    if (layer.source) return {};
    const auto bytes = [&](const CacheType& type, int64_t d) {
        return std::size_t(layer.kv_heads * row_bytes(type, d));
    };
    std::vector<Part> parts = {{Side::k, bytes(layer.type_k, layer.d_k)}};
    if (!layer.v_in_k) parts.push_back({Side::v, bytes(layer.type_v, layer.d_v)});
    return parts;
}

static std::vector<Field> extents_of(const KvLayer& layer) {
    return {{"kv_heads", layer.kv_heads},
            {"d_k", layer.d_k},
            {"d_v", layer.d_v},
            {"v_in_k", int64_t(layer.v_in_k)},
            {"v_first", layer.v_in_k ? layer.v_first : 0}};
}

static std::vector<Field> types_of(const KvLayer& layer) {
    return {{"type of K", layer.type_k.name()}, {"type of V", layer.type_v.name()}};
}

// All of a layer, in the order of the file.
static std::vector<Field> fields_of(const KvCache& cache, int64_t index, uint32_t version) {
    const KvLayer& layer = cache.shape().layers[std::size_t(index)];
    std::vector<Field> fields = extents_of(layer);
    fields.push_back({"source", layer.source.value_or(index)});
    for (const Field& type : types_of(layer)) fields.push_back(type);
    fields.push_back({"rotation of K", rotation_name(cache.spec(), index, Side::k)});
    fields.push_back({"rotation of V", rotation_name(cache.spec(), index, Side::v)});
    if (version != k_state_version) return fields;
    fields.push_back({"heads of its state", layer.recurrent.heads});
    fields.push_back({"d of its state", layer.recurrent.d});
    fields.push_back({"channels of its state", layer.recurrent.channels});
    fields.push_back({"taps of its state", layer.recurrent.taps});
    return fields;
}

// Of the keys and values of so many tokens, and of all states.
static int64_t data_bytes_of(const KvShape& shape, int64_t tokens) {
    return tokens * shape.bytes_per_token() + shape.streams * shape.recurrent().bytes_per_stream();
}

// Everything before the keys and values.
static Bytes pack_head(const KvCache& cache, uint64_t fingerprint) {
    const KvShape& shape = cache.shape();
    const uint32_t version = cache.state() != nullptr ? k_state_version : k_version;
    BytePacker head;
    head.put(std::as_bytes(std::span(k_magic)));
    head.put(version);
    head.put(uint64_t(0));  // of the file's bytes, known below
    head.put(fingerprint);
    head.put(shape.cells);
    head.put(shape.streams);
    head.put(shape.n_layers());
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        for (const Field& field : fields_of(cache, l, version)) {
            std::visit([&](const auto& value) { head.put(value); }, field.value);
        }
    }
    int64_t tokens = 0;
    for (int64_t stream = 0; stream < shape.streams; ++stream) {
        const Strip strip = strip_of(cache, stream);
        tokens += strip.tokens;
        head.put(uint64_t(strip.position.size()));
        head.put(std::as_bytes(strip.position));
        if (cache.state() == nullptr) continue;
        const Held held = cache.state()->held()[std::size_t(stream)];
        head.put(held.first);
        head.put(held.next);
    }
    const uint64_t file_bytes =
        head.bytes.size() + uint64_t(data_bytes_of(shape, tokens)) + k_checksum_bytes;
    std::memcpy(head.bytes.data() + k_file_bytes_offset, &file_bytes, sizeof file_bytes);
    return std::move(head.bytes);
}

void save_cache(const KvCache& cache, uint64_t fingerprint, const std::string& path) {
    cache.require_one_kind_of_rows();
    OutputFile file(path);
    Fnv1a checksum;
    const auto write = [&](std::span<const std::byte> bytes) {
        checksum.add(bytes);
        file.write(bytes);
    };
    write(pack_head(cache, fingerprint));
    for (int64_t layer = 0; layer < cache.shape().n_layers(); ++layer) {
        for (int64_t stream = 0; stream < cache.shape().streams; ++stream) {
            const Strip strip = strip_of(cache, stream);
            for (const Part& part : parts_of(cache.shape().layers[std::size_t(layer)])) {
                Bytes cells(strip.position.size() * part.token_bytes);
                cache.read_cells(layer, stream, part.side, cells);
                for (std::size_t c = 0; c < strip.position.size(); ++c) {
                    if (strip.position[c] < 0) continue;
                    write(std::span(cells).subspan(c * part.token_bytes, part.token_bytes));
                }
            }
        }
    }
    for (int64_t stream = 0; cache.state() != nullptr && stream < cache.shape().streams; ++stream) {
        write(cache.state()->contents(stream));
    }
    const uint64_t sum = checksum.sum();
    file.write(std::as_bytes(std::span(&sum, 1)));
    file.finish();
}

static std::string hexadecimal(uint64_t number) {
    char text[19];
    std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(number));
    return text;
}

// That the bytes are a whole saved cache of a known version; returns them without the checksum.
static std::span<const std::byte> check_whole(std::span<const std::byte> bytes,
                                              const std::string& path) {
    ByteCursor cursor(bytes, path);
    if (!std::ranges::equal(cursor.take(k_magic.size(), "magic"),
                            std::as_bytes(std::span(k_magic)))) {
        cursor.fail("expected \"rotkv-kv\": not a saved cache");
    }
    const uint32_t version = cursor.number<uint32_t>("version");
    if (version < k_alike_version || version > k_state_version) {
        cursor.fail("expected version " + std::to_string(k_alike_version) + " to " +
                    std::to_string(k_state_version) + ", found " + std::to_string(version));
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

// The next field of the file, of the same name and kind as `like`.
static Field read_field(ByteCursor& cursor, const Field& like) {
    if (std::holds_alternative<std::string>(like.value)) {
        return {like.name, std::string(cursor.string())};
    }
    return {like.name, cursor.number<int64_t>(like.name)};
}

static void require_same(const Field& expected, const Field& found, const std::string& of,
                         const std::string& path) {
    if (found.value == expected.value) return;
    const auto words = [](const Field& field) {
        const std::string* text = std::get_if<std::string>(&field.value);
        return text != nullptr ? in_quotes(*text) : std::to_string(std::get<int64_t>(field.value));
    };
    differs(path, of + expected.name, words(expected), words(found));
}

static std::string name_of_layer(int64_t index) { return "layer " + std::to_string(index) + ": "; }

// What gives the bytes their meaning, field by field against the cache at hand. Returns the number
// of cells that the saved cache had.
static uint64_t check_same(ByteCursor& cursor, const KvCache& cache, uint32_t version,
                           const std::string& path) {
    const KvShape& shape = cache.shape();
    const uint64_t cells = cursor.number<uint64_t>("cells");
    const Field all[] = {{"streams", shape.streams}, {"layers", shape.n_layers()}};
    for (const Field& field : all) require_same(field, read_field(cursor, field), "", path);
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        for (const Field& field : fields_of(cache, l, version)) {
            require_same(field, read_field(cursor, field), name_of_layer(l), path);
        }
    }
    return cells;
}

// The same for version 1, which says once what holds for all layers.
static uint64_t check_alike(ByteCursor& cursor, const KvCache& cache, const std::string& path) {
    const KvShape& shape = cache.shape();
    const auto texts_of = [&](int64_t l) {
        std::vector<Field> texts = types_of(shape.layers[std::size_t(l)]);
        texts.push_back({"rotation", saved_words(cache.spec(), l)});
        return texts;
    };
    std::vector<Field> texts, extents;
    for (const Field& like : texts_of(0)) texts.push_back(read_field(cursor, like));
    const uint64_t cells = cursor.number<uint64_t>("cells");
    const Field all[] = {{"layers", shape.n_layers()}, {"streams", shape.streams}};
    for (const Field& field : all) require_same(field, read_field(cursor, field), "", path);
    for (const Field& like : extents_of({})) extents.push_back(read_field(cursor, like));

    const auto require_all = [&](const std::vector<Field>& expected,
                                 const std::vector<Field>& found, int64_t l) {
        for (std::size_t i = 0; i < found.size(); ++i) {
            require_same(expected[i], found[i], name_of_layer(l), path);
        }
    };
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        require_all(texts_of(l), texts, l);
        require_all(extents_of(layer), extents, l);
        require_all({{"source", layer.source.value_or(l)}}, {{"source", l}}, l);
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

// Which tokens a stream's states hold.
static Held read_held(ByteCursor& cursor) {
    Held held;
    held.first = cursor.number<int32_t>("first position of a state");
    held.next = cursor.number<int32_t>("next position of a state");
    if (held.first < 0 || held.next < held.first) {
        cursor.fail("expected positions from 0 on, found " + std::to_string(held.first) + " to " +
                    std::to_string(held.next));
    }
    return held;
}

static void restore_states(KvCache& cache, std::span<const Held> held,
                           std::span<const std::byte> data) {
    if (cache.state() == nullptr) return;
    const std::size_t bytes = std::size_t(cache.shape().recurrent().bytes_per_stream());
    for (std::size_t stream = 0; stream < held.size(); ++stream) {
        cache.mutable_state().set_contents(int64_t(stream), data.subspan(stream * bytes, bytes),
                                           held[stream]);
    }
}

// The tokens' keys and values into their cells, zeros into the empty cells between them.
static void restore(KvCache& cache, std::span<const int32_t> positions,
                    std::span<const std::byte> data) {
    cache.set_positions(positions);
    for (int64_t layer = 0; layer < cache.shape().n_layers(); ++layer) {
        for (int64_t stream = 0; stream < cache.shape().streams; ++stream) {
            const Strip strip = strip_of(cache, stream);
            for (const Part& part : parts_of(cache.shape().layers[std::size_t(layer)])) {
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
    cache.require_one_kind_of_rows();
    const Bytes file = whole_file(path);
    const std::span<const std::byte> body = check_whole(file, path);
    ByteCursor cursor(body, path);
    cursor.take(k_magic.size(), "magic");
    const uint32_t version = cursor.number<uint32_t>("version");
    cursor.take(sizeof(uint64_t), "file's size");
    const uint64_t model = cursor.number<uint64_t>("model");
    if (model != fingerprint) differs(path, "model", hexadecimal(fingerprint), hexadecimal(model));
    if (cache.state() != nullptr && version != k_state_version) {
        differs(path, "version", std::to_string(k_state_version) + ", with states",
                std::to_string(version));
    }
    const uint64_t saved_cells = version == k_alike_version
                                     ? check_alike(cursor, cache, path)
                                     : check_same(cursor, cache, version, path);

    const KvShape& shape = cache.shape();
    std::vector<int32_t> positions(cache.host_positions().size(), -1);
    std::vector<Held> held;
    for (int64_t stream = 0; stream < shape.streams; ++stream) {
        const std::size_t first = std::size_t(stream * shape.cells);
        read_positions(cursor, saved_cells,
                       std::span(positions).subspan(first, std::size_t(shape.cells)), path);
        if (version == k_state_version) held.push_back(read_held(cursor));
    }
    const int64_t tokens = std::ranges::count_if(positions, [](int32_t p) { return p >= 0; });
    const uint64_t data_bytes = uint64_t(data_bytes_of(shape, tokens));
    const std::span<const std::byte> data = cursor.take(data_bytes, "keys, values and states");
    if (cursor.offset() != body.size()) {
        cursor.fail("expected " + std::to_string(data_bytes) +
                    " bytes of keys, values and states, found " +
                    std::to_string(data_bytes + body.size() - cursor.offset()));
    }
    const std::size_t cells = std::size_t(tokens * shape.bytes_per_token());
    restore(cache, positions, data.first(cells));
    restore_states(cache, held, data.subspan(cells));
}

}  // namespace rotkv
