// mxfp4: 32 values in 17 bytes (4.25 bits each), a format of weights, read only.
//   value = 2^(e - 128) * k_mxfp4_levels[code]
// The OCP format scales {0, .5, 1, 1.5, 2, 3, 4, 6} by 2^(e - 127); here the levels are doubled to
// be integers and the scale is halved. As in ggml, e = 255 is no NaN but the power that it says.
// Docs: docs/03-quantization.md

#include "ref/quant.h"

#include <cmath>

namespace rotkv::ref {

void dequantize_block(float* y, const BlockMxfp4& x) {
    const float scale = std::ldexp(1.0f, int(x.e) - 128);
    for (int64_t j = 0; j < k_block; ++j) y[j] = scale * float(k_mxfp4_levels[nibble(x.qs, j)]);
}

}  // namespace rotkv::ref
