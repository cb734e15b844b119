#pragma once
// Small random models of every architecture, as GGUF files, and what they compute by definition.
// Docs: docs/05-attention.md

#include "ref/types.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rotkv::test {

/// A model of 4 layers with 4 query and 2 KV heads; what else there is depends on `name`.
struct TinyModel {
    std::string name;  ///< general.architecture
    bool biases = false;
    bool pre_norms = true, post_norms = false;  ///< of what blocks read, of what they add
    bool layer_norm = false;
    bool parallel = false;  ///< both blocks read the attention norm
    std::string qk_norm;    ///< "head", "all" heads as one row, "turned": head by head after RoPE
    bool fused = false;     ///< phi3: qkv in one matrix, gate and up in one
    bool fused_biases = false;   ///< their biases likewise
    DType vectors = DType::f32;  ///< type of norms and biases in the file
    bool lists = false;  ///< counts of heads and widths, and windows, as lists, one value a layer
    int64_t d_v = d;     ///< channels of a value
    std::vector<int64_t> hidden;  ///< F of each layer
    bool neox = true;             ///< pairs of RoPE
    bool gelu = false;
    double embedding_scale = 1, residual_scale = 1, logit_scale = 1;
    double attention_scale = 0;  ///< 0: 1 / sqrt(d)
    double base = 10000, local_base = 10000;
    int64_t n_rot = d;             ///< channels that turn
    int64_t predicting = 0;        ///< layers behind the others, for multi-token prediction
    int64_t still = 0;             ///< n: every n-th layer does not turn
    bool only_local_turn = false;  ///< layers that see everything do not turn
    double temperature = 0;        ///< on queries, by the log of whole temperature_lengths
    double attention_softcap = 0, final_softcap = 0;
    int64_t pattern = 0;  ///< n: every n-th layer sees everything, the others k_window tokens
    double magnitude = 1;
    std::vector<float> factors;  ///< RoPE frequency factors

    static constexpr int64_t layers = 4, width = 48, heads = 4, kv_heads = 2, d = 16, words = 53,
                             window = 5, temperature_length = 4;

    std::map<std::string, std::vector<float>> weights;  ///< by GGUF name, never fused

    /// `name`: one of architectures(). Uneven: values are narrower
    /// than keys, and each layer has an F of its own.
    static TinyModel make(const std::string& name, bool uneven = false);

    void set_apart();

    /// Gives every product inside the layers a bias.
    void add_biases();

    /// Rounds norms and biases to f16 or bf16, as which the file then has them.
    void round_vectors(DType type);

    /// Writes the GGUF file.
    void write(const std::string& path) const;

    /// What the output matrix multiplies, [T][width], in f64, token by token from the definitions:
    /// no cache, no batch. tiny_definition.cpp.
    std::vector<double> forward(const std::vector<int32_t>& tokens) const;
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
