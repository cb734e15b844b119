#include "tools/search_damage.h"

#include "ref/error.h"
#include "tools/layer_words.h"
#include "tools/search_knapsack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rotkv::tools {

bool Mix::is_pair() const {
    return std::ranges::all_of(type, [](const std::vector<std::size_t>& of_side) {
        return std::ranges::all_of(of_side,
                                   [&](std::size_t each) { return each == of_side.front(); });
    });
}

std::vector<std::vector<int64_t>> layer_groups(const KvShape& shape, int64_t most) {
    const std::vector<int64_t> layers = layers_with_rows(shape);
    const int64_t all = int64_t(layers.size()), count = std::min(most, all);
    std::vector<std::vector<int64_t>> groups;
    for (int64_t g = 0; g < count; ++g) {
        groups.emplace_back(layers.begin() + g * all / count,
                            layers.begin() + (g + 1) * all / count);
    }
    return groups;
}

namespace {

double mean(const std::vector<double>& windows) { return mean_of(windows).value; }

bool can_be(const std::vector<double>& windows) { return is_number(mean(windows)); }

}  // namespace

Probe probe_of(const SideModel& side) {
    constexpr double k_adds_up = 0.2;
    std::optional<Probe> found;
    double of_found = 0;
    for (std::size_t t = 0; t < side.kld.front().size(); ++t) {
        std::optional<Probe> best;
        for (std::size_t r = 0; r < side.kld.size(); ++r) {
            if (!can_be(side.kld[r][t])) continue;
            if (!best || mean(side.kld[r][t]) < mean(side.kld[best->rotation][t])) best = {r, t};
        }
        if (!best) continue;
        const double here = mean(side.kld[best->rotation][t]);
        const bool better =
            here < k_adds_up ? of_found >= k_adds_up || here > of_found : here < of_found;
        if (found && !better) continue;
        found = best;
        of_found = here;
    }
    if (found) return *found;
    throw Error(ErrorCode::bad_file, "no type of the list gives a number for one of the sides");
}

double typical_kld(std::span<const TokenPair> pairs) {
    std::vector<double> roots = figures_of(pairs, &TokenPair::kld);
    // The KLD of equals may come out a rounding below 0; what is not a number stays none.
    for (double& kld : roots) kld = kld < 0 ? 0 : std::sqrt(kld);
    const double root = mean_of(roots).value;
    return root * root;
}

std::vector<double> shares_of(const std::vector<double>& damage) {
    const double sum = std::accumulate(damage.begin(), damage.end(), 0.0);
    if (!is_number(sum)) {
        throw Error(ErrorCode::bad_file, "the damage of some layers alone is not a number");
    }
    std::vector<double> shares(damage.size(), 1 / double(damage.size()));
    if (sum > 0) std::ranges::transform(damage, shares.begin(), [&](double d) { return d / sum; });
    return shares;
}

int64_t bytes_of(const DamageModel& model, const Mix& mix) {
    int64_t bytes = 0;
    for (std::size_t s = 0; s < model.sides.size(); ++s) {
        for (std::size_t g = 0; g < model.groups.size(); ++g) {
            bytes += model.sides[s].bytes[g][mix.type[s][g]];
        }
    }
    return bytes;
}

int64_t fewest_bytes(const DamageModel& model) {
    int64_t bytes = 0;
    for (const SideModel& side : model.sides) {
        for (const std::vector<int64_t>& of_group : side.bytes) {
            bytes += *std::ranges::min_element(of_group);
        }
    }
    return bytes;
}

Mean predicted_kld(const DamageModel& model, const Mix& mix) {
    std::vector<double> windows;
    for (std::size_t s = 0; s < model.sides.size(); ++s) {
        const SideModel& side = model.sides[s];
        for (std::size_t g = 0; g < model.groups.size(); ++g) {
            const std::vector<double>& kld = side.kld[mix.rotation[s]][mix.type[s][g]];
            windows.resize(kld.size());
            for (std::size_t w = 0; w < kld.size(); ++w) windows[w] += side.share[g] * kld[w];
        }
    }
    return mean_of(windows);
}

namespace {

// Calls visit with every way to turn the sides.
template <class Visit>
void for_each_rotation(const DamageModel& model, Visit visit) {
    const std::size_t of_v = model.sides.size() > 1 ? model.rotations.size() : 1;
    for (std::size_t k = 0; k < model.rotations.size(); ++k) {
        for (std::size_t v = 0; v < of_v; ++v) {
            std::vector<std::size_t> rotation = {k, v};
            rotation.resize(model.sides.size());
            visit(rotation);
        }
    }
}

// The types that a side can be in, so turned.
std::vector<std::size_t> types_of(const SideModel& side, std::size_t rotation) {
    std::vector<std::size_t> types;
    for (std::size_t t = 0; t < side.kld[rotation].size(); ++t) {
        if (can_be(side.kld[rotation][t])) types.push_back(t);
    }
    return types;
}

std::optional<Mix> best_mix_of(const DamageModel& model, const std::vector<std::size_t>& rotation,
                               int64_t bytes) {
    std::vector<std::vector<KnapsackChoice>> places;
    for (std::size_t s = 0; s < model.sides.size(); ++s) {
        const SideModel& side = model.sides[s];
        for (std::size_t g = 0; g < model.groups.size(); ++g) {
            std::vector<KnapsackChoice>& choices = places.emplace_back();
            for (const std::size_t t : types_of(side, rotation[s])) {
                choices.push_back(
                    {side.bytes[g][t], side.share[g] * mean(side.kld[rotation[s]][t])});
            }
            if (choices.empty()) return std::nullopt;
        }
    }
    const auto chosen = solve_knapsack(places, bytes);
    if (!chosen) return std::nullopt;
    Mix mix{rotation, {}};
    for (std::size_t s = 0, place = 0; s < model.sides.size(); ++s) {
        const std::vector<std::size_t> types = types_of(model.sides[s], rotation[s]);
        mix.type.emplace_back();
        for (std::size_t g = 0; g < model.groups.size(); ++g) {
            mix.type[s].push_back(types[(*chosen)[place++]]);
        }
    }
    return mix;
}

}  // namespace

