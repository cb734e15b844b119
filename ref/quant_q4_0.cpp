// q4_0: 32 values in 18 bytes (4.5 bits each), codes 0 .. 15.
//   m = the first element of largest magnitude        d = m / -8
//   code = min(15, trunc(x * (1 / d) + 8.5))
//   stored: f16(d)           value = f16(d) * (code - 8)
// The levels are -8 .. 7 steps; the sign of d turns them so that m lies on the longer side.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

#include <algorithm>

namespace rotkv::ref {

void quantize_block(BlockQ4_0& y, const float* x) {
    const BlockRange range = block_range(x);
    const Step step = block_step(range.peak / -8.0f);
    if (!range.finite || !finite_f16(step.scale)) {
        y = {k_nan_scale, {}};
        return;
    }
    y = {step.scale, {}};
    for (int64_t j = 0; j < k_block; ++j) {
        put_nibble(y.qs, j, std::min(15, int(x[j] * step.inverse + 8.5f)));
    }
}

void dequantize_block(float* y, const BlockQ4_0& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t j = 0; j < k_block; ++j) y[j] = d * float(nibble(x.qs, j) - 8);
}

}  // namespace rotkv::ref
