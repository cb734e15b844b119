#pragma once
// The runs of a search: sides alone, groups of layers alone, and the finalists, each against the
// exact cache on windows of its own.
// Docs: docs/26-search.md

#include "tools/loaded_model.h"
#include "tools/search_damage.h"
#include "tools/sweep_run.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// `count` windows of the plan from `first` on, as a plan of its own.
WindowPlan windows_of(const WindowPlan& plan, int64_t first, int64_t count);

/// What has been done and what it took; a line on stderr for each cache.
class SearchProgress {
  public:
    /// `step` hears how many caches are done, and how many are known to come.
    explicit SearchProgress(bool quiet, std::function<void(int64_t done, int64_t all)> step = {})
        : quiet_(quiet), step_(std::move(step)) {}

    /// So many caches follow.
    void begin(const std::string& what, int64_t caches);
    void done(const std::string& cache, double kld);
    void count_windows(int64_t windows) { windows_ += windows; }

    int64_t windows() const { return windows_; }  ///< that a model has read, the base's too
    double seconds() const;

  private:
    using Clock = std::chrono::steady_clock;

    bool quiet_;
    std::string what_;
    std::function<void(int64_t, int64_t)> step_;
    int64_t done_ = 0, all_ = 0, done_in_all_ = 0, all_in_all_ = 0, windows_ = 0;
    Clock::time_point start_ = Clock::now(), began_ = start_;
};

/// Caches against an exact one (f32, not turned) on the same windows.
class ExactBeside {
  public:
    ExactBeside(Model& model, const WindowPlan& plan, SearchProgress& progress);
    ExactBeside(const ExactBeside&) = delete;  // its run looks at its own plan
    ExactBeside& operator=(const ExactBeside&) = delete;

    /// Every scored position. Throws: as SweepRun::measure().
    std::vector<TokenPair> compare(const SweepPoint& cell);

    /// The mean KLD of each window; NaN for what is not a number. Throws likewise.
    std::vector<double> measure(const SweepPoint& cell);

    /// As sweep_point(), with room for these windows.
    SweepPoint point(const Variant& variant) const;

  private:
    Model& model_;
    WindowPlan plan_;
    SweepRun run_;
    SearchProgress& progress_;
    bool started_ = false;
};

/// What a search may choose from.
struct SearchSpace {
    std::vector<CacheType> types;
    std::vector<AskedRotation> rotations;
    int64_t groups = 16;  ///< of layers, at most
};

/// The types that all heads of the model can be kept in; `left_out` hears why another cannot.
/// Throws: Error(unsupported) where there is none.
std::vector<CacheType> fitting_types(const Model& model, const std::vector<CacheType>& types,
                                     const std::function<void(const std::string&)>& left_out);

/// The model of damage without figures: groups and bytes. Precondition: the types fit.
/// Throws: Error(unsupported) where no layer keeps keys and values.
DamageModel empty_damage(const Model& model, const SearchSpace& space);

/// Measures every side in every type and rotation, on `sides`, then each group of layers in its
/// side's probe, on `layers`. What is not a number is left out, and a line says so.
/// Throws: Error(usage) for a rotation that the heads cannot have.
void measure_damage(DamageModel& damage, ExactBeside& sides, ExactBeside& layers,
                    SearchProgress& progress, std::vector<std::string>& lines);

}  // namespace rotkv::tools
