// q4_1: 32 values in 20 bytes (5 bits each), codes 0 .. 15.
//   d = (max - min) / 15     code = min(15, trunc((x - min) * (1 / d) + 0.5))
//   stored: f16(d), f16(min) value = f16(d) * code + f16(min)
// Codes are made with the f32 minimum; only what is stored is rounded to f16.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

#include <algorithm>

namespace rotkv::ref {

void quantize_block(BlockQ4_1& y, const float* x) {
    const BlockRange range = block_range(x);
    const Step step = block_step((range.max - range.min) / 15.0f);
    const uint16_t minimum = f32_to_f16(range.min);
    if (!range.finite || !finite_f16(step.scale) || !finite_f16(minimum)) {
        y = {k_nan_scale, 0, {}};
        return;
    }
    y = {step.scale, minimum, {}};
    for (int64_t j = 0; j < k_block; ++j) {
        put_nibble(y.qs, j, std::min(15, int((x[j] - range.min) * step.inverse + 0.5f)));
    }
}

void dequantize_block(float* y, const BlockQ4_1& x) {
    const float d = f16_to_f32(x.d), m = f16_to_f32(x.m);
    for (int64_t j = 0; j < k_block; ++j) y[j] = d * float(nibble(x.qs, j)) + m;
}

}  // namespace rotkv::ref
