// What both factors of a product with a weight hold.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/error.h"
#include "ref/quant.h"
#include "ref/random.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace rotkv {

// A weight of any type. Formats that rotkv never writes are made of bits whose scales are small.
void fill_weight(CaseTensor& weight, uint64_t seed) {
    if (type_info(weight.type).cache) {
        return weight.set(case_values("normal", weight.rows(), weight.extents.back(), seed));
    }
    weight.bytes.resize(size_t(weight.rows() * weight.bytes_of_row()));
    Random random(seed);
    for (std::byte& byte : weight.bytes) byte = std::byte(random.below(256));
    const size_t block = size_t(type_info(weight.type).block_bytes);
    const auto put = [&](size_t first, size_t offset, uint16_t f16) {
        std::memcpy(weight.bytes.data() + first + offset, &f16, sizeof f16);
    };
    for (size_t first = 0; first < weight.bytes.size(); first += block) {
        const uint16_t d = uint16_t(0x1400 + random.below(0x400));  // 2^-10 .. 2^-9
        switch (weight.type) {
            case DType::q4_k:
                put(first, offsetof(BlockQ4_K, d), d);
                put(first, offsetof(BlockQ4_K, dmin), d);
                break;
            case DType::q5_k:
                put(first, offsetof(BlockQ5_K, d), d);
                put(first, offsetof(BlockQ5_K, dmin), d);
                break;
            case DType::q2_k:
                put(first, offsetof(BlockQ2_K, d), d);
                put(first, offsetof(BlockQ2_K, dmin), d);
                break;
            case DType::q3_k:
                put(first, offsetof(BlockQ3_K, d), d);
                break;
            case DType::q6_k:
                put(first, offsetof(BlockQ6_K, d), d);
                break;
            case DType::iq4_xs:
                put(first, offsetof(BlockIq4Xs, d), d);
                break;
            case DType::mxfp4:  // an exponent around 1
                weight.bytes[first] = std::byte(120 + random.below(8));
                break;
            case DType::f32:
            case DType::f16:
            case DType::bf16:
            case DType::q8_0:
            case DType::q5_1:
            case DType::q5_0:
            case DType::q4_1:
            case DType::q4_0:
            case DType::iq4_nl:
            case DType::i32:
            case DType::f64:
                throw Error(ErrorCode::bad_argument, std::string("weight: ") +
                                                         type_info(weight.type).name +
                                                         " is no type of weights alone");
        }
    }
}

