#include "tools/compare/kld_run.h"

#include "ref/error.h"
#include "tools/backends.h"
#include "tools/compare/kld_compare.h"

#include <algorithm>
#include <string>
#include <utility>

namespace rotkv::tools {

namespace {

// Another batch than this one: a window in two pieces of unequal length.
int64_t other_batch(const WindowPlan& plan) {
    const int64_t length = std::min(plan.batch, plan.ctx);
    return length > 1 ? length * 2 / 3 : 2;
}

void append(std::vector<TokenPair>& all, const std::vector<TokenPair>& part) {
    all.insert(all.end(), part.begin(), part.end());
}

}  // namespace

LockStep::LockStep(LoadedModel& loaded, const ModelFlags& flags, const WindowPlan& plan,
                   const Variant& base, const std::vector<Variant>& variants,
                   const LockStepOptions& options)
    : model_(loaded.model), plan_(plan), options_(options), changed_(model_) {
    if (options.jitter > model_.config().width) {
        throw Error(ErrorCode::usage, "--jitter: expected at most " +
                                          std::to_string(model_.config().width) +
                                          ", one run for each weight of the first norm");
    }
    if (options.jitter > 0) jittered_.emplace(observed(model_, changed_.observer()));
    if (!options.layers.empty()) by_layer_.emplace(observed(model_, one_layer_.observer()));
    enter(base);
    for (const Variant& variant : variants) enter(variant);
    floor_.threads = flags.threads > 1 ? flags.threads - 1 : 2;
    floor_.batch = other_batch(plan);
    if (model_.backend().in_host_memory()) {
        floor_.backend = make_backend(flags.backend, floor_.threads);
        floor_.exact = std::make_unique<Model>(loaded.file, *floor_.backend, model_.options());
    }
    const Model& exact = floor_.exact != nullptr ? *floor_.exact : model_;
    floor_.changed = std::make_unique<ChangedBit>(exact);
    floor_.changed->choose(model_.config().width / 2);
    ModelOptions unrounded = model_.options();
    unrounded.precision = ModelPrecision{};
    unrounded.observer = floor_.changed->observer();
    floor_.model = std::make_unique<Model>(exact, unrounded);
}

void LockStep::enter(const Variant& variant) {
    KvCache cache = make_cache(model_, plan_, variant);
    if (plan_.shifts.times > 0) {
        require_shift(cache, [this](int64_t layer) { return model_.rope(layer); });
    }
    MeasuredCache measured{variant, cache.shape(), cache.spec(), describe_cache(cache), {}, {}, {}};
    measured.jitter.resize(std::size_t(options_.jitter));
    if (!caches_.empty()) {
        for (const int64_t layer : options_.layers) measured.layers.push_back({layer, {}});
    }
    caches_.push_back(std::move(measured));
}

void LockStep::run(const std::function<bool()>& go_on) {
    share<TokenPair>(
        groups_of(plan_), [&](int64_t index) { return measure(index); },
        [&](int64_t, std::span<const TokenPair> of_group) {
            add(of_group);
            return go_on();
        });
}

// Whatever is measured, in a fixed order. A group adds its scored positions to each list.
std::vector<std::vector<TokenPair>*> LockStep::lists() {
    std::vector<std::vector<TokenPair>*> all = {&floor_.pairs};
    for (std::size_t i = 0; i < caches_.size(); ++i) {
        MeasuredCache& measured = caches_[i];
        if (i > 0) all.push_back(&measured.pairs);
        for (JitterRun& run : measured.jitter) {
            all.push_back(&run.from_base);
            all.push_back(&run.from_itself);
        }
        for (LayerRun& run : measured.layers) all.push_back(&run.pairs);
    }
    return all;
}

// What one group adds to the lists, list after list, on its way to the first process.
std::vector<TokenPair> LockStep::measure(int64_t index) {
    const WindowPlan group = group_of(plan_, index);
    const std::vector<int32_t> target = targets_of(group);
    std::vector<Hidden> hidden;
    for (const MeasuredCache& measured : caches_) {
        hidden.push_back(run_one(model_, measured, group));
    }
    compare(hidden, run_floor(group), target);
    run_jitter(hidden, group, target);
    run_layers(hidden[0], group, target);
    std::vector<TokenPair> of_group;
    for (std::vector<TokenPair>* list : lists()) {
        const auto added = list->end() - std::ptrdiff_t(target.size());
        of_group.insert(of_group.end(), added, list->end());
        list->erase(added, list->end());
    }
    return of_group;
}

void LockStep::add(std::span<const TokenPair> of_group) {
    const std::vector<std::vector<TokenPair>*> all = lists();
    const std::size_t rows = of_group.size() / all.size();
    for (std::size_t i = 0; i < all.size(); ++i) {
        const auto first = of_group.begin() + std::ptrdiff_t(i * rows);
        all[i]->insert(all[i]->end(), first, first + std::ptrdiff_t(rows));
    }
    windows_ += int64_t(rows) / plan_.scored_per_window();
}

// The hidden states of the scored positions of a group.
LockStep::Hidden LockStep::run_one(Model& model, const MeasuredCache& measured,
                                   const WindowPlan& group) {
    KvCache cache(model.backend(), measured.shape, measured.spec);
    return run_hidden(model, cache, group);
}

LockStep::Hidden LockStep::run_floor(const WindowPlan& group) {
    WindowPlan other = group;
    other.batch = floor_.batch;
    return run_one(*floor_.model, caches_.front(), other);
}

void LockStep::compare(const std::vector<Hidden>& hidden, const Hidden& floor,
                       std::span<const int32_t> target) {
    if (!options_.round_base) {
        append(floor_.pairs, compare_hidden(model_, hidden[0], floor, target));
        for (std::size_t i = 1; i < hidden.size(); ++i) {
            append(caches_[i].pairs, compare_hidden(model_, hidden[0], hidden[i], target));
        }
        return;
    }
    std::vector<std::span<const float>> others(hidden.begin() + 1, hidden.end());
    others.push_back(floor);
    const std::vector<std::vector<TokenPair>> pairs =
        compare_with_rounded(model_, hidden[0], others, target, plan_.scored_per_window());
    for (std::size_t i = 1; i < hidden.size(); ++i) append(caches_[i].pairs, pairs[i - 1]);
    append(floor_.pairs, pairs.back());
}

void LockStep::run_jitter(const std::vector<Hidden>& hidden, const WindowPlan& group,
                          std::span<const int32_t> target) {
    for (int64_t run = 0; run < options_.jitter; ++run) {
        changed_.choose(run * model_.config().width / options_.jitter);
        for (std::size_t i = 0; i < caches_.size(); ++i) {
            JitterRun& result = caches_[i].jitter[std::size_t(run)];
            const Hidden moved = run_one(*jittered_, caches_[i], group);
            append(result.from_base, compare_hidden(model_, hidden[0], moved, target));
            append(result.from_itself, compare_hidden(model_, hidden[i], moved, target));
        }
    }
}

void LockStep::run_layers(const Hidden& base, const WindowPlan& group,
                          std::span<const int32_t> target) {
    if (options_.layers.empty()) return;
    const int64_t all = int64_t(variants().size() * options_.layers.size());
    int64_t done = 0;
    for (std::size_t i = 1; i < caches_.size(); ++i) {
        MeasuredCache& measured = caches_[i];
        KvCache cache(model_.backend(), caches_[0].shape, caches_[0].spec);
        const KvCache other(model_.backend(), measured.shape, measured.spec);
        for (LayerRun& run : measured.layers) {
            one_layer_.replace(other, run.layer);
            const Hidden moved = run_hidden(*by_layer_, cache, group);
            append(run.pairs, compare_hidden(model_, base, moved, target));
            if (options_.layer_done) options_.layer_done(++done, all);
        }
        one_layer_.restore();  // `other` ends here
    }
}

}  // namespace rotkv::tools
