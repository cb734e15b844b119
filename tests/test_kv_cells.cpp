// Caches whose layers differ: each layer is as it would be in a cache of its own. And who sits
// where, against a plain model of it, with no more uploads than there is news.
#include "ref/error.h"
#include "ref/files/cache_file.h"
#include "ref/forwarding_backend.h"
#include "ref/kernels.h"
#include "tests/cache_contents.h"
#include "tests/catch.h"
#include "tests/parity.h"
#include "tests/temporary_folder.h"

#include <algorithm>
#include <cstring>
#include <optional>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;

Ints ints(Backend& backend, const TensorView& tensor) {
    const std::vector<std::byte> bytes = download(backend, tensor);
    Ints values(bytes.size() / sizeof(int32_t));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

// Layers 0 and 1 differ in everything, 2 reads what 0 stores, 3 keeps nothing.
struct Mixed {
    CachedAttention a, b;

    Mixed() {
        a.cells = b.cells = 32;
        a.type_k = DType::q8_0;
        a.type_v = DType::q4_0;
        a.spec = spec_of("k=64 v=32:5");
        b.heads = 3;
        b.kv_heads = 1;
        b.d_k = 128;
        b.d_v = 96;
        b.type_k = DType::f16;
        b.type_v = DType::q5_1;
        b.spec = spec_of("k=none v=32");
        a.fill(2, 20, 5);
        b.fill(2, 20, 9);
    }

    KvShape shape() const {
        KvLayer reading = a.layer();
        reading.source = 0;
        return {.streams = 2, .cells = 32, .layers = {a.layer(), b.layer(), reading, {}}};
    }
    RotationSpec spec() const {
        const auto of = [](const RotationSpec& one) {
            return RotationSpec::Layer{.k = one.at(0, Side::k), .v = one.at(0, Side::v)};
        };
        return RotationSpec({of(a.spec), of(b.spec), of(a.spec), {}});
    }

    void store(Backend& backend, KvCache& cache) const {
        const KvBatch batch = cache.place(a.streams, a.positions);
        a.store_rows(backend, cache, batch, 0, a.streams.size(), 0);
        b.store_rows(backend, cache, batch, 0, b.streams.size(), 1);
    }

    // What each layer answers: like a cache of its own, and layer 2 like layer 0.
    void check_outputs(Backend& backend, const KvCache& mixed, const KvCache& of_a,
                       const KvCache& of_b) const {
        const std::vector<float> expected = a.attend(backend, of_a);
        CHECK(floats_equal(a.attend(backend, mixed, 0), expected));
        CHECK(floats_equal(a.attend(backend, mixed, 2), expected));
        CHECK(floats_equal(b.attend(backend, mixed, 1), b.attend(backend, of_b)));
    }
};

std::vector<std::unique_ptr<Backend>> all_backends() {
    std::vector<std::unique_ptr<Backend>> all = candidates();
    all.push_back(make_ref_backend());
    return all;
}

// The first two layers of Mixed turn, by different tables.
RopeConfig rope_of(int64_t layer) {
    RopeConfig config;
    config.n_rot = layer == 1 ? 128 : 64;
    config.base = layer == 1 ? 500.0 : 10000.0;
    return config;
}

std::string refusal_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return "no error";
}

}  // namespace

TEST_CASE("kv_cells: unlike layers store, answer, shift and come back as they would alone") {
    const Mixed m;
    const TemporaryFolder folder;
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        KvCache mixed(*backend, m.shape(), m.spec());
        KvCache of_a(*backend, m.a.shape(), m.a.spec), of_b(*backend, m.b.shape(), m.b.spec);
        m.store(*backend, mixed);
        m.a.store(*backend, of_a);
        m.b.store(*backend, of_b);
        m.check_outputs(*backend, mixed, of_a, of_b);
        CHECK(mixed.k(3).empty());
        CHECK(mixed.v(3).empty());
        CHECK(mixed.k(2).data == mixed.k(0).data);

        mixed.shift(1, 4, 20, -3, rope_of);
        of_a.shift(1, 4, 20, -3, [](int64_t) { return rope_of(0); });
        of_b.shift(1, 4, 20, -3, [](int64_t) { return rope_of(1); });
        m.check_outputs(*backend, mixed, of_a, of_b);

        mixed.remove(0, 3, 6);
        save_cache(mixed, 1, folder.file("a.rkv"));
        KvShape larger = m.shape();
        larger.cells = 40;
        KvCache loaded(*backend, larger, m.spec());
        load_cache(loaded, 1, folder.file("a.rkv"));
        for (const int64_t layer : {int64_t(0), int64_t(2)}) {
            CHECK(floats_equal(m.a.attend(*backend, loaded, layer),
                               m.a.attend(*backend, mixed, layer)));
        }
        CHECK(floats_equal(m.b.attend(*backend, loaded, 1), m.b.attend(*backend, mixed, 1)));
    }
}

