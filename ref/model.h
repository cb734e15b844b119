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

// Weight matrices are [out][in]; an empty view: the file has no such tensor, which decides between
// one fused matrix and several, and between what a layer does and what not.

/// A feed-forward block of F hidden channels, or what all experts' are: [X] of each then.
struct FeedForwardWeights {
    TensorView gate, up;            ///< [F][E]; empty where fused
    TensorView gate_up;             ///< [2 F][E]: rows of gate, then up
    TensorView gate_bias, up_bias;  ///< [F]
    TensorView gate_up_bias;        ///< [2 F]
    TensorView down;                ///< [E][F]
    TensorView down_bias;           ///< [E]
};

/// A mixture of experts.
struct ExpertWeights {
    TensorView router;          ///< [X][E]; empty: no experts in this layer
    TensorView router_bias;     ///< [X]
    TensorView router_scale;    ///< [E] or empty; s: the router reads rms(residual) s / sqrt(E)
    TensorView selection_bias;  ///< [X]: on the scores that decide, not on weights
    TensorView expert_scale;    ///< [X]: RouteArgs::expert_scale
    FeedForwardWeights each;    ///< [X][..]
    FeedForwardWeights shared;  ///< of every token
    TensorView shared_gate;     ///< [1][E]
    TensorView input_norm;      ///< [E], where a dense block stands beside them; as the next two
    TensorView output_norm, dense_norm;  ///< [E], of what experts and the dense block add
};

/// Latent attention: LatentConfig.
struct LatentWeights {
    TensorView query_down, query_norm;  ///< [Rq][E], [Rq], Rq: query_rank; empty: q reads x
    TensorView query_up;                ///< [H (still + n_rot)][Rq]
    TensorView down, norm;              ///< [R + n_rot][E], [R]
    TensorView key_up, value_up;        ///< absorbed: [H][R][still], [H][Dv][R]
    TensorView key_value_up;            ///< else: [H (still + Dv)][R], a head's keys, then values
};

/// Gated DeltaNet: DeltaConfig.
struct DeltaWeights {
    TensorView qkv;          ///< [2 Hk D + Hv D][E]
    TensorView gate;         ///< [Hv D][E]
    TensorView convolution;  ///< [2 Hk D + Hv D][taps] f32
    TensorView alpha, beta;  ///< [Hv][E]; empty where fused
    TensorView beta_alpha;   ///< [2 Hv][E]: of each key head the rows of beta, then of alpha
    TensorView decay, dt;    ///< [Hv]
    TensorView norm;         ///< [D]
    TensorView output;       ///< [E][Hv D]
};

/// The weights of one layer.
struct ModelLayer {
    TensorView attention_norm;          ///< [E]; empty: none, as of the other norms
    TensorView q, k, v;                 ///< [H Dk][E], [K Dk][E], [K Dv][E]; empty where fused
    TensorView qkv;                     ///< [H Dk + K Dk + K Dv][E]: rows of Q, then K, then V
    TensorView q_bias, k_bias, v_bias;  ///< [H Dk], [K Dk], [K Dv]
    TensorView qkv_bias;                ///< [H Dk + K Dk + K Dv]
    TensorView q_norm, k_norm;          ///< [Dk], or [H Dk] and [K Dk]: QkNorm
    TensorView sinks;                   ///< [H]
    LatentWeights latent;               ///< in place of q, k, v
    DeltaWeights delta;                 ///< in place of all of attention
    TensorView attention_output;        ///< [E][H Dv]
    TensorView attention_output_bias;   ///< [E]
    TensorView post_attention_norm;     ///< [E]
    TensorView feed_forward_norm;       ///< [E]
    FeedForwardWeights dense;
    ExpertWeights experts;
    TensorView post_feed_forward_norm;  ///< [E]
    TensorView per_layer_gate;          ///< [P][E]
    TensorView per_layer_output;        ///< [E][P]
    TensorView per_layer_norm;          ///< [E]
    float output_scale = 1;             ///< on the residual stream behind the layer
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
    TensorView per_layer_embedding;             ///< [V][L P]
    TensorView per_layer_projection;            ///< [L P][E]
    TensorView per_layer_norm;                  ///< [P]
    std::vector<ModelLayer> layers;
    std::deque<std::vector<float>> widened;  ///< vectors that the file has in f16 or bf16
    Imports imported;

    /// Checks every tensor's presence and shape against `config`, refuses tensors it would not use,
    /// then imports; vectors (norms, biases) as f32, whatever plain type the file has. `file` must
    /// outlive this: host backends read weights where it is mapped.
    /// Throws: Error(bad_file) for a tensor that is missing or has other extents;
    ///         Error(unsupported) for a type that cannot be used, or a tensor without a place.
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
    ///         of the batch in any; a stream whose layers keep a state, which does not go back, is
    ///         empty.
    TensorView forward(KvCache& cache, std::span<const int32_t> tokens,
                       std::span<const int32_t> streams, std::span<const int32_t> positions);

