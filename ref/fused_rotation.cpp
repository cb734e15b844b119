#include "ref/fused_rotation.h"

#include "ref/error.h"
#include "ref/file_weights.h"
#include "ref/quant.h"
#include "ref/rotation_words.h"

#include <cmath>
#include <span>
#include <utility>

namespace rotkv {

namespace {

/// A weight in f32: [count][out][in], or a vector [out] with in = 1.
struct Matrix {
    std::vector<float> values;
    int64_t count = 1, out = 0, in = 0;

    float& at(int64_t o, int64_t i) { return values[size_t(o * in + i)]; }
    int64_t rows() const { return count * out; }
};

Matrix expanded(const TensorView& weight) {
    Matrix matrix{.values = {}, .count = weight.n[1], .out = weight.n[2], .in = weight.n[3]};
    matrix.values.resize(size_t(matrix.rows() * matrix.in));
    for (int64_t c = 0; c < matrix.count; ++c) {
        for (int64_t o = 0; o < matrix.out; ++o) {
            const std::byte* row = weight.data + c * weight.stride[1] + o * weight.stride[2];
            ref::dequantize_row(weight.type, &matrix.at(c * matrix.out + o, 0), row, matrix.in);
        }
    }
    return matrix;
}

/// A bias [n] as a matrix of one column.
Matrix column(const TensorView& bias) {
    Matrix matrix = expanded(bias);
    std::swap(matrix.out, matrix.in);
    return matrix;
}

// x <- R x: signs, then H block by block.
void turn(std::span<double> x, const Rotation& rotation) {
    const size_t n = size_t(rotation.block);
    if (rotation.kind == Rotation::Kind::signs) {
        for (size_t i = 0; i < x.size(); ++i)
            x[i] *= double(rotation_sign(rotation.seed, int64_t(i)));
    }
    for (size_t half = 1; half < n; half *= 2) {
        for (size_t i = 0; i < x.size(); ++i) {
            if (i / half % 2 != 0) continue;
            const double a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
    }
    for (double& value : x) value /= std::sqrt(double(n));
}

// d values of `at`, each times its gain, become R of them.
template <class At>
void turn_at(const At& at, int64_t d, const Rotation& rotation, std::span<const float> gain) {
    std::vector<double> x(static_cast<size_t>(d));
    for (int64_t i = 0; i < d; ++i) {
        x[size_t(i)] = double(at(i)) * (gain.empty() ? 1.0 : double(gain[size_t(i)]));
    }
    turn(x, rotation);
    for (int64_t i = 0; i < d; ++i) at(i) = float(x[size_t(i)]);
}

// W <- R W: rows first .. first + d, column by column.
void turn_outputs(Matrix& w, int64_t first, int64_t d, const Rotation& rotation,
                  std::span<const float> gain = {}) {
    for (int64_t i = 0; i < w.in; ++i) {
        turn_at([&](int64_t o) -> float& { return w.at(first + o, i); }, d, rotation, gain);
    }
}

// W <- W R^T: columns first .. first + d, row by row, which is R of each row.
void turn_inputs(Matrix& w, int64_t first, int64_t d, const Rotation& rotation,
                 std::span<const float> gain = {}) {
    for (int64_t o = 0; o < w.rows(); ++o) {
        turn_at([&](int64_t i) -> float& { return w.at(o, first + i); }, d, rotation, gain);
    }
}

class Fusion {
  public:
    Fusion(const Model& model, const Rotation& rotation)
        : config_(model.config()), weights_(model.weights()), rotation_(rotation) {}

    std::vector<FusedTensor> run() {
        for (int64_t l = 0; l < config_.layers; ++l) {
            const LayerPlan& plan = config_.plan[size_t(l)];
            if (plan.kind == LayerKind::delta) continue;  // keeps no values
            if (config_.architecture.query_gate) {
                refuse(l, "a gate multiplies the output channel by channel before W_o");
            }
            const bool row = plan.kind == LayerKind::latent && config_.latent.absorbed;
            require_fits(l, row ? config_.latent.rank : values_of(plan));
            if (row) {
                latent_row(l);
            } else {
                values(l, plan);
                outputs(l, plan);
            }
        }
        if (fused_.empty()) {
            throw Error(ErrorCode::unsupported,
                        "no layer of this model keeps values that could be turned");
        }
        return std::move(fused_);
    }

  private:
    [[noreturn]] void refuse(int64_t layer, const std::string& why) const {
        throw Error(ErrorCode::unsupported, "layer " + std::to_string(layer) + ": " + why);
    }

    void require_fits(int64_t layer, int64_t d) const {
        if (rotation_.on() && rotation_.fits(d)) return;
        throw Error(ErrorCode::usage, "layer " + std::to_string(layer) +
                                          ": expected blocks of a power of two that divides D = " +
                                          std::to_string(d) + ", found " +
                                          rotation_name(rotation_));
    }

    // Channels of a value. Latent layers that are not absorbed project heads of their own.
    int64_t values_of(const LayerPlan& plan) const {
        return plan.kind == LayerKind::latent ? config_.latent.d_v : plan.d_v;
    }

    void add(int64_t layer, const char* name, const TensorView& old, std::vector<float> values) {
        FusedTensor& tensor = fused_.emplace_back();
        tensor.name = prefix_of(layer) + name;
        tensor.values = std::move(values);
        tensor.view = view(tensor.values.data(), DType::f32, {old.n[1], old.n[2], old.n[3]});
    }

    // Heads of d rows each, the first `before` rows of a head left as they are.
    void add_outputs(int64_t layer, const char* name, const TensorView& old, Matrix w,
                     int64_t first, int64_t heads, int64_t before, int64_t d) {
        for (int64_t h = 0; h < heads; ++h) {
            turn_outputs(w, first + h * (before + d) + before, d, rotation_);
        }
        add(layer, name, old, std::move(w.values));
    }

    // What makes values: W_v and its bias, alone or behind those of queries and keys.
    void values(int64_t l, const LayerPlan& plan) {
        if (plan.source) return;  // another layer's, and turned there
        const ModelLayer& layer = weights_.layers[size_t(l)];
        if (plan.kind == LayerKind::latent) {
            const TensorView& up = layer.latent.key_value_up;
            add_outputs(l, "attn_kv_b.weight", up, expanded(up), 0, plan.heads,
                        config_.latent.still, config_.latent.d_v);
            return;
        }
        const int64_t heads = plan.kv_heads, d = plan.d_v;
        const int64_t before = plan.heads * plan.d_k + heads * plan.d_k;  // rows of Q and K
        if (!layer.qkv.empty()) {
            add_outputs(l, "attn_qkv.weight", layer.qkv, expanded(layer.qkv), before, heads, 0, d);
        } else if (!layer.v.empty()) {
            add_outputs(l, "attn_v.weight", layer.v, expanded(layer.v), 0, heads, 0, d);
        } else {
            refuse(l, "values are keys before their norm and position, W_k serves both");
        }
        const TensorView &both = layer.qkv_bias, &own = layer.v_bias;
        if (!both.empty()) {
            add_outputs(l, "attn_qkv.bias", both, column(both), before, heads, 0, d);
        } else if (!own.empty()) {
            add_outputs(l, "attn_v.bias", own, column(own), 0, heads, 0, d);
        }
    }

    void outputs(int64_t l, const LayerPlan& plan) {
        const TensorView& output = weights_.layers[size_t(l)].attention_output;
        const int64_t d = values_of(plan);
        Matrix w = expanded(output);
        for (int64_t h = 0; h < plan.heads; ++h) turn_inputs(w, h * d, d, rotation_);
        add(l, "attn_output.weight", output, std::move(w.values));
    }

    // W_d and its gain; both of what reads the latent.
    void latent_row(int64_t l) {
        const LatentWeights& latent = weights_.layers[size_t(l)].latent;
        const int64_t rank = config_.latent.rank;
        const Matrix gain = expanded(latent.norm);
        add_outputs(l, "attn_kv_a_mqa.weight", latent.down, expanded(latent.down), 0, 1, 0, rank);
        add(l, "attn_kv_a_norm.weight", latent.norm, std::vector<float>(size_t(rank), 1.0f));

        Matrix key_up = expanded(latent.key_up);  // [H][R][still]
        for (int64_t h = 0; h < key_up.count; ++h) {
            turn_outputs(key_up, h * rank, rank, rotation_, gain.values);
        }
        add(l, "attn_k_b.weight", latent.key_up, std::move(key_up.values));

        Matrix value_up = expanded(latent.value_up);  // [H][Dv][R]
        turn_inputs(value_up, 0, rank, rotation_, gain.values);
        add(l, "attn_v_b.weight", latent.value_up, std::move(value_up.values));
    }

    const ModelConfig& config_;
    const ModelWeights& weights_;
    Rotation rotation_;
    std::vector<FusedTensor> fused_;
};

}  // namespace

const char* fused_rotation_key(const ModelConfig& config) {
    return config.latent.absorbed ? k_fused_latent_key : k_fused_v_key;
}

std::vector<FusedTensor> fuse_rotation(const Model& model, const Rotation& rotation) {
    const Rotation& already = model.config().in_weights;
    if (already.on()) {
        throw Error(ErrorCode::unsupported,
                    "these weights are turned already, by " + rotation_name(already));
    }
    return Fusion(model, rotation).run();
}

}  // namespace rotkv
