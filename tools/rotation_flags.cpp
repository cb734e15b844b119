#include "tools/rotation_flags.h"

#include "ref/error.h"
#include "ref/rotation_words.h"
#include "tools/notes.h"
#include "tools/rotation_of_both.h"

#include <fmt/format.h>

#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

namespace rotkv::tools {

using Mode = RotationRequest::Mode;

std::optional<RotationRequest::PerSide> find_rotation(const std::string& origin,
                                                      const std::string& text) {
    if (const auto side = parse_request(text, origin)) return side;
    try {
        if (auto matrix = find_matrix_source(text)) {
            return RotationRequest::PerSide{
                .mode = Mode::matrix, .origin = origin, .matrix = std::move(matrix)};
        }
    } catch (const Error& error) {
        if (error.code() != ErrorCode::usage) throw;
        throw Error(ErrorCode::usage, origin + ": " + error.what());
    }
    return std::nullopt;
}

RotationRequest::PerSide parse_rotation_flag(const std::string& flag, const std::string& text) {
    if (const auto side = find_rotation(flag, text)) return *side;
    throw Error(ErrorCode::usage,
                flag + ": expected " + rotation_choices() + ", found '" + text + "'");
}

std::string rotation_choices() {
    return std::string("auto, off, on, a block size, BLOCK:SEED, ") + k_matrix_choices;
}

AskedRotation parse_asked_rotation(const std::string& flag, const std::string& text) {
    if (const auto request = find_rotation_of_both(flag, text)) return {text, *request};
    throw Error(ErrorCode::usage,
                flag + ": expected " + rotation_choices_of_both() + ", found '" + text + "'");
}

RotationRequest rotation_from_environment() {
    RotationRequest request;
    const char* disable = std::getenv("LLAMA_ATTN_ROT_DISABLE");
    if (disable != nullptr && std::atoi(disable) != 0) {
        request = RotationRequest::both({.mode = Mode::off, .origin = "LLAMA_ATTN_ROT_DISABLE"});
    }
    const auto override_side = [](const char* name, RotationRequest::PerSide& side) {
        const char* value = std::getenv(name);
        if (value == nullptr) return;
        const std::string_view text = value;
        if (text != "0" && text != "1") {
            throw Error(ErrorCode::usage,
                        std::string(name) + ": expected 0 or 1, found '" + value + "'");
        }
        side = {.mode = text == "1" ? Mode::on : Mode::off, .origin = name};
    };
    override_side("LLAMA_ATTN_ROT_K_OVERRIDE", request.k);
    override_side("LLAMA_ATTN_ROT_V_OVERRIDE", request.v);
    return request;
}

void note_on_environment(const std::string& tool) {
    const char* value = std::getenv("LLAMA_ATTN_ROT_DISABLE");
    if (value == nullptr) return;
    const std::string_view text = value;
    if (text.find_first_not_of("0123456789") == std::string_view::npos) return;
    for (const char* no : {"no", "off", "false"}) {
        if (text == no) return;  // 0, as it says
    }
    const int number = std::atoi(value);
    say_note(tool, fmt::format("LLAMA_ATTN_ROT_DISABLE={} counts as {}, as in llama.cpp: rotation "
                               "is {}",
                               value, number, number != 0 ? "off" : "not turned off"));
}

// Whether signs would be drawn for a side.
static bool takes_signs(const RotationRequest::PerSide& side, const CacheType& type) {
    switch (side.mode) {
        case Mode::off:
            return false;
        case Mode::automatic:
            return type.quantized() && type.unrotated_because().empty();
        case Mode::on:
            return true;
        case Mode::matrix:
            return false;
        case Mode::value:
            break;
    }
    return side.value.kind == Rotation::Kind::sylvester;
}

void require_use_of_signs(const std::string& where, const RotationRequest& request,
                          const CacheType& type_k, const CacheType& type_v) {
    if (!request.signs || takes_signs(request.k, type_k) || takes_signs(request.v, type_v)) return;
    const auto words = [](const char* name, const RotationRequest::PerSide& side,
                          const CacheType& type) {
        return std::string(name) + " " + type.name() + " (" + side.origin + ")";
    };
    throw Error(ErrorCode::usage,
                where + ": expected a rotated side that takes these signs, found " +
                    words("K", request.k, type_k) + " and " + words("V", request.v, type_v));
}

using Json = nlohmann::ordered_json;

static Json json_of_side(const RotationSpec& spec, int64_t layer, Side side) {
    const Rotation& rotation = spec.at(layer, side);
    if (const MatrixPointer& matrix = spec.matrix(layer, side)) {
        return {{"kind", "matrix"},
                {"matrix", matrix->words()},
                {"hash", rotation_name(spec, layer, side)},
                {"reason", spec.reason(layer, side)}};
    }
    return {{"kind", kind_name(rotation.kind)},
            {"block", rotation.block},
            {"seed", rotation.seed},
            {"reason", spec.reason(layer, side)}};
}

Json json_of(const RotationSpec& spec) {
    Json layers;
    for (int64_t l = 0; l < spec.entries(); ++l) {
        layers.push_back(
            {{"k", json_of_side(spec, l, Side::k)}, {"v", json_of_side(spec, l, Side::v)}});
    }
    return spec.entries() == 1 ? layers[0] : layers;
}

}  // namespace rotkv::tools