std::optional<Mix> best_mix(const DamageModel& model, int64_t bytes) {
    std::optional<Mix> best;
    for_each_rotation(model, [&](const std::vector<std::size_t>& rotation) {
        const std::optional<Mix> mix = best_mix_of(model, rotation, bytes);
        if (!mix) return;
        if (!best || predicted_kld(model, *mix).value < predicted_kld(model, *best).value) {
            best = mix;
        }
    });
    return best;
}

std::vector<Mix> best_pairs(const DamageModel& model, int64_t bytes, std::size_t count) {
    struct Known {
        double kld;
        int64_t bytes;
        Mix mix;
    };
    std::vector<Known> pairs;
    for_each_rotation(model, [&](const std::vector<std::size_t>& rotation) {
        const auto add = [&](std::vector<std::size_t> types) {
            Mix mix{rotation, {}};
            for (const std::size_t t : types) mix.type.emplace_back(model.groups.size(), t);
            const int64_t of_mix = bytes_of(model, mix);
            if (of_mix > bytes) return;
            pairs.push_back({predicted_kld(model, mix).value, of_mix, std::move(mix)});
        };
        for (const std::size_t k : types_of(model.sides[0], rotation[0])) {
            if (model.sides.size() == 1) {
                add({k});
                continue;
            }
            for (const std::size_t v : types_of(model.sides[1], rotation[1])) add({k, v});
        }
    });
    std::ranges::stable_sort(pairs, [](const Known& a, const Known& b) {
        return a.kld != b.kld ? a.kld < b.kld : a.bytes < b.bytes;
    });
    // Rotations that change nothing of a pair leave equal figures behind each other.
    const auto is_equal = [](const Known& a, const Known& b) {
        return a.kld == b.kld && a.mix.type == b.mix.type;
    };
    pairs.erase(std::unique(pairs.begin(), pairs.end(), is_equal), pairs.end());
    std::vector<Mix> best;
    for (std::size_t i = 0; i < std::min(count, pairs.size()); ++i) best.push_back(pairs[i].mix);
    return best;
}

namespace {

// A side in words and as types: the one of most layers, and each of the others with its layers.
struct SideTypes {
    std::size_t usual = 0;
    std::string exceptions;
    std::vector<LayerType> layers;
};

SideTypes side_types(const DamageModel& model, const std::vector<std::size_t>& type, Side side) {
    std::vector<std::vector<int64_t>> layers(model.types.size());
    for (std::size_t g = 0; g < model.groups.size(); ++g) {
        layers[type[g]].insert(layers[type[g]].end(), model.groups[g].begin(),
                               model.groups[g].end());
    }
    SideTypes found;
    found.usual = std::size_t(std::ranges::max_element(layers, {}, &std::vector<int64_t>::size) -
                              layers.begin());
    for (std::size_t t = 0; t < layers.size(); ++t) {
        if (t == found.usual || layers[t].empty()) continue;
        found.exceptions += fmt::format(",{}:{}={}", side == Side::k ? "k" : "v",
                                        list_of_layers(layers[t]), model.types[t].name());
        for (const int64_t layer : layers[t]) found.layers.push_back({side, layer, model.types[t]});
    }
    return found;
}

}  // namespace

Variant variant_of(const DamageModel& model, const Mix& mix) {
    const bool both = model.sides.size() > 1;
    const SideTypes k = side_types(model, mix.type.front(), Side::k);
    const SideTypes v = both ? side_types(model, mix.type.back(), Side::v) : k;
    const AskedRotation& of_k = model.rotations[mix.rotation.front()];
    const AskedRotation& of_v = model.rotations[mix.rotation.back()];
    Variant variant;
    variant.type_k = model.types[k.usual];
    variant.type_v = model.types[v.usual];
    variant.rotation.k = of_k.request.k;
    variant.rotation.v = of_v.request.v;
    variant.placement.layers = k.layers;
    if (both) {
        variant.placement.layers.insert(variant.placement.layers.end(), v.layers.begin(),
                                        v.layers.end());
    }
    variant.name = fmt::format("k={},v={}", variant.type_k.name(), variant.type_v.name());
    variant.name += of_k.text == of_v.text
                        ? fmt::format(",rot={}", of_k.text)
                        : fmt::format(",rot-k={},rot-v={}", of_k.text, of_v.text);
    variant.name += k.exceptions + (both ? v.exceptions : "");
    return variant;
}

}  // namespace rotkv::tools
