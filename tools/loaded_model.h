#pragma once
// A model file, its vocabulary and its weights on a backend: what most tools start from.
// Docs: tools/README.md

#include "ref/measure/evaluate.h"
#include "ref/text/tokenizer.h"
#include "tools/cli.h"
#include "tools/watch/profile.h"

#include <memory>
#include <span>
#include <string>

namespace rotkv::tools {

/// What a model is made of, and who owns it.
struct ModelParts {
    std::shared_ptr<const GgufFile> file;
    std::shared_ptr<const Tokenizer> tokenizer;
    std::shared_ptr<Backend> backend;
};

/// The parts refer to each other, so they stay where they are.
struct LoadedModel {
    ModelParts parts;
    const GgufFile& file = *parts.file;
    const Tokenizer& tokenizer = *parts.tokenizer;
    Backend* const backend = parts.backend.get();
    std::unique_ptr<Profile> profile;  ///< null unless the flags ask for one
    Model model;
    std::string tool;                  ///< whose notes these are; empty: only kept, not said
    std::vector<std::string> notices;  ///< of the vocabulary, of the model, of this run; for JSON

    /// `context`: the longest sequence that will be run. Says every notice on stderr, under --quiet
    /// too: a figure that rests on an assumption is not read without it.
    LoadedModel(const ModelFlags& flags, int64_t context);

    /// The weights of a model that is open already, for a run of its own that says nothing.
    LoadedModel(ModelParts open, const Model& weights, int64_t context);
    LoadedModel(const LoadedModel&) = delete;
    LoadedModel& operator=(const LoadedModel&) = delete;

    /// Says and keeps one more notice.
    void note(const std::string& notice);

    /// Notes a sequence of so many tokens if the model was trained on shorter ones only.
    void note_length(int64_t tokens);

    /// Notes windows beyond the training context, and fewer of them than `asked` (if > 0).
    void note_windows(const WindowPlan& plan, int64_t asked);

    /// Notes at how many positions the codes of a base left its most likely word open.
    void note_ties(std::span<const TokenPair> pairs);

    /// BOS where the vocabulary starts a text with it, else -1.
    int32_t bos_of_windows() const { return tokenizer.adds_bos() ? tokenizer.bos() : -1; }

  private:
    void keep_notices();
};

/// The same weights, with an observer on every call. Throws Error(usage) if one looks on already.
Model observed(const Model& model, const Observer& observer);

/// The tokens of a text as llama-perplexity sees them: one trailing newline is dropped, BOS is
/// added as the vocabulary asks, EOS never, and special tokens are not looked for in the text.
/// Notes how many of its bytes are not UTF-8.
std::vector<int32_t> tokens_of_text(LoadedModel& loaded, std::string text);

/// FNV-1a of the tokens that the model reads, BOS included: it carries every setting of the
/// tokenizer that a figure depends on.
uint64_t hash_of_windows(const WindowPlan& plan);

/// That every process of the run has the first one's weights and windows: files of one name on two
/// machines may be two. Throws Error(bad_file). Cost: reads the whole model where there are
/// several.
void require_same_everywhere(const LoadedModel& loaded, const WindowPlan& plan);

/// An empty cache with room for all windows of the plan that run at once.
/// Throws Error(usage) for a rotation that the head size rules out, Error(unsupported) for a block
/// type on such a head.
KvCache make_cache(const Model& model, const WindowPlan& plan, const CacheType& type_k,
                   const CacheType& type_v, const RotationRequest& rotation,
                   const Placement& placement = {});

/// "4 windows of 512 tokens, 4 at once, each beginning with BOS 1"; with describe_shifts() where
/// there are any.
std::string describe_windows(const WindowPlan& plan);

/// "shifted 2 times: of 512 tokens the oldest 255 behind the first 1 are dropped, ..."
std::string describe_shifts(const WindowPlan& plan);

/// {times, kept, dropped, tokens_per_window} of a plan with shifts, for JSON; or null.
nlohmann::ordered_json shifts_of(const WindowPlan& plan);

/// What takes the place of each window's first token, for JSON: an id, or null.
nlohmann::ordered_json bos_of(const WindowPlan& plan);

/// A line on one side: "K q8_0: rotation sylvester, block 64 (policy: ...)"; where layers differ,
/// one for each way in which they store it.
std::string describe_side(const KvShape& shape, const RotationSpec& spec, Side side);

/// These lines of K and V, and the bytes of a token and, where there is one, of a state.
std::string describe_cache(const KvCache& cache);

/// {k, v, bytes_per_token, bits_per_value, state_bytes_per_stream}, and where there are any
/// tokens in f16 {first, recent, bytes_per_stream} of them.
nlohmann::ordered_json json_of(const KvShape& shape);

}  // namespace rotkv::tools
