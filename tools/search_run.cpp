#include "tools/search_run.h"

#include "ref/error.h"
#include "tools/compare/paired.h"
#include "tools/layer_words.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

namespace {

constexpr int64_t k_base_bytes = int64_t(1) << 30;  // of its hidden states, as a sweep keeps them

char letter(std::size_t side) { return side == 0 ? 'k' : 'v'; }

// One side, or some of its layers, in a type; all else exact. Where V lies in K, both.
Variant alone(const DamageModel& damage, std::size_t side, std::size_t rotation, std::size_t type,
              const std::vector<int64_t>* layers) {
    const CacheType& of = damage.types[type];
    const AskedRotation& asked = damage.rotations[rotation];
    const bool one = damage.sides.size() == 1;
    Variant variant;
    variant.name = fmt::format("{}={},rot={}", one ? "k=v" : std::string(1, letter(side)),
                               of.name(), asked.text);
    if (side == 0) variant.rotation.k = asked.request.k;
    if (side == 1 || one) variant.rotation.v = asked.request.v;
    if (layers != nullptr) {
        variant.name += " in " + words_of_layers(*layers);
        const Side which = side == 0 ? Side::k : Side::v;
        for (const int64_t layer : *layers) variant.placement.layers.push_back({which, layer, of});
        return variant;
    }
    if (side == 0) variant.type_k = of;
    if (side == 1 || one) variant.type_v = of;
    return variant;
}

}  // namespace

WindowPlan windows_of(const WindowPlan& plan, int64_t first, int64_t count) {
    WindowPlan part = plan;
    const auto begin = plan.tokens.begin() + first * plan.length();
    part.tokens.assign(begin, begin + count * plan.length());
    part.windows = count;
    if (plan.batch > plan.ctx) part.batch = std::min(plan.batch, count * plan.ctx);
    return part;
}

void SearchProgress::begin(const std::string& what, int64_t caches) {
    what_ = what;
    done_ = 0;
    all_ = caches;
    all_in_all_ += caches;
    began_ = Clock::now();
    if (!quiet_) fmt::print(stderr, "{}: {} caches\n", what, caches);
}

void SearchProgress::done(const std::string& cache, double kld) {
    ++done_;
    ++done_in_all_;
    if (step_) step_(done_in_all_, all_in_all_);
    if (quiet_) return;
    const std::chrono::duration<double> so_far = Clock::now() - began_;
    const double left = so_far.count() / double(done_) * double(all_ - done_);
    fmt::print(stderr, "[{}/{}] {}: KLD {:.6f}, about {:.0f} s of these left\n", done_, all_, cache,
               kld, left);
}

double SearchProgress::seconds() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
}

ExactBeside::ExactBeside(Model& model, const WindowPlan& plan, SearchProgress& progress)
    : model_(model),
      plan_(plan),
      run_(model, plan_, Variant{}, k_base_bytes),
      progress_(progress) {}

SweepPoint ExactBeside::point(const Variant& variant) const {
    return sweep_point(model_, plan_, variant);
}

std::vector<TokenPair> ExactBeside::compare(const SweepPoint& cell) {
    if (!started_) {
        run_.start();
        progress_.count_windows(plan_.windows);
        started_ = true;
    }
    std::vector<TokenPair> pairs = run_.measure(cell, [] {});
    progress_.count_windows(plan_.windows);
    progress_.done(cell.variant.name, mean_of(figures_of(pairs, &TokenPair::kld)).value);
    return pairs;
}

std::vector<double> ExactBeside::measure(const SweepPoint& cell) {
    return window_means(figures_of(compare(cell), &TokenPair::kld), plan_.scored_per_window());
}

std::vector<CacheType> fitting_types(const Model& model, const std::vector<CacheType>& types,
                                     const std::function<void(const std::string&)>& left_out) {
    const KvShape exact = model.config().cache_shape(1, 1, DType::f32, DType::f32);
    std::vector<CacheType> fitting;
    std::string why;
    for (const CacheType& type : types) {
        std::string refusal;
        for (const int64_t l : layers_with_rows(exact)) {
            const KvLayer& layer = exact.layers[std::size_t(l)];
            for (const int64_t d : {layer.d_k, layer.d_v}) {
                if (refusal.empty()) refusal = type.refusal(d);
            }
        }
        if (refusal.empty()) {
            fitting.push_back(type);
        } else {
            why = type.name() + ": " + refusal;
            left_out(why);
        }
    }
    if (fitting.empty()) throw Error(ErrorCode::unsupported, why);
    return fitting;
}

