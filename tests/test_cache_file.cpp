// Saved caches: what comes back, what is refused and with which words.
#include "ref/error.h"
#include "ref/kernels.h"
#include "tests/saved_cache.h"
#include "tests/temporary_folder.h"

#include <filesystem>
#include <fstream>
#include <random>

using namespace rotkv;
using namespace rotkv::test;

namespace {

namespace fs = std::filesystem;
using Ints = std::vector<int32_t>;

CachedAttention quantized_case(const char* spec) {
    CachedAttention c;
    c.cells = 16;
    c.type_k = DType::q4_0;
    c.type_v = DType::q8_0;
    c.spec = spec_of(spec);
    return c;
}

std::vector<CachedAttention> cases() {
    std::vector<CachedAttention> all = {quantized_case("k=64 v=64"),
                                        quantized_case("k=64:7 v=none")};
    CachedAttention shared = quantized_case("k=32:7 v=32:7:32");
    shared.d_k = 96;
    shared.type_v = DType::q4_0;
    shared.v_in_k = true;
    shared.v_first = 32;
    all.push_back(shared);
    CachedAttention plain;
    plain.cells = 16;
    plain.type_k = plain.type_v = DType::f16;
    all.push_back(plain);
    return all;
}

void fill_small(KvCache& cache) {
    const auto write = [&](int64_t stream, Side side, const std::vector<float>& values) {
        cache.write_cells(0, stream, side, std::as_bytes(std::span(values)));
    };
    write(0, Side::k, {1, 2, -1, -1, 3, 4});
    write(0, Side::v, {10, 20, -1, -1, 30, 40});
    write(1, Side::k, {5, 6});
    write(1, Side::v, {50, 60});
    cache.set_positions(Ints{7, -1, 8, -1, 9, -1, -1, -1});
}

}  // namespace

TEST_CASE("cache_file: attention over a loaded cache equals attention over the saved one") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    for (CachedAttention& c : cases()) {
        INFO(words_of(c.spec));
        c.fill(3, 12, 5);
        KvCache saved(*ref, c.shape(), c.spec);
        c.store(*ref, saved);
        saved.remove(0, 3, 6);   // a hole
        saved.remove(1, 9, 12);  // the end
        saved.remove(2, 0, 12);  // a whole stream
        save_cache(saved, k_model, folder.file("a.rkv"));

        for (const int64_t cells : {int64_t(12), int64_t(16), int64_t(40)}) {
            KvShape shape = c.shape();
            shape.cells = cells;
            KvCache loaded(*ref, shape, c.spec);
            fill_bytes(loaded, 0xff);  // NaN in every type
            loaded.set_positions(Ints(size_t(3 * cells), 1));
            load_cache(loaded, k_model, folder.file("a.rkv"));
            CHECK(c.attend(*ref, loaded) == c.attend(*ref, saved));
            CHECK(download(*ref, loaded.used()) == download(*ref, saved.used()));
        }
    }
}

TEST_CASE("cache_file: the bytes are those that the header of the format lists") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const std::string path = folder.file("a.rkv");
    KvCache cache(*ref, small_shape(), RotationSpec());
    fill_small(cache);
    save_cache(cache, k_model, path);
    CHECK(read_all(path) == sealed(small_head() + small_positions() + small_data()));
    CHECK(folder.n_files() == 1);

    KvCache loaded(*ref, small_shape(), RotationSpec());
    fill_bytes(loaded, 0xff);
    load_cache(loaded, k_model, path);
    CHECK(download(*ref, loaded.positions()) == download(*ref, cache.positions()));
    std::vector<float> keys(6);
    loaded.read_cells(0, 0, Side::k, std::as_writable_bytes(std::span(keys)));
    CHECK(keys == std::vector<float>{1, 2, 0, 0, 3, 4});  // the removed key is not in the file
    save_cache(loaded, k_model, folder.file("b.rkv"));
    CHECK(read_all(folder.file("b.rkv")) == read_all(path));
}

TEST_CASE("cache_file: every layer and stream comes back to its place") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvShape shape = small_shape();
    shape.layers.resize(3, shape.layers[0]);
    KvCache saved(*ref, shape, RotationSpec()), loaded(*ref, shape, RotationSpec());
    std::vector<float> values(8);
    for (int64_t layer = 0; layer < 3; ++layer) {
        for (int64_t stream = 0; stream < 2; ++stream) {
            for (const Side side : {Side::k, Side::v}) {
                for (float& x : values) x = float(layer * 100 + stream * 10 + (side == Side::v));
                saved.write_cells(layer, stream, side, std::as_bytes(std::span(values)));
            }
        }
    }
    saved.set_positions(Ints{0, 1, 2, 3, 0, 1, 2, 3});
    save_cache(saved, k_model, folder.file("a.rkv"));
    fill_bytes(loaded, 0);
    load_cache(loaded, k_model, folder.file("a.rkv"));
    CHECK(contents(*ref, loaded) == contents(*ref, saved));
}

