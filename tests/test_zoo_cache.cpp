// Caches whose rows are kept in formats of the zoo: what lies in the cells, and in a file.
// Docs: docs/20-zoo.md
#include "ref/files/cache_file.h"
#include "ref/forwarding_backend.h"
#include "ref/hadamard.h"
#include "ref/zoo/zoo.h"
#include "tests/cache_contents.h"
#include "tests/laws.h"
#include "tests/temporary_folder.h"
#include "tests/zoo_rows.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

/// The reference, as if its memory were a device's.
class FarBackend final : public ForwardingBackend {
  public:
    FarBackend() : ForwardingBackend(make_ref_backend()) {}
    std::string name() const override { return "far"; }
    bool in_host_memory() const override { return false; }
};

/// A format that writes down where each row belongs, and rounds values to f16 less the position:
/// what is decoded with another position is another row.
class Recorder final : public Format {
  public:
    explicit Recorder(const std::string& name) : Format(name) {}
    std::string refusal(int64_t d) const override { return d == 48 ? "not 48" : ""; }
    int64_t row_bytes(int64_t d) const override { return 4 + 4 * d; }
    void encode(std::span<std::byte> codes, std::span<const float> row,
                const RowContext& context) const override {
        codes[0] = std::byte(context.layer);
        codes[1] = std::byte(context.kv_head);
        codes[2] = std::byte(context.side == Side::v);
        codes[3] = std::byte(context.position);
        for (size_t i = 0; i < row.size(); ++i) {
            zoo::put_number(codes.data() + 4 + 4 * i, row[i] - float(context.position));
        }
    }
    void decode(std::span<float> row, std::span<const std::byte> codes,
                const RowContext& context) const override {
        for (size_t i = 0; i < row.size(); ++i) {
            row[i] = zoo::number_at<float>(codes.data() + 4 + 4 * i) + float(context.position);
        }
    }
};

CacheType recorder(const std::string& name = "recorder") {
    return CacheType(std::make_shared<Recorder>(name));
}

std::vector<std::unique_ptr<Backend>> backends_and_far() {
    std::vector<std::unique_ptr<Backend>> all = all_backends();
    all.push_back(std::make_unique<FarBackend>());
    return all;
}

// Two streams of twelve tokens, K and V of two heads of 64 in these formats.
struct ZooCase : CachedAttention {
    CacheType zoo_k, zoo_v;

    ZooCase(const std::string& k_name, const std::string& v_name)
        : zoo_k(*find_cache_type(k_name)), zoo_v(*find_cache_type(v_name)) {
        cells = 16;
        spec = RotationSpec::of({.kind = Rotation::Kind::signs, .block = 64, .seed = 3},
                                {.kind = Rotation::Kind::sylvester, .block = 32});
        fill(2, 12, 40);
    }

    KvShape zoo_shape() const {
        KvShape of_types = shape();
        of_types.layers[0].type_k = zoo_k;
        of_types.layers[0].type_v = zoo_v;
        return of_types;
    }

    // decode(encode(R x)) of one row.
    std::vector<float> expected(Side side, size_t token, size_t head) const {
        const std::vector<float>& all = side == Side::k ? k : v;
        std::vector<float> row(all.begin() + int64_t((token * 2 + head) * 64),
                               all.begin() + int64_t((token * 2 + head + 1) * 64));
        ref::hadamard_row(row.data(), row.data(), 64, spec.at(0, side), false);
        const CacheType& type = side == Side::k ? zoo_k : zoo_v;
        if (type.format() == nullptr) return row;
        return through(*type.format(), row);
    }
};

std::vector<float> row_of(const std::vector<float>& cells, int64_t n_cells, int64_t stream,
                          int64_t cell, int64_t head, int64_t d = 64, int64_t heads = 2) {
    const int64_t begin = ((stream * n_cells + cell) * heads + head) * d;
    return {cells.begin() + begin, cells.begin() + begin + d};
}

std::vector<std::byte> codes_of(const KvCache& cache, int64_t stream, Side side, size_t bytes) {
    std::vector<std::byte> codes(bytes);
    cache.read_cells(0, stream, side, codes);
    return codes;
}

}  // namespace

