// V's rotation in the weights: the model stays what it was, on every kind of layer that keeps
// values, and the policy leaves them alone.
#include "ref/files/gguf.h"
#include "ref/fused_rotation.h"
#include "ref/rotation_policy.h"
#include "ref/rotation_words.h"
#include "tests/laws.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr int64_t k_tokens = 9;

// What the output matrix multiplies, [T][E].
std::vector<float> hidden_of(Model& model, const RotationSpec& spec) {
    KvCache cache(model.backend(), model.config().cache_shape(1, k_tokens, DType::f32, DType::f32),
                  spec);
    std::vector<int32_t> tokens(size_t(k_tokens), 0), positions(tokens);
    std::iota(positions.begin(), positions.end(), 0);
    for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = int32_t(7 * t % TinyModel::words);
    return download_f32(
        model.backend(),
        model.forward(cache, tokens, std::vector<int32_t>(tokens.size()), positions));
}

// The file at `to`: the one at `from` with these tensors in place of its own, and a key.
void rewrite(const std::string& from, const std::string& to, const std::vector<FusedTensor>& fused,
             const char* key, const std::string& words) {
    const GgufFile file = GgufFile::open(from);
    GgufWriter writer;
    for (const GgufEntry& entry : file.metadata()) writer.add(entry.key, entry.value);
    writer.add(key, std::string_view(words));
    for (const GgufTensor& tensor : file.tensors()) {
        const auto found = std::ranges::find(fused, tensor.name, &FusedTensor::name);
        writer.add_tensor(tensor.name, found == fused.end() ? tensor.view : found->view);
    }
    writer.write(to);
}

double largest(const std::vector<float>& x) {
    double most = 0;
    for (const float value : x) most = std::max(most, std::fabs(double(value)));
    return most;
}

struct Fused {
    size_t tensors = 0;
    double apart = 0;  ///< of the hidden states, beside their largest
    std::string v_reason;
};

Fused fuse(const TinyModel& tiny, const Rotation& rotation) {
    const TemporaryFolder folder;
    const std::string old_path = folder.file("old.gguf"), new_path = folder.file("new.gguf");
    tiny.write(old_path);
    const std::unique_ptr<Backend> backend = std::move(all_backends()[0]);
    const GgufFile old_file = GgufFile::open(old_path);
    Model old_model(old_file, *backend, {.context = k_tokens});
    const std::vector<FusedTensor> fused = fuse_rotation(old_model, rotation);
    rewrite(old_path, new_path, fused, fused_rotation_key(old_model.config()),
            rotation_name(rotation));
    const GgufFile new_file = GgufFile::open(new_path);
    Model new_model(new_file, *backend, {.context = k_tokens});

    const std::vector<float> before = hidden_of(old_model, RotationSpec());
    const std::vector<float> after = hidden_of(new_model, RotationSpec());
    Fused result;
    result.tensors = fused.size();
    for (size_t i = 0; i < before.size(); ++i) {
        result.apart = std::max(result.apart, std::fabs(double(after[i]) - double(before[i])));
    }
    result.apart /= largest(before);
    const KvShape shape = new_model.config().cache_shape(1, 1, DType::q8_0, DType::q8_0);
    result.v_reason = decide_rotation({}, shape).reason(0, Side::v);
    return result;
}

}  // namespace

TEST_CASE("fused rotation: every kind of layer is the layer it was") {
    const Rotation plain{.kind = Rotation::Kind::sylvester, .block = 8};
    const Rotation signs{.kind = Rotation::Kind::signs, .block = 4, .seed = 7};
    for (const char* name : {"llama", "qwen2", "gemma3", "phi3", "deepseek2", "gpt-oss"}) {
        for (const Rotation& rotation : {plain, signs}) {
            TinyModel tiny = TinyModel::make(name);
            tiny.fused_biases = tiny.fused;
            if (std::string(name) == "qwen2" || tiny.fused) tiny.add_biases();
            const Fused fused = fuse(tiny, rotation);
            INFO(name << " " << rotation_name(rotation) << " " << fused.v_reason);
            CHECK(fused.tensors >= 2 * size_t(TinyModel::layers));
            CHECK(fused.apart < 2e-5);
            CHECK(fused.v_reason.find(rotation_name(rotation) + " in the weights") !=
                  std::string::npos);
        }
    }
}

TEST_CASE("fused rotation: what cannot be turned is refused by name") {
    const Rotation rotation{.kind = Rotation::Kind::sylvester, .block = 8};
    CHECK_THROWS_AS(fuse(TinyModel::make("qwen35"), rotation), Error);  // a gate on the output
    CHECK_THROWS_AS(
        fuse(TinyModel::make("llama"), {.kind = Rotation::Kind::sylvester, .block = 32}), Error);
    CHECK_THROWS_AS(fuse(TinyModel::make("llama"), Rotation()), Error);
}

TEST_CASE("fused rotation: the policy turns nothing twice unless it is told to") {
    KvLayer layer{
        .kv_heads = 2, .d_k = 64, .d_v = 64, .type_k = DType::q8_0, .type_v = DType::q8_0};
    layer.in_weights = {.kind = Rotation::Kind::sylvester, .block = 32};
    const KvShape shape{.layers = {layer}};
    const RotationSpec spec = decide_rotation({}, shape);
    CHECK(describe(spec, 0, Side::k) == "sylvester, block 64 (policy: q8_0 is quantized, D = 64)");
    CHECK(describe(spec, 0, Side::v) == "off (policy: rotated, 32 in the weights)");
    RotationRequest request;
    request.v = {.mode = RotationRequest::Mode::on, .origin = "flag"};
    CHECK(describe(decide_rotation(request, shape), 0, Side::v) ==
          "sylvester, block 64 (flag, beside 32 in the weights)");
}
