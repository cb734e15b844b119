// Saved caches of the first version of the format.
#include "ref/kernels.h"
#include "tests/saved_cache.h"
#include "tests/temporary_folder.h"

#include <algorithm>
#include <cstring>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;

// small_shape()'s file, as version 1 began it.
std::string small_head_of_version_1() {
    // cells, layers, streams, kv_heads, d_k, d_v, v_in_k, v_first
    return "rotkv-kv" + raw(uint32_t(1)) + numbers({0, k_model}) + text("f32") + text("f32") +
           text("k=none v=none") + numbers({4, 1, 2, 1, 2, 2, 0, 0});
}
}  // namespace

TEST_CASE("cache_file: files of version 1 are read as ever") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    // Written when version 1 was the only one: 2 streams of 16 cells with 12 tokens, of which the
    // first has lost 3, 4 and 5, the second the last three.
    const std::string path = std::string(ROTKV_GOLDEN_DIR) + "/cache_version_1.rkv";
    const KvLayer layer{
        .kv_heads = 2, .d_k = 64, .d_v = 64, .type_k = DType::q4_0, .type_v = DType::q8_0};
    const KvShape shape{.streams = 2, .cells = 16, .layers = {layer}};
    KvCache cache(*ref, shape, spec_of("k=64:7 v=32"));
    fill_bytes(cache, 0xff);
    load_cache(cache, k_model, path);
    const Ints hole{0, 1, 2, -1, -1, -1, 6, 7, 8, 9, 10, 11}, end{0, 1, 2, 3, 4, 5, 6, 7, 8};
    Ints positions(32, -1);
    std::copy(hole.begin(), hole.end(), positions.begin());
    std::copy(end.begin(), end.end(), positions.begin() + 16);
    CHECK(std::ranges::equal(cache.host_positions(), positions));

    // Its rows are what lies before the checksum: K, then V, of each stream's tokens.
    const std::string file = read_all(path);
    const size_t k_bytes = 2 * 2 * 18, v_bytes = 2 * 2 * 34, tokens = 9;
    size_t at = file.size() - 8 - 2 * tokens * (k_bytes + v_bytes);
    for (const int64_t stream : {0, 1}) {
        for (const Side side : {Side::k, Side::v}) {
            const size_t bytes = side == Side::k ? k_bytes : v_bytes;
            std::vector<std::byte> cells(16 * bytes);
            cache.read_cells(0, stream, side, cells);
            for (size_t c = 0; c < 16; ++c) {
                if (positions[size_t(stream) * 16 + c] < 0) continue;
                REQUIRE(std::memcmp(&cells[c * bytes], &file[at], bytes) == 0);
                at += bytes;
            }
        }
    }
    CHECK(at + 8 == file.size());

    const auto found = [&](const KvShape& s, const char* spec) {
        KvCache other(*ref, s, spec_of(spec));
        return refusal(*ref, other, k_model, path);
    };
    CHECK(found(shape, "k=64:8 v=32") ==
          "layer 0: rotation: expected 'k=signs/64/8 "
          "v=sylvester/32', found 'k=signs/64/7 v=sylvester/32'");
    KvShape changed = shape;
    changed.layers[0].type_k = DType::q5_0;
    CHECK(found(changed, "k=64:7 v=32") == "layer 0: type of K: expected 'q5_0', found 'q4_0'");
    changed = shape;
    changed.layers.push_back(layer);
    CHECK(found(changed, "k=64:7 v=32") == "layers: expected 2, found 1");
}

TEST_CASE("cache_file: version 1 knows no layers that differ or read another's rows") {
    const TemporaryFolder folder;
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const std::string path = folder.file("a.rkv");
    std::string head = small_head_of_version_1();
    write_all(path, sealed(head + small_positions() + small_data()));
    KvCache small(*ref, small_shape(), RotationSpec());
    CHECK(refusal(*ref, small, k_model, path) == "no error");
    save_cache(small, k_model, folder.file("b.rkv"));
    CHECK(read_all(folder.file("b.rkv")) ==
          sealed(small_head() + small_positions() + small_data()));

    head.replace(79, 8, raw(uint64_t(2)));  // layers
    write_all(path, sealed(head + small_positions() + small_data() + small_data()));
    KvShape two = small_shape();
    two.layers.push_back(two.layers[0]);
    KvCache alike(*ref, two, RotationSpec());
    CHECK(refusal(*ref, alike, k_model, path) == "no error");
    two.layers[1].source = 0;
    KvCache reading(*ref, two, RotationSpec());
    CHECK(refusal(*ref, reading, k_model, path) == "layer 1: source: expected 0, found 1");
    two.layers[1] = two.layers[0];
    two.layers[1].d_v = 4;
    KvCache wider(*ref, two, RotationSpec());
    CHECK(refusal(*ref, wider, k_model, path) == "layer 1: d_v: expected 4, found 2");
    two.layers[1] = {};
    KvCache lacking(*ref, two, RotationSpec());
    CHECK(refusal(*ref, lacking, k_model, path).starts_with("layer 1: "));
    head.replace(12 + 8 + 8 + 11 + 11 + 8, 2, "\n\x1b");
    write_all(path, sealed(head + small_positions() + small_data() + small_data()));
    CHECK(refusal(*ref, alike, k_model, path).starts_with("layer 0: rotation: "));
}
