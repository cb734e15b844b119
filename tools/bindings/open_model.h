#pragma once
// A model behind a handle, and what its runs share.
// Docs: docs/25-bindings.md

#include "ref/measure/evaluate.h"
#include "ref/text/tokenizer.h"
#include "tools/bindings/arrays.h"
#include "tools/compare/cache_words.h"
#include "tools/unread_cells.h"

#include <optional>
#include <string>
#include <vector>

namespace rotkv::bindings {

/// A file, its vocabulary, its weights. Parts refer to each other: it stays where it is.
struct OpenModel {
    std::shared_ptr<OpenBackend> open;
    GgufFile file;
    Tokenizer tokenizer;
    Model model;

    OpenModel(std::shared_ptr<OpenBackend> on, const std::string& path,
              const ModelPrecision& precision)
        : open(std::move(on)),
          file(GgufFile::open(path)),
          tokenizer(Tokenizer::from_gguf(file)),
          model(file, *open->backend, {.context = 1, .precision = precision}) {}

    /// The same weights for a run of so many positions.
    Model for_context(int64_t context, const Observer& observer = {}) const;
};

/// Runs `body` in the calling thread's turn, or in the one it has: what closes a handle.
void in_turn(const std::shared_ptr<OpenBackend>& open, const std::function<void()>& body) noexcept;

/// A cache in words; sides that are not named are of `type`. Null: no words.
tools::Variant cache_of_words(const char* words, DType type = DType::f16);

/// Throws Error(usage) for words that say which tokens, layers or biases are kept otherwise:
/// whoever has no model cannot do it.
void require_no_placement(const tools::Variant& variant, const char* words);

/// Throws Error(unsupported) for a cache whose rows operations on it do not make by themselves: a
/// matrix turns them, or tokens lie in f16 beside them. A model does both.
void require_rows_of_kernels(const KvShape& shape, const RotationSpec& spec);

/// A callback that may ask for an end.
struct Progress {
    rotkv_progress call;
    void* user;
    void operator()(int64_t done, int64_t all) const {
        if (call != nullptr && call(user, done, all) != 0) throw Cancelled();
    }
};

/// Tokens in a row and a cache that grows with them.
class Reading {
  public:
    /// Room for so many tokens; last: plan_cache()'s.
    Reading(const OpenModel& open, const tools::Variant& variant, int64_t cells, int64_t last,
            const Observer& observer = {});

    /// Reads tokens, 512 at a time; `visit` sees the residual stream [T][E] of each batch, and the
    /// number of its first token.
    void read(std::span<const int32_t> tokens,
              const std::function<void(const TensorView& hidden, int64_t first)>& visit);

    /// That some of it was of few bits, as require_quantized_reads() has it.
    void require_quantized_reads() const {
        tools::require_quantized_reads(model_.config(), cache_.shape(), tokens_ - 1);
    }

    Model& model() { return model_; }

  private:
    Model model_;
    KvCache cache_;
    int64_t tokens_ = 0;
};

/// Tokens of the caller's, each a word of the vocabulary.
std::span<const int32_t> tokens_of(const OpenModel& open, const int32_t* tokens, int64_t count,
                                   int64_t least);

}  // namespace rotkv::bindings

struct rotkv_model {
    std::shared_ptr<rotkv::bindings::OpenModel> open;
};

/// What next tokens are chosen from, kept from call to call, so that a device meets the same calls.
struct rotkv_next_tokens {
    rotkv::Buffer hidden;  ///< [n][E], where rows do not lie beside each other
    rotkv::Buffer logits;  ///< [n][V] of at most k_max_logit_rows
};

struct rotkv_cache {
    std::shared_ptr<rotkv::bindings::OpenBackend> open;
    std::shared_ptr<rotkv::bindings::OpenModel> of;  ///< null: no model's
    std::optional<rotkv::Model> model;               ///< for as many positions as there are cells
    rotkv::KvCache cache;
    rotkv::KvBatch batch;
    int64_t placed = -1;  ///< tokens of the batch; -1: none
    rotkv_next_tokens next{};
};
