// q8_0: 32 values in 34 bytes (8.5 bits each), codes -127 .. 127.
//   d = max |x| / 127        code = round(x * (1 / d)), halves away from zero
//   stored: f16(d)           value = f16(d) * code
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

#include <cmath>

namespace rotkv::ref {

void quantize_block(BlockQ8_0& y, const float* x) {
    const BlockRange range = block_range(x);
    const Step step = block_step(std::fabs(range.peak) / 127.0f);
    if (!range.finite || !finite_f16(step.scale)) {
        y = {k_nan_scale, {}};
        return;
    }
    y.d = step.scale;
    for (int64_t j = 0; j < k_block; ++j) y.qs[j] = int8_t(std::round(x[j] * step.inverse));
}

void dequantize_block(float* y, const BlockQ8_0& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t j = 0; j < k_block; ++j) y[j] = d * float(x.qs[j]);
}

}  // namespace rotkv::ref