TEST_CASE("zoo cache: cells hold what the bytes of rotated rows stand for") {
    const ZooCase c("exl3:4", "tqmse3");
    for (const std::unique_ptr<Backend>& backend : backends_and_far()) {
        for (const size_t per_call : {0, 5}) {
            CAPTURE(backend->name(), per_call);
            KvCache cache(*backend, c.zoo_shape(), c.spec);
            c.store(*backend, cache, per_call);
            CHECK(cache.k(0).type == DType::f32);
            for (const Side side : {Side::k, Side::v}) {
                const std::vector<float> cells =
                    download_f32(*backend, side == Side::k ? cache.k(0) : cache.v(0));
                const auto& format = *(side == Side::k ? c.zoo_k : c.zoo_v).format();
                const size_t bytes = size_t(format.row_bytes(64));
                for (size_t t = 0; t < c.streams.size(); ++t) {
                    const int64_t stream = c.streams[t], cell = c.positions[t];
                    const auto codes = codes_of(cache, stream, side, 16 * 2 * bytes);
                    for (size_t head = 0; head < 2; ++head) {
                        const std::vector<float> found =
                            row_of(cells, 16, stream, cell, int64_t(head));
                        REQUIRE(floats_equal(found, c.expected(side, t, head)));
                        const auto begin =
                            codes.begin() + int64_t((size_t(cell) * 2 + head) * bytes);
                        const std::vector<std::byte> kept(begin, begin + int64_t(bytes));
                        REQUIRE(floats_equal(found, decoded(format, kept, 64)));
                    }
                }
            }
        }
    }
}

TEST_CASE("zoo cache: one side in a format, the other in a type with kernels") {
    ZooCase c("q8_0", "mxfp4");
    for (const std::unique_ptr<Backend>& backend : backends_and_far()) {
        CAPTURE(backend->name());
        KvCache cache(*backend, c.zoo_shape(), c.spec), plain(*backend, c.shape(), c.spec);
        c.store(*backend, cache);
        CHECK(cache.k(0).type == DType::q8_0);
        CHECK(cache.format_rows(0, Side::k).format == nullptr);
        const std::vector<float> cells = download_f32(*backend, cache.v(0));
        for (size_t t = 0; t < c.streams.size(); ++t) {
            REQUIRE(floats_equal(row_of(cells, 16, c.streams[t], c.positions[t], 1),
                                 c.expected(Side::v, t, 1)));
        }
        CHECK(cache.shape().bytes_per_token() == 2 * (68 + 34));
        CHECK(plain.shape().bytes_per_token() == 2 * 512);
    }
}

TEST_CASE("zoo cache: attention reads it as any f32 cache") {
    const ZooCase c("tqmse4:lsq", "kivi:4");
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, c.zoo_shape(), c.spec);
    c.store(*ref, cache);
    // The same attention over keys and values that were stored and turned back beforehand.
    ZooCase stored = c;
    for (size_t t = 0; t < c.streams.size(); ++t) {
        for (size_t head = 0; head < 2; ++head) {
            for (const Side side : {Side::k, Side::v}) {
                std::vector<float> row = c.expected(side, t, head);
                ref::hadamard_row(row.data(), row.data(), 64, c.spec.at(0, side), true);
                std::vector<float>& all = side == Side::k ? stored.k : stored.v;
                std::copy(row.begin(), row.end(), all.begin() + int64_t((t * 2 + head) * 64));
            }
        }
    }
    CHECK(distance(c.attend(*ref, cache), dense_attention(stored)) < 1e-5);
    CHECK(distance(c.attend(*ref, cache), dense_attention(c)) > 1e-3);  // a format does lose
}

TEST_CASE("zoo cache: every row is told where it belongs") {
    CachedAttention c;
    c.cells = 8;
    c.fill(1, 6, 41);
    for (int32_t& position : c.positions) position += 20;
    KvShape shape = c.shape();
    shape.layers[0].type_k = shape.layers[0].type_v = recorder();
    shape.layers.push_back(shape.layers[0]);
    for (const std::unique_ptr<Backend>& backend : backends_and_far()) {
        CAPTURE(backend->name());
        KvCache cache(*backend, shape, RotationSpec());
        const KvBatch batch = cache.place(c.streams, c.positions);
        c.store_rows(*backend, cache, batch, 0, 6, 1);
        const auto codes_at = [&](Side side, int64_t cell, int64_t head) {
            return cache.format_rows(1, side).codes_of(0, cell, head);
        };
        for (const Side side : {Side::k, Side::v}) {
            for (int64_t cell = 0; cell < 6; ++cell) {
                const std::byte* second = codes_at(side, cell, 1);
                CHECK(std::to_integer<int>(second[0]) == 1);
                CHECK(std::to_integer<int>(second[1]) == 1);
                CHECK(std::to_integer<int>(second[2]) == (side == Side::v));
                CHECK(std::to_integer<int>(second[3]) == 20 + cell);
            }
        }
        // A shift by -7 encodes the keys that it turns at their new positions, and nothing else.
        RopeConfig rope;
        rope.n_rot = 64;
        cache.shift(0, 22, 100, -7, [&](int64_t) { return rope; });
        for (int64_t cell = 0; cell < 6; ++cell) {
            CHECK(std::to_integer<int>(codes_at(Side::k, cell, 0)[3]) ==
                  20 + cell - (cell >= 2 ? 7 : 0));
            CHECK(std::to_integer<int>(codes_at(Side::v, cell, 0)[3]) == 20 + cell);
        }
    }
}