    /// One call beside the forward pass, with its weights or results: logits, nll, kld.
    void run(const Call& call) { run_in(-1, call); }

  private:
    struct Heads {
        TensorView q;     ///< [T][H][Dk]
        TensorView k, v;  ///< [T][K][Dk], [T][K][Dv]; both empty: another layer's rows are read; v
                          ///< alone: V is a view of K
        TensorView gate;  ///< [T][H][Dv] or empty: what the output counts by
    };
    struct Sizes;
    void upload_tables();
    TensorView run_layers(KvCache& cache, std::span<const int32_t> tokens, const KvBatch& batch);
    void reserve(int64_t tokens);
    void run_in(int64_t layer, const Call& call);
    void step(const Call& call) { run_in(layer_, call); }
    const LayerPlan& plan() const { return config_.plan[std::size_t(layer_)]; }
    const ModelLayer& layer() const { return weights_->layers[std::size_t(layer_)]; }

    // Parts of blocks.
    TensorView residual(int64_t tokens) const;
    void multiply(const TensorView& y, const TensorView& weight, const TensorView& x);
    void normalize(const TensorView& y, const TensorView& x, const TensorView& weight);
    void normalize_to_unit(const TensorView& x);
    void scale(const TensorView& x, float factor);
    void copy(const TensorView& to, const TensorView& from);
    void add_bias(const TensorView& x, const TensorView& bias);
    TensorView block_input(const TensorView& norm, int64_t tokens);
    void add_to_residual(const TensorView& x, const TensorView& post_norm);

    // model_attention.cpp
    void attention_block(KvCache& cache, const KvBatch& batch);
    TensorView attention(const TensorView& x, KvCache& cache, const KvBatch& batch);
    Heads products(const TensorView& x);
    Heads project(const TensorView& x, const TensorView& position);
    void norm_heads(const Heads& heads);
    void apply_rope(const TensorView& to, const TensorView& from, const TensorView& position);
    void turn(const TensorView& x, const TensorView& matrix, bool inverse);
    TensorView store_and_attend(const Heads& heads, KvCache& cache, const KvBatch& batch);
    void store(const Heads& heads, const KvRows& rows, const KvCache& cache, const KvBatch& batch);
    void attend_in_parts(const AttentionArgs& whole, const KvRows& f16, const F16Tokens& tokens);

    // model_latent.cpp
    Heads project_latent(const TensorView& x, const TensorView& position);
    TensorView latent_output(const TensorView& attended);

    // model_delta.cpp
    TensorView delta(const TensorView& x, const KvCache& cache, const KvBatch& batch);
    void split_gates(const TensorView& x, const TensorView& beta, const TensorView& alpha,
                     const TensorView& both);

    // model_feed_forward.cpp
    void feed_forward_block(int64_t tokens);
    void dense(const TensorView& output, const FeedForwardWeights& weights, const TensorView& x,
               int64_t hidden);
    void experts(const TensorView& output, const TensorView& x);
    void choose_experts(const TensorView& x);
    void run_chosen(const TensorView& output, const TensorView& x);
    void add_shared_expert(const TensorView& output, const TensorView& x);
    void embed_per_layer(int64_t tokens);
    void add_per_layer(int64_t tokens);

    ModelOptions options_;
    ModelConfig config_;
    std::shared_ptr<const ModelWeights> weights_;
    Buffer rope_table_, local_rope_table_;  ///< [context][n_rot / 2][2]; of LayerRope
    Buffer temperature_;                    ///< [context], where queries have one
    Buffer unit_;                           ///< [D]: 1 / sqrt(D), of delta's keys and queries
    Buffer heads_;                          ///< i32: 0, 1, ..., where heads have matrices
    int64_t layer_ = -1;                    ///< at work; -1: none

    // Activations of one batch, [T][...] f32, kept from call to call; of the widest layer.
    int64_t reserved_ = 0;     ///< tokens they have room for
    Buffer tokens_;            ///< [T] i32
    Buffer residual_;          ///< [E]
    Buffer normed_;            ///< [E] input of a block; at the end, of the output matrix
    Buffer projected_;         ///< what attention, or what stands in for it, makes of the input
    Buffer attended_;          ///< [H Dv]
    Buffer part_, part_lse_;   ///< [H Dv], [2][H]: of attention in parts, whose model it is
    Buffer latent_values_;     ///< [H Dv], made of attended latents
    Buffer hidden_;            ///< [2 F], or [A][2 Fx], [2 Fs]
    Buffer block_output_;      ///< [E]
    Buffer other_output_;      ///< [E] of a second part of a block
    Buffer expert_output_;     ///< [A][E]
    Buffer routed_;            ///< [E] on its way to the router or to experts
    Buffer logits_, weight_;   ///< [X], [A]: of experts
    Buffer chosen_;            ///< [A] i32
    Buffer per_layer_;         ///< [L P]
    Buffer per_layer_hidden_;  ///< [L P]
};

}  // namespace rotkv
