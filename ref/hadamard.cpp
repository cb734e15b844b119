// The Hadamard transform in plain loops. Read in this order: hadamard_dense (what it means),
// hadamard_block (how it is computed), hadamard_row (blocks and signs), hadamard (the operation).
#include "ref/hadamard.h"

#include "ref/kernels.h"
#include "ref/quant.h"
#include "ref/rows.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace rotkv::ref {

std::vector<double> hadamard_dense(const std::vector<double>& x) {
    const std::size_t n = x.size();
    const double scale = 1.0 / std::sqrt(double(n));
    std::vector<double> y(n, 0.0);
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
            const bool odd = std::popcount(i & j) % 2 == 1;
            y[i] += odd ? -x[j] : x[j];
        }
        y[i] *= scale;
    }
    return y;
}

void hadamard_block(float* y, const float* x, int64_t n, float scale) {
    // 1 load and scale
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale;

    // 2 butterflies: H_2n = (H_n H_n; H_n -H_n), so each stage joins pairs that lie h apart
    for (int64_t h = 1; h < n; h *= 2) {
        for (int64_t i = 0; i < n; i += 2 * h) {
            for (int64_t j = i; j < i + h; ++j) {
                const float a = y[j], b = y[j + h];
                y[j] = a + b;
                y[j + h] = a - b;
            }
        }
    }
}

// Multiplies channel i by its sign. The first channel of the row is channel `first` of the head.
static void flip_signs(float* y, int64_t d, const Rotation& rotation) {
    for (int64_t i = 0; i < d; ++i) y[i] *= rotation_sign(rotation.seed, rotation.first + i);
}

void hadamard_row(float* y, const float* x, int64_t d, const Rotation& rotation, bool inverse) {
    if (y != x) std::copy(x, x + d, y);
    if (!rotation.on()) return;
    const bool with_signs = rotation.kind == Rotation::Kind::signs;
    const float scale = rotation_scale(rotation.block);

    if (with_signs && !inverse) flip_signs(y, d, rotation);
    for (int64_t i = 0; i < d; i += rotation.block) {
        hadamard_block(y + i, y + i, rotation.block, scale);
    }
    if (with_signs && inverse) flip_signs(y, d, rotation);
}

void hadamard(const HadamardArgs& args) {
    const TensorView &dst = args.dst, &src = args.src;
    const int64_t d = src.n[3];
    if (src.empty()) return;
    std::vector<float> row(static_cast<size_t>(d));
    for_each_row(src, [&](int64_t i0, int64_t i1, int64_t i2) {
        // in f32: exact on the way in, rounded to the rows' type on the way out
        dequantize_row(src.type, row.data(), src.row<const std::byte>(i0, i1, i2), d);
        hadamard_row(row.data(), row.data(), d, args.rotation, args.inverse);
        quantize_row(dst.type, dst.row<std::byte>(i0, i1, i2), row.data(), d);
    });
}

}  // namespace rotkv::ref
