#pragma once
// Matrices of 8 x 8 that a simdgroup has together, for C++ on a CPU: a lane has two neighbours of a
// row. Where elements lie is not known on a GPU, so kernels reach them by load and store alone.
// Neither of these orders anything; a product is a meeting of the lanes.
// Docs: docs/22-metal.md

#include "metal/emul/half_type.h"
#include "metal/emul/lanes.h"

#include <limits>

namespace rotkv::metal::emul {

constexpr unsigned k_side = 8;

/// The calling lane's row and first column.
struct MatrixPlace {
    unsigned row = this_lane().in_simdgroup() / 4, column = this_lane().in_simdgroup() % 4 * 2;
};

}  // namespace rotkv::metal::emul

using half = rotkv::metal::emul::Half;

namespace metal {

/// Elements are kept as the f32 that they are equal to. At first they are no numbers.
template <class T, int Columns, int Rows>
struct simdgroup_matrix {
    static_assert(Columns == 8 && Rows == 8, "what Metal has");
    float own[2] = {std::numeric_limits<float>::quiet_NaN(),
                    std::numeric_limits<float>::quiet_NaN()};

    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal) {
        const rotkv::metal::emul::MatrixPlace at;
        for (unsigned j = 0; j < 2; ++j) own[j] = at.row == at.column + j ? float(diagonal) : 0.0f;
    }
};
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;

template <class T, int Columns, int Rows>
simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, Columns, Rows> all;
    all.own[0] = all.own[1] = float(value);
    return all;
}

/// Element (row, column) is src[row * pitch + column], or of its transpose.
template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& d, const volatile T* src, uint64_t pitch = 8,
                    uint64_t = 0, bool transposed = false) {
    const rotkv::metal::emul::MatrixPlace at;
    for (unsigned j = 0; j < 2; ++j) {
        const unsigned column = at.column + j;
        d.own[j] = float(transposed ? src[column * pitch + at.row] : src[at.row * pitch + column]);
    }
}

template <class T>
void simdgroup_store(const simdgroup_matrix<T, 8, 8>& a, volatile T* dst, uint64_t pitch = 8) {
    const rotkv::metal::emul::MatrixPlace at;
    for (unsigned j = 0; j < 2; ++j) dst[at.row * pitch + at.column + j] = T(a.own[j]);
}

/// d = a b + c: products are exact, of halves too, and summed in f32 from c on.
template <class T, class Factor>
void simdgroup_multiply_accumulate(simdgroup_matrix<T, 8, 8>& d,
                                   const simdgroup_matrix<Factor, 8, 8>& a,
                                   const simdgroup_matrix<Factor, 8, 8>& b,
                                   const simdgroup_matrix<T, 8, 8>& c,
                                   const char* file = __builtin_FILE(),
                                   int line = __builtin_LINE()) {
    using rotkv::metal::emul::Four;
    const Four* const all = rotkv::metal::emul::exchange_four(
        {"simdgroup_multiply_accumulate", file, line}, {a.own[0], a.own[1], b.own[0], b.own[1]});
    const rotkv::metal::emul::MatrixPlace at;
    float sum[2] = {c.own[0], c.own[1]};
    for (unsigned k = 0; k < rotkv::metal::emul::k_side; ++k) {
        const float factor = all[at.row * 4 + k / 2].x[k % 2];
        const Four& other = all[k * 4 + at.column / 2];
        for (unsigned j = 0; j < 2; ++j) sum[j] += factor * other.x[2 + j];
    }
    for (unsigned j = 0; j < 2; ++j) d.own[j] = float(T(sum[j]));
}

/// d = a b.
template <class T, class Factor>
void simdgroup_multiply(simdgroup_matrix<T, 8, 8>& d, const simdgroup_matrix<Factor, 8, 8>& a,
                        const simdgroup_matrix<Factor, 8, 8>& b,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const auto none = make_filled_simdgroup_matrix<T, 8, 8>(T(0.0f));
    simdgroup_multiply_accumulate(d, a, b, none, file, line);
}

}  // namespace metal
