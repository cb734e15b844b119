#include "ref/key_bias.h"

#include "ref/error.h"
#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/quant.h"

#include <string>
#include <utility>
#include <vector>

namespace rotkv {

namespace {

// One layer's keys.
class WithoutBias final : public Format {
  public:
    /// bias [K][D]
    WithoutBias(CacheType type, std::vector<float> bias, RopeConfig rope, const Rotation& rotation)
        : Format(type.name() + "+kbias"),
          type_(std::move(type)),
          bias_(std::move(bias)),
          rope_(std::move(rope)),
          rotation_(rotation) {}

    std::string refusal(int64_t d) const override { return type_.refusal(d); }
    int64_t row_bytes(int64_t d) const override { return rotkv::row_bytes(type_, d); }
    int64_t group() const override { return type_.group(); }
    std::string unrotated_because() const override { return type_.unrotated_because(); }

    void encode(std::span<std::byte> codes, std::span<const float> rows,
                const RowContext& context) const override {
        std::vector<float> rest = biases_at(rows.size(), context);
        for (size_t i = 0; i < rows.size(); ++i) rest[i] = rows[i] - rest[i];
        if (type_.format() != nullptr) return type_.format()->encode(codes, rest, context);
        ref::quantize_row(type_.cells(), codes.data(), rest.data(), int64_t(rest.size()));
    }

    void decode(std::span<float> rows, std::span<const std::byte> codes,
                const RowContext& context) const override {
        if (type_.format() != nullptr) {
            type_.format()->decode(rows, codes, context);
        } else {
            ref::dequantize_row(type_.cells(), rows.data(), codes.data(), int64_t(rows.size()));
        }
        const std::vector<float> bias = biases_at(rows.size(), context);
        for (size_t i = 0; i < rows.size(); ++i) rows[i] += bias[i];
    }

  private:
    // R t(b, p) of each token of a group
    std::vector<float> biases_at(size_t values, const RowContext& context) const {
        std::vector<float> all;
        for (int64_t token = 0; token < group(); ++token) {
            const std::vector<float> one = bias_at(values / size_t(group()), context.kv_head,
                                                   int32_t(context.position + token));
            all.insert(all.end(), one.begin(), one.end());
        }
        return all;
    }
    std::vector<float> bias_at(size_t d, int64_t kv_head, int32_t at) const {
        const auto begin = bias_.begin() + kv_head * int64_t(d);
        std::vector<float> bias(begin, begin + int64_t(d));
        if (rope_.n_rot > 0) {
            const int32_t position[] = {at};
            const std::vector<float> table = rope_table(rope_, position);
            ref::rope_row(bias.data(), bias.data(), int64_t(d), table.data(), rope_.n_rot,
                          rope_.pairs);
        }
        ref::hadamard_row(bias.data(), bias.data(), int64_t(d), rotation_, false);
        return bias;
    }

    CacheType type_;
    std::vector<float> bias_;
    RopeConfig rope_;
    Rotation rotation_;
};

// [K][Dk] of a layer that projects its own keys; of a fused vector the part behind the queries'.
std::vector<float> key_bias(const Model& model, int64_t layer) {
    const ModelLayer& weights = model.weights().layers[size_t(layer)];
    const LayerPlan& plan = model.config().plan[size_t(layer)];
    if (!weights.k_bias.empty()) return contents<float>(model.backend(), weights.k_bias);
    if (weights.qkv_bias.empty()) return {};
    const std::vector<float> all = contents<float>(model.backend(), weights.qkv_bias);
    const int64_t queries = plan.heads * plan.d_k, keys = plan.kv_heads * plan.d_k;
    return {all.begin() + queries, all.begin() + queries + keys};
}

}  // namespace

KvShape without_key_bias(const Model& model, KvShape shape, const RotationSpec& spec) {
    const auto refuse = [](const char* why) {
        throw Error(ErrorCode::unsupported, std::string("kbias: ") + why);
    };
    if (model.config().architecture.qk_norm != QkNorm::none) {
        refuse("this model norms its keys, and their bias with them");
    }
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        KvLayer& layer = shape.layers[size_t(l)];
        if (layer.kv_heads == 0 || !layer.type_k.quantized()) continue;
        if (layer.v_in_k) refuse("V lies in this model's keys");
        if (layer.source) {
            layer.type_k = shape.layers[size_t(*layer.source)].type_k;
            continue;
        }
        std::vector<float> bias = key_bias(model, l);
        if (bias.empty()) refuse("this model's keys have no bias");
        layer.type_k = CacheType(std::make_shared<WithoutBias>(layer.type_k, std::move(bias),
                                                               model.rope(l), spec.at(l, Side::k)));
    }
    return shape;
}

}  // namespace rotkv
