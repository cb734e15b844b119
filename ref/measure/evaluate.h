#pragma once
// Running a text through a model in windows, the way llama-perplexity does it:
//   windows of ctx tokens; the first token of each is replaced by BOS while evaluating, if the
//   vocabulary adds BOS; positions ctx / 2 .. ctx - 2 are scored, each against the next original
//   token; a batch smaller than ctx fills a window in pieces, a larger one runs as many whole
//   windows at once as fit into it, each in a stream of its own.
// And in windows that outlive their cache: it is filled, then shifted (context_shift.h) and filled
//   again, so many times; scored is what is read behind the first shift.
// Docs: docs/07-measuring.md

#include "ref/context_shift.h"
#include "ref/kv_cache.h"
#include "ref/measure/metrics.h"
#include "ref/model.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace rotkv {

/// How windows go on behind the end of their cache.
struct WindowShifts {
    int64_t times = 0;  ///< 0: they do not
    int64_t keep = 0;   ///< first tokens that stay, BOS among them
};

struct WindowPlan {
    std::vector<int32_t> tokens;  ///< the text; at least windows * length() of them
    int64_t ctx = 512;            ///< tokens of a window that the cache holds at once
    int64_t batch = 512;          ///< tokens per forward pass; < ctx, or a multiple of it
    int64_t windows = 0;
    int32_t bos = -1;  ///< replaces each window's first token; -1: none
    WindowShifts shifts = {};

    int64_t dropped() const { return dropped_by_shift(ctx, shifts.keep); }
    int64_t length() const { return ctx + shifts.times * dropped(); }  ///< tokens a window reads
    int64_t first_scored() const { return shifts.times > 0 ? ctx : ctx / 2; }
    int64_t scored_per_window() const { return length() - 1 - first_scored(); }
    int64_t windows_at_once() const { return batch < ctx ? 1 : batch / ctx; }  ///< streams needed
};

/// Scored positions of one window that one batch finished, in text order.
struct ScoredRows {
    int64_t window = 0;           ///< the window they belong to
    int64_t first = 0;            ///< number of the first row among all scored positions
    bool ends_window = false;     ///< they are the window's last
    TensorView hidden;            ///< [rows][E] f32 in backend memory, valid during the visit
    std::vector<int32_t> target;  ///< [rows] the next original tokens
};

/// A batch when none is asked for: as many whole windows as fit into 2048 tokens.
int64_t default_batch(int64_t ctx);

/// Cuts a text into windows: at most `chunks` (or all, if <= 0) of ctx tokens, and what `shifts`
/// make room for. A batch larger than ctx is cut to whole windows, no more than there are.
/// Throws Error(usage) for a text shorter than 2 windows (as llama-perplexity refuses it), a ctx
/// that leaves nothing to score, a batch below 1.
WindowPlan plan_windows(std::vector<int32_t> tokens, int64_t ctx, int64_t batch, int64_t chunks,
                        int32_t bos, const WindowShifts& shifts = {});

/// The same for the tokens of a base file, which were a long enough text once: one window will do.
WindowPlan plan_recorded_windows(std::vector<int32_t> tokens, int64_t ctx, int64_t batch,
                                 int64_t chunks, int32_t bos, const WindowShifts& shifts = {});

/// As many windows of the plan as run at once are a group: how many there are, and group `index` as
/// a plan of its own.
int64_t groups_of(const WindowPlan& plan);
WindowPlan group_of(const WindowPlan& plan, int64_t index);

/// Runs all windows and hands every batch's scored rows to `visit`. A window's rows come in order;
/// with several windows at once, window by window. The cache is emptied first.
/// Throws Error(bad_argument) for a cache with fewer streams or cells than the plan needs; what
/// shift_context() throws.
void for_each_scored(Model& model, KvCache& cache, const WindowPlan& plan,
                     const std::function<void(const ScoredRows&)>& visit);

/// Logits of the rows, at most k_max_logit_rows at a time: `visit(first, logits)` with the number
/// of the slice's first row within `rows` and [rows of the slice][V] logits.
void for_each_logits(Model& model, const ScoredRows& rows,
                     const std::function<void(int64_t, std::span<const float>)>& visit);

/// Negative log-likelihoods of all scored positions, [windows * scored_per_window], and the words
/// thought most likely. `progress` is called after each window with the values so far.
struct NllRun {
    std::vector<double> nll;
    std::vector<int32_t> top;
};
NllRun run_nll(Model& model, KvCache& cache, const WindowPlan& plan,
               const std::function<void(const NllRun&)>& progress);

/// The residual stream at every scored position, on the host: [windows * scored][E]. With it, any
/// number of other caches can be compared without a file of logits.
std::vector<float> run_hidden(Model& model, KvCache& cache, const WindowPlan& plan);

/// The words that the scored positions of a plan should predict, [windows * scored].
std::vector<int32_t> targets_of(const WindowPlan& plan);

/// Compares b with the base a, both [rows][E] on the host, by operation kld.
/// Memory: a few hundred rows at a time go to the backend.
std::vector<TokenPair> compare_hidden(Model& model, std::span<const float> a,
                                      std::span<const float> b, std::span<const int32_t> target);

/// Compares with a base run of the same plan, held as run_hidden returned it.
std::vector<TokenPair> run_kld(Model& model, KvCache& cache, const WindowPlan& plan,
                               std::span<const float> base_hidden);

}  // namespace rotkv