TEST_CASE("cache_file: what differs is named") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention c = quantized_case("k=64 v=64");
    c.fill(2, 12, 5);
    const std::string path = folder.file("chat.rkv");
    {
        KvCache saved(*ref, c.shape(), c.spec);
        c.store(*ref, saved);
        save_cache(saved, k_model, path);
    }
    const auto found = [&](const KvShape& shape, const char* spec, uint64_t model = k_model) {
        KvCache cache(*ref, shape, spec_of(spec));
        fill_bytes(cache, 0x55);
        cache.place(Ints{0}, Ints{3});
        return refusal(*ref, cache, model, path);
    };
    const char* same = "k=64 v=64";
    CHECK(found(c.shape(), same) == "no error");
    CHECK(found(c.shape(), same, 1) ==
          "model: expected 0x0000000000000001, found 0x0123456789abcdef");
    CHECK(found(c.shape(), "k=none v=none") ==
          "layer 0: rotation of K: expected 'none', found '64'");
    CHECK(found(c.shape(), "k=64 v=32:7") == "layer 0: rotation of V: expected '32:7', found '64'");
    const auto with = [&](auto change) {
        KvShape shape = c.shape();
        change(shape);
        return found(shape, same);
    };
    const auto with_layer = [&](auto change) {
        return with([&](KvShape& s) { change(s.layers[0]); });
    };
    CHECK(with_layer([](KvLayer& l) { l.type_k = DType::q5_0; }) ==
          "layer 0: type of K: expected 'q5_0', found 'q4_0'");
    CHECK(with_layer([](KvLayer& l) { l.type_v = DType::f16; }) ==
          "layer 0: type of V: expected 'f16', found 'q8_0'");
    CHECK(with_layer([](KvLayer& l) { l.kv_heads = 1; }) ==
          "layer 0: kv_heads: expected 1, found 2");
    CHECK(with_layer([](KvLayer& l) { l.d_k = 128; }) == "layer 0: d_k: expected 128, found 64");
    CHECK(with_layer([](KvLayer& l) { l.d_v = 128; }) == "layer 0: d_v: expected 128, found 64");
    CHECK(with([](KvShape& s) { s.layers.push_back(s.layers[0]); }) ==
          "layers: expected 2, found 1");
    CHECK(with([](KvShape& s) { s.streams = 3; }) == "streams: expected 3, found 2");
    CHECK(with([](KvShape& s) { s.cells = 11; }) == "cells: expected at most 11, found 12");

    KvShape shared = small_shape();
    shared.layers[0].d_k = 4;
    KvCache apart(*ref, shared, RotationSpec());
    shared.layers[0].v_in_k = true;
    KvCache front(*ref, shared, RotationSpec());
    shared.layers[0].v_first = 2;
    save_cache(KvCache(*ref, shared, RotationSpec()), k_model, path);
    CHECK(refusal(*ref, front, k_model, path) == "layer 0: v_first: expected 0, found 2");
    CHECK(refusal(*ref, apart, k_model, path) == "layer 0: v_in_k: expected 0, found 1");
}

TEST_CASE("cache_file: the layer that differs is named, whose rows it reads too") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const std::string path = folder.file("a.rkv");
    KvShape shape = small_shape();
    KvLayer other{.kv_heads = 2, .d_k = 32, .d_v = 64, .type_k = DType::q4_0}, reading = other;
    reading.source = 1;
    shape.layers = {shape.layers[0], other, reading, {}};
    const RotationSpec::Layer turned{.k = *parse_rotation("32"), .v = *parse_rotation("64")};
    const RotationSpec::Layer half{.k = turned.k};
    save_cache(KvCache(*ref, shape, RotationSpec({{}, turned, turned, {}})), k_model, path);

    const auto found = [&](const KvShape& s, const RotationSpec& spec) {
        KvCache cache(*ref, s, spec);
        cache.place(Ints{0}, Ints{3});
        return refusal(*ref, cache, k_model, path);
    };
    CHECK(found(shape, RotationSpec({{}, turned, turned, {}})) == "no error");
    CHECK(found(shape, RotationSpec()) == "layer 1: rotation of K: expected 'none', found '32'");
    CHECK(found(shape, RotationSpec({{}, half, half, {}})) ==
          "layer 1: rotation of V: expected 'none', found '64'");
    const RotationSpec same({{}, turned, turned, {}});
    KvShape changed = shape;
    changed.layers[2].source.reset();
    CHECK(found(changed, same) == "layer 2: source: expected 2, found 1");
    changed = shape;
    changed.layers[3] = changed.layers[0];
    CHECK(found(changed, same) == "layer 3: kv_heads: expected 1, found 0");
}

