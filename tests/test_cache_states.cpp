// A cache some of whose layers keep a state in place of cells: both go together, in memory and in
// a file.
#include "ref/kernels.h"
#include "tests/laws.h"
#include "tests/random.h"
#include "tests/refused_call.h"
#include "tests/saved_cache.h"
#include "tests/temporary_folder.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;

// small_shape()'s layer, and one with a state: 2 inputs of 3 channels, one matrix of 2 x 2.
KvShape shape_with_state() {
    KvShape shape = small_shape();
    KvLayer state = {.type_k = DType::f32, .type_v = DType::f32};
    state.recurrent = {.heads = 1, .d = 2, .channels = 3, .taps = 3};
    shape.layers.push_back(state);
    return shape;
}

std::vector<float> state_of(int64_t stream) { return normal_vector(10, uint64_t(stream) + 1); }

// Both streams with tokens 0, 1, 2 and other numbers in each.
void fill(KvCache& cache) {
    cache.place(Ints{0, 1, 0, 1, 0, 1}, Ints{0, 0, 1, 1, 2, 2});
    fill_bytes(cache, 7);
    for (int64_t stream = 0; stream < 2; ++stream) {
        const std::vector<float> numbers = state_of(stream);
        cache.mutable_state().set_contents(stream, std::as_bytes(std::span(numbers)),
                                           {.first = 0, .next = 3});
    }
}

bool is_empty(const KvCache& cache, int64_t stream) {
    const std::vector<std::byte> bytes = cache.state()->contents(stream);
    return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; }) &&
           cache.state()->held()[size_t(stream)] == Held{};
}

// A filled cache, and its file.
struct SavedStates {
    TemporaryFolder folder;
    std::unique_ptr<Backend> ref = make_ref_backend();
    std::string path = folder.file("a.rkv");
    KvCache cache{*ref, shape_with_state(), RotationSpec()};

    SavedStates() {
        fill(cache);
        save_cache(cache, k_model, path);
    }
};

}  // namespace

TEST_CASE("cache with states: tokens come one after the other, and go all together") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        KvCache cache(*backend, shape_with_state(), RotationSpec());
        CHECK(cache.shape().bytes_per_token() == 16);
        CHECK(cache.shape().recurrent().bytes_per_stream() == 40);
        CHECK(is_empty(cache, 0));
        fill(cache);
        const std::vector<std::byte> before = contents(*backend, cache);
        const auto unsupported = [&](const std::function<void()>& call) {
            const std::string words = refusal(call, ErrorCode::unsupported);
            CHECK(contents(*backend, cache) == before);
            return words;
        };
        CHECK(unsupported([&] {
                  cache.place(Ints{0}, Ints{5});
              }).find("stream 0: expected position 3, found 5") != std::string::npos);
        CHECK(unsupported([&] { cache.remove(0, 1, 2); }).find("1 to 1 alone cannot be removed") !=
              std::string::npos);
        const auto still = [](int64_t) { return RopeConfig(); };
        CHECK(unsupported([&] {
                  cache.shift(0, 1, 3, -1, still);
              }).find("1 to 2 alone cannot be shifted") != std::string::npos);

        cache.shift(1, 0, 3, 4, still);
        CHECK(cache.state()->held()[1] == Held{4, 7});
        CHECK(cache.host_positions()[4] == 4);
        cache.place(Ints{1}, Ints{7});
        cache.remove(0, 0, 3);
        CHECK(is_empty(cache, 0));
        CHECK(!is_empty(cache, 1));
        cache.place(Ints{0}, Ints{0});
        cache.clear();
        CHECK(is_empty(cache, 0));
        CHECK(is_empty(cache, 1));
    }
}

TEST_CASE("cache_file: states are saved behind the cells, as the header lays them out") {
    SavedStates saved;
    const std::string& path = saved.path;
    Backend& ref = *saved.ref;

    std::string expected = "rotkv-kv" + raw(uint32_t(3)) + numbers({0, k_model, 4, 2, 2});
    const std::string types = text("f32") + text("f32") + text("none") + text("none");
    expected += numbers({1, 2, 2, 0, 0, 0}) + types + numbers({0, 0, 0, 0});
    expected += numbers({0, 0, 0, 0, 0, 1}) + types + numbers({1, 2, 3, 3});
    const std::string positions =
        raw(uint64_t(3)) + raw(0) + raw(1) + raw(2) + raw(0) + raw(3);  // and first, next
    expected += positions + positions + std::string(2 * 3 * 16, '\7');
    for (int64_t stream = 0; stream < 2; ++stream) {
        for (const float x : state_of(stream)) expected += raw(x);
    }
    CHECK(read_all(path) == sealed(expected));

    KvCache loaded(ref, shape_with_state(), RotationSpec());
    loaded.place(Ints{1}, Ints{0});
    load_cache(loaded, k_model, path);
    for (const int64_t stream : {0, 1}) {
        CHECK(loaded.state()->contents(stream) == saved.cache.state()->contents(stream));
        CHECK(loaded.state()->held()[size_t(stream)] == Held{0, 3});
    }
    loaded.place(Ints{0, 1}, Ints{3, 3});

    const auto negative = expected.find(positions) + 8 + 12;
    std::string damaged = expected;
    damaged.replace(negative, 4, raw(4));
    write_all(path, sealed(damaged));
    CHECK(refusal(ref, loaded, k_model, path).find("found 4 to 3") != std::string::npos);
}

TEST_CASE("cache_file: states of another shape, or none, are another cache") {
    SavedStates saved;
    const std::string& path = saved.path;
    Backend& ref = *saved.ref;
    KvShape shape = shape_with_state();
    shape.layers[1].recurrent.taps = 4;
    KvCache longer(ref, shape, RotationSpec());
    CHECK(refusal(ref, longer, k_model, path) == "layer 1: taps of its state: expected 4, found 3");
    shape.layers[1].recurrent = {};
    KvCache without(ref, shape, RotationSpec());
    CHECK(refusal(ref, without, k_model, path) ==
          "layer 1: heads of its state: expected 0, found 1");
    save_cache(without, k_model, path);
    CHECK(refusal(ref, saved.cache, k_model, path) == "version: expected 3, with states, found 2");
}
