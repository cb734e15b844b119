// The product of one token beside matvec.cpp's, one idea further: codes of weights never become
// floats. The activations become digits of eight bits, once, and meet the codes in whole numbers.
// What is left to f32 is one number of each block and lane.
#include "fast/digits.h"
#include "fast/matvec.h"
#include "fast/threads.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

constexpr int64_t k_rows = 4;  // at a time: they share the digits' loads

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool k_rounds_once = true;  // fma()
#else
constexpr bool k_rounds_once = false;
#endif

template <DType type>
struct Coded;

template <>
struct Coded<DType::q8_0> {
    using Block = BlockQ8_0;
    static constexpr int32_t k_zero = 128;
    static Ints products(const Block& w, const DigitBlock& x) {
        Ints sum = Ints::load_unaligned(x.start);
#pragma GCC unroll 8
        for (int64_t s = 0; s < k_block_vectors; ++s) {
            sum = add_products<Codes::from_minus_128>(sum, w.qs + s * k_lanes, x.digits[s]);
        }
        return sum;
    }
};

// Of blocks whose byte j holds codes j and j + 16.
template <class PackedBlock, int32_t zero>
struct CodedNibbles {
    using Block = PackedBlock;
    static constexpr int32_t k_zero = zero;
    static Ints products(const Block& w, const DigitBlock& x) {
        constexpr int64_t half = k_block_vectors / 2;
        Ints sum = Ints::load_unaligned(x.start);
#pragma GCC unroll 4
        for (int64_t s = 0; s < half; ++s) {
            const uint8_t* const bytes = w.qs + s * k_lanes;
            sum = add_products<Codes::low_nibbles>(sum, bytes, x.digits[s]);
            sum = add_products<Codes::high_nibbles>(sum, bytes, x.digits[half + s]);
        }
        return sum;
    }
};
template <>
struct Coded<DType::q4_0> : CodedNibbles<BlockQ4_0, 8> {};
template <>
struct Coded<DType::q4_1> : CodedNibbles<BlockQ4_1, 0> {};

// y[row ..] for `rows` rows of the weight. A minimum is added lane by lane, where scale x sum and
// minimum x sum of digits still fit into an fma without rounding: weights that are nearly 0 because
// the two cancel keep all their bits.
template <DType type, int64_t rows>
[[gnu::noinline]] void multiply(const TensorView& weight, const DigitRow& x, float* y,
                                int64_t row) {
    using Block = typename Coded<type>::Block;
    const Block* w[rows];
    Vec sum[rows];  // loops over it are unrolled, so that it is registers
#pragma GCC unroll 4
    for (int64_t r = 0; r < rows; ++r) {
        w[r] = weight.row<const Block>(row + r);
        sum[r] = Vec(0.0f);
    }
    for (const DigitBlock& digits : x.blocks()) {
#pragma GCC unroll 4
        for (int64_t r = 0; r < rows; ++r) {
            const Block& block = w[r][digits.block];
            prefetch(reinterpret_cast<const std::byte*>(&block) + rows * weight.stride[2]);
            const BlockNumbers n = scale_number<Block>(&block, 0);
            const Vec products = to_float(Coded<type>::products(block, digits));
            if constexpr (type == DType::q4_1) {
                const Vec exact = fma(products, Vec(n.a), load(digits.sums) * Vec(n.b));
                sum[r] = fma(exact, load(digits.worth), sum[r]);
            } else {
                sum[r] = fma(products * load(digits.worth), Vec(n.a), sum[r]);
            }
        }
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < rows; ++r) y[row + r] = sum_lanes(sum[r]);
}

template <DType type>
void multiply_all(const MatmulArgs& args) {
    constexpr int64_t strip = 32;
    thread_local DigitRow space;
    DigitRow& x = space;
    if (!x.assign(args.src.row<const float>(0), args.weight.n[3], Coded<type>::k_zero)) {
        return matvec(args);
    }
    const int64_t out = args.weight.n[2];
    float* const y = args.dst.row<float>(0);
    share((out + strip - 1) / strip, [&](int64_t task) {
        const int64_t end = std::min(out, (task + 1) * strip);
        int64_t row = task * strip;
        for (; row + k_rows <= end; row += k_rows) multiply<type, k_rows>(args.weight, x, y, row);
        for (; row < end; ++row) multiply<type, 1>(args.weight, x, y, row);
    });
}

}  // namespace

bool takes_digits(const MatmulArgs& args) {
    const DType type = args.weight.type;
    return args.src.n[2] == 1 &&
           (type == DType::q8_0 || type == DType::q4_0 || (type == DType::q4_1 && k_rounds_once));
}

void matvec_digits(const MatmulArgs& args) {
    const DType type = args.weight.type;
    if (type == DType::q8_0) return multiply_all<DType::q8_0>(args);
    if (type == DType::q4_0) return multiply_all<DType::q4_0>(args);
    multiply_all<DType::q4_1>(args);  // takes_digits() has refused every other type
}

}  // namespace rotkv::fast
