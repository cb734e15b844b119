// iq4_nl: 32 values in 18 bytes (4.5 bits each), codes 0 .. 15 of the uneven k_iq4_levels L.
//   m = the first element of largest magnitude        d = m / -127
//   code = the level nearest to x * (1 / d), of two equally near ones the larger
//   stored: f16(s), s = sum w L x / sum w L L with w = x * x and L = L[code]
//   value = f16(s) * L[code]
// d only picks the codes; s is the scale that then fits them best, where an element counts by its
// square. This is ggml's search with ntry = -1, that is, without trying other d.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

#include <cmath>

namespace rotkv::ref {
namespace {

// The levels rise with the code, so "<=" gives a tie to the larger.
int nearest_level(float x) {
    int code = 0;
    for (int c = 1; c < 16; ++c) {
        if (std::fabs(x - float(k_iq4_levels[c])) <= std::fabs(x - float(k_iq4_levels[code]))) {
            code = c;
        }
    }
    return code;
}

}  // namespace

void quantize_block(BlockIq4Nl& y, const float* x) {
    const BlockRange range = block_range(x);
    const bool tiny = std::fabs(range.peak) < k_iq4_nl_tiny;
    const float inverse = tiny ? 0.0f : 1.0f / (range.peak / -127.0f);
    y = {0, {}};
    float sum_lx = 0.0f, sum_ll = 0.0f;  // f32 in index order, because the bytes must equal ggml's
    for (int64_t j = 0; j < k_block; ++j) {
        const int code = tiny ? 8 : nearest_level(x[j] * inverse);
        put_nibble(y.qs, j, code);
        const float level = float(k_iq4_levels[code]);
        const float weight = x[j] * x[j];
        sum_lx += weight * level * x[j];
        sum_ll += weight * level * level;
    }
    if (!tiny) y.d = f32_to_f16(sum_lx / sum_ll);
    if (!range.finite || !finite_f16(y.d)) y = {k_nan_scale, {}};
}

void dequantize_block(float* y, const BlockIq4Nl& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t j = 0; j < k_block; ++j) y[j] = d * float(k_iq4_levels[nibble(x.qs, j)]);
}

}  // namespace rotkv::ref
