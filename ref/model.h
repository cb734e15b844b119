#pragma once
// A transformer from a GGUF file, on any backend. What differs between architectures is one row of
// a table (architecture.cpp); what they share is one forward pass, top to bottom (model.cpp).
// Docs: docs/05-attention.md

#include "ref/files/gguf.h"
#include "ref/kv_cache.h"
#include "ref/ops.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

/// What sets one architecture apart from the others.
struct Architecture {
    const char* name;  ///< general.architecture
    RopePairs pairs;
    Activation activation;
    bool fused_qkv;          ///< one attn_qkv.weight: Q rows, then K, then V
    bool fused_gate_up;      ///< one ffn_up.weight: gate rows, then up
    bool qk_norm;            ///< RMS norm of each q and k head, before RoPE
    bool post_norms;         ///< RMS norm after attention and after the feed-forward block too
    bool scaled_embedding;   ///< embeddings times sqrt(E)
    int64_t window_pattern;  ///< 0: no windows; n: every n-th layer sees everything, the others one
    int64_t window;          ///< its tokens where the file names none; 0: no windows then
    double local_rope_base;  ///< RoPE base of window layers; 0: as the others
    float attention_softcap;  ///< where the file names none; 0: none
    float final_softcap;
};

/// The architectures that are known, one row each.
std::span<const Architecture> architectures();

/// The numbers of one model.
struct ModelConfig {
    Architecture architecture;
    std::string name;
    int64_t layers = 0, width = 0;    ///< width: E
    int64_t heads = 0, kv_heads = 0;  ///< H, K
    int64_t d_k = 0, d_v = 0, feed_forward = 0, words = 0;
    int64_t context = 0;          ///< positions that can be asked for, 0 .. context - 1
    int64_t trained_context = 0;  ///< what the file names
    float norm_epsilon = 0;
    float embedding_scale = 1;
    float attention_scale = 0;                       ///< on q . k
    float attention_softcap = 0, final_softcap = 0;  ///< 0: none
    int64_t window = 0;                              ///< of the layers in `local`
    std::vector<bool> local;                         ///< [layers] does this layer have the window?
    RopeConfig rope, local_rope;                     ///< of layers without and with the window

    /// A cache for this model.
    KvShape cache_shape(int64_t streams, int64_t cells, DType type_k, DType type_v) const;
};

/// Reads the hyper-parameters for a run of at most `context` positions, which decides between long
/// and short RoPE factors (phi3). `phi3_window` turns on the sliding window that phi3 files name
/// and llama.cpp ignores. Throws Error(unsupported) for an unknown architecture, listing those
/// known, Error(bad_file) for numbers that contradict each other.
ModelConfig read_config(const GgufFile& file, int64_t context, bool phi3_window = false);

/// The weights of one layer. Weight matrices are [out][in]; empty views: this model has none.
struct ModelLayer {
    TensorView attention_norm;          ///< [E]
    TensorView q, k, v;                 ///< [H Dk][E], [K Dk][E], [K Dv][E]; empty where fused
    TensorView qkv;                     ///< [H Dk + K Dk + K Dv][E]
    TensorView q_bias, k_bias, v_bias;  ///< [H Dk], [K Dk], [K Dv]
    TensorView q_norm, k_norm;          ///< [Dk]
    TensorView attention_output;        ///< [E][H Dv]
    TensorView post_attention_norm;     ///< [E]
    TensorView feed_forward_norm;       ///< [E]
    TensorView gate, up;                ///< [F][E]; empty where fused
    TensorView gate_up;                 ///< [2 F][E]
    TensorView down;                    ///< [E][F]
    TensorView post_feed_forward_norm;  ///< [E]
};

/// How a model's operations compute where they may choose.
struct ModelPrecision {
    Precision products = Precision::f32;  ///< with weights, the output matrix excepted
    Precision attention = Precision::f32;

    bool operator==(const ModelPrecision&) const = default;
};

class Model {
  public:
    /// Checks every tensor's presence and shape, refuses tensors it would not use, then imports the
    /// weights. `file` must outlive the model: host backends read weights where it is mapped.
    Model(const GgufFile& file, Backend& backend, int64_t context, bool phi3_window = false);
    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    const ModelConfig& config() const { return config_; }
    Backend& backend() const { return backend_; }

    KvShape cache_shape(int64_t streams, int64_t cells, DType type_k, DType type_v) const {
        return config_.cache_shape(streams, cells, type_k, type_v);
    }

    /// RoPE of one layer, for KvCache::shift.
    const RopeConfig& rope(int64_t layer) const;

    /// Runs the tokens, stores their keys and values, and returns the residual stream after the
    /// output norm, ready for logits and nll.
    /// Shapes: tokens, streams, positions [T]; result [T][E] f32 in backend memory, valid until
    ///         the next call.
    /// Throws: Error(bad_argument) for a token outside the vocabulary, a position from
    ///         config().context on, or a full cache; the cache is then as before.
    TensorView forward(KvCache& cache, std::span<const int32_t> tokens,
                       std::span<const int32_t> streams, std::span<const int32_t> positions);

    /// f32 unless said otherwise. What the backend does not support, forward() refuses.
    ModelPrecision precision() const { return precision_; }
    void use_precision(const ModelPrecision& precision) { precision_ = precision; }

    /// The matrix that turns the residual stream into logits [V][E].
    const TensorView& output_weight() const { return output_; }

    /// The norm weight before the first attention [E] f32, and another one in its place: `weight`
    /// is in this backend's memory and stays the caller's. One changed bit here reaches every
    /// layer.
    const TensorView& first_norm() const { return layers_[0].attention_norm; }
    void use_first_norm(const TensorView& weight) { layers_[0].attention_norm = weight; }

  private:
    struct Heads {
        TensorView q, k, v;  ///< [T][H][Dk], [T][K][Dk], [T][K][Dv]
    };
    void reserve(int64_t tokens);
    void multiply(const TensorView& y, const TensorView& weight, const TensorView& x);
    void attention_block(int64_t index, KvCache& cache, const KvBatch& batch);
    Heads project(const ModelLayer& layer, const TensorView& x);
    TensorView store_and_attend(int64_t index, const Heads& heads, KvCache& cache,
                                const KvBatch& batch);
    void feed_forward_block(int64_t index, int64_t tokens);
    void add_to_residual(const TensorView& x, const TensorView& post_norm);

    Backend& backend_;
    ModelConfig config_;
    ModelPrecision precision_;
    TensorView embedding_, output_norm_, output_;  ///< [V][E], [E], [V][E]
    std::vector<ModelLayer> layers_;
    std::vector<std::byte*> imported_;
    Buffer rope_table_, local_rope_table_;  ///< [context][n_rot / 2][2]

    // Activations of one batch, [T][...] f32, kept from call to call.
    int64_t reserved_ = 0;  ///< tokens they have room for
    Buffer tokens_;         ///< [T] i32
    Buffer residual_;       ///< [E]
    Buffer normed_;         ///< [E] input of a block; at the end, of the output matrix
    Buffer qkv_;            ///< [H Dk + K Dk + K Dv]
    Buffer attended_;       ///< [H Dv]
    Buffer gate_up_;        ///< [2 F]
    Buffer block_output_;   ///< [E]
};

}  // namespace rotkv
