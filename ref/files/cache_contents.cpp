#include "ref/files/cache_contents.h"

#include "ref/error.h"
#include "ref/files/byte_cursor.h"
#include "ref/files/fnv1a.h"
#include "ref/files/gguf.h"
#include "ref/files/whole_file.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <utility>

namespace rotkv {

static constexpr std::string_view k_magic = "rotkv-kv";
static constexpr uint32_t k_alike_version = 1, k_state_version = 3;
static constexpr std::size_t k_checksum_bytes = 8;
static constexpr uint64_t k_most_layers = 1 << 16;  // version 1 says how many, and nothing of each
static constexpr int64_t k_most_extent = 1 << 20;

std::string hexadecimal(uint64_t number) {
    char text[19];
    std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(number));
    return text;
}

std::string words_of(const SavedField& field) {
    return field.is_text ? in_quotes(field.text) : std::to_string(field.number);
}

int64_t SavedCache::tokens() const {
    int64_t all = 0;
    for (const SavedStream& stream : streams) all += stream.tokens;
    return all;
}

std::vector<SavedField> extents_of(const KvLayer& layer) {
    return {{"kv_heads", layer.kv_heads},
            {"d_k", layer.d_k},
            {"d_v", layer.d_v},
            {"v_in_k", int64_t(layer.v_in_k)},
            {"v_first", layer.v_in_k ? layer.v_first : 0}};
}

std::vector<SavedField> texts_of_version_1(const KvLayer& layer, const std::string& rotation) {
    return {{"type of K", layer.type_k.name()},
            {"type of V", layer.type_v.name()},
            {"rotation", rotation}};
}

std::vector<SavedField> fields_of(const KvLayer& layer, int64_t index, const RotationSpec& spec,
                                  bool with_state) {
    std::vector<SavedField> fields = extents_of(layer);
    fields.emplace_back("source", layer.source.value_or(index));
    fields.emplace_back("type of K", layer.type_k.name());
    fields.emplace_back("type of V", layer.type_v.name());
    fields.emplace_back("rotation of K", rotation_name(spec, index, Side::k));
    fields.emplace_back("rotation of V", rotation_name(spec, index, Side::v));
    if (!with_state) return fields;
    fields.emplace_back("heads of its state", layer.recurrent.heads);
    fields.emplace_back("d of its state", layer.recurrent.d);
    fields.emplace_back("channels of its state", layer.recurrent.channels);
    fields.emplace_back("taps of its state", layer.recurrent.taps);
    return fields;
}

std::vector<SavedPart> parts_of(const KvLayer& layer) {
    if (layer.source || layer.kv_heads == 0) return {};
    const auto bytes = [&](const CacheType& type, int64_t d) {
        return std::size_t(layer.kv_heads * row_bytes(type, d));
    };
    std::vector<SavedPart> parts = {{Side::k, bytes(layer.type_k, layer.d_k)}};
    if (!layer.v_in_k) parts.push_back({Side::v, bytes(layer.type_v, layer.d_v)});
    return parts;
}