TEST_CASE("zoo cache: rows that a shift turns pass through their format again") {
    const ZooCase c("exl3:3", "sign");
    RopeConfig rope;
    rope.n_rot = 64;
    rope.base = 100;
    const int32_t differences[] = {5};
    const std::vector<float> table = rope_shift_table(rope, differences);
    for (const std::unique_ptr<Backend>& backend : backends_and_far()) {
        CAPTURE(backend->name());
        KvCache cache(*backend, c.zoo_shape(), c.spec);
        c.store(*backend, cache);
        const std::vector<float> before = download_f32(*backend, cache.k(0));
        const std::vector<float> values = download_f32(*backend, cache.v(0));
        cache.shift(1, 4, 100, 5, [&](int64_t) { return rope; });
        const std::vector<float> after = download_f32(*backend, cache.k(0));
        CHECK(floats_equal(download_f32(*backend, cache.v(0)), values));
        for (int64_t stream = 0; stream < 2; ++stream) {
            for (int64_t cell = 0; cell < 12; ++cell) {
                std::vector<float> row = row_of(before, 16, stream, cell, 1);
                if (stream == 1 && cell >= 4) {
                    ref::hadamard_row(row.data(), row.data(), 64, c.spec.at(0, Side::k), true);
                    ref::rope_row(row.data(), row.data(), 64, table.data(), 64, rope.pairs);
                    ref::hadamard_row(row.data(), row.data(), 64, c.spec.at(0, Side::k), false);
                    row = through(*c.zoo_k.format(), row);
                }
                REQUIRE(floats_equal(row_of(after, 16, stream, cell, 1), row));
            }
        }
    }
}

TEST_CASE("zoo cache: a latent row is one row, also where only its end turns") {
    const int64_t d = 128, latent = 96;
    KvLayer layer{.kv_heads = 1, .d_k = d, .d_v = latent, .v_in_k = true};
    layer.type_k = layer.type_v = *find_cache_type("tqmse3");
    RopeConfig rope;
    rope.n_rot = d - latent;
    rope.pairs = RopePairs::norm;
    const int32_t differences[] = {3};
    const std::vector<float> table = rope_shift_table(rope, differences);
    const std::vector<float> k = normal_vector(2 * d, 42);
    const auto format = format_of("tqmse3");
    for (const std::unique_ptr<Backend>& backend : backends_and_far()) {
        CAPTURE(backend->name());
        KvCache cache(*backend, {.streams = 1, .cells = 4, .layers = {layer}}, RotationSpec());
        CHECK(cache.shape().bytes_per_token() == 48 + 2);
        const KvBatch batch = cache.place(std::vector<int32_t>{0, 0}, std::vector<int32_t>{0, 1});
        const Buffer rows = upload(*backend, k);
        backend->run(KvStoreArgs{.k_cache = cache.k(0),
                                 .k = rows.view(DType::f32, {2, 1, d}),
                                 .stream = batch.stream,
                                 .cell = batch.cell,
                                 .k_format = cache.format_rows(0, Side::k),
                                 .position = batch.position});
        std::vector<float> expected = through(*format, std::vector<float>(k.begin() + d, k.end()));
        CHECK(floats_equal(row_of(download_f32(*backend, cache.k(0)), 4, 0, 1, 0, d, 1), expected));
        CHECK(cache.v(0).data == cache.k(0).data);
        cache.shift(0, 1, 2, 3, [&](int64_t) { return rope; });
        ref::rope_row(&expected[latent], &expected[latent], d - latent, table.data(), d - latent,
                      rope.pairs);
        expected = through(*format, expected);
        CHECK(floats_equal(row_of(download_f32(*backend, cache.k(0)), 4, 0, 1, 0, d, 1), expected));
    }
}

