// iq4_xs: 256 values in 136 bytes (4.25 bits each), a format of weights, read only.
//   value = d * (sc - 32) * k_iq4_levels[code], eight sub-blocks of 32
// Scale s has its low nibble in scales_l[s / 2], two to a byte, and its high two bits in
// scales_h, eight to the word. The codes of a sub-block lie as those of iq4_nl.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

namespace rotkv::ref {

void dequantize_block(float* y, const BlockIq4Xs& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t s = 0; s < k_super / k_block; ++s) {
        const int low = x.scales_l[s / 2] >> (s % 2 * 4) & 15;
        const int high = x.scales_h >> (s * 2) & 3;
        const float scale = d * float((low | high << 4) - 32);
        for (int64_t j = 0; j < k_block; ++j) {
            const int code = nibble(x.qs + s * k_block / 2, j);
            y[s * k_block + j] = scale * float(k_iq4_levels[code]);
        }
    }
}

}  // namespace rotkv::ref