TEST_CASE("kv_cells: a layer that does not turn keeps its keys when others are shifted") {
    const Mixed m;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, m.shape(), m.spec());
    m.store(*ref, cache);
    const std::vector<std::byte> k0 = download(*ref, cache.k(0)), k1 = download(*ref, cache.k(1));
    cache.shift(0, 0, 20, 7, [](int64_t layer) {
        RopeConfig config = rope_of(layer);
        if (layer == 1) config.n_rot = 0;
        return config;
    });
    CHECK(download(*ref, cache.k(0)) != k0);
    CHECK(download(*ref, cache.k(1)) == k1);
    CHECK(ints(*ref, cache.positions())[0] == 7);
}

TEST_CASE("kv_cells: what cannot be shifted is named, and nothing has moved") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const KvLayer plain{.kv_heads = 1, .d_k = 64, .d_v = 64};
    const KvLayer latent{.kv_heads = 1, .d_k = 96, .d_v = 64, .v_in_k = true, .v_first = 32};
    KvCache cache(*ref, {.streams = 1, .cells = 4, .layers = {plain, latent}}, RotationSpec());
    cache.place(Ints{0, 0}, Ints{0, 1});
    const std::vector<std::byte> before = contents(*ref, cache);
    CHECK(refusal_of([&] {
              cache.shift(0, 0, 9, 1, rope_of);
          }).find("layer 1 cannot be shifted, its V is a view") != std::string::npos);
    CHECK(contents(*ref, cache) == before);
    cache.shift(0, 0, 9, 1, [](int64_t layer) {
        RopeConfig config = rope_of(layer);
        if (layer == 1) config.n_rot = 0;
        return config;
    });
    CHECK(ints(*ref, cache.positions()) == Ints{1, 2, -1, -1});
}

TEST_CASE("kv_cells: a shift that the backend refuses in one layer moves no other") {
    class Without : public ForwardingBackend {  // kv_shift of heads of 128
      public:
        Without() : ForwardingBackend(make_ref_backend()) {}

      protected:
        Support answer(const Call& call) const override {
            const auto* shift = std::get_if<KvShiftArgs>(&call);
            if (shift != nullptr && shift->k_cache.n[3] == 128) return {false, "not of 128"};
            return ForwardingBackend::answer(call);
        }
    };
    const Mixed m;
    Without backend;
    KvCache cache(backend, m.shape(), m.spec());
    m.store(backend, cache);
    const std::vector<std::byte> before = contents(backend, cache);
    CHECK(refusal_of([&] { cache.shift(0, 0, 20, 7, rope_of); }) == "ref: kv_shift: not of 128");
    CHECK(contents(backend, cache) == before);
    CHECK(refusal_of([&] {  // more channels than layer 1 has
              cache.shift(0, 0, 20, 7, [](int64_t layer) {
                  RopeConfig config = rope_of(layer);
                  if (layer == 1) config.n_rot = 256;
                  return config;
              });
          })
              .find("kv_shift: expected") == 0);
    CHECK(contents(backend, cache) == before);
}

TEST_CASE("kv_cells: a layer that reads another's rows is like it, and comes later") {
    const Mixed m;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const auto with = [&](auto change) {
        KvShape shape = m.shape();
        change(shape);
        return refusal_of([&] { KvCache(*ref, shape, m.spec()); });
    };
    const std::string unlike = "cache: layer 2 must be like the earlier one it reads";
    CHECK(with([](KvShape&) {}) == "no error");
    CHECK(with([](KvShape& s) { s.layers[2].source = 1; }) == unlike);
    CHECK(with([](KvShape& s) { s.layers[2].source = 2; }) == unlike);
    CHECK(with([](KvShape& s) { s.layers[2].source = 3; }) == unlike);
    CHECK(with([](KvShape& s) { s.layers[2].source = -1; }) == unlike);
    CHECK(with([](KvShape& s) { s.layers[2].type_k = DType::q5_0; }) == unlike);
    CHECK(refusal_of([&] { KvCache(*ref, m.shape(), RotationSpec()); }) == "no error");
    CHECK(refusal_of([&] {
              KvCache(*ref, m.shape(), RotationSpec({{}, {}, {.k = *parse_rotation("64")}, {}}));
          }) == unlike);
}

