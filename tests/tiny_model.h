#pragma once
// Small random models of every architecture, as GGUF files, and what they compute by definition.
// Docs: docs/18-models.md

#include "ref/types.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rotkv::test {

/// Attention of one layer: H, K, and the channels of a key and of a value.
struct TinyHeads {
    int64_t q = 4, kv = 2, d = 16, d_v = 16;
};

/// A mixture of experts. Whether logits, selection and products have a bias, and whether there is
/// a shared expert and a gate of it, weights say.
struct TinyExperts {
    int64_t count = 0;            ///< X; 0: no layer has any
    std::vector<bool> here;       ///< in this layer
    bool beside_dense = false;    ///< in place of a dense block, or beside one
    std::vector<int64_t> used;    ///< A of each layer
    std::vector<int64_t> hidden;  ///< Fx of each layer
    int64_t shared = 0;           ///< Fs
    int64_t shared_count = 0;     ///< or so many Fx
    std::string gating;           ///< "softmax", "sigmoid", "chosen": softmax over the chosen
    bool normalise = false;
    double scale = 1;
    int64_t groups = 1, groups_used = 1;
    bool on_input = false;  ///< an expert's weight is on its input
};

/// Latent attention: a row [rank | turning], heads of [still | turning] and d_v channels.
struct TinyLatent {
    int64_t rank = 24, turning = 8, still = 12, d_v = 10;
    int64_t query_rank = 14;  ///< 0: queries read x
    bool absorbed = true;     ///< as the file has it; what is computed is the same
};

/// Gated DeltaNet.
struct TinyDelta {
    std::vector<bool> here;  ///< in this layer, in place of attention
    int64_t heads = 4, key_heads = 2, d = 12, taps = 4;
    bool grouped = true;  ///< neighbours share a key head, and beta and alpha are one matrix

    int64_t channels() const { return (2 * key_heads + heads) * d; }
};

/// A model of 4 layers; what else there is depends on `name`. Where a tensor is there or not
/// decides, `weights` says so and no field.
struct TinyModel {
    std::string name;                             ///< general.architecture
    bool pre_norms = true, post_norms = false;    ///< of what blocks read, of what they add
    std::string second_norm = "ffn_norm.weight";  ///< of what the second block reads
    bool layer_norm = false;
    bool parallel = false;  ///< both blocks read the attention norm
    std::string qk_norm;    ///< "head", "all" heads as one row, "turned": head by head after RoPE,
                            ///< "unit": likewise without weights, in layers that turn
    bool unit_v = false;
    bool query_gate = false;    ///< a head of q is followed by the gate of its output
    bool fused = false;         ///< qkv in one matrix, gate and up in one
    bool fused_biases = false;  ///< their biases likewise
    bool lists = false;  ///< counts of heads and widths, and windows, as lists, one value a layer
    std::vector<TinyHeads> heads;  ///< of each layer
    std::vector<int64_t> hidden;   ///< F of each layer
    TinyExperts experts;
    TinyLatent latent;
    TinyDelta delta;
    bool neox = true;                 ///< pairs of RoPE
    std::string activation = "silu";  ///< "gelu", "oai"
    double embedding_scale = 1, residual_scale = 1, logit_scale = 1;
    double attention_scale = 0;  ///< 0: 1 / sqrt(d)
    double base = 10000, local_base = 10000;
    int64_t n_rot = d;             ///< channels that turn
    int64_t local_n_rot = 0;       ///< in layers with a window, if they differ
    int64_t predicting = 0;        ///< layers behind the others, for multi-token prediction
    int64_t still = 0;             ///< n: every n-th layer does not turn
    bool only_local_turn = false;  ///< layers that see everything do not turn
    double temperature = 0;        ///< on queries, by the log of whole temperature_lengths
    int64_t temperature_length = 4, temperature_offset = 0;
    bool still_tempered = false;  ///< only in layers that do not turn
    double attention_softcap = 0, final_softcap = 0;
    int64_t pattern = 0;  ///< n: every n-th layer sees everything, the others `window` tokens
    int64_t window = 5;
    bool chunked = false;   ///< windows begin at multiples of `window`
    int64_t shared_kv = 0;  ///< the last so many layers read what earlier ones stored
    int64_t per_layer = 0;  ///< P: of embeddings that each layer has of its own
    double magnitude = 1;
    std::vector<float> factors;    ///< RoPE frequency factors
    bool factors_on_full = false;  ///< in layers without a window alone

    static constexpr int64_t layers = 4, d = 16, words = 53;
    static constexpr double epsilon = 1e-6;  ///< in the file an f32
    int64_t width = 48;

    std::map<std::string, std::vector<float>> weights;    ///< by GGUF name, never fused
    std::map<std::string, std::vector<int64_t>> extents;  ///< of those, the last one contiguous
    std::map<std::string, DType> types;  ///< in the file; f32 where nothing is said

    /// `name`: one of architectures(). Uneven: layers differ in their heads, in F and in experts,
    /// and values are narrower than keys, where the architecture allows it; what an architecture
    /// may have one way or another, it has the other way.
    static TinyModel make(const std::string& name, bool uneven = false, int64_t width = 48);

    bool has(const std::string& tensor) const { return weights.count(tensor) != 0; }
    bool is_local(int64_t layer) const { return pattern > 0 && layer % pattern < pattern - 1; }
    int64_t shared_hidden(int64_t layer) const;  ///< Fs

    /// A tensor of random entries; matrices [..][out][in], scaled by 1 / sqrt(in); entries near 1.
    void random(const std::string& tensor, const std::vector<int64_t>& shape, double scale);
    void matrix(const std::string& tensor, const std::vector<int64_t>& shape, double scale = 1);
    void gains(const std::string& tensor, int64_t n);

    // Parts of make(). tiny_model_architectures.cpp: what sets an architecture apart, before there
    // are weights.
    void set_apart(bool uneven);
    void set_experts(bool uneven);
    void add_grouped(int64_t layer);
    void add_latent(int64_t layer);
    void add_delta(int64_t layer);
    void add_dense(int64_t layer);
    void add_experts(int64_t layer);

    /// Gives every product inside the layers that may have one a bias.
    void add_biases();

    /// Rounds norms and biases to f16 or bf16, or one tensor to any type, as which the file then
    /// has them.
    void round_vectors(DType type);
    void round(const std::string& tensor, DType type);

    /// Writes the GGUF file. tiny_model_file.cpp.
    void write(const std::string& path) const;

    /// What the output matrix multiplies, [T][width], in f64, token by token from the definitions:
    /// no cache, no batch. tiny_definition.cpp.
    std::vector<double> forward(const std::vector<int32_t>& tokens, int64_t first = 0) const;
};

/// "blk.LAYER.name".
std::string blk(int64_t layer, const std::string& name);

/// A path in the system's folder for temporary files, removed with the object.
class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& name);
    ~TemporaryFile();
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

}  // namespace rotkv::test
