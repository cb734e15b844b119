#pragma once
// Several caches in lock-step over the same tokens. One group of windows at a time: the model runs
// once with the base cache and once with each variant, the hidden states of the scored positions
// stay on the host, and operation kld compares them in one walk over the vocabulary. Neither a file
// of logits nor a tokens x words matrix exists.
// Docs: docs/07-measuring.md

#include "tools/compare/cache_words.h"
#include "tools/loaded_model.h"
#include "tools/watch/changed_bit.h"
#include "tools/watch/one_layer.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

struct LockStepOptions {
    int64_t jitter = 0;       ///< more runs of every cache, each with one bit of one weight changed
    bool round_base = false;  ///< round the base's log-probabilities as a base file does
    std::vector<int64_t> layers;                                ///< to be run alone, ascending
    std::function<void(int64_t done, int64_t all)> layer_done;  ///< after each of these runs
};

/// One more run of a cache, with another last bit in one weight of the model.
struct JitterRun {
    std::vector<TokenPair> from_base;    ///< compared with the base
    std::vector<TokenPair> from_itself;  ///< compared with the same cache, nothing changed
};

/// One layer as in the variant, all others as in the base.
struct LayerRun {
    int64_t layer = 0;
    std::vector<TokenPair> pairs;  ///< compared with the base
};

/// One cache and what was measured of it so far, window by window. Its memory exists only while it
/// runs: a long context has room for one cache, not for all of them.
struct MeasuredCache {
    Variant variant;
    KvShape shape;
    RotationSpec spec;
    std::string words;              ///< describe_cache()
    std::vector<TokenPair> pairs;   ///< compared with the base; none of the base itself
    std::vector<JitterRun> jitter;  ///< [LockStepOptions::jitter]
    std::vector<LayerRun> layers;   ///< [LockStepOptions::layers]; none of the base
};

/// The base computed once more in a way that should make no difference: other threads, another
/// batch, and one last bit of one weight, for backends that add in the same order all the same.
/// In f32, whatever --gemm and --attention say of the others.
struct Floor {
    std::unique_ptr<Backend> backend;     ///< with other threads; null: a device, which has none
    std::unique_ptr<Model> exact;         ///< on it, reading the same bytes; null with it
    std::unique_ptr<ChangedBit> changed;  ///< that `model` looks at
    std::unique_ptr<Model> model;
    int threads = 0;
    int64_t batch = 0;
    std::vector<TokenPair> pairs;  ///< the base and this one
};

class LockStep {
  public:
    /// Makes every cache once, so that an impossible one is found before anything is computed.
    /// Throws as make_cache(), Error(usage) for more jitter than the norm has weights.
    LockStep(LoadedModel& loaded, const ModelFlags& flags, const WindowPlan& plan,
             const Variant& base, const std::vector<Variant>& variants,
             const LockStepOptions& options);
    LockStep(const LockStep&) = delete;  // its models look at its own members
    LockStep& operator=(const LockStep&) = delete;

    /// Runs group after group of windows, shared among all processes. In the first one, after each
    /// group, in order: go_on() says whether to; the others never learn the results.
    void run(const std::function<bool()>& go_on);

    int64_t windows() const { return windows_; }  ///< finished so far
    const WindowPlan& plan() const { return plan_; }
    const MeasuredCache& base() const { return caches_.front(); }
    std::span<const MeasuredCache> variants() const { return std::span(caches_).subspan(1); }
    const Floor& floor() const { return floor_; }
    /// Of all but the floor.
    ModelPrecision precision() const { return model_.options().precision; }

  private:
    using Hidden = std::vector<float>;  ///< [rows][E]

    void enter(const Variant& variant);
    std::vector<std::vector<TokenPair>*> lists();
    std::vector<TokenPair> measure(int64_t index);
    void add(std::span<const TokenPair> of_group);
    static Hidden run_one(Model& model, const MeasuredCache& measured, const WindowPlan& group);
    Hidden run_floor(const WindowPlan& group);
    void compare(const std::vector<Hidden>& hidden, const Hidden& floor,
                 std::span<const int32_t> target);
    void run_jitter(const std::vector<Hidden>& hidden, const WindowPlan& group,
                    std::span<const int32_t> target);
    void run_layers(const Hidden& base, const WindowPlan& group, std::span<const int32_t> target);

    Model& model_;
    const WindowPlan& plan_;
    LockStepOptions options_;
    std::vector<MeasuredCache> caches_;  ///< the base, then the variants
    Floor floor_;

    // The model once more for each way of looking on that was asked for, all with the same weights.
    ChangedBit changed_;
    std::optional<Model> jittered_;
    OneLayer one_layer_;
    std::optional<Model> by_layer_;
    int64_t windows_ = 0;
};

}  // namespace rotkv::tools
