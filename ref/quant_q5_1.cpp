// q5_1: 32 values in 24 bytes (6 bits each), codes 0 .. 31.
//   d = (max - min) / 31     code = trunc((x - min) * (1 / d) + 0.5)
//   stored: f16(d), f16(min) value = f16(d) * code + f16(min)
// q4_1 with a fifth bit in qh. No clamp is needed: 31 plus its rounding errors and 0.5 stays
// below 32. Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

namespace rotkv::ref {

void quantize_block(BlockQ5_1& y, const float* x) {
    const BlockRange range = block_range(x);
    const Step step = block_step((range.max - range.min) / 31.0f);
    const uint16_t minimum = f32_to_f16(range.min);
    if (!range.finite || !finite_f16(step.scale) || !finite_f16(minimum)) {
        y = {k_nan_scale, 0, {}, {}};
        return;
    }
    y = {step.scale, minimum, {}, {}};
    for (int64_t j = 0; j < k_block; ++j) {
        const int code = int((x[j] - range.min) * step.inverse + 0.5f);
        put_nibble(y.qs, j, code);
        put_fifth_bit(y.qh, j, code);
    }
}

void dequantize_block(float* y, const BlockQ5_1& x) {
    const float d = f16_to_f32(x.d), m = f16_to_f32(x.m);
    for (int64_t j = 0; j < k_block; ++j) {
        const int code = nibble(x.qs, j) | fifth_bit(x.qh, j) << 4;
        y[j] = d * float(code) + m;
    }
}

}  // namespace rotkv::ref
