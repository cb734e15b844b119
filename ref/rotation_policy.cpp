#include "ref/rotation_policy.h"

#include "ref/error.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace rotkv {

using Mode = RotationRequest::Mode;
using PerSide = RotationRequest::PerSide;

std::optional<PerSide> parse_request(std::string_view text, const std::string& origin) {
    if (text == "auto") return PerSide{};
    if (text == "off") return PerSide{.mode = Mode::off, .origin = origin};
    if (text == "on") return PerSide{.mode = Mode::on, .origin = origin};
    const std::optional<Rotation> value = parse_rotation(text);
    if (!value || !value->on() || value->first != 0) return std::nullopt;
    return PerSide{.mode = Mode::value, .value = *value, .origin = origin};
}

namespace {

struct Decision {
    Rotation rotation;
    std::string reason;
};

int64_t largest_power_of_two_divisor(int64_t n) { return n & -n; }

// The rule of one side. `policy_block` is the block that `automatic` and `on` take.
Decision decide_side(const PerSide& asked, std::optional<uint64_t> signs, DType type, int64_t d,
                     int64_t policy_block) {
    const std::string head = "D = " + std::to_string(d);
    const std::string type_name = type_info(type).name;
    const auto rotate = [&](Rotation rotation, const std::string& reason) {
        if (signs && rotation.kind == Rotation::Kind::sylvester) {
            rotation.kind = Rotation::Kind::signs;
            rotation.seed = *signs;
        }
        return Decision{rotation, reason};
    };
    const Rotation by_policy{.kind = Rotation::Kind::sylvester, .block = policy_block};
    switch (asked.mode) {
        case Mode::off:
            return {Rotation{}, asked.origin};
        case Mode::automatic:
            if (!is_block_type(type))
                return {Rotation{}, "policy: " + type_name + " is not quantized"};
            if (d % 64 != 0) return {Rotation{}, "policy: " + head + " is no multiple of 64"};
            return rotate(by_policy, "policy: " + type_name + " is quantized, " + head);
        case Mode::on:
            if (d % 64 != 0) {
                throw Error(ErrorCode::usage, asked.origin +
                                                  ": 'on' needs a head size that is a "
                                                  "multiple of 64, found " +
                                                  head);
            }
            return rotate(by_policy, asked.origin);
        case Mode::value:
            break;
    }
    if (!asked.value.fits(d)) {
        throw Error(ErrorCode::usage, asked.origin + ": expected a power of two that divides " +
                                          head + ", found " + std::to_string(asked.value.block));
    }
    return rotate(asked.value, asked.origin);
}

// V as a view of K: what K was given, if the view begins and ends where K's blocks do.
Decision decide_view(const RotationRequest& request, const KvLayer& layer, const Decision& k) {
    const bool differs = request.v.mode != Mode::automatic &&
                         (request.v.mode != request.k.mode || request.v.value != request.k.value);
    if (differs) {
        throw Error(ErrorCode::usage,
                    request.v.origin + ": V is a view of K here and takes K's rotation");
    }
    const int64_t step = std::max<int64_t>(k.rotation.on() ? k.rotation.block : 1,
                                           type_info(layer.type_k).block_elements);
    if (layer.v_first % step != 0 || layer.d_v % step != 0) {
        throw Error(ErrorCode::usage,
                    "V is a view of K's channels " + std::to_string(layer.v_first) + " .. " +
                        std::to_string(layer.v_first + layer.d_v) +
                        ", expected borders of blocks of " + std::to_string(step));
    }
    Decision v{k.rotation, "V is a view of K; " + k.reason};
    if (v.rotation.kind == Rotation::Kind::signs) v.rotation.first = layer.v_first;
    return v;
}

RotationSpec::Layer decide_layer(const RotationRequest& request, const KvLayer& layer) {
    if (layer.kv_heads == 0) return {.k_reason = "no cache", .v_reason = "no cache"};
    const Decision k = decide_side(request.k, request.signs, layer.type_k, layer.d_k,
                                   largest_power_of_two_divisor(layer.d_k));
    const Decision v = layer.v_in_k
                           ? decide_view(request, layer, k)
                           : decide_side(request.v, request.signs, layer.type_v, layer.d_v, 64);
    return {.k = k.rotation, .v = v.rotation, .k_reason = k.reason, .v_reason = v.reason};
}

}  // namespace

RotationSpec decide_rotation(const RotationRequest& request, const KvShape& shape) {
    std::vector<RotationSpec::Layer> layers;
    for (const KvLayer& layer : shape.layers) layers.push_back(decide_layer(request, layer));
    return RotationSpec(std::move(layers));
}

}  // namespace rotkv
