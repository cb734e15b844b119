#pragma once
// Rotations for tests, written as everywhere else.
// Docs: docs/04-kv-cache.md

#include "ref/rotation_words.h"

#include <string>
#include <string_view>

namespace rotkv::test {

/// "k=64 v=64:7": both sides, alike in every layer.
inline RotationSpec spec_of(std::string_view text) {
    const size_t space = text.find(' ');
    return RotationSpec::of(parse_rotation(text.substr(2, space - 2)).value(),
                            parse_rotation(text.substr(space + 3)).value());
}

/// The same text again, of a cache whose layers are all alike.
inline std::string words_of(const RotationSpec& spec) {
    return "k=" + rotation_name(spec.at(0, Side::k)) + " v=" + rotation_name(spec.at(0, Side::v));
}

}  // namespace rotkv::test
