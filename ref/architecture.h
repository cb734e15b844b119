#pragma once
// What is known about each architecture, and what one file makes of it: a plan of every layer.
// Docs: docs/05-attention.md

#include "ref/backend.h"
#include "ref/kv_cache.h"
#include "ref/rope_table.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rotkv {

class GgufFile;  // ref/files/gguf.h

/// Which tensors of RoPE frequency factors an architecture takes from a file.
enum class RopeFactors {
    none,
    by_scaling,  ///< rope_factors_long and _short where scaling is longrope, else rope_freqs
    long_short,  ///< rope_factors_long and _short, whatever scales
};

/// Which layers leave queries and keys as they are: positions do not enter there.
enum class NoRope {
    nowhere,
    every_4th,       ///< the 4th, 8th, ...
    without_window,  ///< those that see everything, where others have a window
};

/// Where queries and keys are normed before they meet.
enum class QkNorm {
    none,
    heads,         ///< head by head, by weights [Dk]
    all_heads,     ///< all heads of a token as one row, by weights [H Dk] and [K Dk]
    turned_heads,  ///< head by head, after RoPE
};

/// What a file without attention.sliding_window means, where some layers may have one.
enum class MissingWindow {
    assumed,  ///< Architecture::window, aloud
    none,     ///< that its layers have none
    refused,
};

/// What logit_scale does, which a file then must have.
enum class LogitScale { none, multiplies, divides };

/// What sets one architecture apart: a row that says nothing but its name is llama. What a file
/// says itself by the presence of a tensor (biases, fused matrices, an output matrix of its own),
/// or by a key that counts in every architecture, needs no field.
struct Architecture {
    const char* name = "";  ///< general.architecture

    RopePairs pairs = RopePairs::norm;
    bool partial_rope = false;  ///< fewer channels may turn than a head has
    RopeFactors factors = RopeFactors::by_scaling;
    NoRope no_rope = NoRope::nowhere;

    // Tensors of each layer's norms; "": there is none.
    const char* attention_norm = "attn_norm.weight";    ///< of the input of attention
    const char* feed_forward_norm = "ffn_norm.weight";  ///< of the input of feed-forward
    const char* post_attention_norm = "";               ///< of the output, before it is added
    const char* post_feed_forward_norm = "";
    QkNorm qk_norm = QkNorm::none;
    bool layer_norm = false;  ///< norms take off the mean first
    bool parallel = false;    ///< both blocks read the attention norm and are added together

    Activation activation = Activation::silu;
    bool scaled_embedding = false;  ///< embeddings times sqrt(E)
    LogitScale logit_scale = LogitScale::none;

    int64_t window_pattern = 0;      ///< n: every n-th layer sees everything, the others a window
    int64_t window = 0;              ///< its tokens where the file names none; 0: no windows then
    int64_t window_layers = 0;       ///< windows only in models of so many layers; 0: in all
    bool window_on_request = false;  ///< the file's window counts in all layers, if a run asks
    MissingWindow missing_window = MissingWindow::assumed;
    double local_rope_base = 0;   ///< RoPE base of layers with a window; 0: as the others
    bool local_stretched = true;  ///< they turn by a stretched RoPE, where the others do

    float attention_softcap = 0;  ///< where the file names none; 0: none
    float final_softcap = 0;
    int64_t scaled_by_width = 0;      ///< models of so many layers scale scores by E / H, not by Dk
    std::vector<const char*> keys{};  ///< that count here, and not in every architecture

    /// Is `key` one of `keys`?
    bool reads(std::string_view key) const;
};

/// The architectures that are known, one row each.
std::span<const Architecture> architectures();

/// Which of a model's two RoPE tables a layer turns by.
enum class LayerRope {
    full,   ///< ModelConfig::rope
    local,  ///< ModelConfig::local_rope
    none,   ///< neither: queries and keys stay as they are
};

/// One layer, as the row and the file's keys make it.
struct LayerPlan {
    int64_t heads = 0, kv_heads = 0;  ///< H, K
    int64_t d_k = 0, d_v = 0;
    int64_t feed_forward = 0;  ///< F
    int64_t window = 0;        ///< tokens that a query sees, its own among them; 0: all
    LayerRope rope = LayerRope::full;

    bool operator==(const LayerPlan&) const = default;
};

/// A factor on queries that grows with their position: 1 + scale ln(floor(position / length) + 1).
struct Temperature {
    double scale = 0;  ///< 0: the factor is 1
    int64_t length = 1;

    double factor(int64_t position) const;
    bool operator==(const Temperature&) const = default;
};

/// The numbers of one model.
struct ModelConfig {
    Architecture architecture;
    std::string name;
    int64_t layers = 0, width = 0, words = 0;  ///< width: E, words: V
    int64_t predicting_layers = 0;  ///< more layers, for multi-token prediction, which are not run
    std::vector<LayerPlan> plan;    ///< [layers]
    int64_t context = 0;            ///< positions that can be asked for, 0 .. context - 1
    int64_t trained_context = 0;    ///< what the file names
    float norm_epsilon = 0;
    float embedding_scale = 1;
    float residual_scale = 1;   ///< on what a block adds
    float logit_scale = 1;      ///< on logits, before their softcap
    float attention_scale = 0;  ///< on q . k
    Temperature temperature;
    float attention_softcap = 0, final_softcap = 0;  ///< 0: none
    RopeConfig rope, local_rope;                     ///< of the layers that LayerRope says
    std::vector<std::string> notices;  ///< what was assumed of the file, or not taken from it

    /// The heads of every layer, for who cannot tell layers apart.
    /// Throws: Error(unsupported) naming `who` where layers differ in their heads.
    const LayerPlan& equal_heads(const std::string& who) const;

    /// A cache for this model.
    KvShape cache_shape(int64_t streams, int64_t cells, DType type_k, DType type_v) const;
};

/// Reads the hyper-parameters for a run of at most `context` positions, which decides between long
/// and short RoPE factors (phi3). `phi3_window` turns on the sliding window that phi3 files name
/// and llama.cpp ignores. A count of heads or of F may be one number or a list, one a layer.
/// What the file does not say and has a usual value is assumed, what it says and its architecture
/// has no place for is not applied: both in `notices`.
/// Throws: Error(unsupported) for an unknown architecture, listing those known, for layers whose
///         heads differ in Dk, and for what is not computed here (experts, ways of RoPE);
///         Error(bad_file) for keys that are missing or contradict each other, by key, expected and
///         found.
ModelConfig read_config(const GgufFile& file, int64_t context, bool phi3_window = false);

}  // namespace rotkv
