// A cache that is another one in a single layer: which bytes lie where, and what the model says.
#include "ref/files/gguf.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/tiny_model.h"
#include "tools/watch/one_layer.h"

using namespace rotkv;
using namespace rotkv::test;
using namespace rotkv::tools;

namespace {

constexpr int64_t k_tokens = 11;

GgufFile written(const std::string& path) {
    TinyModel::make("gemma3").write(path);
    return GgufFile::open(path);
}

struct OneLayerCase {
    TemporaryFile file{"one_layer.gguf"};
    GgufFile gguf = written(file.path());
    std::unique_ptr<Backend> ref = make_ref_backend();
    Backend& backend = *ref;
    OneLayer one_layer;
    Model model{gguf, backend, {.context = 64, .observer = one_layer.observer()}};

    KvCache cache(DType type, const RotationSpec& spec) {
        return KvCache(backend, model.config().cache_shape(1, k_tokens, type, type), spec);
    }

    std::vector<float> run(KvCache& cache) {
        std::vector<int32_t> tokens, positions;
        for (int32_t t = 0; t < k_tokens; ++t) {
            tokens.push_back(7 * t % int32_t(TinyModel::words));
            positions.push_back(t);
        }
        return download_f32(
            backend, model.forward(cache, tokens, std::vector<int32_t>(k_tokens, 0), positions));
    }

    std::vector<std::byte> keys(const KvCache& cache, int64_t layer) {
        return download(backend, cache.k(layer));
    }
};

const RotationSpec k_turned =
    RotationSpec::of({Rotation::Kind::signs, 16, 3, 0}, {Rotation::Kind::sylvester, 8, 0, 0});

}  // namespace

TEST_CASE("one layer: it alone lies in the other cache, and what follows sees it") {
    OneLayerCase c;
    KvCache plain = c.cache(DType::f32, RotationSpec());
    const std::vector<float> exact = c.run(plain);
    for (int64_t replaced = 0; replaced < TinyModel::layers; ++replaced) {
        KvCache base = c.cache(DType::f32, RotationSpec());
        const KvCache other = c.cache(DType::bf16, k_turned);
        c.one_layer.replace(other, replaced);
        const std::vector<float> hidden = c.run(base);
        INFO("layer " << replaced);
        CHECK(hidden != exact);
        for (int64_t layer = 0; layer < TinyModel::layers; ++layer) {
            INFO("layer " << layer);
            const bool before = layer < replaced;
            const bool same = c.keys(base, layer) == c.keys(plain, layer);
            CHECK(same == before);
        }
        // The layers before it are exact, so the other cache holds the plain run's very keys.
        const Buffer rows(c.backend, c.keys(plain, replaced).size());
        const TensorView k =
            rows.view(DType::f32, {1, k_tokens, TinyModel::kv_heads, TinyModel::d});
        c.backend.run(DequantizeArgs{.dst = k, .src = plain.k(replaced)});
        c.backend.run(HadamardArgs{.dst = k, .src = k, .rotation = k_turned.at(replaced, Side::k)});
        const Buffer packed(c.backend, c.keys(other, replaced).size());
        const TensorView expected =
            packed.view(DType::bf16, {1, k_tokens, TinyModel::kv_heads, TinyModel::d});
        c.backend.run(QuantizeArgs{.dst = expected, .src = k});
        CHECK(download(c.backend, expected) == c.keys(other, replaced));
    }
}

TEST_CASE("one layer: another cache of the same kind changes nothing") {
    OneLayerCase c;
    KvCache plain = c.cache(DType::f16, k_turned);
    const std::vector<float> exact = c.run(plain);
    for (int64_t replaced = 0; replaced < TinyModel::layers; ++replaced) {
        KvCache base = c.cache(DType::f16, k_turned);
        const KvCache other = c.cache(DType::f16, k_turned);
        c.one_layer.replace(other, replaced);
        CHECK(c.run(base) == exact);
    }
}
