// The Hadamard transform as a ladder: four versions of one operation, to be read in this order.
// In all of them each element goes through ref's additions in ref's order, so that every bit equals
// ref's; what changes is when, and where the values lie meanwhile.
//
// Speed in units of memcpy (bytes read + written), 256 MiB of rows, 2 cores with AVX-512:
//                    apart, N = 64  128  256  512     in place, 64  128  256  512
//   1 loops                   0.30 0.33 0.35 0.30             0.30 0.34 0.35 0.34
//   2 vectors                 0.78 0.98 0.96 0.89             1.06 1.23 1.04 1.10
//   3 registers               0.86 0.90 0.79 0.82             1.22 1.44 1.01 1.55
//   4 memory                  1.12 1.30 1.27 1.16             1.26 1.63 1.51 1.68
// With 768 MiB, where that memcpy itself writes past the caches, version 4 reaches 0.64 0.82 0.80
// 0.66 and in place 0.78 1.03 0.94 1.02. In the L1 and L2 caches (64 KiB) 3 is 1.4 to 1.7 times 2.
//
// A row of f16 or bf16 becomes f32 in the L1 cache, is rotated there, and rounded on the way out.
#include "fast/kernels.h"
#include "fast/ladder.h"
#include "fast/simd.h"
#include "fast/workspace.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

// One block, as every version computes it: y = H x, n channels; y may be x.
using Block = void (*)(float* y, const float* x, int64_t n, float scale);

// How a row is cut.
struct Blocks {
    Block block;
    int64_t d, n;
    float scale;
};

std::vector<float> row_signs(const Rotation& rotation, int64_t d) {
    std::vector<float> signs;  // the diagonal S; empty where it is the identity
    if (rotation.kind != Rotation::Kind::signs) return signs;
    for (int64_t i = 0; i < d; ++i) {
        signs.push_back(rotation_sign(rotation.seed, rotation.first + i));
    }
    return signs;
}

void flip_signs(float* y, const float* x, const std::vector<float>& signs) {
    const int64_t d = int64_t(signs.size());
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) y[i] = x[i] * signs[size_t(i)];
}

// y = H S x, back y = S H x
void rotate_row(float* y, const float* x, const Blocks& cut, const std::vector<float>& signs,
                bool back) {
    const bool flip = !signs.empty();
    if (flip && !back) flip_signs(y, x, signs);
    const float* from = flip && !back ? y : x;
    for (int64_t i = 0; i < cut.d; i += cut.n) cut.block(y + i, from + i, cut.n, cut.scale);
    if (flip && back) flip_signs(y, y, signs);
}

// All rows; one thread owns a whole row. `ahead`: fetch what lies so many bytes further on.
void rotate_rows(const HadamardArgs& args, Block block, int64_t ahead = 0) {
    const int64_t rows = args.src.rows(), d = args.src.n[3];
    const DType type = args.src.type;
    const int64_t bytes = row_bytes(type, d);
    const int64_t n = args.rotation.on() ? args.rotation.block : 1;  // H_1 is the identity
    const Blocks cut{block, d, n, rotation_scale(n)};
    const std::vector<float> signs = row_signs(args.rotation, d);
#pragma omp parallel if (rows * d >= k_parallel_from)
    {
#pragma omp for
        for (int64_t r = 0; r < rows; ++r) {
            const std::byte* x = row_number<const std::byte>(args.src, r);
            std::byte* y = row_number<std::byte>(args.dst, r);
            if (ahead > 0) {
                for (int64_t i = 0; i < bytes; i += 64) prefetch(x + i + ahead);
            }
            if (type == DType::f32) {
                const float* from = reinterpret_cast<const float*>(x);
                rotate_row(reinterpret_cast<float*>(y), from, cut, signs, args.inverse);
                continue;
            }
            thread_local Workspace space;
            float* row = space.reserve(d);
            dequantize_row(type, row, x, d);
            rotate_row(row, row, cut, signs, args.inverse);
            quantize_row(type, y, row, d);
        }
        stream_fence();
    }
}

// 1: ref's loops, and all cores

