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

    static TensorView view_of(const KvCache& cache, int64_t layer, Side side) {
        return side == Side::k ? cache.k(layer) : cache.v(layer);
    }
    std::vector<std::byte> bytes_of(const KvCache& cache, int64_t layer, Side side) {
        return download(backend, view_of(cache, layer, side));
    }

    // What a bf16 cache holds of rows that lie in an f32 cache, under k_turned.
    std::vector<std::byte> turned(const KvCache& plain, int64_t layer, Side side);
};

const RotationSpec k_turned =
    RotationSpec::of({Rotation::Kind::signs, 16, 3, 0}, {Rotation::Kind::sylvester, 8, 0, 0});

std::vector<std::byte> OneLayerCase::turned(const KvCache& plain, int64_t layer, Side side) {
    const TensorView rows = view_of(plain, layer, side);
    const Buffer memory(backend, size_t(span_bytes(rows))), packed(backend, memory.bytes() / 2);
    const TensorView x = memory.view(DType::f32, {rows.n[0], rows.n[1], rows.n[2], rows.n[3]});
    const TensorView y = packed.view(DType::bf16, {rows.n[0], rows.n[1], rows.n[2], rows.n[3]});
    backend.run(DequantizeArgs{.dst = x, .src = rows});
    backend.run(HadamardArgs{.dst = x, .src = x, .rotation = k_turned.at(layer, side)});
    backend.run(QuantizeArgs{.dst = y, .src = x});
    return download(backend, y);
}

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
        for (const Side side : {Side::k, Side::v}) {
            for (int64_t layer = 0; layer < TinyModel::layers; ++layer) {
                INFO("layer " << layer << (side == Side::k ? " k" : " v"));
                const bool before = layer < replaced;
                const bool same = c.bytes_of(base, layer, side) == c.bytes_of(plain, layer, side);
                CHECK(same == before);
            }
            // The layers before it are exact, so the other cache holds the plain run's very rows.
            CHECK(c.turned(plain, replaced, side) == c.bytes_of(other, replaced, side));
        }
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
