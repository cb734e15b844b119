#include "ref/rotation.h"

#include "ref/random.h"

#include <cmath>

namespace rotkv {

float rotation_sign(uint64_t seed, int64_t i) {
    return (splitmix64(seed, uint64_t(i)) >> 63) != 0 ? -1.0f : 1.0f;
}

float rotation_scale(int64_t block) { return 1.0f / std::sqrt(float(block)); }

bool RotationSpec::operator==(const RotationSpec& other) const {
    const size_t layers = std::max(layers_.size(), other.layers_.size());
    for (int64_t l = 0; l < int64_t(layers); ++l) {
        for (const Side side : {Side::k, Side::v}) {
            if (at(l, side) != other.at(l, side)) return false;
        }
    }
    return true;
}

}  // namespace rotkv