TEST_CASE("kv_cells: V inside K is turned as K is, in whole blocks, or not there") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const auto refused = [&](int64_t first, int64_t d_v, DType type, const char* words) {
        const KvLayer latent{.kv_heads = 1,
                             .d_k = 192,
                             .d_v = d_v,
                             .type_k = type,
                             .type_v = type,
                             .v_in_k = true,
                             .v_first = first};
        return refusal_of([&] { KvCache(*ref, {.cells = 4, .layers = {latent}}, spec_of(words)); });
    };
    const std::string view = "cache V as a view of K: expected ";
    CHECK(refused(64, 128, DType::q8_0, "k=64:5 v=64:5:64") == "no error");
    CHECK(refused(64, 128, DType::q8_0, "k=64 v=64") == "no error");
    CHECK(refused(17, 5, DType::f16, "k=none v=none") == "no error");
    CHECK(refused(64, 128, DType::q8_0, "k=64:5 v=64:5") ==
          view + "its rotation 64:5:64, found 64:5");
    CHECK(refused(64, 128, DType::q8_0, "k=64 v=none") == view + "its rotation 64, found none");
    CHECK(refused(64, 128, DType::q8_0, "k=none v=64") == view + "its rotation none, found 64");
    CHECK(refused(64, 128, DType::q8_0, "k=64 v=32") == view + "its rotation 64, found 32");
    CHECK(refused(32, 128, DType::q8_0, "k=64 v=64") ==
          view + "channels in whole blocks of 64, found 128 from 32");
    CHECK(refused(16, 128, DType::q8_0, "k=none v=none") ==
          view + "channels in whole blocks of 32, found 128 from 16");
    CHECK(refused(96, 128, DType::f16, "k=none v=none").find("lie inside it") != std::string::npos);
    CHECK(refused(0, 192, DType::f16, "k=48 v=48").find("no power of two") != std::string::npos);

    const KvLayer nothing{.d_k = 64, .d_v = 32, .v_in_k = true, .v_first = 32};
    const KvCache cache(*ref, {.cells = 4, .layers = {nothing}}, RotationSpec());
    CHECK(cache.v(0) == TensorView{});
}

namespace {

// Counts what goes to the device.
class CountingBackend : public ForwardingBackend {
  public:
    using ForwardingBackend::ForwardingBackend;
    void upload(std::byte* dst, std::span<const std::byte> src) override {
        bytes += src.size();
        ++uploads;
        ForwardingBackend::upload(dst, src);
    }
    size_t bytes = 0, uploads = 0;
};

// Who sits where, by the rule: the first empty cell of the stream.
struct PlainCells {
    std::vector<Ints> position;

    std::optional<Ints> place(const Ints& streams, const Ints& positions) {
        std::vector<Ints> next = position;
        Ints cells;
        for (size_t t = 0; t < streams.size(); ++t) {
            Ints& strip = next[size_t(streams[t])];
            const auto empty = std::find(strip.begin(), strip.end(), -1);
            if (empty == strip.end()) return std::nullopt;
            cells.push_back(int32_t(empty - strip.begin()));
            *empty = positions[t];
        }
        position = next;
        return cells;
    }

    Ints all() const {
        Ints cells;
        for (const Ints& strip : position) cells.insert(cells.end(), strip.begin(), strip.end());
        return cells;
    }
};

}  // namespace