int64_t saved_data_bytes(const KvShape& shape, int64_t tokens) {
    return tokens * shape.bytes_per_token() + shape.streams * shape.recurrent().bytes_per_stream();
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

// The fields of the file that come next, of the same names and kinds as `like`.
static void read_fields(std::vector<SavedField>& fields, ByteCursor& cursor,
                        const std::vector<SavedField>& like) {
    for (const SavedField& field : like) {
        if (field.is_text) {
            fields.emplace_back(field.name, std::string(cursor.string()));
        } else {
            fields.emplace_back(field.name, cursor.number<int64_t>(field.name.data()));
        }
    }
}

static uint64_t read_layer_count(ByteCursor& cursor, uint64_t least_bytes) {
    const uint64_t layers = cursor.count("layers:", least_bytes);
    if (layers > k_most_layers) {
        cursor.fail("layers: expected at most " + std::to_string(k_most_layers) + ", found " +
                    std::to_string(layers));
    }
    return layers;
}

// What gives the bytes their meaning. Returns how many streams follow.
static uint64_t read_meaning(SavedCache& saved, ByteCursor& cursor) {
    constexpr uint64_t stream_bytes = 8;
    if (saved.version == k_alike_version) {
        saved.fields.resize(1);
        read_fields(saved.fields[0], cursor, texts_of_version_1({}, ""));
        saved.cells = cursor.number<uint64_t>("cells");
        saved.layers = int64_t(read_layer_count(cursor, 1));
        const uint64_t streams = cursor.count("streams:", stream_bytes);
        read_fields(saved.fields[0], cursor, extents_of({}));
        return streams;
    }
    saved.cells = cursor.number<uint64_t>("cells");
    const uint64_t streams = cursor.count("streams:", stream_bytes);
    const std::vector<SavedField> like = fields_of({}, 0, RotationSpec(), saved.has_states());
    saved.layers = int64_t(read_layer_count(cursor, like.size() * sizeof(int64_t)));
    saved.fields.resize(std::size_t(saved.layers));
    for (std::vector<SavedField>& fields : saved.fields) read_fields(fields, cursor, like);
    return streams;
}

static SavedStream read_stream(ByteCursor& cursor, const SavedCache& saved) {
    SavedStream stream;
    const uint64_t used = cursor.count("number of used cells", sizeof(int32_t));
    if (used > saved.cells) {
        cursor.fail("expected at most " + std::to_string(saved.cells) + " used cells, found " +
                    std::to_string(used));
    }
    for (uint64_t c = 0; c < used; ++c) {
        const int32_t position = cursor.number<int32_t>("position");
        const bool last = c + 1 == used;
        if (position < (last ? 0 : -1)) {
            cursor.fail("expected a position" + std::string(last ? "" : " or -1") + ", found " +
                        std::to_string(position));
        }
        stream.position.push_back(position);
        stream.tokens += position >= 0;
    }
    if (!saved.has_states()) return stream;
    stream.held.first = cursor.number<int32_t>("first position of a state");
    stream.held.next = cursor.number<int32_t>("next position of a state");
    if (stream.held.first < 0 || stream.held.next < stream.held.first) {
        cursor.fail("expected positions from 0 on, found " + std::to_string(stream.held.first) +
                    " to " + std::to_string(stream.held.next));
    }
    return stream;
}

SavedCache parse_saved_cache(std::vector<std::byte> file, const std::string& path) {
    SavedCache saved;
    saved.path = path;
    saved.file = std::move(file);
    const std::span<const std::byte> body = check_whole(saved.file, path);
    ByteCursor cursor(body, path);
    cursor.take(k_magic.size(), "magic");
    saved.version = cursor.number<uint32_t>("version");
    cursor.take(sizeof(uint64_t), "file's size");
    saved.fingerprint = cursor.number<uint64_t>("model");
    const uint64_t streams = read_meaning(saved, cursor);
    for (uint64_t s = 0; s < streams; ++s) saved.streams.push_back(read_stream(cursor, saved));
    saved.data_at = std::size_t(cursor.offset());
    saved.data_bytes = std::size_t(cursor.left());
    return saved;
}

SavedCache read_saved_cache(const std::string& path) {
    return parse_saved_cache(whole_file(path), path);
}

namespace {

// A layer's fields by name, each held against what a cache can have.
struct Reading {
    const SavedCache& saved;
    int64_t index;

    [[noreturn]] void fail(const std::string& what, const std::string& expected,
                           const std::string& found) const {
        throw Error(ErrorCode::bad_file, saved.path + ": layer " + std::to_string(index) + ": " +
                                             what + ": expected " + expected + ", found " + found);
    }
    const SavedField* find(const std::string& name) const {
        for (const SavedField& field : saved.layer(index)) {
            if (field.name == name) return &field;
        }
        return nullptr;
    }
    int64_t number(const char* name, int64_t most, int64_t otherwise = 0) const {
        const SavedField* field = find(name);
        if (field == nullptr) return otherwise;
        const int64_t n = field->number;
        if (n < 0 || n > most) fail(name, "0 .. " + std::to_string(most), std::to_string(n));
        return n;
    }
    CacheType type(const char* name) const {
        std::string text = find(name)->text;
        constexpr std::string_view bias = "+kbias";
        if (text.ends_with(bias)) text.resize(text.size() - bias.size());
        std::optional<CacheType> type;
        try {
            type = find_cache_type(text);
        } catch (const Error&) {  // of what follows a ':'
        }
        if (!type || type->group() != 1) fail(name, "a type of saved caches", in_quotes(text));
        return *type;
    }
    void check_rows(const CacheType& type, const char* name, int64_t d) const {
        const std::string why = d == 0 ? "no channels" : type.refusal(d);
        if (!why.empty()) fail(name, "heads that " + type.name() + " can keep", why);
    }
};

KvLayer layer_of(const SavedCache& saved, int64_t index) {
    const Reading reading{saved, index};
    KvLayer layer;
    layer.kv_heads = reading.number("kv_heads", k_most_extent);
    layer.d_k = reading.number("d_k", k_most_extent);
    layer.d_v = reading.number("d_v", k_most_extent);
    layer.v_in_k = reading.number("v_in_k", 1) != 0;
    layer.v_first = reading.number("v_first", k_most_extent);
    const int64_t source = reading.number("source", index, index);
    if (source != index) layer.source = source;
    layer.type_k = reading.type("type of K");
    layer.type_v = reading.type("type of V");
    layer.recurrent = {.heads = reading.number("heads of its state", 1 << 12),
                       .d = reading.number("d of its state", 1 << 12),
                       .channels = reading.number("channels of its state", k_most_extent),
                       .taps = reading.number("taps of its state", 1 << 8)};
    if (layer.recurrent.heads == 0) layer.recurrent = {};
    if (layer.kv_heads == 0) return layer;
    reading.check_rows(layer.type_k, "d_k", layer.d_k);
    if (!layer.v_in_k) reading.check_rows(layer.type_v, "d_v", layer.d_v);
    return layer;
}

}  // namespace

KvShape shape_of(const SavedCache& saved) {
    KvShape shape;
    shape.streams = int64_t(saved.streams.size());
    const uint64_t tokens = uint64_t(saved.tokens()), streams = uint64_t(shape.streams);
    uint64_t needed = 0;  // 2^42 a side and token at most, 2^39 a state: no sum of them overflows
    for (int64_t l = 0; l < saved.layers; ++l) {
        shape.layers.push_back(layer_of(saved, l));
        const KvLayer& layer = shape.layers.back();
        uint64_t of_token = 0;
        for (const SavedPart& part : parts_of(layer)) of_token += part.token_bytes;
        const uint64_t of_stream =
            layer.recurrent.heads > 0 ? uint64_t(layer.recurrent.bytes_per_stream()) : 0;
        const uint64_t left = saved.data_bytes - needed;
        if ((tokens > 0 && of_token > left / tokens) ||
            (streams > 0 && of_stream > (left - tokens * of_token) / streams)) {
            Reading{saved, l}.fail("keys, values and states", "bytes of them",
                                   std::to_string(left) + " that are left");
        }
        needed += tokens * of_token + streams * of_stream;
    }
    if (needed != saved.data_bytes) {
        throw Error(ErrorCode::bad_file, saved.path + ": expected " + std::to_string(needed) +
                                             " bytes of keys, values and states, found " +
                                             std::to_string(saved.data_bytes));
    }
    return shape;
}

std::vector<SavedRows> rows_of(const SavedCache& saved, const KvShape& shape) {
    std::vector<SavedRows> all;
    std::span<const std::byte> data = saved.data();
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const std::vector<SavedPart> parts = parts_of(shape.layers[std::size_t(l)]);
        for (int64_t stream = 0; !parts.empty() && stream < shape.streams; ++stream) {
            for (const SavedPart& part : parts) {
                const std::size_t bytes =
                    std::size_t(saved.streams[std::size_t(stream)].tokens) * part.token_bytes;
                all.push_back({l, stream, part.side, data.first(bytes)});
                data = data.subspan(bytes);
            }
        }
    }
    return all;
}

std::span<const std::byte> states_of(const SavedCache& saved, const KvShape& shape) {
    return saved.data().last(std::size_t(shape.streams * shape.recurrent().bytes_per_stream()));
}

}  // namespace rotkv
