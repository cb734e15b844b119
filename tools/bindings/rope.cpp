#include "tools/bindings/rope.h"

#include <cmath>

namespace rotkv::bindings {

static double number_or(double given, double usual, const char* name) {
    if (!std::isfinite(given) || given < 0) refuse(name, "0 or more", std::to_string(given));
    return given == 0 ? usual : given;
}

RopeConfig rope_of(const rotkv_rope_config* given) {
    const rotkv_rope_config config = known_part(given, "config");
    require_number("config.pairs", config.pairs, ROTKV_PAIRS_NORM, ROTKV_PAIRS_NEOX);
    require_number("config.n_rot", config.n_rot, 0, 1 << 20);
    require_number("config.original_context", config.original_context, 0, int64_t(1) << 40);
    if (config.n_rot % 2 != 0)
        refuse("config.n_rot", "an even number", std::to_string(config.n_rot));
    RopeConfig rope;
    rope.pairs = config.pairs == ROTKV_PAIRS_NORM ? RopePairs::norm : RopePairs::neox;
    rope.n_rot = config.n_rot;
    rope.base = number_or(config.base, rope.base, "config.base");
    if (config.frequency_factors != nullptr) {
        const float* factors = config.frequency_factors;
        rope.frequency_factors.assign(factors, factors + config.n_rot / 2);
    }
    rope.linear_factor = number_or(config.linear_factor, 1, "config.linear_factor");
    rope.yarn_ext_factor = number_or(config.yarn_ext_factor, 0, "config.yarn_ext_factor");
    rope.yarn_attn_factor = number_or(config.yarn_attn_factor, 1, "config.yarn_attn_factor");
    rope.yarn_beta_fast = number_or(config.yarn_beta_fast, 32, "config.yarn_beta_fast");
    rope.yarn_beta_slow = number_or(config.yarn_beta_slow, 1, "config.yarn_beta_slow");
    rope.original_context = config.original_context;
    if (rope.yarn_ext_factor == 0 &&
        (rope.yarn_beta_fast != 32 || rope.yarn_beta_slow != 1 || rope.original_context != 0)) {
        refuse(
            "config.yarn_ext_factor",
            "more than 0 beside yarn_beta_fast, yarn_beta_slow or original_context, which change "
            "nothing without",
            "0");
    }
    return rope;
}

}  // namespace rotkv::bindings
