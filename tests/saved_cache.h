#pragma once
// Saved caches for tests: their bytes put together by hand, and what loading says of them.
// Docs: docs/04-kv-cache.md

#include "ref/error.h"
#include "ref/files/cache_file.h"
#include "tests/cache_contents.h"
#include "tests/catch.h"

#include <initializer_list>
#include <string>

namespace rotkv::test {

inline constexpr uint64_t k_model = 0x0123456789abcdef;

template <class Number>
inline std::string raw(Number number) {
    return {reinterpret_cast<const char*>(&number), sizeof number};
}

inline std::string text(const std::string& s) { return raw(uint64_t(s.size())) + s; }

// The file's bytes without its checksum, with the size and the checksum that belong to them.
inline std::string sealed(std::string body) {
    body.replace(12, 8, raw(uint64_t(body.size() + 8)));
    uint64_t sum = 0xcbf29ce484222325u;
    for (const char c : body) sum = (sum ^ uint64_t(uint8_t(c))) * 0x100000001b3u;
    return body + raw(sum);
}

// The message of the error that loading ends in, after checking that it changed nothing.
inline std::string refusal(Backend& backend, KvCache& cache, uint64_t model,
                           const std::string& path) {
    const std::vector<std::byte> before = contents(backend, cache);
    try {
        load_cache(cache, model, path);
    } catch (const Error& error) {
        const std::string what = error.what();
        CHECK(error.code() == ErrorCode::bad_file);
        CHECK(what.substr(0, path.size() + 2) == path + ": ");
        CHECK(what.find('\n') == std::string::npos);
        CHECK(contents(backend, cache) == before);
        return what.substr(std::min(what.size(), path.size() + 2));
    }
    return "no error";
}

// Every byte of K and V, so that a cell that is read without having been written shows.
inline void fill_bytes(KvCache& cache, uint8_t value) {
    const KvShape& shape = cache.shape();
    for (int64_t i = 0; i < shape.n_layers() * shape.streams; ++i) {
        const KvLayer& layer = shape.layers[size_t(i / shape.streams)];
        for (const Side side : {Side::k, Side::v}) {
            if (side == Side::v && layer.v_in_k) continue;
            const int64_t row = side == Side::k ? row_bytes(layer.type_k, layer.d_k)
                                                : row_bytes(layer.type_v, layer.d_v);
            const size_t bytes = size_t(shape.cells * layer.kv_heads * row);
            cache.write_cells(i / shape.streams, i % shape.streams, side,
                              std::vector<std::byte>(bytes, std::byte{value}));
        }
    }
}

// One layer, two streams of four cells, f32 heads of 2 values: K 1 2 / 3 4 / 5 6, V ten times that.
inline KvShape small_shape() {
    return {.streams = 2,
            .cells = 4,
            .layers = {
                {.kv_heads = 1, .d_k = 2, .d_v = 2, .type_k = DType::f32, .type_v = DType::f32}}};
}

// The file of that cache as the header of ref/files/cache_file.h lays it out, without its checksum.
inline std::string numbers(std::initializer_list<uint64_t> all) {
    std::string bytes;
    for (const uint64_t number : all) bytes += raw(number);
    return bytes;
}
inline std::string small_head() {
    // cells, streams, layers; kv_heads, d_k, d_v, v_in_k, v_first, source
    return "rotkv-kv" + raw(uint32_t(2)) + numbers({0, k_model, 4, 2, 1, 1, 2, 2, 0, 0, 0}) +
           text("f32") + text("f32") + text("none") + text("none");
}
inline std::string small_positions() {
    return raw(uint64_t(3)) + raw(7) + raw(-1) + raw(8) + raw(uint64_t(1)) + raw(9);
}
inline std::string small_data() {
    std::string bytes;
    for (const float x : {1.0f, 2.0f, 3.0f, 4.0f, 10.0f, 20.0f, 30.0f, 40.0f}) bytes += raw(x);
    for (const float x : {5.0f, 6.0f, 50.0f, 60.0f}) bytes += raw(x);
    return bytes;
}

}  // namespace rotkv::test
