#include "ref/rotation.h"

#include "ref/error.h"
#include "ref/random.h"

#include <cmath>
#include <utility>

namespace rotkv {

float rotation_sign(uint64_t seed, int64_t i) {
    return (splitmix64(seed, uint64_t(i)) >> 63) != 0 ? -1.0f : 1.0f;
}

float rotation_scale(int64_t block) { return 1.0f / std::sqrt(float(block)); }

RotationSpec::RotationSpec(std::vector<Layer> layers) : layers_(std::move(layers)) {
    require(!layers_.empty(), ErrorCode::bad_argument,
            "rotation: expected one entry a layer, at least one, found none");
    for (const Layer& layer : layers_) {
        require((!layer.k_matrix || !layer.k.on()) && (!layer.v_matrix || !layer.v.on()),
                ErrorCode::bad_argument,
                "rotation: expected a matrix or a rotation that kernels compute, found both");
    }
    while (layers_.size() > 1 && layers_.back() == layers_[layers_.size() - 2]) layers_.pop_back();
}

bool RotationSpec::operator==(const RotationSpec& other) const {
    for (int64_t l = 0; l < std::max(entries(), other.entries()); ++l) {
        for (const Side side : {Side::k, Side::v}) {
            if (at(l, side) != other.at(l, side)) return false;
            if (!same_matrix(matrix(l, side), other.matrix(l, side))) return false;
        }
    }
    return true;
}

}  // namespace rotkv