TEST_CASE("zoo cache: a file holds the format's bytes and its name") {
    const TemporaryFolder folder;
    const std::string path = folder.file("cache.rkv");
    const ZooCase c("tqmse3:lsq", "exl3:2");
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, c.zoo_shape(), c.spec);
    c.store(*ref, cache);
    cache.remove(1, 3, 5);  // empty cells between
    save_cache(cache, 7, path);
    // 22 tokens, 2 heads, (24 + 2) + 2 (8 + 2) bytes, behind what a file of names and numbers
    // takes.
    const size_t data = 22 * 2 * (26 + 20);
    CHECK(read_all(path).size() > data);
    CHECK(read_all(path).size() < data + 600);
    CHECK(read_all(path).find("tqmse3:lsq") != std::string::npos);

    for (const std::unique_ptr<Backend>& backend : backends_and_far()) {
        CAPTURE(backend->name());
        KvCache loaded(*backend, c.zoo_shape(), c.spec);
        load_cache(loaded, 7, path);
        const std::vector<float> a = download_f32(*ref, cache.k(0));
        const std::vector<float> b = download_f32(*backend, loaded.k(0));
        for (int64_t stream = 0; stream < 2; ++stream) {
            for (int64_t cell = 0; cell < 12; ++cell) {
                const bool empty = stream == 1 && (cell == 3 || cell == 4);
                const std::vector<float> row = row_of(b, 16, stream, cell, 0);
                if (empty) CHECK(row == std::vector<float>(64));
                if (!empty) CHECK(floats_equal(row, row_of(a, 16, stream, cell, 0)));
            }
        }
        save_cache(loaded, 7, folder.file("again.rkv"));
        CHECK(read_all(folder.file("again.rkv")) == read_all(path));
    }

    const auto refusal = [&](const std::string& k_name, const std::string& v_name) {
        KvCache other(*ref, ZooCase(k_name, v_name).zoo_shape(), c.spec);
        try {
            load_cache(other, 7, path);
        } catch (const Error& error) {
            return std::string(error.what()).substr(path.size() + 2);
        }
        return std::string("accepted");
    };
    CHECK(refusal("tqmse3:lsq", "exl3:2") == "accepted");
    CHECK(refusal("tqmse3", "exl3:2") ==
          "layer 0: type of K: expected 'tqmse3', found 'tqmse3:lsq'");
    CHECK(refusal("f32", "exl3:2") == "layer 0: type of K: expected 'f32', found 'tqmse3:lsq'");
    CHECK(refusal("tqmse3:lsq", "exl3:3") ==
          "layer 0: type of V: expected 'exl3:3', found 'exl3:2'");
}

TEST_CASE("zoo cache: what is loaded is decoded at the positions that were saved") {
    const TemporaryFolder folder;
    CachedAttention c;
    c.cells = 8;
    c.fill(1, 6, 43);
    for (int32_t& position : c.positions) position += 30;
    KvShape shape = c.shape();
    shape.layers[0].type_k = shape.layers[0].type_v = recorder();
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, shape, RotationSpec()), loaded(*ref, shape, RotationSpec());
    c.store(*ref, cache);
    save_cache(cache, 1, folder.file("a"));
    load_cache(loaded, 1, folder.file("a"));
    const std::vector<float> a = download_f32(*ref, cache.k(0)),
                             b = download_f32(*ref, loaded.k(0));
    CHECK(std::equal(a.begin(), a.begin() + 6 * 128, b.begin()));
}

TEST_CASE("zoo cache: what a format does not take is refused with its reason") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const auto refusal = [&](const std::function<void()>& make) {
        try {
            make();
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("accepted");
    };
    KvLayer layer{.kv_heads = 1, .d_k = 48, .d_v = 64, .type_k = DType::f32, .type_v = DType::f32};
    layer.type_k = recorder();
    const auto make = [&]() {
        KvCache(*ref, {.streams = 1, .cells = 2, .layers = {layer}}, RotationSpec());
    };
    CHECK(refusal(make) == "cache K of type recorder: not 48");
    layer.d_k = 64;
    CHECK(refusal(make) == "accepted");

    // kv_store: cells of f32, of all channels, with positions.
    KvCache cache(*ref, {.streams = 1, .cells = 2, .layers = {layer}}, RotationSpec());
    const KvBatch batch = cache.place(std::vector<int32_t>{0}, std::vector<int32_t>{0});
    const Buffer rows = upload(*ref, normal_vector(64, 44));
    const KvStoreArgs good{.k_cache = cache.k(0),
                           .v_cache = cache.v(0),
                           .k = rows.view(DType::f32, {1, 1, 64}),
                           .v = rows.view(DType::f32, {1, 1, 64}),
                           .stream = batch.stream,
                           .cell = batch.cell,
                           .k_format = cache.format_rows(0, Side::k),
                           .position = batch.position};
    CHECK(refusal([&]() { ref->run(good); }) == "accepted");
    KvStoreArgs bad = good;
    bad.position = {};
    CHECK(refusal([&]() { ref->run(bad); }).find("position") != std::string::npos);
    bad = good;
    bad.k_format.codes = nullptr;
    CHECK(refusal([&]() { ref->run(bad); }).find("k_format.codes") != std::string::npos);
    bad = good;
    bad.k_format.cells.n[3] = 48;
    CHECK(refusal([&]() { ref->run(bad); }).find("k_format.cells") != std::string::npos);
    bad = good;
    bad.v_cache = {}, bad.v = {}, bad.v_format = good.k_format;
    CHECK(refusal([&]() { ref->run(bad); }).find("v_format") != std::string::npos);
}
