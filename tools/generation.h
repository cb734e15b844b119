#pragma once
// Text from a model and a cache, token by token: what comes next, the choice, its letters.
// Docs: docs/14-generate.md

#include "tools/cache_mark.h"
#include "tools/compare/cache_words.h"
#include "tools/loaded_model.h"
#include "tools/sampling.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rotkv::tools {

/// Math:   x - max - ln(sum exp(x - max)) in f64: the log-probability of every word.
/// Throws: Error(bad_file) for logits that are not finite, which says `where` they were found.
std::vector<double> log_softmax(std::span<const float> logits, const std::string& where = "");

/// sum_v p_a (ln p_a - ln p_b) of two lists of log-probabilities, in nats.
double divergence(std::span<const double> a, std::span<const double> b);

struct Candidate {
    int32_t token = 0;
    double p = 0;
};

/// The `count` most likely words, the first of equals first.
std::vector<Candidate> most_likely(std::span<const double> log_p, int64_t count);

/// A cache, what was read into it, and what the model expects next.
class Continuation {
  public:
    /// keep: a full cache is shifted, and so many of its first tokens stay; none: it is full.
    /// Throws as KvCache does and, with `keep`, as require_shift().
    Continuation(LoadedModel& loaded, const Variant& variant, int64_t cells,
                 std::optional<int64_t> keep = {});

    /// Appends at least one token, 512 at a time; no more than one shift makes room for.
    void read(std::span<const int32_t> tokens);

    /// Where it stands, and the way back there. log_p() then waits for the next read().
    struct Mark {
        CacheMark cache;
        int64_t tokens;
    };
    Mark mark() const { return {CacheMark(cache_), tokens_}; }
    void back_to(const Mark& mark);

    /// That something of few bits was read so far, as tools/unread_cells.h has it.
    void require_quantized_reads() const;

    int64_t tokens() const { return tokens_; }                ///< in the cache
    int64_t shifts() const { return shifts_; }                ///< so far
    int64_t dropped() const { return dropped_; }              ///< tokens, by all of them
    std::span<const double> log_p() const { return log_p_; }  ///< [V], after the last token
    const KvCache& cache() const { return cache_; }

  private:
    Model& model_;
    std::string name_;  ///< of the cache
    KvCache cache_;
    Buffer logits_;
    std::optional<int64_t> keep_;
    int64_t tokens_ = 0, shifts_ = 0, dropped_ = 0;
    int64_t most_ = 0;  ///< tokens that were in the cache at once
    std::vector<double> log_p_;
};

/// Lets the model go on for `count` tokens, or until an ending token, which is not among them.
/// `said` sees each token when it is chosen.
std::vector<int32_t> continue_text(Continuation& continuation, Sampler& sampler, int64_t count,
                                   const std::set<int32_t>& endings,
                                   const std::function<void(int32_t)>& said = {});

/// The text of tokens that follow the token `before`: a space in front belongs to it.
std::string text_behind(const Tokenizer& tokenizer, int32_t before,
                        std::span<const int32_t> tokens);

/// Holds back the beginning of a UTF-8 character whose other bytes come with the next tokens. What
/// cannot become one, whatever follows, is not held.
class Utf8Gate {
  public:
    /// What can be shown now.
    std::string push(std::string_view bytes);

    /// What never became a character.
    std::string rest() { return std::move(held_); }

  private:
    std::string held_;
};

}  // namespace rotkv::tools
