// Saved caches: what comes back, what is refused and with which words.
#include "ref/error.h"
#include "ref/files/cache_file.h"
#include "ref/kernels.h"
#include "tests/cache_contents.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

#include <filesystem>
#include <fstream>
#include <random>

using namespace rotkv;
using namespace rotkv::test;

namespace {

namespace fs = std::filesystem;
using Ints = std::vector<int32_t>;

constexpr uint64_t k_model = 0x0123456789abcdef;

template <class Number>
std::string raw(Number number) {
    return {reinterpret_cast<const char*>(&number), sizeof number};
}

std::string text(const std::string& s) { return raw(uint64_t(s.size())) + s; }

// The file's bytes without its checksum, with the size and the checksum that belong to them.
std::string sealed(std::string body) {
    body.replace(12, 8, raw(uint64_t(body.size() + 8)));
    uint64_t sum = 0xcbf29ce484222325u;
    for (const char c : body) sum = (sum ^ uint64_t(uint8_t(c))) * 0x100000001b3u;
    return body + raw(sum);
}

// The message of the error that loading ends in, after checking that it changed nothing.
std::string refusal(Backend& backend, KvCache& cache, uint64_t model, const std::string& path) {
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

AttentionCase quantized_case(const char* spec) {
    AttentionCase c;
    c.cells = 16;
    c.type_k = DType::q4_0;
    c.type_v = DType::q8_0;
    c.spec = spec_of(spec);
    return c;
}

std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all = {quantized_case("k=64 v=64"), quantized_case("k=64:7 v=none")};
    AttentionCase shared = quantized_case("k=32:7 v=32:7:32");
    shared.d_k = 96;
    shared.type_v = DType::q4_0;
    shared.v_in_k = true;
    shared.v_first = 32;
    all.push_back(shared);
    AttentionCase plain;
    plain.cells = 16;
    plain.type_k = plain.type_v = DType::f16;
    all.push_back(plain);
    return all;
}

// Every byte of K and V, so that a cell that is read without having been written shows.
void fill_bytes(KvCache& cache, uint8_t value) {
    const KvShape& shape = cache.shape();
    const int64_t rows = shape.cells * shape.kv_heads;
    for (int64_t i = 0; i < shape.layers * shape.streams; ++i) {
        for (const Side side : {Side::k, Side::v}) {
            if (side == Side::v && shape.v_in_k) continue;
            const int64_t bytes = side == Side::k ? row_bytes(shape.type_k, shape.d_k)
                                                  : row_bytes(shape.type_v, shape.d_v);
            cache.write_cells(i / shape.streams, i % shape.streams, side,
                              std::vector<std::byte>(size_t(rows * bytes), std::byte{value}));
        }
    }
}

// One layer, two streams of four cells, f32 heads of 2 values: K 1 2 / 3 4 / 5 6, V ten times that.
KvShape small_shape() {
    KvShape shape;
    shape.layers = shape.kv_heads = 1;
    shape.streams = 2;
    shape.cells = 4;
    shape.d_k = shape.d_v = 2;
    shape.type_k = shape.type_v = DType::f32;
    return shape;
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

// The file of that cache as the header of ref/files/cache_file.h lays it out, without its checksum.
std::string small_head() {
    return "rotkv-kv" + raw(uint32_t(1)) + raw(uint64_t(0)) + raw(k_model) + text("f32") +
           text("f32") + text("k=none v=none") + raw(uint64_t(4)) + raw(uint64_t(1)) +
           raw(uint64_t(2)) + raw(uint64_t(1)) + raw(uint64_t(2)) + raw(uint64_t(2)) +
           raw(uint64_t(0)) + raw(uint64_t(0));
}
std::string small_positions() {
    return raw(uint64_t(3)) + raw(7) + raw(-1) + raw(8) + raw(uint64_t(1)) + raw(9);
}
std::string small_data() {
    std::string bytes;
    for (const float x : {1.0f, 2.0f, 3.0f, 4.0f, 10.0f, 20.0f, 30.0f, 40.0f}) bytes += raw(x);
    for (const float x : {5.0f, 6.0f, 50.0f, 60.0f}) bytes += raw(x);
    return bytes;
}

std::string model_bytes(float epsilon, const char* name, float weight) {
    const TemporaryFolder folder;
    std::vector<float> weights(4096, 1.0f);
    weights[0] = weight;
    GgufWriter writer;
    writer.add("general.architecture", std::string_view("llama"));
    writer.add("general.name", std::string_view(name));
    writer.add("llama.epsilon", epsilon);
    writer.add("llama.list", GgufArray(std::vector<bool>{true, false}));
    writer.add_tensor("a", view(weights.data(), DType::f32, {64, 64}));
    writer.write(folder.file("m.gguf"));
    return read_all(folder.file("m.gguf"));
}

uint64_t fingerprint_of(const std::string& bytes) {
    std::vector<uint64_t> aligned((bytes.size() + 7) / 8);
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    return model_fingerprint(
        GgufFile::parse(std::as_bytes(std::span(aligned)).first(bytes.size()), "m.gguf"));
}

}  // namespace

TEST_CASE("cache file: attention over a loaded cache equals attention over the saved one") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (AttentionCase& c : cases()) {
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

TEST_CASE("cache file: the bytes are those that the header of the format lists") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = ref::make_backend();
    const std::string path = folder.file("a.rkv");
    KvCache cache(*ref, small_shape(), RotationSpec());
    fill_small(cache);
    save_cache(cache, k_model, path);
    CHECK(read_all(path) == sealed(small_head() + small_positions() + small_data()));
    CHECK(!fs::exists(path + ".partial"));

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

TEST_CASE("cache file: every layer and stream comes back to its place") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = ref::make_backend();
    KvShape shape = small_shape();
    shape.layers = 3;
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

TEST_CASE("cache file: what differs is named") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = ref::make_backend();
    AttentionCase c = quantized_case("k=64 v=64");
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
          "rotation: expected 'k=none v=none', found 'k=sylvester/64 v=sylvester/64'");
    CHECK(found(c.shape(), "k=64 v=32") ==
          "rotation: expected 'k=sylvester/64 v=sylvester/32', found "
          "'k=sylvester/64 v=sylvester/64'");
    const auto with = [&](auto change) {
        KvShape shape = c.shape();
        change(shape);
        return found(shape, same);
    };
    CHECK(with([](KvShape& s) { s.type_k = DType::q5_0; }) ==
          "type of K: expected 'q5_0', found 'q4_0'");
    CHECK(with([](KvShape& s) { s.type_v = DType::f16; }) ==
          "type of V: expected 'f16', found 'q8_0'");
    CHECK(with([](KvShape& s) { s.layers = 2; }) == "layers: expected 2, found 1");
    CHECK(with([](KvShape& s) { s.streams = 3; }) == "streams: expected 3, found 2");
    CHECK(with([](KvShape& s) { s.kv_heads = 1; }) == "kv_heads: expected 1, found 2");
    CHECK(with([](KvShape& s) { s.d_k = 128; }) == "d_k: expected 128, found 64");
    CHECK(with([](KvShape& s) { s.d_v = 128; }) == "d_v: expected 128, found 64");
    CHECK(with([](KvShape& s) { s.cells = 11; }) == "cells: expected at most 11, found 12");

