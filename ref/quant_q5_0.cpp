// q5_0: 32 values in 22 bytes (5.5 bits each), codes 0 .. 31.
//   m = the first element of largest magnitude        d = m / -16
//   code = min(31, trunc(x * (1 / d) + 16.5))
//   stored: f16(d)           value = f16(d) * (code - 16)
// q4_0 with a fifth bit: the low four bits of the codes lie as there, the fifth ones in qh.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

#include <algorithm>

namespace rotkv::ref {

void quantize_block(BlockQ5_0& y, const float* x) {
    const BlockRange range = block_range(x);
    const Step step = block_step(range.peak / -16.0f);
    if (!range.finite || !finite_f16(step.scale)) {
        y = {k_nan_scale, {}, {}};
        return;
    }
    y = {step.scale, {}, {}};
    for (int64_t j = 0; j < k_block; ++j) {
        const int code = std::min(31, int(x[j] * step.inverse + 16.5f));
        put_nibble(y.qs, j, code);
        put_fifth_bit(y.qh, j, code);
    }
}

void dequantize_block(float* y, const BlockQ5_0& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t j = 0; j < k_block; ++j) {
        const int code = nibble(x.qs, j) | fifth_bit(x.qh, j) << 4;
        y[j] = d * float(code - 16);
    }
}

}  // namespace rotkv::ref