namespace {

void put_bits(uint8_t& byte, int64_t shift, int count, int value) {
    const int mask = ((1 << count) - 1) << shift;
    byte = uint8_t((byte & ~mask) | value << shift);
}

// Element i of a super-block becomes 0. With a minimum (fill_weight has made dmin = d): where
// sc = mn, code 1.
void make_zero(BlockQ2_K& x, int64_t i) {
    put_bits(x.scales[i / 16], 4, 4, x.scales[i / 16] & 15);
    put_bits(x.qs[i / 128 * 32 + i % 32], i / 32 % 4 * 2, 2, 1);
}
void make_zero(BlockQ3_K& x, int64_t i) {
    put_bits(x.qs[i / 128 * 32 + i % 32], i / 32 % 4 * 2, 2, 0);
    put_bits(x.hmask[i % 32], i / 32, 1, 1);
}
template <class Block>  // q4_K and q5_K: of each pair in the twelve bytes, mn as sc
void make_minima_scales(Block& x) {
    for (int s = 0; s < 4; ++s) {
        x.scales[s + 4] = x.scales[s];
        put_bits(x.scales[s + 8], 4, 4, x.scales[s + 8] & 15);
    }
}
void make_zero(BlockQ4_K& x, int64_t i) {
    make_minima_scales(x);
    put_bits(x.qs[i / 64 * 32 + i % 32], i / 32 % 2 * 4, 4, 1);
}
void make_zero(BlockQ5_K& x, int64_t i) {
    make_minima_scales(x);
    put_bits(x.qs[i / 64 * 32 + i % 32], i / 32 % 2 * 4, 4, 1);
    put_bits(x.qh[i % 32], i / 32, 1, 0);
}
void make_zero(BlockQ6_K& x, int64_t i) {
    put_bits(x.ql[i / 128 * 64 + i % 64], i / 64 % 2 * 4, 4, 0);
    put_bits(x.qh[i / 128 * 32 + i % 32], i / 32 % 4 * 2, 2, 2);
}
void make_zero(BlockMxfp4& x, int64_t i) { put_bits(x.qs[i % 16], i / 16 * 4, 4, 0); }

// make_zero for element i of a row.
template <class Block>
void make_zero_in(std::byte* row, int64_t i, int64_t elements) {
    Block block;
    std::byte* const place = row + i / elements * int64_t(sizeof block);
    std::memcpy(&block, place, sizeof block);
    make_zero(block, i % elements);
    std::memcpy(place, &block, sizeof block);
}

void make_zero(DType type, std::byte* row, int64_t i) {
    // clang-format off
    switch (type) {
        case DType::q2_k: return make_zero_in<BlockQ2_K>(row, i, k_super);
        case DType::q3_k: return make_zero_in<BlockQ3_K>(row, i, k_super);
        case DType::q4_k: return make_zero_in<BlockQ4_K>(row, i, k_super);
        case DType::q5_k: return make_zero_in<BlockQ5_K>(row, i, k_super);
        case DType::q6_k: return make_zero_in<BlockQ6_K>(row, i, k_super);
        case DType::mxfp4: return make_zero_in<BlockMxfp4>(row, i, k_block);
        case DType::f32: case DType::f16: case DType::bf16: case DType::q8_0: case DType::q5_1:
        case DType::q5_0: case DType::q4_1: case DType::q4_0: case DType::iq4_nl:
        case DType::iq4_xs: case DType::i32: case DType::f64:
            break;  // a cache's type, or no level is 0
    }
    // clang-format on
}

// Zero where x has its outliers. With a minimum, the two elements behind span a range in which zero
// is a code.
void zero_at_outliers(float* w, int64_t n, const CodeInfo& codes) {
    const float step = 4.0f / float(codes.last + 1), low = -step * float(codes.last / 2);
    const float high = low + step * float(codes.last);
    for (int64_t first = 0; first < n; first += k_block) {
        const int64_t count = std::min(k_block, n - first), place = outlier_place(first / k_block);
        if (codes.minimum) {
            for (int64_t i = 0; i < count; ++i) {
                w[first + i] = std::clamp(w[first + i], low, high);
            }
            w[first + (place + 1) % count] = low;
            w[first + (place + 2) % count] = high;
        }
        if (place < count) w[first + place] = 0;
    }
}

void zero_at_outliers(CaseTensor& weight) {
    const int64_t n = weight.extents.back();
    if (type_info(weight.type).cache) {
        std::vector<float> values = weight.values();
        for (int64_t r = 0; r < weight.rows(); ++r) {
            zero_at_outliers(values.data() + r * n, n, type_info(weight.type).codes);
        }
        return weight.set(values);
    }
    for (int64_t r = 0; r < weight.rows(); ++r) {
        std::byte* const row = weight.bytes.data() + r * weight.bytes_of_row();
        for (int64_t block = 0; block < n / k_block; ++block) {
            make_zero(weight.type, row, block * k_block + outlier_place(block));
        }
    }
}

// Of row r one number, unless r is a multiple of five.
void make_wild(std::vector<float>& weight, int64_t n, uint64_t seed) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    constexpr float wild[] = {0, inf, -inf, std::numeric_limits<float>::quiet_NaN(), 1e34f};
    Random random(seed);
    for (int64_t r = 0; r * n < int64_t(weight.size()); ++r) {
        const int64_t place = r * n + random.below(n);
        if (r % 5 != 0) weight[size_t(place)] = wild[r % 5];
    }
}

void make_positive(CaseTensor& tensor) {
    std::vector<float> values = tensor.values();
    for (float& value : values) value = std::fabs(value);
    tensor.set(values);
}

}  // namespace

void fill_factors(const std::string& kind, CaseTensor& weight, CaseTensor& src, uint64_t seed) {
    const bool unweighed = kind == "outliers-zero-weight";
    const bool is_positive = kind == "positive", is_wild = kind == "wild-weight";
    if ((is_positive || is_wild) && !type_info(weight.type).cache) {
        throw Error(ErrorCode::bad_argument, "values=" + kind + ": no cache has weights of type " +
                                                 type_info(weight.type).name);
    }
    fill_weight(weight, seed);
    if (is_wild) {
        std::vector<float> values = weight.values();
        make_wild(values, weight.extents.back(), seed + 2);
        weight.set(values);
    }
    if (unweighed) zero_at_outliers(weight);
    const std::string of_src = unweighed ? "outliers" : is_positive || is_wild ? "normal" : kind;
    src.set(case_values(of_src, src.rows(), src.extents.back(), seed + 1));
    if (!is_positive) return;
    make_positive(weight);
    make_positive(src);
}

// Sums that leave f32 in one order may meet as infinities of both signs in another.
NotFinite not_finite_of(const std::string& kind) {
    return kind == "huge" ? NotFinite::any : NotFinite::same_kind;
}

}  // namespace rotkv
