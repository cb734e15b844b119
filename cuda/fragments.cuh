#pragma once
// Stored codes as operands of tensor cores. One instruction, mma.m16n8k16, adds a product of
// matrices C[16][8] += A[16][16] B[16][8], A and B in f16, C in f32, spread over a warp: with
// g = lane / 4 and t = lane % 4, a lane holds, two neighbours in a register,
//
//     A   a0 [g][2t, 2t+1]   a1 [g+8][2t, 2t+1]   a2 [g][2t+8, 2t+9]   a3 [g+8][2t+8, 2t+9]
//     B   b0 [2t, 2t+1][g]   b1 [2t+8, 2t+9][g]
//     C   c0 c1 [g][2t, 2t+1]                     c2 c3 [g+8][2t, 2t+1]
//
// The sum's index may be numbered as one likes, in A and B alike, and so may the rows of C. Both
// products of attention have the cache as A, 16 cells and 16 channels at a time, the heads as
// columns, and number channels so that a lane's come from neighbouring bytes of a block of 32:
//
//     scores  C[cell][head]     A[cell][channel]     slots 2t, 2t+1, 2t+8, 2t+9 of the sum are
//                                                    channels 4t, 4t+2, 4t+1, 4t+3
//     values  C[channel][head]  A[channel][cell]     rows g, g+8 are channels 2g, 2g+1
//
// A UNIT is channels i, i+1 (i even) of 16. Two units x and y make a pair of registers, (x_i, y_i)
// and (x_i+1, y_i+1): for scores two units of one cell, for values one unit of two cells. A block
// of 32 has its units twice, in its lower and its higher 16 channels.
//
// Codes are not converted: an integer u < 1024 in the place of an f16 is the number u 2^-24, which
// tensor cores take as they take all others. The code of 0, or a minimum m, comes in as a product
// with a constant. With the scale d, for each block,
//     s_c = d_c (sum_i q_i u_ci - zero sum_i q_i)     sum_c p_c v_ci = sum_c p_c d_c (u_ci - zero)
//  or s_c = d_c sum_i q_i u_ci + m_c sum_i q_i        or sum_c p_c d_c u_ci + p_c m_c
//
// One block of q4_0, lane by lane. Byte j of qs holds the code of channel j in its lower four bits,
// that of channel j + 16 in its higher ones; "6" stands for the code of channel 6, which is a
// number of 16 bits in half a register, [low half, high half].
//
//     scores, codes_of(x, 4t, x, 4t+2): of cell g, a0 = even and a2 = odd (of cell g+8 a1, a3)
//         t                        0         1         2         3
//         lower   even (a0)     [0 2]     [4 6]    [8 10]   [12 14]     codes, 0 .. 15
//                 odd  (a2)     [1 3]     [5 7]    [9 11]   [13 15]
//         higher  even (a0)   [16 18]   [20 22]   [24 26]   [28 30]     as they lie: times 16
//                 odd  (a2)   [17 19]   [21 23]   [25 27]   [29 31]
//
//     values, codes_of(x, 2g, y, 2g): cells x = 2t, y = 2t+1 (a0, a1), or 2t+8, 2t+9 (a2, a3)
//         g                        0         1         2   ...       7
//         lower   even (a0)   [x0 y0]   [x2 y2]   [x4 y4]   [x14 y14]
//                 odd  (a1)   [x1 y1]   [x3 y3]   [x5 y5]   [x15 y15]
//         higher  the same, 16 channels further on
//
// Lane 5, g = 1 and t = 1, has channels 4 .. 7 and 20 .. 23 of cell 1 for scores, and for values
// channels 2, 3, 18 and 19 of cells 2, 3, 10 and 11. show_fragments (ladder.h) asks the device.
// Docs: docs/05-attention.md

#include "cuda/codes.cuh"

#include <cstdlib>

namespace rotkv::cuda::decode {

/// C += A B.
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Two rows of C, rounded to f16, as columns of B: [g][2t, 2t+1] becomes [2t, 2t+1][g].
__device__ inline uint32_t transposed(uint32_t rows) {
    uint32_t columns;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(columns) : "r"(rows));
    return columns;
}

