#pragma once
// What is known about each architecture, and what one file makes of it: a plan of every layer.
// Docs: docs/18-models.md

#include "ref/backend.h"
#include "ref/kv_cache.h"
#include "ref/rope_table.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rotkv {

class GgufFile;  // ref/files/gguf.h

/// How a layer brings tokens together.
enum class LayerKind {
    grouped,  ///< attention over keys and values of K heads
    latent,   ///< attention over what one row a token holds for all heads (MLA)
    delta,    ///< gated DeltaNet: over a state of fixed size
};

/// Which tensors of RoPE frequency factors an architecture takes from a file.
enum class RopeFactors {
    none,
    by_scaling,   ///< rope_factors_long and _short where scaling is longrope, else rope_freqs
    long_short,   ///< rope_factors_long and _short, whatever scales
    full_layers,  ///< rope_freqs, which must be there; layers with a window leave them aside
};

/// What rope.dimension_sections means: pictures have several positions, text has one.
enum class RopeSections {
    not_read,
    refused,   ///< that the model is not one of text alone
    of_pairs,  ///< which position each pair turns by; the fourth is 0 in a text
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
    unit_turned,   ///< likewise in layers that turn, to unit root mean square: no weights
};

/// What a file without attention.sliding_window means, where some layers may have one.
enum class MissingWindow {
    assumed,  ///< Architecture::window, aloud
    none,     ///< that its layers have none
    refused,
    fixed,  ///< Architecture::window, as any other number there does
};

/// What logit_scale does, which a file then must have.
enum class LogitScale { none, multiplies, divides };

/// How an architecture chooses among experts. Which layers have some, their tensors say.
struct ExpertRules {
    bool known = false;               ///< files may have experts
    Gating gating = Gating::softmax;  ///< where the file does not say, as of the next
    bool normalise = true;            ///< weights sum to 1
    bool share_out_hidden = false;    ///< F is that of all A experts together
    bool weight_on_input = false;     ///< an expert's input is weighted, not its output
    bool gated_shared = false;        ///< the shared expert counts by sigmoid(v . x)
    bool beside_dense = false;        ///< a layer with experts has a dense block too
    int64_t sigmoid_words = 0;  ///< models of this V and of 47 or 48 layers, predicting ones among
                                ///< them, have Gating::sigmoid; 0: none
    int64_t not_normed = 0;     ///< queries and keys are not, in models of so many experts
};

/// What sets one architecture apart: a row that says nothing but its name is llama. What a file
/// says itself by the presence of a tensor (biases, fused matrices, an output matrix of its own),
/// or by a key that counts in every architecture, needs no field.
struct Architecture {
    const char* name = "";  ///< general.architecture

    LayerKind kind = LayerKind::grouped;     ///< of layers; delta: of those that do not attend
    KeyHeads key_heads = KeyHeads::grouped;  ///< of delta layers

    RopePairs pairs = RopePairs::norm;
    bool partial_rope = false;  ///< fewer channels may turn than a head has
    RopeFactors factors = RopeFactors::by_scaling;
    RopeSections sections = RopeSections::not_read;
    NoRope no_rope = NoRope::nowhere;

    // Tensors of each layer's norms; "": there is none.
    const char* attention_norm = "attn_norm.weight";    ///< of the input of attention
    const char* feed_forward_norm = "ffn_norm.weight";  ///< of the input of feed-forward
    const char* post_attention_norm = "";               ///< of the output, before it is added
    const char* post_feed_forward_norm = "";
    QkNorm qk_norm = QkNorm::none;
    bool qk_norm_by_file = false;  ///< only where the file has its tensors
    bool unit_v = false;           ///< values have a root mean square of 1, head by head
    bool layer_norm = false;       ///< norms take off the mean first
    bool parallel = false;         ///< both blocks read the attention norm and are added together
    bool query_gate = false;  ///< a query head has D more channels, whose sigmoid its output meets
    bool sinks = false;       ///< each query head has one
    bool biased = false;      ///< attention's output, routers and experts must have biases
    bool keys_as_values = false;  ///< where a layer without a window has no V matrix: K's product

    Activation activation = Activation::silu;
    ExpertRules experts{};
    bool output_scale = false;      ///< a layer may scale the residual stream behind it
    bool own_output = false;        ///< the output matrix is never that of the embeddings
    bool scaled_embedding = false;  ///< embeddings times sqrt(E)
    LogitScale logit_scale = LogitScale::none;

    int64_t window_pattern = 0;      ///< n: every n-th layer sees everything, the others a window;
                                     ///< -1: as the file must say
    int64_t window = 0;              ///< its tokens where the file names none; 0: no windows then
    int64_t window_layers = 0;       ///< windows only in models of so many layers; 0: in all
    bool window_on_request = false;  ///< the file's window counts in all layers, if a run asks
    MissingWindow missing_window = MissingWindow::assumed;
    bool chunked = false;         ///< windows stand still: a query sees from a multiple of it on
    double local_rope_base = 0;   ///< RoPE base of layers with a window; 0: as the others
    bool local_stretched = true;  ///< they turn by a stretched RoPE, where the others do

