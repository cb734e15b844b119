// The Hadamard transform in vectors. Beside ref it adds one idea: a butterfly of half-width h pairs
// channels that differ in bit h of their number, so stages with h < k_lanes stay inside a vector
// (an exchange of lanes) and the others join whole vectors, two stages a pass. Each element still
// goes through the same additions in the same order: every bit equals ref's.
#include "fast/kernels.h"
#include "fast/simd.h"
#include "fast/workspace.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

// The stages H, 2 H, ... below k_lanes. The upper lane of a pair gets a - b as a + (-b), which is
// the same number.
template <unsigned H>
Vec stages_inside(const Vec& v) {
    if constexpr (int64_t(H) < k_lanes) {
        return stages_inside<2 * H>(exchange<H>(v) + negate_upper<H>(v));
    } else {
        return v;
    }
}

// Stages h and 2 h on the four vectors at y, y + h, y + 2 h, y + 3 h: four loads and four stores
// for two stages.
void two_stages(float* y, int64_t h) {
    const Vec a = load(y), b = load(y + h), c = load(y + 2 * h), d = load(y + 3 * h);
    const Vec ab = a + b, ab_ = a - b, cd = c + d, cd_ = c - d;
    store(y, ab + cd);
    store(y + h, ab_ + cd_);
    store(y + 2 * h, ab - cd);
    store(y + 3 * h, ab_ - cd_);
}

void one_stage(float* y, int64_t h) {
    const Vec a = load(y), b = load(y + h);
    store(y, a + b);
    store(y + h, a - b);
}

// A block narrower than a vector: ref's loops.
void narrow_block(float* y, const float* x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale;
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

void hadamard_block(float* y, const float* x, int64_t n, float scale) {
    if (n < k_lanes) return narrow_block(y, x, n, scale);

    // 1 load and scale; the stages inside a vector on the way
    for (int64_t i = 0; i < n; i += k_lanes) store(y + i, stages_inside<1>(load(x + i) * scale));

    // 2 butterflies between vectors
    int64_t h = k_lanes;
    for (; 4 * h <= n; h *= 4) {
        for (int64_t i = 0; i < n; i += 4 * h) {
            for (int64_t j = i; j < i + h; j += k_lanes) two_stages(y + j, h);
        }
    }
    if (h < n) {
        for (int64_t j = 0; j < h; j += k_lanes) one_stage(y + j, h);
    }
}

void flip_signs(float* y, const float* x, const std::vector<float>& signs) {
    const int64_t d = int64_t(signs.size());
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) y[i] = x[i] * signs[size_t(i)];
}

}  // namespace

RowRotation::RowRotation(const Rotation& rotation, int64_t d)
    : d_(d), block_(rotation.on() ? rotation.block : 0), scale_(1.0f) {
    if (block_ > 0) scale_ = rotation_scale(block_);
    if (rotation.kind != Rotation::Kind::signs) return;
    for (int64_t i = 0; i < d; ++i) {
        signs_.push_back(rotation_sign(rotation.seed, rotation.first + i));
    }
}

void RowRotation::forward(float* y, const float* x) const {
    if (block_ == 0) {
        if (y != x) std::copy_n(x, d_, y);
        return;
    }
    if (!signs_.empty()) flip_signs(y, x, signs_);
    const float* from = signs_.empty() ? x : y;
    for (int64_t i = 0; i < d_; i += block_) hadamard_block(y + i, from + i, block_, scale_);
}

void RowRotation::back(float* y, const float* x) const {
    if (block_ == 0) {
        if (y != x) std::copy_n(x, d_, y);
        return;
    }
    for (int64_t i = 0; i < d_; i += block_) hadamard_block(y + i, x + i, block_, scale_);
    if (!signs_.empty()) flip_signs(y, y, signs_);
}

namespace {

// Results larger than this will not be found in a cache by their reader. Written past it, they
// spare the memory the reading of every line that is about to be overwritten.
constexpr int64_t k_stream_bytes = 32 << 20;
constexpr int64_t k_prefetch_bytes = 4096;  // how far ahead of the row at work

bool worth_streaming(const HadamardArgs& args) {
    const TensorView& dst = args.dst;
    constexpr int64_t vector = k_lanes * int64_t(sizeof(float));
    const bool aligned = reinterpret_cast<uintptr_t>(dst.data) % vector == 0 &&
                         (dst.stride[0] | dst.stride[1] | dst.stride[2]) % vector == 0;
    return aligned && dst.data != args.src.data && dst.n[3] % k_lanes == 0 &&
           dst.rows() * dst.n[3] * int64_t(sizeof(float)) > k_stream_bytes;
}

void hadamard_streamed(const HadamardArgs& args, const RowRotation& rotation) {
    const int64_t rows = args.src.rows(), d = args.src.n[3];
    const int64_t ahead = 1 + k_prefetch_bytes / (d * int64_t(sizeof(float)));
#pragma omp parallel
    {
        thread_local Workspace space;
        float* const scratch = space.reserve(d);
#pragma omp for
        for (int64_t r = 0; r < rows; ++r) {
            const float* next = row_number<const float>(args.src, std::min(r + ahead, rows - 1));
            for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(next + i);
            const float* x = row_number<const float>(args.src, r);
            args.inverse ? rotation.back(scratch, x) : rotation.forward(scratch, x);
            float* y = row_number<float>(args.dst, r);
            for (int64_t i = 0; i < d; i += k_lanes) stream(y + i, load(scratch + i));
        }
        stream_fence();
    }
}

}  // namespace

// One thread owns a whole row.
void hadamard(const HadamardArgs& args) {
    const int64_t rows = args.src.rows(), d = args.src.n[3];
    const RowRotation rotation(args.rotation, d);
    if (worth_streaming(args)) return hadamard_streamed(args, rotation);
#pragma omp parallel for if (rows * d >= k_parallel_from)
    for (int64_t r = 0; r < rows; ++r) {
        float* y = row_number<float>(args.dst, r);
        const float* x = row_number<const float>(args.src, r);
        args.inverse ? rotation.back(y, x) : rotation.forward(y, x);
    }
}

}  // namespace rotkv::fast