DamageModel empty_damage(const Model& model, const SearchSpace& space) {
    DamageModel damage{space.types, space.rotations, {}, {}};
    const KvShape exact = model.config().cache_shape(1, 1, DType::f32, DType::f32);
    damage.groups = layer_groups(exact, space.groups);
    require(!damage.groups.empty(), ErrorCode::unsupported,
            "the model keeps no keys and values in any layer");
    const bool one = std::ranges::any_of(exact.layers, &KvLayer::v_in_k);
    for (std::size_t s = 0; s < (one ? 1u : 2u); ++s) {
        SideModel side;
        side.kld.assign(space.rotations.size(),
                        std::vector<std::vector<double>>(space.types.size()));
        for (const std::vector<int64_t>& group : damage.groups) {
            std::vector<int64_t>& bytes = side.bytes.emplace_back(space.types.size());
            for (const int64_t l : group) {
                const KvLayer& layer = exact.layers[std::size_t(l)];
                const int64_t d = s == 0 ? layer.d_k : layer.d_v;
                for (std::size_t t = 0; t < space.types.size(); ++t) {
                    bytes[t] += layer.kv_heads * row_bytes(space.types[t], d);
                }
            }
        }
        damage.sides.push_back(std::move(side));
    }
    return damage;
}

namespace {

// A mean that is not a number leaves its type without figures, and a line says so.
void keep(std::vector<double>& kld, const std::vector<double>& measured, const std::string& name,
          std::vector<std::string>& lines) {
    if (is_number(mean_of(measured).value)) {
        kld = measured;
    } else {
        lines.push_back(name + " is not a number, and was left out");
    }
}

// Types fit: what cannot be was asked for, a rotation.
void require_supported(const SweepPoint& cell) {
    if (cell.unsupported.empty()) return;
    throw Error(ErrorCode::usage, cell.variant.name + ": " + cell.unsupported);
}

// A side alone in a type and a rotation.
struct SideCell {
    std::size_t side, rotation, type;
    SweepPoint point;
    std::size_t same;  ///< the first rotation that comes to the same cache; `rotation`: none does
};

std::vector<SideCell> cells_of_sides(const DamageModel& damage, const ExactBeside& exact) {
    std::vector<SideCell> cells;
    for (std::size_t s = 0; s < damage.sides.size(); ++s) {
        for (std::size_t t = 0; t < damage.types.size(); ++t) {
            const std::size_t first = cells.size();
            for (std::size_t r = 0; r < damage.rotations.size(); ++r) {
                cells.push_back({s, r, t, exact.point(alone(damage, s, r, t, nullptr)), r});
                require_supported(cells.back().point);
                for (std::size_t i = first + r; i-- > first;) {
                    if (is_same(cells[i].point, cells.back().point)) cells.back().same = i - first;
                }
            }
        }
    }
    return cells;
}

void measure_sides(DamageModel& damage, ExactBeside& exact, SearchProgress& progress,
                   std::vector<std::string>& lines) {
    const std::vector<SideCell> cells = cells_of_sides(damage, exact);
    const auto is_new = [](const SideCell& cell) { return cell.same == cell.rotation; };
    progress.begin("sides alone", std::ranges::count_if(cells, is_new));
    for (const SideCell& cell : cells) {
        auto& kld = damage.sides[cell.side].kld;
        if (is_new(cell)) {
            keep(kld[cell.rotation][cell.type], exact.measure(cell.point), cell.point.variant.name,
                 lines);
        } else {
            kld[cell.rotation][cell.type] = kld[cell.same][cell.type];
        }
    }
}

void measure_shares(DamageModel& damage, std::size_t s, ExactBeside& exact) {
    SideModel& side = damage.sides[s];
    const Probe probe = probe_of(side);
    std::vector<double> of_groups;
    for (const std::vector<int64_t>& group : damage.groups) {
        const SweepPoint cell = exact.point(alone(damage, s, probe.rotation, probe.type, &group));
        require_supported(cell);
        of_groups.push_back(typical_kld(exact.compare(cell)));
    }
    side.share = shares_of(of_groups);
}

}  // namespace

void measure_damage(DamageModel& damage, ExactBeside& sides, ExactBeside& layers,
                    SearchProgress& progress, std::vector<std::string>& lines) {
    measure_sides(damage, sides, progress, lines);
    progress.begin("groups of layers alone", int64_t(damage.sides.size() * damage.groups.size()));
    for (std::size_t s = 0; s < damage.sides.size(); ++s) measure_shares(damage, s, layers);
}

}  // namespace rotkv::tools
