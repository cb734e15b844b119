#include "ref/files/cache_file.h"

#include "ref/error.h"
#include "ref/files/byte_packer.h"
#include "ref/files/cache_contents.h"
#include "ref/files/fnv1a.h"
#include "ref/files/output_file.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>
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

}  // namespace

static Strip strip_of(const KvCache& cache, int64_t stream) {
    const std::size_t cells = std::size_t(cache.shape().cells);
    return Strip(cache.host_positions().subspan(std::size_t(stream) * cells, cells));
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
        for (const SavedField& field :
             fields_of(shape.layers[std::size_t(l)], l, cache.spec(), cache.state() != nullptr)) {
            if (field.is_text) {
                head.put(field.text);
            } else {
                head.put(field.number);
            }
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
        head.bytes.size() + uint64_t(saved_data_bytes(shape, tokens)) + k_checksum_bytes;
    std::memcpy(head.bytes.data() + k_file_bytes_offset, &file_bytes, sizeof file_bytes);
    return std::move(head.bytes);
}

// The whole file, part by part.
static void pack(const KvCache& cache, uint64_t fingerprint,
                 const std::function<void(std::span<const std::byte>)>& put) {
    cache.require_one_kind_of_rows();
    Fnv1a checksum;
    const auto write = [&](std::span<const std::byte> bytes) {
        checksum.add(bytes);
        put(bytes);
    };
    write(pack_head(cache, fingerprint));
    for (int64_t layer = 0; layer < cache.shape().n_layers(); ++layer) {
        for (int64_t stream = 0; stream < cache.shape().streams; ++stream) {
            const Strip strip = strip_of(cache, stream);
            for (const SavedPart& part : parts_of(cache.shape().layers[std::size_t(layer)])) {
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
    put(std::as_bytes(std::span(&sum, 1)));
}

void save_cache(const KvCache& cache, uint64_t fingerprint, const std::string& path) {
    cache.require_one_kind_of_rows();
    OutputFile file(path);
    pack(cache, fingerprint, [&](std::span<const std::byte> bytes) { file.write(bytes); });
    file.finish();
}

std::vector<std::byte> saved_bytes(const KvCache& cache, uint64_t fingerprint) {
    Bytes file;
    pack(cache, fingerprint, [&](std::span<const std::byte> bytes) {
        file.insert(file.end(), bytes.begin(), bytes.end());
    });
    return file;
}

[[noreturn]] static void differs(const std::string& path, const std::string& what,
                                 const std::string& expected, const std::string& found) {
    throw Error(ErrorCode::bad_file,
                path + ": " + what + ": expected " + expected + ", found " + found);
}

// Those of a layer against what is expected of it, both in one order.
static void require_same(const std::vector<SavedField>& expected, std::span<const SavedField> found,
                         int64_t layer, const std::string& path) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
        if (found[i] == expected[i]) continue;
        differs(path, "layer " + std::to_string(layer) + ": " + std::string(expected[i].name),
                words_of(expected[i]), words_of(found[i]));
    }
}

static void require_count(const char* name, int64_t expected, int64_t found,
                          const std::string& path) {
    if (found != expected) differs(path, name, std::to_string(expected), std::to_string(found));
}

// What gives the bytes their meaning, field by field against the cache at hand.
static void check_same(const SavedCache& saved, const KvCache& cache) {
    const KvShape& shape = cache.shape();
    require_count("streams", shape.streams, int64_t(saved.streams.size()), saved.path);
    require_count("layers", shape.n_layers(), saved.layers, saved.path);
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        require_same(fields_of(shape.layers[std::size_t(l)], l, cache.spec(), saved.has_states()),
                     saved.layer(l), l, saved.path);
    }
}

// The same for version 1, which says once what holds for all layers.
static void check_alike(const SavedCache& saved, const KvCache& cache) {
    const KvShape& shape = cache.shape();
    require_count("layers", shape.n_layers(), saved.layers, saved.path);
    require_count("streams", shape.streams, int64_t(saved.streams.size()), saved.path);
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        const std::span<const SavedField> found = saved.layer(l);
        const std::vector<SavedField> texts =
            texts_of_version_1(layer, saved_words(cache.spec(), l));
        require_same(texts, found.first(texts.size()), l, saved.path);
        require_same(extents_of(layer), found.subspan(texts.size()), l, saved.path);
        require_same({{"source", layer.source.value_or(l)}}, std::vector{SavedField{"source", l}},
                     l, saved.path);
    }
}

static void restore_states(KvCache& cache, const SavedCache& saved,
                           std::span<const std::byte> data) {
    if (cache.state() == nullptr) return;
    const std::size_t bytes = std::size_t(cache.shape().recurrent().bytes_per_stream());
    for (std::size_t stream = 0; stream < saved.streams.size(); ++stream) {
        cache.mutable_state().set_contents(int64_t(stream), data.subspan(stream * bytes, bytes),
                                           saved.streams[stream].held);
    }
}

// The tokens' keys and values into their cells, zeros into the empty cells between them.
static void restore(KvCache& cache, std::span<const int32_t> positions,
                    std::span<const std::byte> data) {
    cache.set_positions(positions);
    for (int64_t layer = 0; layer < cache.shape().n_layers(); ++layer) {
        for (int64_t stream = 0; stream < cache.shape().streams; ++stream) {
            const Strip strip = strip_of(cache, stream);
            for (const SavedPart& part : parts_of(cache.shape().layers[std::size_t(layer)])) {
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
    const SavedCache saved = read_saved_cache(path);
    if (saved.fingerprint != fingerprint) {
        differs(path, "model", hexadecimal(fingerprint), hexadecimal(saved.fingerprint));
    }
    if (cache.state() != nullptr && !saved.has_states()) {
        differs(path, "version", std::to_string(k_state_version) + ", with states",
                std::to_string(saved.version));
    }
    saved.version == k_alike_version ? check_alike(saved, cache) : check_same(saved, cache);

    const KvShape& shape = cache.shape();
    std::vector<int32_t> positions(cache.host_positions().size(), -1);
    for (std::size_t stream = 0; stream < saved.streams.size(); ++stream) {
        const std::vector<int32_t>& used = saved.streams[stream].position;
        if (used.size() > std::size_t(shape.cells)) {
            differs(path, "cells", "at most " + std::to_string(shape.cells),
                    std::to_string(used.size()));
        }
        std::ranges::copy(used, positions.begin() + int64_t(stream) * shape.cells);
    }
    const std::size_t data_bytes = std::size_t(saved_data_bytes(shape, saved.tokens()));
    if (saved.data_bytes != data_bytes) {
        differs(path, "bytes of keys, values and states", std::to_string(data_bytes),
                std::to_string(saved.data_bytes));
    }
    const std::size_t cells = std::size_t(saved.tokens() * shape.bytes_per_token());
    restore(cache, positions, saved.data().first(cells));
    restore_states(cache, saved, saved.data().subspan(cells));
}

}  // namespace rotkv