void block_1_loops(float* y, const float* x, int64_t n, float scale) {
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

// 2: a butterfly of half-width h pairs channels that differ in bit h of their number. Stages
// with h < k_lanes stay inside a vector, the others join whole vectors

// The stages H, 2 H, ... below k_lanes. Partners change lanes; the upper one of a pair gets a - b
// as a + (-1) b, which is the same number.
template <unsigned H>
Vec stages_inside(const Vec& v) {
    if constexpr (int64_t(H) < k_lanes) {
        return stages_inside<2 * H>(fma(v, minus_upper<H>(), exchange<H>(v)));
    } else {
        return v;
    }
}

void stage_between(float* y, int64_t n, int64_t h) {
    for (int64_t i = 0; i < n; i += 2 * h) {
        for (int64_t j = i; j < i + h; j += k_lanes) {
            const Vec a = load(y + j), b = load(y + j + h);
            store(y + j, a + b);
            store(y + j + h, a - b);
        }
    }
}

void block_2_vectors(float* y, const float* x, int64_t n, float scale) {
    if (n < k_lanes) return block_1_loops(y, x, n, scale);
    for (int64_t i = 0; i < n; i += k_lanes) {
        store(y + i, stages_inside<1>(load(x + i) * scale));
    }
    for (int64_t h = k_lanes; h < n; h *= 2) stage_between(y, n, h);
}

// 3: all stages in registers, between one load and one store of an element

enum class Write { cached, past_caches };

// 32 vectors are all registers of AVX-512; of fewer, some values wait in the L1 cache.
constexpr int64_t k_most_vectors = 32;

template <int64_t vectors, Write write>
void whole_block(float* y, const float* x, const Vec& scale) {
    Vec v[vectors];
#pragma GCC unroll 32
    for (int64_t i = 0; i < vectors; ++i) {
        v[i] = stages_inside<1>(load(x + i * k_lanes) * scale);
    }
#pragma GCC unroll 5
    for (int64_t h = 1; h < vectors; h *= 2) {
#pragma GCC unroll 32
        for (int64_t i = 0; i < vectors; ++i) {
            if ((i & h) != 0) continue;
            const Vec a = v[i], b = v[i + h];
            v[i] = a + b;
            v[i + h] = a - b;
        }
    }
#pragma GCC unroll 32
    for (int64_t i = 0; i < vectors; ++i) {
        float* to = y + i * k_lanes;
        write == Write::cached ? store(to, v[i]) : stream(to, v[i]);
    }
}

template <Write write>
void block_3_registers(float* y, const float* x, int64_t n, float scale) {
    switch (n / k_lanes) {
        case 0:
            return block_1_loops(y, x, n, scale);
        case 1:
            return whole_block<1, write>(y, x, scale);
        case 2:
            return whole_block<2, write>(y, x, scale);
        case 4:
            return whole_block<4, write>(y, x, scale);
        case 8:
            return whole_block<8, write>(y, x, scale);
        case 16:
            return whole_block<16, write>(y, x, scale);
        case 32:
            return whole_block<32, write>(y, x, scale);
        default:
            break;
    }
    constexpr int64_t part = k_most_vectors * k_lanes;
    for (int64_t i = 0; i < n; i += part) {
        whole_block<k_most_vectors, Write::cached>(y + i, x + i, scale);
    }
    for (int64_t h = part; h < n; h *= 2) stage_between(y, n, h);
}

// 4: rows are fetched before they are needed, and results too large for the caches are
// written past them, which spares the memory the reading of lines about to be overwritten

constexpr int64_t k_ahead = 12 * 64;         // lines, about as many as can be awaited
constexpr int64_t k_past_caches = 32 << 20;  // bytes of a result that no cache is expected to keep

bool worth_streaming(const HadamardArgs& args) {
    const TensorView& dst = args.dst;
    constexpr int64_t vector = k_lanes * int64_t(sizeof(float));
    const bool aligned = reinterpret_cast<uintptr_t>(dst.data) % vector == 0 &&
                         (dst.stride[0] | dst.stride[1] | dst.stride[2]) % vector == 0;
    const int64_t n = args.rotation.block;
    const bool in_registers = n >= k_lanes && n <= k_most_vectors * k_lanes;
    return dst.type == DType::f32 && aligned && in_registers && dst.data != args.src.data &&
           args.rotation.kind == Rotation::Kind::sylvester &&  // signs take a second pass
           dst.rows() * dst.n[3] * int64_t(sizeof(float)) > k_past_caches;
}

}  // namespace

void hadamard_1_loops(const HadamardArgs& args) { rotate_rows(args, block_1_loops); }
void hadamard_2_vectors(const HadamardArgs& args) { rotate_rows(args, block_2_vectors); }
void hadamard_3_registers(const HadamardArgs& args) {
    rotate_rows(args, block_3_registers<Write::cached>);
}
void hadamard_4_memory(const HadamardArgs& args) {
    rotate_rows(args,
                worth_streaming(args) ? block_3_registers<Write::past_caches>
                                      : block_3_registers<Write::cached>,
                k_ahead);
}

void hadamard(const HadamardArgs& args) { hadamard_4_memory(args); }

RowRotation::RowRotation(const Rotation& rotation, int64_t d)
    : d_(d),
      block_(rotation.on() ? rotation.block : 0),
      scale_(1.0f),
      signs_(row_signs(rotation, d)) {
    if (block_ > 0) scale_ = rotation_scale(block_);
}

void RowRotation::forward(float* y, const float* x) const {
    const Blocks cut{block_3_registers<Write::cached>, d_, block_, scale_};
    if (block_ > 0) return rotate_row(y, x, cut, signs_, false);
    if (y != x) std::copy_n(x, d_, y);
}

void RowRotation::back(float* y, const float* x) const {
    const Blocks cut{block_3_registers<Write::cached>, d_, block_, scale_};
    if (block_ > 0) return rotate_row(y, x, cut, signs_, true);
    if (y != x) std::copy_n(x, d_, y);
}

}  // namespace rotkv::fast