TEST_CASE("cache_file: no shorter, longer or changed file is read") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, small_shape(), RotationSpec());
    fill_bytes(cache, 0x55);
    cache.place(Ints{1}, Ints{3});
    const std::string good = sealed(small_head() + small_positions() + small_data());
    const std::string path = folder.file("broken.rkv");
    const auto offset_named = [&](const std::string& bytes) {
        write_all(path, bytes);
        return refusal(*ref, cache, k_model, path).starts_with("offset ");
    };
    for (size_t n = 0; n < good.size(); ++n) REQUIRE(offset_named(good.substr(0, n)));
    REQUIRE(offset_named(good + "x"));
    for (size_t i = 0; i < good.size(); ++i) {
        for (const int bits : {0x01, 0x80, 0xff}) {
            std::string bytes = good;
            bytes[i] = char(bytes[i] ^ bits);
            REQUIRE(offset_named(bytes));
        }
    }
    const std::string size = std::to_string(good.size());
    write_all(path, good + "x");
    CHECK(refusal(*ref, cache, k_model, path).find("a file of " + size + " bytes, found ") == 20);
    CHECK_THROWS_AS(load_cache(cache, k_model, folder.file("missing.rkv")), Error);
    CHECK_THROWS_AS(load_cache(cache, k_model, folder.path.string()), Error);
}

TEST_CASE("cache_file: numbers that lie under a checksum that is right") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, small_shape(), RotationSpec());
    fill_bytes(cache, 0x55);
    const std::string path = folder.file("hostile.rkv");
    const auto says = [&](const std::string& body, const std::string& words) {
        write_all(path, sealed(body));
        cache.set_positions(Ints(8, 5));
        return refusal(*ref, cache, k_model, path).find(words) != std::string::npos;
    };
    const std::string head = small_head(), rest = small_positions().substr(8) + small_data();
    CHECK(says(head + small_positions() + small_data(), "no error"));
    CHECK(says(head.substr(0, 20), "offset 20: expected 8 bytes for the model"));
    for (const uint64_t n : {uint64_t(1) << 30, uint64_t(1) << 62, ~uint64_t(0)}) {
        const std::string number = std::to_string(n);
        CHECK(says(head + raw(n) + rest, "number of used cells " + number));
        // The layers, an extent and a length: layers at 44, kv_heads at 52, type of K at 100.
        CHECK(says(std::string(head).replace(44, 8, raw(n)) + rest, "layers: "));
        CHECK(says(std::string(head).replace(52, 8, raw(n)) + small_positions() + small_data(),
                   "layer 0: kv_heads: "));
        CHECK(says(std::string(head).replace(100, 8, raw(n)) + rest, "string length " + number));
    }
    const std::string none = raw(uint64_t(0)), whole = head + small_positions() + small_data();
    CHECK(says(head + raw(uint64_t(5)) + rest, "at most 4 used cells, found 5"));
    CHECK(says(head + raw(uint64_t(1)) + raw(-1) + none, "a position, found -1"));
    CHECK(says(head + raw(uint64_t(2)) + raw(-2) + raw(0) + none, "a position or -1, found -2"));
    CHECK(says(whole + "x", "found 49"));
    CHECK(says(whole.substr(0, whole.size() - 1), "found 47"));
    // What a file says is printed on one line, whatever it is.
    CHECK(says(std::string(head).replace(108, 2, "\n\x1b") + small_positions() + small_data(),
               "layer 0: type of K: "));
}

TEST_CASE("cache_file: a full disk is one clear line") {
    if (!fs::exists("/dev/full")) return skip("no /dev/full here");
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, small_shape(), RotationSpec());
    fill_small(cache);
    try {
        save_cache(cache, k_model, "/dev/full");
        FAIL("saving to a full disk went well");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::io);
        CHECK(std::string(error.what()).find("/dev/full cannot be written") == 0);
    }
}