TEST_CASE("kv_cells: any order of placing and removing leaves everybody where the rule says") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const KvShape shape{.streams = 3, .cells = 13, .layers = {{.kv_heads = 1, .d_k = 2, .d_v = 2}}};
    KvCache cache(*ref, shape, RotationSpec());
    PlainCells plain{std::vector<Ints>(3, Ints(13, -1))};
    Random random(11);
    int64_t refused = 0;
    for (int step = 0; step < 400; ++step) {
        if (random.below(3) == 0) {
            const int32_t stream = int32_t(random.below(3)), from = int32_t(random.below(30));
            cache.remove(stream, from, from + 9);
            for (int32_t& p : plain.position[size_t(stream)]) {
                if (p >= from && p < from + 9) p = -1;
            }
        } else {
            Ints streams(size_t(1 + random.below(6))), positions;
            for (int32_t& s : streams) s = int32_t(random.below(3));
            for (size_t t = 0; t < streams.size(); ++t)
                positions.push_back(int32_t(random.below(30)));
            const std::optional<Ints> cells = plain.place(streams, positions);
            if (cells) {
                REQUIRE(ints(*ref, cache.place(streams, positions).cell) == *cells);
            } else {
                REQUIRE_THROWS_AS(cache.place(streams, positions), Error);
                ++refused;
            }
        }
        REQUIRE(ints(*ref, cache.positions()) == plain.all());
        REQUIRE(std::ranges::equal(cache.host_positions(), plain.all()));
        for (size_t s = 0; s < 3; ++s) {
            const auto last = std::find_if(plain.position[s].rbegin(), plain.position[s].rend(),
                                           [](int32_t p) { return p >= 0; });
            REQUIRE(ints(*ref, cache.used())[s] == int32_t(plain.position[s].rend() - last));
        }
    }
    CHECK(refused > 10);
}

TEST_CASE("kv_cells: no byte belongs to two layers, sides or streams") {
    const Mixed m;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvShape shape = m.shape();
    shape.streams = 3;
    const KvCache cache(*ref, shape, m.spec());
    std::vector<std::pair<const std::byte*, const std::byte*>> strips;
    for (const int64_t layer : {0, 1}) {
        for (const TensorView& side : {cache.k(layer), cache.v(layer)}) {
            for (int64_t stream = 0; stream < 3; ++stream) {
                TensorView strip = side;
                strip.data += stream * side.stride[0];
                strip.n[0] = 1;
                strips.emplace_back(strip.data, strip.data + span_bytes(strip));
            }
        }
    }
    std::ranges::sort(strips);
    REQUIRE(strips.size() == 12);
    for (size_t i = 1; i < strips.size(); ++i) CHECK(strips[i - 1].second <= strips[i].first);
}

TEST_CASE("kv_cells: placing a token uploads its own few numbers") {
    CountingBackend backend(make_ref_backend());
    const KvShape shape{
        .streams = 2, .cells = 4096, .layers = {{.kv_heads = 1, .d_k = 2, .d_v = 2}}};
    KvCache cache(backend, shape, RotationSpec());
    const auto uploaded = [&](const Ints& streams, const Ints& positions) {
        backend.bytes = 0;
        cache.place(streams, positions);
        return backend.bytes / sizeof(int32_t);
    };
    // Its position, `used` of both streams, and stream, cell and position as the batch's index.
    CHECK(uploaded({0}, {0}) == 1 + 2 + 3);
    CHECK(uploaded(Ints(1000, 0), Ints(1000, 1)) == 1000 + 2 + 3000);
    CHECK(uploaded({1, 0, 1}, {0, 1, 2}) == 3 + 2 + 9);
    cache.remove(0, 0, 1);
    CHECK(uploaded({0}, {5}) == 1 + 2 + 3);  // into the hole
    const Ints held = ints(backend, cache.positions());
    CHECK(std::ranges::equal(held, cache.host_positions()));
    CHECK(held[4096 + 1] == 2);
}

TEST_CASE("kv_cells: streams beside each other are brought at once") {
    CountingBackend backend(make_ref_backend());
    const KvShape shape{
        .streams = 64, .cells = 16, .layers = {{.kv_heads = 1, .d_k = 2, .d_v = 2}}};
    KvCache cache(backend, shape, RotationSpec());
    const auto uploads = [&](const std::function<void()>& change) {
        backend.uploads = 0;
        change();
        CHECK(std::ranges::equal(ints(backend, cache.positions()), cache.host_positions()));
        return backend.uploads;
    };
    Ints streams;
    for (int32_t stream = 3; stream < 64; stream += 2) streams.push_back(stream);
    const Ints positions(streams.size(), 0), later(streams.size(), 1);
    // The batch, positions, `used`.
    CHECK(uploads([&] { cache.place(streams, positions); }) == 3);
    CHECK(uploads([&] { cache.place(streams, later); }) == 3);
    CHECK(uploads([&] { cache.remove(63, 0, 16); }) == 2);
    CHECK(uploads([&] { cache.clear(); }) == 2);
}
