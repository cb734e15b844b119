#include "ref/rotation_words.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <vector>

namespace rotkv {

const char* kind_name(Rotation::Kind kind) {
    switch (kind) {
        case Rotation::Kind::none:
            return "none";
        case Rotation::Kind::sylvester:
            return "sylvester";
        case Rotation::Kind::signs:
            return "signs";
    }
    return "none";
}

// The numbers that follow each other in every spelling: block, seed, first channel; those at the
// end that say nothing are left out.
static std::string numbers(const Rotation& rotation, const char* separator) {
    std::string text = std::to_string(rotation.block);
    if (rotation.kind == Rotation::Kind::signs) {
        text += separator + std::to_string(rotation.seed);
        if (rotation.first != 0) text += separator + std::to_string(rotation.first);
    }
    return text;
}

std::string rotation_name(const Rotation& rotation) {
    return rotation.on() ? numbers(rotation, ":") : kind_name(rotation.kind);
}

std::string rotation_name(const RotationSpec& spec, int64_t layer, Side side) {
    const MatrixPointer& matrix = spec.matrix(layer, side);
    if (!matrix) return rotation_name(spec.at(layer, side));
    char hash[17];
    std::snprintf(hash, sizeof hash, "%016llx", static_cast<unsigned long long>(matrix->hash()));
    return std::string("matrix:") + hash;
}

std::optional<uint64_t> parse_seed(std::string_view text) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::optional<Rotation> parse_rotation(std::string_view text) {
    if (text == kind_name(Rotation::Kind::none)) return Rotation{};
    std::vector<uint64_t> parts;  // block, seed, first channel
    for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(':', begin), text.size());
        const std::optional<uint64_t> part = parse_seed(text.substr(begin, end - begin));
        if (!part) return std::nullopt;
        parts.push_back(*part);
        begin = end + 1;
    }
    if (parts.size() > 3) return std::nullopt;
    Rotation rotation{.kind = Rotation::Kind::sylvester, .block = int64_t(parts[0])};
    if (parts.size() > 1) {
        rotation.kind = Rotation::Kind::signs;
        rotation.seed = parts[1];
    }
    if (parts.size() > 2) rotation.first = int64_t(parts[2]);
    const bool fits = rotation.block >= 0 && rotation.first >= 0;
    return fits ? std::optional(rotation) : std::nullopt;
}

std::string describe(const RotationSpec& spec, int64_t layer, Side side) {
    const Rotation& rotation = spec.at(layer, side);
    const std::string why = " (" + spec.reason(layer, side) + ")";
    if (const MatrixPointer& matrix = spec.matrix(layer, side)) {
        return matrix->words() + ", " + rotation_name(spec, layer, side) + why;
    }
    if (!rotation.on()) return "off" + why;
    std::string text =
        std::string(kind_name(rotation.kind)) + ", block " + std::to_string(rotation.block);
    if (rotation.kind == Rotation::Kind::signs) text += ", seed " + std::to_string(rotation.seed);
    return text + why;
}

std::string saved_words(const RotationSpec& spec, int64_t layer) {
    const auto words = [&](Side side) {
        const Rotation& rotation = spec.at(layer, side);
        if (spec.matrix(layer, side)) return rotation_name(spec, layer, side);
        const std::string kind = kind_name(rotation.kind);
        return rotation.on() ? kind + "/" + numbers(rotation, "/") : kind;
    };
    return "k=" + words(Side::k) + " v=" + words(Side::v);
}

}  // namespace rotkv
