// The keys of a file: read with their ranges checked, and those that have no meaning here.
#include "ref/architecture_keys.h"

#include "ref/architecture.h"
#include "ref/error.h"
#include "ref/files/gguf.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <variant>

namespace rotkv {

Keys::Keys(const GgufFile& file)
    : file_(file), prefix_(std::string(file.get_string("general.architecture")) + ".") {}

bool Keys::has(const std::string& name) const { return file_.find(key(name)) != nullptr; }

int64_t Keys::count(const std::string& name) const {
    return in_range(name, file_.get_u32(key(name)), 1);
}

int64_t Keys::count(const std::string& name, int64_t fallback) const {
    return has(name) ? count(name) : fallback;
}

int64_t Keys::count_or_0(const std::string& name) const {
    return in_range(name, file_.get_u32(key(name)), 0);
}

int64_t Keys::count_or_0(const std::string& name, int64_t fallback) const {
    return has(name) ? count_or_0(name) : fallback;
}

std::vector<int64_t> Keys::per_layer(const std::string& name, int64_t layers) const {
    if (!is_list(name)) return std::vector<int64_t>(size_t(layers), count(name));
    std::vector<int64_t> counts;
    for (const int32_t value : file_.get_i32s(key(name))) {
        counts.push_back(in_range(name, value, 1));
    }
    check_length(name, counts.size(), layers);
    return counts;
}

std::vector<int64_t> Keys::per_layer(const std::string& name,
                                     const std::vector<int64_t>& fallback) const {
    return has(name) ? per_layer(name, int64_t(fallback.size())) : fallback;
}

std::vector<bool> Keys::pattern(const std::string& name, int64_t period, int64_t layers) const {
    std::vector<bool> list;
    if (!is_list(name)) {
        period = count_or_0(name, period);
        for (int64_t l = 0; l < layers; ++l) {
            list.push_back(period == 0 || l % period < period - 1);
        }
        return list;
    }
    const GgufArray& array = std::get<GgufArray>(*file_.find(key(name)));
    if (const auto* flags = std::get_if<std::vector<bool>>(&array)) {
        list = *flags;
    } else {
        for (const int32_t value : file_.get_i32s(key(name))) {
            if (value != 0 && value != 1) {
                refuse(name, "a list of yes and no, 1 and 0", std::to_string(value));
            }
            list.push_back(value == 1);
        }
    }
    check_length(name, list.size(), layers);
    return list;
}

float Keys::number(const std::string& name, float fallback) const {
    const float value = file_.get_f32(key(name), fallback);
    if (!std::isfinite(value)) refuse(name, "a finite number", std::to_string(value));
    return value;
}

float Keys::number_from_0(const std::string& name, float fallback) const {
    const float value = number(name, fallback);
    if (value < 0) refuse(name, "a number of 0 or more", std::to_string(value));
    return value;
}

float Keys::positive(const std::string& name) const {
    return positive(name, file_.get_f32(key(name)));
}

float Keys::positive(const std::string& name, float fallback) const {
    const float value = number(name, fallback);
    if (!(value > 0)) refuse(name, "a number above 0", std::to_string(value));
    return value;
}

std::string_view Keys::word(const std::string& name, std::string_view fallback) const {
    return file_.get_string(key(name), fallback);
}

void Keys::refuse(const std::string& name, const std::string& expected,
                  const std::string& found) const {
    throw Error(ErrorCode::bad_file,
                file_.path() + ": " + key(name) + ": expected " + expected + ", found " + found);
}

void Keys::unsupported(const std::string& name, const std::string& expected,
                       const std::string& found) const {
    throw Error(ErrorCode::unsupported,
                file_.path() + ": " + key(name) + ": expected " + expected + ", found " + found);
}

void Keys::assume(const std::string& name, const std::string& value, ModelConfig& config) const {
    if (has(name)) return;
    config.notices.push_back("no key " + key(name) + ", " + value + " is assumed");
}

bool Keys::is_list(const std::string& name) const {
    const GgufValue* value = file_.find(key(name));
    return value != nullptr && std::holds_alternative<GgufArray>(*value);
}

void Keys::check_length(const std::string& name, size_t found, int64_t layers) const {
    if (int64_t(found) == layers) return;
    refuse(name, std::to_string(layers) + " values, one a layer", std::to_string(found));
}

// Extents beyond this are no model's; below it no product of two of them overflows.
int64_t Keys::in_range(const std::string& name, int64_t value, int64_t least) const {
    constexpr int64_t largest = int64_t(1) << 28;
    if (value >= least && value <= largest) return value;
    refuse(name, std::to_string(least) + " to 268435456", std::to_string(value));
}

namespace {

// A key that some architecture reads, and the values by which it changes nothing.
struct KnownKey {
    const char* name;
    std::vector<double> idle;
};

// As files number it.
double gating_number(Gating gating) { return 1 + double(gating); }

std::vector<KnownKey> known_keys(const ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    const bool fixed = architecture.missing_window == MissingWindow::fixed;
    const double fixed_window = fixed ? double(architecture.window) : 0;
    const bool yarn = config.rope.yarn_ext_factor != 0;
    std::vector<KnownKey> keys = {
        {"attention.clamp_kqv", {0}},
        {"attention.max_alibi_bias", {0}},
        {"attention.output_scale", {0, 1}},
        {"attention.scale", {0, double(config.attention_scale)}},
        {"attention.shared_kv_layers", {0}},
        {"attention.sliding_window", {0, fixed_window}},
        {"attention.temperature_length", {0}},
        {"attention.temperature_scale", {0}},
        {"attention.value_scale", {0, 1}},
        {"attn_logit_softcapping", {0}},
        {"embedding_length_per_layer_input", {0}},
        {"embedding_scale", {0, 1}},
        {"expert_gating_func", {0, gating_number(architecture.experts.gating)}},
        {"expert_weights_norm", {double(architecture.experts.normalise)}},
        {"expert_weights_scale", {0, 1}},
        {"final_logit_softcapping", {0}},
        {"logit_scale", {0, 1}},
        {"residual_scale", {0, 1}},
        {"rope.dimension_sections", {0}},
        {"rope.global.freq_base", {config.rope.base}},
        {"rope.local.freq_base", {config.local_rope.base}},
        {"rope.scaling.alpha", {0}},
        {"rope.scaling.yarn_attn_factor", {1}},
        {"rope.scaling.yarn_ext_factor", {-1, yarn ? 1.0 : 0.0}},
        {"rope.scaling.yarn_log_multiplier", {0}},
        {"router_logit_softcapping", {0}},
        {"swin_norm", {0}},
        {"use_parallel_residual", {0}},
    };
    if (architecture.window_pattern != 0) {  // llama.cpp writes 10000 where it has read none
        keys.push_back({"rope.freq_base_swa", {10000, config.local_rope.base}});
    }
    if (yarn) {
        keys.push_back({"rope.scaling.yarn_beta_fast", {config.rope.yarn_beta_fast}});
        keys.push_back({"rope.scaling.yarn_beta_slow", {config.rope.yarn_beta_slow}});
    }
    return keys;
}

// Whether a value, or each of a list, is one of `idle`, to the precision of an f32.
bool is_idle(const GgufValue& value, const std::vector<double>& idle) {
    const auto listed = [&](const auto& one) {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(one)>>) {
            return std::ranges::any_of(idle, [&](double i) { return float(one) == float(i); });
        }
        return false;
    };
    const auto all_listed = [&](const auto& list) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(list)>, std::monostate>) {
            return std::ranges::all_of(list, listed);
        }
        return false;
    };
    const GgufArray* array = std::get_if<GgufArray>(&value);
    return array != nullptr ? std::visit(all_listed, *array) : std::visit(listed, value);
}

}  // namespace

std::string keys_not_applied(const GgufFile& file, const ModelConfig& config) {
    std::string list;
    for (const KnownKey& known : known_keys(config)) {
        const GgufValue* value =
            file.find(std::string(config.architecture.name) + "." + known.name);
        if (value == nullptr || config.architecture.reads(known.name)) continue;
        if (is_idle(*value, known.idle)) continue;
        list +=
            (list.empty() ? "" : ", ") + std::string(known.name) + " (" + describe(*value) + ")";
    }
    return list;
}

}  // namespace rotkv
