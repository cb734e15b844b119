#include "ref/rotation_policy.h"

#include "ref/error.h"
#include "ref/rotation_words.h"

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
    MatrixPointer matrix = {};
};

/// Of a latent row: its latent and what turns behind it are whole blocks in every model known.
constexpr int64_t k_latent_block = 64;

constexpr const char* k_no_cache = "no cache";

int64_t largest_power_of_two_divisor(int64_t n) { return n & -n; }

// Random signs first, where they are asked for and the rotation does not name its own.
Rotation with_signs(Rotation rotation, std::optional<uint64_t> signs) {
    if (!signs || rotation.kind != Rotation::Kind::sylvester) return rotation;
    rotation.kind = Rotation::Kind::signs;
    rotation.seed = *signs;
    return rotation;
}

Decision by_matrix(const PerSide& asked, const MatrixPlace& place) {
    try {
        return {Rotation{}, asked.origin, asked.matrix->at(place)};
    } catch (const Error& error) {
        throw Error(error.code(),
                    asked.origin + ": " + asked.matrix->words() + ": " + error.what());
    }
}

// The rule of one side. `policy_block` is the block that `automatic` and `on` take.
Decision decide_side(const PerSide& asked, std::optional<uint64_t> signs, const CacheType& type,
                     const MatrixPlace& place, int64_t policy_block) {
    const int64_t d = place.d();
    const std::string head = "D = " + std::to_string(d);
    const std::string type_name = type.name();
    const auto rotate = [&](const Rotation& rotation, const std::string& reason) {
        return Decision{with_signs(rotation, signs), reason};
    };
    const Rotation by_policy{.kind = Rotation::Kind::sylvester, .block = policy_block};
    switch (asked.mode) {
        case Mode::off:
            return {Rotation{}, asked.origin};
        case Mode::automatic:
            if (!type.quantized())
                return {Rotation{}, "policy: " + type_name + " is not quantized"};
            if (const std::string why = type.unrotated_because(); !why.empty())
                return {Rotation{}, "policy: " + type_name + " " + why};
            if (d % 64 != 0) return {Rotation{}, "policy: " + head + " is no multiple of 64"};
            return rotate(by_policy, "policy: " + type_name + " is quantized, " + head);
        case Mode::matrix:
            return by_matrix(asked, place);
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

// Values, or a latent row, that the model's weights have turned: nothing more by itself; what is
// asked for comes on top.
Decision beside_weights(Decision decision, const Rotation& in_weights, const PerSide& asked) {
    if (!in_weights.on()) return decision;
    const std::string before = rotation_name(in_weights) + " in the weights";
    if (asked.mode == Mode::automatic) return {Rotation{}, "policy: rotated, " + before};
    decision.reason += ", beside " + before;
    return decision;
}

// K of a row in which V lies: one latent for all heads (MLA). llama.cpp says that it rotates such a
// cache too, and does not where queries have absorbed K's matrix.
Decision decide_latent(const RotationRequest& request, const KvLayer& layer, MatrixPlace place) {
    const int64_t behind = layer.d_k - layer.v_first - layer.d_v;
    place.parts.clear();
    for (const int64_t part : {layer.v_first, layer.d_v, behind}) {
        if (part > 0) place.parts.push_back(part);
    }
    if (request.k.mode == Mode::automatic && layer.type_k.quantized()) {
        return {Rotation{}, "policy: a latent row, as llama.cpp leaves it"};
    }
    return decide_side(request.k, request.signs, layer.type_k, place, k_latent_block);
}

// What a request for V asks of a row that K's rotation turns.
Rotation asked_of_view(const RotationRequest& request, const Rotation& k) {
    switch (request.v.mode) {
        case Mode::automatic:
            return k;
        case Mode::off:
        case Mode::matrix:
            return {};
        case Mode::on:
            return with_signs({.kind = Rotation::Kind::sylvester, .block = k_latent_block},
                              request.signs);
        case Mode::value:
            break;
    }
    return with_signs(request.v.value, request.signs);
}

// Matrices of a row, or a matrix asked for V: what is asked of V must be what K has.
bool asks_as_matrix(const RotationRequest& request, const Decision& k) {
    if (request.v.mode == Mode::automatic) return true;
    if (request.v.mode != Mode::matrix) return k.matrix == nullptr;
    return k.matrix != nullptr && request.v.matrix->words() == request.k.matrix->words();
}

// V as a view of rows that matrices turn: what they do to its channels.
Decision decide_view_matrix(const RotationRequest& request, const KvLayer& layer,
                            const Decision& k) {
    if (!k.matrix->splits_at(layer.v_first, layer.d_v)) {
        throw Error(ErrorCode::usage,
                    request.k.origin + ": V is K's channels " + std::to_string(layer.v_first) +
                        " to " + std::to_string(layer.v_first + layer.d_v - 1) +
                        " in this model, " + k.matrix->words() + " mixes them with others");
    }
    return {Rotation{}, "V is a view of K; " + k.reason,
            std::make_shared<const RotationMatrix>(k.matrix->part(layer.v_first, layer.d_v))};
}

// V as a view of K: what K was given, if the view begins and ends where K's blocks do.
Decision decide_view(const RotationRequest& request, const KvLayer& layer, const Decision& k) {
    if (layer.type_k != layer.type_v) {
        throw Error(ErrorCode::unsupported,
                    "V is a part of K's rows in this model (latent attention): expected one cache "
                    "type for both, found two");
    }
    if (asked_of_view(request, k.rotation) != k.rotation || !asks_as_matrix(request, k)) {
        const std::string name = k.matrix ? k.matrix->words() : rotation_name(k.rotation);
        throw Error(ErrorCode::usage, request.v.origin +
                                          ": V is a part of K's rows in this model and takes K's "
                                          "rotation, " +
                                          name + " (" + k.reason + ")");
    }
    if (k.matrix) return decide_view_matrix(request, layer, k);
    const int64_t block = k.rotation.on() ? k.rotation.block : 1;
    if (layer.v_first % block != 0 || layer.d_v % block != 0) {
        throw Error(ErrorCode::usage,
                    request.k.origin + ": V is K's channels " + std::to_string(layer.v_first) +
                        " to " + std::to_string(layer.v_first + layer.d_v - 1) +
                        " in this model, expected whole blocks of " + std::to_string(block));
    }
    Decision v{k.rotation, "V is a view of K; " + k.reason};
    if (v.rotation.kind == Rotation::Kind::signs) v.rotation.first = layer.v_first;
    return v;
}

RotationSpec::Layer entry(const Decision& k, const Decision& v) {
    return {.k = k.rotation,
            .v = v.rotation,
            .k_reason = k.reason,
            .v_reason = v.reason,
            .k_matrix = k.matrix,
            .v_matrix = v.matrix};
}

// V is K's: one latent row.
RotationSpec::Layer decide_row(const RotationRequest& request, const KvLayer& layer,
                               const MatrixPlace& place) {
    const Decision k =
        beside_weights(decide_latent(request, layer, place), layer.in_weights, request.k);
    return entry(k, decide_view(request, layer, k));
}

RotationSpec::Layer decide_layer(const RotationRequest& request, const KvLayer& layer,
                                 MatrixPlace place) {
    if (layer.kv_heads == 0) return {.k_reason = k_no_cache, .v_reason = k_no_cache};
    place.kv_heads = layer.kv_heads;
    if (layer.v_in_k) return decide_row(request, layer, place);
    place.parts = {layer.d_k};
    const Decision k = decide_side(request.k, request.signs, layer.type_k, place,
                                   largest_power_of_two_divisor(layer.d_k));
    place.parts = {layer.d_v};
    const Decision v =
        beside_weights(decide_side(request.v, request.signs, layer.type_v, place, 64),
                       layer.in_weights, request.v);
    return entry(k, v);
}

// Whoever asks for random signs gets some.
void require_signs(const std::vector<RotationSpec::Layer>& layers) {
    const RotationSpec::Layer* some = &layers.front();  // a layer with a cache
    for (const RotationSpec::Layer& layer : layers) {
        if (layer.k.kind == Rotation::Kind::signs || layer.v.kind == Rotation::Kind::signs) return;
        if (some->k_reason == k_no_cache) some = &layer;
    }
    throw Error(ErrorCode::usage, "signs: expected a rotated side that takes them, found K off (" +
                                      some->k_reason + "), V off (" + some->v_reason + ")");
}

}  // namespace

RotationSpec decide_rotation(const RotationRequest& request, const KvShape& shape) {
    std::vector<RotationSpec::Layer> layers;
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[size_t(l)];
        const MatrixPlace place{.layer = layer.source.value_or(l), .layers = shape.n_layers()};
        layers.push_back(decide_layer(request, layer, place));
    }
    if (request.signs) require_signs(layers);
    return RotationSpec(std::move(layers));
}

}  // namespace rotkv
