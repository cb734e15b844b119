// Keys kept without their layer's bias: what is kept, what it gains, and who cannot.
// Docs: docs/20-zoo.md
#include "ref/context_shift.h"
#include "ref/key_bias.h"
#include "tests/laws.h"
#include "tests/refused_call.h"
#include "tests/tiny_run.h"

#include <algorithm>
#include <cmath>

namespace rotkv::test {
namespace {

// A Qwen 2 whose keys have large biases, as real ones have.
TinyModel biased(float size, const std::string& name = "qwen2") {
    TinyModel tiny = TinyModel::make(name);
    for (int64_t l = 0; l < TinyModel::layers; ++l) {
        const auto found = tiny.weights.find(blk(l, "attn_k.bias"));
        if (found == tiny.weights.end()) continue;
        for (float& value : found->second) value *= size;
    }
    return tiny;
}

// The relative square error of the keys in a cache, against those in f32.
double key_error(const std::vector<float>& exact, const std::vector<float>& kept) {
    double error = 0, size = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
        error += std::pow(double(exact[i]) - double(kept[i]), 2);
        size += std::pow(double(exact[i]), 2);
    }
    return error / size;
}

// Layer 0, cells first .. end.
std::vector<float> keys_of(const KvCache& cache, Backend& backend, int64_t first, int64_t end) {
    const std::vector<float> all = download_f32(backend, cache.k(0));
    const int64_t cell = int64_t(all.size()) / cache.shape().cells;
    return {all.begin() + first * cell, all.begin() + end * cell};
}

KvCache cache_of(Model& model, const std::string& type, bool without, const RotationSpec& spec) {
    const KvShape shape = model.config().cache_shape(1, 32, *find_cache_type(type), DType::f32);
    return KvCache(model.backend(), without ? without_key_bias(model, shape, spec) : shape, spec);
}

TEST_CASE("key bias: what is kept is the rest, and less of it is lost") {
    const std::vector<int32_t> text = some_tokens(20);
    const RotationSpec turned =
        RotationSpec::of({.kind = Rotation::Kind::signs, .block = 16, .seed = 5}, {});
    Opened opened(biased(40));
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Model model(opened.gguf, *backend, {.context = 64});
        for (const RotationSpec& spec : {RotationSpec(), turned}) {
            // Exact in layer 0 whatever the cache does to later ones.
            KvCache exact = cache_of(model, "f32", false, spec);
            run_parts(model, exact, text, 6, 3);
            const std::vector<float> keys = keys_of(exact, *backend, 0, 20);
            for (const char* type : {"polar", "fp8_e4m3"}) {
                CAPTURE(backend->name(), type, spec.at(0, Side::k).on());
                KvCache with = cache_of(model, type, false, spec);
                KvCache without = cache_of(model, type, true, spec);
                CHECK(without.shape().layers[1].type_k.name() == std::string(type) + "+kbias");
                CHECK(without.shape().bytes_per_token() == with.shape().bytes_per_token());
                run_parts(model, with, text, 6, 3);
                run_parts(model, without, text, 6, 3);
                const double of_all = key_error(keys, keys_of(with, *backend, 0, 20));
                const double of_rest = key_error(keys, keys_of(without, *backend, 0, 20));
                CAPTURE(of_all, of_rest);
                CHECK(of_all > 1e-5);
                CHECK(of_rest < of_all / 100);
            }
        }
    }
}

TEST_CASE("key bias: a shift encodes keys with the bias of their new positions") {
    const std::vector<int32_t> text = some_tokens(20);
    Opened opened(biased(40));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    const auto rope = [&](int64_t layer) { return model.rope(layer); };
    KvCache exact = cache_of(model, "f32", false, RotationSpec());
    KvCache without = cache_of(model, "polar", true, RotationSpec());
    for (KvCache* cache : {&exact, &without}) {
        run_parts(model, *cache, text, 20);
        shift_context(*cache, 0, 20, 0, rope);
    }
    // Ten tokens have moved, from cell 10 on.
    CHECK(key_error(keys_of(exact, *opened.ref, 10, 20), keys_of(without, *opened.ref, 10, 20)) <
          2e-4);
}

TEST_CASE("key bias: types with kernels are kept as formats, in as many bytes") {
    Opened opened(biased(0));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    KvShape shape = model.config().cache_shape(1, 32, DType::q8_0, DType::f32);
    const KvShape wrapped = without_key_bias(model, shape, RotationSpec());
    const Format* format = wrapped.layers[0].type_k.format();
    REQUIRE(format != nullptr);
    CHECK(format->name() == "q8_0+kbias");
    CHECK(format->row_bytes(64) == 68);
    CHECK(format->refusal(16) == "needs a head size that is a multiple of 32, found 16");
    CHECK(wrapped.layers[0].type_v == CacheType(DType::f32));
    KvShape plain = model.config().cache_shape(1, 32, DType::f16, DType::f32);
    CHECK(without_key_bias(model, plain, RotationSpec()) == plain);  // nothing to gain
}

TEST_CASE("key bias: who has none is refused by name") {
    const struct {
        const char *name, *why;
    } refused[] = {{"llama", "kbias: this model's keys have no bias"},
                   {"qwen3", "kbias: this model norms its keys, and their bias with them"},
                   {"deepseek2", "kbias: V lies in this model's keys"}};
    for (const auto& one : refused) {
        CAPTURE(one.name);
        Opened opened(TinyModel::make(one.name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        const CacheType polar = *find_cache_type("polar");
        const KvShape shape = model.config().cache_shape(1, 32, polar, polar);
        CHECK(refusal([&] { without_key_bias(model, shape, RotationSpec()); },
                      ErrorCode::unsupported) == one.why);
    }
}

}  // namespace
}  // namespace rotkv::test