__device__ inline uint32_t bits(__half2 x) { return *reinterpret_cast<const uint32_t*>(&x); }
__device__ inline __half2 halves(uint32_t bits) { return *reinterpret_cast<const __half2*>(&bits); }
__device__ inline uint32_t product(uint32_t x, uint32_t y) {
    return bits(__hmul2_rn(halves(x), halves(y)));
}

constexpr uint32_t k_one_and_one = 0x3C003C00;  // 1 in both halves

/// What is subnormal becomes 0.
__device__ inline uint32_t normal_of(uint32_t x) {
    uint32_t y;
    asm("mul.ftz.f16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(k_one_and_one));
    return y;
}

/// Two numbers of 16 bits in a register.
__device__ inline uint32_t both(uint32_t low, uint32_t high) { return low | high << 16; }
__device__ inline uint32_t two_bytes(const void* x) { return *static_cast<const uint16_t*>(x); }

/// Two rows of C in f32 likewise: their lower and their upper halves.
__device__ inline void transpose(float x, float y, float& first, float& second) {
    const uint32_t a = __float_as_uint(x), b = __float_as_uint(y);
    const uint32_t low = transposed(__byte_perm(a, b, 0x5410));
    const uint32_t high = transposed(__byte_perm(a, b, 0x7632));
    first = __uint_as_float(__byte_perm(low, high, 0x5410));
    second = __uint_as_float(__byte_perm(low, high, 0x7632));
}

struct Pair {
    uint32_t even, odd;
};

// ---- Codes: x_i, x_i+1, y_i, y_i+1, of the lower and the higher 16 channels ----

struct Codes {
    Pair low, high;  // high ones k_high<Block> times
};

constexpr float k_code = 0x1p24f;         // a code, by the number that its bits are
constexpr uint32_t k_flip = 0x80808080u;  // signed bytes become codes: 128 is added

// What codes of higher channels count.
template <class Block>
constexpr int k_high = 1;
template <>
inline constexpr int k_high<BlockQ4_0> = 16;
template <>
inline constexpr int k_high<BlockQ4_1> = 16;

// A byte each: x_i, x_i+1, y_i, y_i+1.
struct Words {
    uint32_t low, high;
};
__device__ inline Words words_of(const BlockQ8_0& x, uint32_t i, const BlockQ8_0& y, uint32_t j) {
    return {both(two_bytes(x.qs + i), two_bytes(y.qs + j)) ^ k_flip,
            both(two_bytes(x.qs + 16 + i), two_bytes(y.qs + 16 + j)) ^ k_flip};
}

template <class Block>
__device__ uint32_t nibbles_of(const Block& x, uint32_t i, const Block& y, uint32_t j) {
    return both(two_bytes(x.qs + i), two_bytes(y.qs + j));
}

// Bits i, i+1 and 16+i, 16+i+1 of qh, each as bit 4 of its byte: lower half, higher half.
__device__ inline uint32_t fifth_of(const uint8_t* qh, uint32_t i) {
    const uint32_t two = load_bytes(qh) >> i & 0x00030003u;
    return (two & 0x00010001u) << 4 | (two & 0x00020002u) << 11;
}
template <class Block>
__device__ Words five_bits_of(const Block& x, uint32_t i, const Block& y, uint32_t j) {
    const uint32_t n = nibbles_of(x, i, y, j), a = fifth_of(x.qh, i), b = fifth_of(y.qh, j);
    return {n & 0x0F0F0F0Fu | both(a & 0xFFFFu, b),
            n >> 4 & 0x0F0F0F0Fu | a >> 16 | b & 0xFFFF0000u};
}
__device__ inline Words words_of(const BlockQ5_0& x, uint32_t i, const BlockQ5_0& y, uint32_t j) {
    return five_bits_of(x, i, y, j);
}
__device__ inline Words words_of(const BlockQ5_1& x, uint32_t i, const BlockQ5_1& y, uint32_t j) {
    return five_bits_of(x, i, y, j);
}

__device__ inline Words words_of(const BlockIq4Nl& x, uint32_t i, const BlockIq4Nl& y, uint32_t j) {
    // x: channels i, 16+i, i+1, 16+i+1
    const uint32_t a = iq4_levels(two_bytes(x.qs + i)), b = iq4_levels(two_bytes(y.qs + j));
    return {__byte_perm(a, b, 0x6420), __byte_perm(a, b, 0x7531)};
}

__device__ inline Pair pair_of_bytes(uint32_t codes) {
    return {codes & 0x00FF00FFu, codes >> 8 & 0x00FF00FFu};
}
// Four bits stay where they are.
__device__ inline Codes codes_of_nibbles(uint32_t n) {
    const uint32_t m = n >> 8;
    return {{n & 0x000F000Fu, m & 0x000F000Fu}, {n & 0x00F000F0u, m & 0x00F000F0u}};
}
template <class Block>
__device__ Codes codes_of(const Block& x, uint32_t i, const Block& y, uint32_t j) {
    if constexpr (k_high<Block> == 16) {
        return codes_of_nibbles(nibbles_of(x, i, y, j));
    } else {
        const Words words = words_of(x, i, y, j);
        return {pair_of_bytes(words.low), pair_of_bytes(words.high)};
    }
}

// The code that stands for 0.
template <class Block>
constexpr int k_zero = 0;
template <>
inline constexpr int k_zero<BlockQ4_0> = 8;
template <>
inline constexpr int k_zero<BlockQ5_0> = 16;
template <>
inline constexpr int k_zero<BlockQ8_0> = 128;
template <>
inline constexpr int k_zero<BlockIq4Nl> = 128;

template <class Block>
constexpr bool k_has_minimum = requires(Block x) {
    x.m;
};

/// The code that stands for 0, or beside a minimum m for what is nearest to it: then |d (code -
/// center)| and |m + center d| are at most three times |d code + m| together, and a sum of both is
/// as exact as a sum of values.
template <class Block>
__device__ uint32_t center_of(const Block& x) {
    if constexpr (k_has_minimum<Block>) {
        constexpr float most = std::is_same_v<Block, BlockQ4_1> ? 15 : 31;
        const float code = rintf(__fdividef(-f16_to_f32(x.m), f16_to_f32(x.d)));
        return uint32_t(fminf(fmaxf(code, 0), most));  // fmaxf(NaN, 0) = 0
    } else {
        return k_zero<Block>;
    }
}

// u < 1024 in the place of the lower bits of 1024 is 1024 + u.
__device__ inline Pair from_center(const Pair& x, uint32_t of_x, uint32_t of_y) {
    const __half2 minus = halves(both(0xE400u | of_x, 0xE400u | of_y));
    return {bits(__hadd2_rn(halves(x.even | 0x64006400u), minus)),
            bits(__hadd2_rn(halves(x.odd | 0x64006400u), minus))};
}
/// Codes counted from the centers of x and y, as the numbers they are.
template <class Block>
__device__ Codes centered(const Codes& codes, uint32_t of_x, uint32_t of_y) {
    constexpr uint32_t high = k_high<Block>;
    return {from_center(codes.low, of_x, of_y), from_center(codes.high, high * of_x, high * of_y)};
}

// 1024 + u of bytes 0 and 2 of a word, and of bytes 1 and 3.
__device__ inline Pair on_1024(uint32_t bytes) {
    return {__byte_perm(bytes, 0x64646464u, 0x4240), __byte_perm(bytes, 0x64646464u, 0x4341)};
}
// 1024 + u, u without its zero.
__device__ inline uint32_t less_zero(uint32_t x, uint32_t zero) {
    const uint32_t minus = both(0xE400u | zero, 0xE400u | zero);
    return bits(__hadd2_rn(halves(x), halves(minus)));
}
// 1024 + 16 u likewise.
__device__ inline uint32_t sixteenth_less_zero(uint32_t x, uint32_t zero) {
    constexpr uint32_t k_sixteenth = 0x2C002C00;
    const uint32_t minus = both(0xD400u + 16 * zero, 0xD400u + 16 * zero);  // -64 - zero
    return bits(__hfma2(halves(x), halves(k_sixteenth), halves(minus)));
}
/// Codes without their zero as the numbers they are, all counted alike.
template <class Block>
__device__ Codes numbers_of(const Block& x, uint32_t i, const Block& y, uint32_t j) {
    constexpr uint32_t zero = k_zero<Block>;
    if constexpr (k_high<Block> == 16) {
        const Pair n = on_1024(nibbles_of(x, i, y, j));
        return {{less_zero(n.even & 0xFF0FFF0Fu, zero), less_zero(n.odd & 0xFF0FFF0Fu, zero)},
                {sixteenth_less_zero(n.even & 0xFFF0FFF0u, zero),
                 sixteenth_less_zero(n.odd & 0xFFF0FFF0u, zero)}};
    } else {
        const Words words = words_of(x, i, y, j);
        const Pair low = on_1024(words.low), high = on_1024(words.high);
        return {{less_zero(low.even, zero), less_zero(low.odd, zero)},
                {less_zero(high.even, zero), less_zero(high.odd, zero)}};
    }
}

inline bool has_minimum(DType type) { return type == DType::q4_1 || type == DType::q5_1; }

/// -zero, or 1 for a minimum, `times`, where codes count 2^-24: two halves.
template <class Block>
__host__ __device__ constexpr uint32_t constant_of(uint32_t times) {
    const uint32_t half = k_has_minimum<Block> ? times : 0x8000 | k_zero<Block> * times;
    return half << 16 | half;
}

/// What the codes of lower and of higher channels are counted in, by type: their constants, and
/// what a sum over them is to be multiplied by. Plain numbers have no codes.
struct CodeUnits {
    uint32_t constant[2] = {0, 0};
    float unit[2] = {1, 1};
};

template <class Block>
CodeUnits code_units_of() {
    return {{constant_of<Block>(1), constant_of<Block>(k_high<Block>)},
            {k_code, k_code / k_high<Block>}};
}
inline CodeUnits code_units(DType type) {
    // clang-format off
    switch (type) {
        case DType::q8_0: return code_units_of<BlockQ8_0>();
        case DType::q5_1: return code_units_of<BlockQ5_1>();
        case DType::q5_0: return code_units_of<BlockQ5_0>();
        case DType::q4_1: return code_units_of<BlockQ4_1>();
        case DType::q4_0: return code_units_of<BlockQ4_0>();
        case DType::iq4_nl: return code_units_of<BlockIq4Nl>();
        case DType::f32: case DType::f16: case DType::bf16: return {};
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // check() has refused every other type
}

// ---- Plain numbers ----

// Channels i, i+1 of a row of plain numbers, in f16. Rows of halves may begin at any even address;
// most begin on four bytes, and a unit is a word.
struct F16OnWords : F16 {};
struct Bf16OnWords : Bf16 {};

__device__ inline uint32_t unit_of(const F16* x, uint32_t i) {
    return both(x[i].bits, x[i + 1].bits);
}
__device__ inline uint32_t unit_of(const F16OnWords* x, uint32_t i) {
    return *reinterpret_cast<const uint32_t*>(x + i);
}
__device__ inline uint32_t unit_of(const Bf16* x, uint32_t i) {
    return halves_of_bf16(both(x[i].bits, x[i + 1].bits));
}
__device__ inline uint32_t unit_of(const Bf16OnWords* x, uint32_t i) {
    return halves_of_bf16(*reinterpret_cast<const uint32_t*>(x + i));
}
__device__ inline uint32_t unit_of(const float* x, uint32_t i) { return halves_of(x[i], x[i + 1]); }

__device__ inline Pair pair_of_units(uint32_t x, uint32_t y) {
    return {__byte_perm(x, y, 0x5410), __byte_perm(x, y, 0x7632)};
}

}  // namespace rotkv::cuda::decode
