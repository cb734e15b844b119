// Any bytes as a saved cache: loaded, or refused with an Error that leaves the cache as it was.
// What was loaded can be saved and loaded again. Each input is tried as it is and once more with
// the file's size and the checksum set right, because few changes survive those two.
#include "ref/error.h"
#include "ref/files/cache_contents.h"
#include "ref/files/cache_file.h"
#include "ref/kernels.h"
#include "tests/cache_contents.h"
#include "tests/fuzz/temporary_path.h"

#include <stdexcept>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr uint64_t k_model = 0x0123456789abcdef;
constexpr size_t k_size_offset = 12, k_checksum_bytes = 8;  // see ref/files/cache_file.h

using Bytes = std::vector<uint8_t>;

Bytes with_right_sums(Bytes file) {
    if (file.size() < k_size_offset + 8 + k_checksum_bytes) return file;
    const uint64_t size = file.size();
    std::memcpy(&file[k_size_offset], &size, sizeof size);
    const size_t end = file.size() - k_checksum_bytes;
    uint64_t sum = 0xcbf29ce484222325u;  // FNV-1a
    for (size_t i = 0; i < end; ++i) sum = (sum ^ file[i]) * 0x100000001b3u;
    std::memcpy(&file[end], &sum, sizeof sum);
    return file;
}

// The caches that the seeds were saved from: several streams, a rotation, V inside K, unlike layers
// of which one reads another's rows and one keeps nothing, formats of the zoo.
struct Kind {
    KvShape shape;
    RotationSpec spec;
};
std::vector<Kind> kinds() {
    const KvLayer f32{
        .kv_heads = 1, .d_k = 2, .d_v = 2, .type_k = DType::f32, .type_v = DType::f32};
    const KvLayer rotated{
        .kv_heads = 2, .d_k = 32, .d_v = 32, .type_k = DType::q8_0, .type_v = DType::q4_0};
    const KvLayer shared{.kv_heads = 1, .d_k = 8, .d_v = 4, .v_in_k = true, .v_first = 4};
    KvLayer reading = rotated;
    reading.source = 0;
    const RotationSpec::Layer turned{.k = *parse_rotation("32"), .v = *parse_rotation("16:7")};
    std::vector<Kind> all;
    const auto add = [&](int64_t streams, const std::vector<KvLayer>& layers,
                         const RotationSpec& spec) {
        Kind& kind = all.emplace_back();
        kind.shape.streams = streams;
        kind.shape.cells = 4;
        kind.shape.layers = layers;
        kind.spec = spec;
    };
    add(2, {f32}, RotationSpec());
    add(1, {rotated, rotated}, RotationSpec({turned}));
    add(2, {shared}, spec_of("k=4:3 v=4:3:4"));
    add(1, {rotated, f32, reading, {}}, RotationSpec({turned, {}, turned, {}}));
    KvLayer zoo{.kv_heads = 1, .d_k = 32, .d_v = 32};
    zoo.type_k = *find_cache_type("exl3:3");
    zoo.type_v = *find_cache_type("polar");
    add(2, {zoo}, RotationSpec({turned}));
    return all;
}

// A cache that holds something: one token in each stream, and bytes that no load would write.
std::unique_ptr<KvCache> make_cache(Backend& backend, const Kind& kind) {
    auto cache = std::make_unique<KvCache>(backend, kind.shape, kind.spec);
    std::vector<int32_t> positions(size_t(kind.shape.streams * kind.shape.cells), -1);
    for (size_t c = 2; c < positions.size(); c += size_t(kind.shape.cells)) positions[c] = 5;
    cache->set_positions(positions);
    for (int64_t layer = 0; layer < kind.shape.n_layers(); ++layer) {
        for (const TensorView& tensor : {cache->k(layer), cache->v(layer)}) {
            backend.upload(tensor.data,
                           std::vector<std::byte>(size_t(span_bytes(tensor)), std::byte(0x55)));
        }
    }
    return cache;
}

// By the file alone: refused, or with rows for all of its bytes.
void read(const Bytes& bytes) {
    try {
        const std::span<const std::byte> all = std::as_bytes(std::span(bytes));
        const SavedCache saved = parse_saved_cache({all.begin(), all.end()}, "input");
        const KvShape shape = shape_of(saved);
        size_t held = states_of(saved, shape).size();
        for (const SavedRows& rows : rows_of(saved, shape)) held += rows.bytes.size();
        if (held != saved.data_bytes) throw std::logic_error("bytes that are no rows and no state");
    } catch (const Error&) {
    }
}

void load(const Kind& kind, const std::string& path, const TemporaryPath& again) {
    static const std::unique_ptr<Backend> backend = make_ref_backend();
    const std::unique_ptr<KvCache> cache = make_cache(*backend, kind);
    const std::vector<std::byte> before = contents(*backend, *cache);
    try {
        load_cache(*cache, k_model, path);
    } catch (const Error&) {
        if (contents(*backend, *cache) != before)
            throw std::logic_error("a file that was refused has changed the cache");
        return;
    }
    again.clear();
    save_cache(*cache, k_model, again.path);
    const std::unique_ptr<KvCache> second = make_cache(*backend, kind);
    load_cache(*second, k_model, again.path);
    if (contents(*backend, *second) != contents(*backend, *cache))
        throw std::logic_error("saved and loaded again, the cache is another");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::vector<Kind> all = kinds();
    static const TemporaryPath file, again;
    const Bytes input(data, data + size);
    for (const Bytes& bytes : {input, with_right_sums(input)}) {
        read(bytes);
        file.write(bytes);
        for (const Kind& kind : all) load(kind, file.path, again);
    }
    return 0;
}