    KvShape shared = small_shape();
    shared.d_k = 4;
    KvCache apart(*ref, shared, RotationSpec());
    shared.v_in_k = true;
    KvCache front(*ref, shared, RotationSpec());
    shared.v_first = 2;
    save_cache(KvCache(*ref, shared, RotationSpec()), k_model, path);
    CHECK(refusal(*ref, front, k_model, path) == "v_first: expected 0, found 2");
    CHECK(refusal(*ref, apart, k_model, path) == "v_in_k: expected 0, found 1");
}

TEST_CASE("cache file: no shorter, longer or changed file is read") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = ref::make_backend();
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

TEST_CASE("cache file: numbers that lie under a checksum that is right") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = ref::make_backend();
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
        // A length, and an extent: type of K at 28, layers at 79.
        CHECK(says(std::string(head).replace(28, 8, raw(n)) + rest, "string length " + number));
        CHECK(says(std::string(head).replace(79, 8, raw(n)) + rest, "layers: "));
    }
    const std::string none = raw(uint64_t(0)), whole = head + small_positions() + small_data();
    CHECK(says(head + raw(uint64_t(5)) + rest, "at most 4 used cells, found 5"));
    CHECK(says(head + raw(uint64_t(1)) + raw(-1) + none, "a position, found -1"));
    CHECK(says(head + raw(uint64_t(2)) + raw(-2) + raw(0) + none, "a position or -1, found -2"));
    CHECK(says(whole + "x", "found 49"));
    CHECK(says(whole.substr(0, whole.size() - 1), "found 47"));
    // What a file says is printed on one line, whatever it is.
    CHECK(says(std::string(head).replace(64, 2, "\n\x1b") + rest, "rotation: "));
}

TEST_CASE("cache file: a full disk is one clear line") {
    if (!fs::exists("/dev/full")) return skip("no /dev/full here");
    const std::unique_ptr<Backend> ref = ref::make_backend();
    KvCache cache(*ref, small_shape(), RotationSpec());
    fill_small(cache);
    try {
        save_cache(cache, k_model, "/dev/full");
        FAIL("saving to a full disk went well");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::io);
        CHECK(std::string(error.what()).find("/dev/full cannot be written") == 0);
    }
    CHECK(!fs::exists("/dev/full.partial"));
}

TEST_CASE("cache file: the fingerprint of a model") {
    const std::string model = model_bytes(1e-5f, "a", 0.5f);
    CHECK(fingerprint_of(model) == fingerprint_of(model_bytes(1e-5f, "another name", 0.5f)));
    CHECK(fingerprint_of(model) != fingerprint_of(model_bytes(1e-6f, "a", 0.5f)));
    CHECK(fingerprint_of(model) != fingerprint_of(model_bytes(1e-5f, "a", 0.25f)));
    std::string bytes = model;
    const size_t array = bytes.find("llama.list") + 10 + 4 + 4 + 8;
    bytes[array + 1] = 1;  // {true, false} becomes {true, true}
    CHECK(fingerprint_of(model) != fingerprint_of(bytes));

    // By hand: no metadata that counts and no tensors, which leaves FNV's beginning.
    const std::string empty = "GGUF" + raw(uint32_t(3)) + raw(uint64_t(0)) + raw(uint64_t(0));
    CHECK(fingerprint_of(empty + std::string(8, '\0')) == 0xcbf29ce484222325u);
}
