#pragma once
// A transformer from a GGUF file, on any backend. What differs between architectures is a row of a
// table and a plan of the layers (architecture.h); what they share is one forward pass, top to
// bottom (model.cpp). Docs: docs/05-attention.md

#include "ref/architecture.h"
#include "ref/backend.h"
#include "ref/kv_cache.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

/// The weights of one layer. Weight matrices are [out][in]; an empty view: the file has no such
/// tensor, which decides between one fused matrix and several.
struct ModelLayer {
    TensorView attention_norm;          ///< [E]; empty: none, as of the other norms
    TensorView q, k, v;                 ///< [H Dk][E], [K Dk][E], [K Dv][E]; empty where fused
    TensorView qkv;                     ///< [H Dk + K Dk + K Dv][E]: rows of Q, then K, then V
    TensorView q_bias, k_bias, v_bias;  ///< [H Dk], [K Dk], [K Dv]
    TensorView qkv_bias;                ///< [H Dk + K Dk + K Dv]
    TensorView q_norm, k_norm;          ///< [Dk], or [H Dk] and [K Dk]: QkNorm
    TensorView attention_output;        ///< [E][H Dv]
    TensorView attention_output_bias;   ///< [E]
    TensorView post_attention_norm;     ///< [E]
    TensorView feed_forward_norm;       ///< [E]
    TensorView gate, up;                ///< [F][E]; empty where fused
    TensorView gate_up;                 ///< [2 F][E]: rows of gate, then up
    TensorView gate_bias, up_bias;      ///< [F]
    TensorView gate_up_bias;            ///< [2 F]
    TensorView down;                    ///< [E][F]
    TensorView down_bias;               ///< [E]
    TensorView post_feed_forward_norm;  ///< [E]
};

/// Memory that a backend imported, released with the object.
class Imports {
  public:
    explicit Imports(Backend& backend) : backend_(backend) {}
    ~Imports();
    Imports(const Imports&) = delete;
    Imports& operator=(const Imports&) = delete;

    std::byte* import(std::span<const std::byte> bytes);

  private:
    Backend& backend_;
    std::vector<std::byte*> memory_;
};

/// All weights of a file in one backend's memory, read-only: several models may share them.
struct ModelWeights {
    const GgufFile& file;
    Backend& backend;
    TensorView embedding, output_norm, output;  ///< [V][E], [E], [V][E]
    std::vector<ModelLayer> layers;
    std::deque<std::vector<float>> widened;  ///< vectors that the file has in f16 or bf16
    Imports imported;

    /// Checks every tensor's presence and shape against `config`, refuses tensors it would not use,
    /// then imports; vectors (norms, biases) as f32, whatever plain type the file has. `file` must
    /// outlive this: host backends read weights where it is mapped.
    ModelWeights(const GgufFile& file, Backend& backend, const ModelConfig& config);
};

/// How a model's operations compute where they may choose.
struct ModelPrecision {
    Precision products = Precision::f32;  ///< with weights, the output matrix excepted
    Precision attention = Precision::f32;

    bool operator==(const ModelPrecision&) const = default;
};

/// Runs one call of a model on `backend`: as it is, or whatever whoever looks on wants instead.
/// `layer` is the layer that the call belongs to, -1 for what comes before the first layer, after
/// the last, or beside the forward pass.
using Observer = std::function<void(int64_t layer, const Call& call, Backend& backend)>;

/// What a run asks of a model. Nothing is set afterwards, so that nothing can be forgotten.
struct ModelOptions {
    int64_t context = 0;         ///< positions that can be asked for: 0 .. context - 1
    ModelPrecision precision{};  ///< what the backend does not support, forward() refuses
    bool phi3_window = false;    ///< phi3: use the sliding window that the file names
    Observer observer{};         ///< sees every call; empty: calls run as they are
};

class Model {
  public:
    /// Loads the weights. Throws as read_config() and ModelWeights do.
    Model(const GgufFile& file, Backend& backend, const ModelOptions& options);

    /// The same weights on the same backend, for a run with other options: no weight is copied.
    Model(const Model& loaded, const ModelOptions& options);

    const ModelConfig& config() const { return config_; }
    const ModelOptions& options() const { return options_; }
    const ModelWeights& weights() const { return *weights_; }
    Backend& backend() const { return weights_->backend; }

    /// RoPE of one layer, for KvCache::shift; n_rot is 0 where nothing turns.
    const RopeConfig& rope(int64_t layer) const;

    /// Runs the tokens, stores their keys and values, and returns the residual stream after the
    /// output norm, ready for logits and nll.
    /// Shapes: tokens, streams, positions [T]; result [T][E] f32 in backend memory, valid until
    ///         the next call.
    /// Throws: Error(bad_argument) for a cache of other layers than config().cache_shape() has, a
    ///         token outside the vocabulary, a position from config().context on, or a full cache;
    ///         what the backend throws. Every token is then in the cell where it was before, none
    ///         of the batch in any.
    TensorView forward(KvCache& cache, std::span<const int32_t> tokens,
                       std::span<const int32_t> streams, std::span<const int32_t> positions);

    /// One call beside the forward pass, with its weights or results: logits, nll, kld.
    void run(const Call& call) { run_in(-1, call); }

  private:
    struct Heads {
        TensorView q, k, v;  ///< [T][H][Dk], [T][K][Dk], [T][K][Dv]
    };
    void upload_tables();
    TensorView run_layers(KvCache& cache, std::span<const int32_t> tokens, const KvBatch& batch);
    void reserve(int64_t tokens);
    void run_in(int64_t layer, const Call& call);
    void step(const Call& call) { run_in(layer_, call); }
    void multiply(const TensorView& y, const TensorView& weight, const TensorView& x);
    void normalize(const TensorView& y, const TensorView& x, const TensorView& weight);
    void scale(const TensorView& x, float factor);
    void add_bias(const TensorView& x, const TensorView& bias);
    void attention_block(const ModelLayer& layer, KvCache& cache, const KvBatch& batch);
    const LayerPlan& plan() const { return config_.plan[std::size_t(layer_)]; }
    TensorView block_input(const TensorView& norm, int64_t tokens);
    Heads project(const ModelLayer& layer, const TensorView& x);
    void norm_heads(const ModelLayer& layer, const Heads& heads);
    void turn_heads(const Heads& heads, const TensorView& position);
    TensorView store_and_attend(const Heads& heads, KvCache& cache, const KvBatch& batch);
    void feed_forward_block(const ModelLayer& layer, int64_t tokens);
    void add_to_residual(const TensorView& x, const TensorView& post_norm);

    ModelOptions options_;
    ModelConfig config_;
    std::shared_ptr<const ModelWeights> weights_;
    Buffer rope_table_, local_rope_table_;  ///< [context][n_rot / 2][2]; of LayerRope
    Buffer temperature_;                    ///< [context], where queries have one
    int64_t layer_ = -1;                    ///< at work; -1: none

    // Activations of one batch, [T][...] f32, kept from call to call.
    int64_t reserved_ = 0;  ///< tokens they have room for
    Buffer tokens_;         ///< [T] i32
    Buffer residual_;       ///< [E]
    Buffer normed_;         ///< [E] input of a block; at the end, of the output matrix
    Buffer qkv_;            ///< [H Dk + K Dk + K Dv] of the widest layer, as the next two
    Buffer attended_;       ///< [H Dv]
    Buffer gate_up_;        ///< [2 F]
    Buffer block_output_;   ///< [E]
};

}  // namespace rotkv