    float attention_scale = 0;    ///< on q . k; 0: 1 / sqrt(Dk)
    double temperature = 0;       ///< Temperature::scale of layers without RoPE, by `window`
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
    LayerKind kind = LayerKind::grouped;
    int64_t heads = 0, kv_heads = 0;  ///< H, K; 0, like d_k and d_v, in a layer with a state
    int64_t d_k = 0, d_v = 0;         ///< of its rows
    std::optional<int64_t> source{};  ///< an earlier layer, whose rows it reads; none: its own
    int64_t feed_forward = 0;         ///< F; 0: experts alone
    int64_t experts = 0, experts_used = 0;  ///< X, A; 0: none
    int64_t expert_feed_forward = 0;        ///< Fx
    int64_t shared_feed_forward = 0;        ///< Fs; 0: no shared expert
    int64_t window = 0;  ///< tokens that a query sees, its own among them; 0: all
    LayerRope rope = LayerRope::full;
    bool tempered = false;  ///< queries by ModelConfig::temperature

    bool operator==(const LayerPlan&) const = default;
};

/// A factor on queries that grows with their position:
/// 1 + scale ln(floor((position + offset) / length) + 1).
struct Temperature {
    double scale = 0;  ///< 0: the factor is 1
    int64_t length = 1, offset = 0;

    double factor(int64_t position) const;
    bool operator==(const Temperature&) const = default;
};

/// How tokens choose their experts, in all layers alike.
struct RoutingConfig {
    Gating gating = Gating::softmax;
    bool normalise = true;
    int64_t groups = 1, groups_used = 1;
    float scale = 1;

    bool operator==(const RoutingConfig&) const = default;
};

/// Latent attention. The row of a token is [latent R | turning n_rot]; keys of each head are
/// [W_k latent | turning], values W_v latent. Absorbed, the cache holds the row itself, of which
/// the latent is the value, and queries and outputs go through W_k and W_v instead.
struct LatentConfig {
    int64_t rank = 0;        ///< R
    int64_t turning = 0;     ///< n_rot, behind the channels that stand still
    int64_t still = 0;       ///< of a head of queries and keys
    int64_t d_v = 0;         ///< of a head of values
    int64_t query_rank = 0;  ///< queries come from a latent of so many channels; 0: from x
    bool absorbed = false;

    /// Values per token that a layer of `heads` projects: q, its latent, the row, and q as the
    /// cache meets it; not absorbed, keys and values of every head instead.
    int64_t projected(int64_t heads) const {
        const int64_t d = still + turning, row = rank + turning;
        return query_rank + row + heads * (d + (absorbed ? row : still + d_v + d));
    }
    bool operator==(const LatentConfig&) const = default;
};

/// Layers of gated DeltaNet.
struct DeltaConfig {
    int64_t heads = 0, key_heads = 0;  ///< Hv, Hk
    int64_t d = 0;                     ///< D, of keys and values
    int64_t taps = 0;                  ///< of the convolution

    int64_t channels() const { return (2 * key_heads + heads) * d; }
    /// Values per token that a layer projects: q, k, v; the gate; beta, alpha, and both in one.
    int64_t projected() const { return channels() + heads * (d + 4); }
    bool operator==(const DeltaConfig&) const = default;
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
    RoutingConfig routing;
    LatentConfig latent;
    DeltaConfig delta;
    int64_t per_layer_width = 0;  ///< P: every layer has an embedding of its own of each token
    float attention_softcap = 0, final_softcap = 0;  ///< 0: none
    RopeConfig rope, local_rope;                     ///< of the layers that LayerRope says
    Rotation in_weights;                             ///< that W_v and W_o hold; fused_rotation.h
    std::vector<std::string> notices;  ///< what was assumed of the file, or not taken from it

    /// The heads of every layer with a cache, for who cannot tell layers apart.
    /// Throws: Error(unsupported) naming `who` where layers differ in their heads.
    const LayerPlan& equal_heads(const std::string& who) const;

    /// A cache for this model.
    KvShape cache_shape(int64_t streams, int64_t cells, const CacheType& type_k,
                        const CacheType& type_v) const;
};

/// Reads the hyper-parameters for a run of at most `context` positions, which decides between long
/// and short RoPE factors (phi3). `phi3_window` turns on the sliding window that phi3 files name
/// and llama.cpp ignores. A count of heads or of F may be one number or a list, one a layer.
/// What the file does not say and has a usual value is assumed, what it says and its architecture
/// has no place for is not applied: both in `notices`.
/// Throws: Error(unsupported) for an unknown architecture, listing those known, for layers whose
///         heads differ in Dk (those with a window may have a Dk of their own), and for what is
///         not computed here (ways of RoPE, of choosing experts, of sharing caches);
///         Error(bad_file) for keys that are missing or contradict each other, by key, expected and
///         found.
ModelConfig read_config(const GgufFile& file, int64_t context, bool phi3_window = false);

}  // namespace rotkv
