#include "tools/sweep_run.h"

#include "ref/error.h"
#include "ref/files/fnv1a.h"
#include "ref/rotation_words.h"
#include "tools/compare/kld_run.h"
#include "tools/layer_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

namespace rotkv::tools {

SweepPoint sweep_point(const Model& model, const WindowPlan& plan, const Variant& variant) {
    SweepPoint cell;
    cell.variant = variant;
    try {
        const KvCache cache = make_cache(model, plan, variant);
        cell.shape = cache.shape();
        cell.spec = cache.spec();
    } catch (const Error& error) {
        const bool impossible =
            error.code() == ErrorCode::unsupported || error.code() == ErrorCode::usage;
        if (!impossible) throw;
        cell.unsupported = error.what();
        cell.refusal = error.code();
    }
    return cell;
}

void require_some_supported(const std::vector<SweepPoint>& cells) {
    if (std::ranges::any_of(cells, [](const SweepPoint& cell) { return cell.unsupported.empty(); }))
        return;
    throw Error(cells.front().refusal,
                cells.front().variant.name + ": " + cells.front().unsupported);
}

bool is_same(const SweepPoint& a, const SweepPoint& b) {
    return a.unsupported.empty() && b.unsupported.empty() && a.shape == b.shape && a.spec == b.spec;
}

std::vector<SweepPoint> sweep_cells(const Model& model, const WindowPlan& plan,
                                    const SweepTypes& types,
                                    const std::vector<AskedRotation>& rotations,
                                    const Placement& placement) {
    std::vector<SweepPoint> cells;
    for (const CacheType& k : types.k) {
        for (const CacheType& v : types.same ? std::vector{k} : types.v) {
            for (const AskedRotation& asked : rotations) {
                SweepPoint cell =
                    sweep_point(model, plan,
                                {fmt::format("k={},v={},rot={}", k.name(), v.name(), asked.text), k,
                                 v, asked.request, placement, false});
                cell.rot = asked.text;
                const auto earlier =
                    std::find_if(cells.begin(), cells.end(),
                                 [&](const SweepPoint& other) { return is_same(cell, other); });
                if (earlier != cells.end()) cell.same_as = std::size_t(earlier - cells.begin());
                cells.push_back(std::move(cell));
            }
        }
    }
    return cells;
}

std::string rotations_in_words(const RotationSpec& spec, const KvShape& shape) {
    std::string words, last;
    for (const int64_t l : layers_with_rows(shape)) {
        const std::string here = saved_words(spec, l);
        if (here != last)
            words += words.empty() ? here : fmt::format(", from layer {} {}", l, here);
        last = here;
    }
    return words;
}

std::map<std::string, std::string> hashes_of_matrices(const std::vector<AskedRotation>& rotations,
                                                      const std::vector<SweepPoint>& cells) {
    std::map<std::string, std::string> hashes;
    for (const AskedRotation& asked : rotations) {
        if (asked.request.k.mode != RotationRequest::Mode::matrix) continue;
        const auto cell = std::ranges::find_if(cells, [&](const SweepPoint& one) {
            return one.rot == asked.text && one.unsupported.empty();
        });
        if (cell == cells.end()) continue;
        const std::string words = rotations_in_words(cell->spec, cell->shape);
        Fnv1a hash;
        hash.add(std::as_bytes(std::span(words)));
        hashes[asked.text] = fmt::format("{:016x}", hash.sum());
    }
    return hashes;
}

SweepRun::SweepRun(Model& model, const WindowPlan& plan, const Variant& base, int64_t base_bytes)
    : model_(model), plan_(plan) {
    const KvCache cache = make_cache(model, plan, base);
    base_shape_ = cache.shape();
    base_spec_ = cache.spec();
    keeps_base_ = plan.windows * plan.scored_per_window() * model.config().width * 4 <= base_bytes;
}

SweepRun::Hidden SweepRun::run_one(const KvShape& shape, const RotationSpec& spec,
                                   const WindowPlan& group) {
    KvCache cache(model_.backend(), shape, spec);
    return run_hidden(model_, cache, group);
}

const SweepRun::Hidden& SweepRun::base_rows(int64_t index) {
    if (keeps_base_ && index < int64_t(base_.size())) return base_[std::size_t(index)];
    if (!keeps_base_) base_.clear();
    return base_.emplace_back(run_one(base_shape_, base_spec_, group_of(plan_, index)));
}

void SweepRun::start() {
    for (int64_t index = 0; index < (keeps_base_ ? groups_of(plan_) : 1); ++index) base_rows(index);
}

std::vector<TokenPair> SweepRun::measure(const SweepPoint& cell,
                                         const std::function<void()>& done) {
    std::vector<TokenPair> pairs;
    for (int64_t index = 0; index < groups_of(plan_); ++index) {
        const WindowPlan part = group_of(plan_, index);
        const Hidden& base = base_rows(index);
        const Hidden moved = run_one(cell.shape, cell.spec, part);
        const std::vector<TokenPair> more = compare_hidden(model_, base, moved, targets_of(part));
        pairs.insert(pairs.end(), more.begin(), more.end());
        done();
    }
    return pairs;
}

}  // namespace rotkv::tools
