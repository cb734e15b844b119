#pragma once
// What a saved cache holds by the file alone, without the model that it is of: the one reader of
// the layout in cache_file.h. What it means for a cache at hand is load_cache()'s to say.
// Docs: docs/24-saved-caches.md

#include "ref/kv_cache.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rotkv {

/// Something that gives the bytes their meaning, as it stands in the file: a number or a text.
struct SavedField {
    std::string_view name;
    bool is_text = false;
    int64_t number = 0;
    std::string text;

    SavedField(std::string_view n, int64_t value) : name(n), number(value) {}
    SavedField(std::string_view n, std::string value)
        : name(n), is_text(true), text(std::move(value)) {}
    bool operator==(const SavedField&) const = default;
};

/// A number as it is, a text in quotes, on one printable line.
std::string words_of(const SavedField& field);

/// One stream: its cells up to the last token.
struct SavedStream {
    std::vector<int32_t> position;  ///< [cells], -1: an empty one
    int64_t tokens = 0;             ///< cells that are not empty
    Held held;                      ///< by the states; of version 3
};

struct SavedCache {
    std::string path;
    std::vector<std::byte> file;
    uint32_t version = 0;
    uint64_t fingerprint = 0, cells = 0;
    int64_t layers = 0;
    std::vector<std::vector<SavedField>> fields;  ///< of each layer; version 1: one, of all layers
    std::vector<SavedStream> streams;
    std::size_t data_at = 0, data_bytes = 0;  ///< keys, values and states inside `file`

    bool has_states() const { return version == 3; }
    const std::vector<SavedField>& layer(int64_t l) const {
        return fields[fields.size() == 1 ? 0 : std::size_t(l)];
    }
    std::span<const std::byte> data() const { return std::span(file).subspan(data_at, data_bytes); }
    int64_t tokens() const;  ///< of all streams
};

/// The extents of a layer, then their names' types and rotations, in the order of the file.
std::vector<SavedField> fields_of(const KvLayer& layer, int64_t index, const RotationSpec& spec,
                                  bool with_state);

/// The same of version 1: its texts, and its extents.
std::vector<SavedField> texts_of_version_1(const KvLayer& layer, const std::string& rotation);
std::vector<SavedField> extents_of(const KvLayer& layer);

/// A side of a layer that has rows of its own, and what a token takes in it.
struct SavedPart {
    Side side;
    std::size_t token_bytes;
};
std::vector<SavedPart> parts_of(const KvLayer& layer);

/// Bytes of the keys and values of so many tokens, and of all states.
int64_t saved_data_bytes(const KvShape& shape, int64_t tokens);

/// A whole file of a known version, its checksum right, its counts held against the bytes that are
/// there. Types and rotations are texts, and of any extents: shape_of() looks at them.
/// Throws: Error(io); Error(bad_file) naming the offset.
SavedCache read_saved_cache(const std::string& path);
SavedCache parse_saved_cache(std::vector<std::byte> file, const std::string& path);

/// The shape that the file says, cells left out. A type that ends in "+kbias" counts as what is in
/// front of it, which is what its bytes are: decoded, its keys are those without their bias.
/// Throws: Error(bad_file) naming the layer for a type that is not known, extents that no cache
/// has, and where keys, values and states take other bytes than there are.
KvShape shape_of(const SavedCache& saved);

/// The rows of a side of a layer, of one stream: [token in the order of its cells][kv head].
struct SavedRows {
    int64_t layer = 0, stream = 0;
    Side side = Side::k;
    std::span<const std::byte> bytes;
};
/// All of them in the order of the file; `shape` is shape_of(saved).
std::vector<SavedRows> rows_of(const SavedCache& saved, const KvShape& shape);

/// The states of all streams, as bytes of f32.
std::span<const std::byte> states_of(const SavedCache& saved, const KvShape& shape);

/// "0x0123456789abcdef".
std::string hexadecimal(uint64_t number);

}  // namespace rotkv
