// Scales of blocks as f32, by the bits that a file holds.
#include "fast/simd.h"

#include <bit>

namespace rotkv::fast {

ScaleValues::ScaleValues() {
    for (uint32_t x = 0; x < 1 << 16; ++x) f16[x] = f16_to_f32(uint16_t(x));
    // 2^(e - 128) by its bits; the two smallest have no place for an exponent.
    for (uint32_t e = 0; e < 1 << 8; ++e) {
        mxfp4[e] = std::bit_cast<float>(e > 1 ? (e - 1) << 23 : uint32_t(0x200000) << e);
    }
}

const ScaleValues k_scale_values;

}  // namespace rotkv::fast
