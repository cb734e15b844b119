#pragma once
// A row of activations in digits of eight bits, for instructions that multiply whole numbers of
// eight bits, and products of them with the codes of packed weights. Nothing that f32 knows of x is
// lost: docs/performance.md#eight-bits-at-a-time
//
// A vector of k_lanes whole numbers is four quarters, one for each of four digits. A step takes
// k_lanes codes, and lane i of quarter j sums digit j's products with codes 4 i .. 4 i + 3.
// Docs: docs/performance.md

#include "fast/packed.h"
#include "fast/workspace.h"

#include <vector>

namespace rotkv::fast {

inline constexpr int64_t k_digits = 4;  ///< at a time

/// Four digits of a block of 32 values: value i is about
/// sum_j worth_j a_j, -128 <= a_j <= 127, worth_j = 256^j step.
struct alignas(k_alignment) DigitBlock {
    int8_t digits[k_block_vectors][k_digits][k_lanes];
    int32_t start[k_lanes];  ///< - zero times the sum of a lane's digits
    float sums[k_lanes];     ///< that sum itself
    float worth[k_lanes];    ///< powers of two
    int64_t block;           ///< of the row
};

/// A row whose every value is off by at most 4 u of itself, however loud the values beside it are:
/// a block comes once for every four digits that its values need.
class DigitRow {
  public:
    /// Takes n values, a multiple of 32. `zero`: the code that means 0, and is to add nothing.
    /// False: some value is no number, or so large or small that powers of two would not hold it.
    bool assign(const float* x, int64_t n, int32_t zero);

    const std::vector<DigitBlock>& blocks() const { return blocks_; }

  private:
    void add(float* rest, int64_t block, float step, int32_t zero);

    std::vector<DigitBlock> blocks_;
};

/// How a step's codes lie in k_lanes bytes.
enum class Codes { from_minus_128, low_nibbles, high_nibbles };

/// `to` and the products of a step's codes and digits, exactly.
template <Codes codes>
inline Ints add_products(const Ints& to, const void* bytes, const int8_t (&digits)[4][k_lanes]) {
#if defined(__AVX512VNNI__)
    const __m128i part = _mm_loadu_si128(static_cast<const __m128i*>(bytes));
    __m512i four = _mm512_broadcast_i32x4(part);
    if (codes == Codes::from_minus_128) four = _mm512_xor_si512(four, _mm512_set1_epi8(-128));
    if (codes == Codes::high_nibbles) four = _mm512_srli_epi16(four, 4);
    if (codes != Codes::from_minus_128) four = _mm512_and_si512(four, _mm512_set1_epi8(15));
    return _mm512_dpbusd_epi32(to, four, _mm512_loadu_si512(digits));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    // Sums of two products in 16 bits: codes of four bits fit, those of eight are cut in two.
    int64_t part;
    std::memcpy(&part, bytes, sizeof part);
    __m256i four = _mm256_set1_epi64x(part);
    if (codes == Codes::from_minus_128) four = _mm256_xor_si256(four, _mm256_set1_epi8(-128));
    const auto more = [&](const Ints& sum, __m256i nibbles, int16_t worth) -> Ints {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(digits));
        const __m256i pairs =
            _mm256_maddubs_epi16(_mm256_and_si256(nibbles, _mm256_set1_epi8(15)), x);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(worth)));
    };
    if (codes == Codes::low_nibbles) return more(to, four, 1);
    if (codes == Codes::high_nibbles) return more(to, _mm256_srli_epi16(four, 4), 1);
    return more(more(to, four, 1), _mm256_srli_epi16(four, 4), 16);
#else
    int32_t sums[k_lanes];
    to.store_unaligned(sums);
    const uint8_t* const x = static_cast<const uint8_t*>(bytes);
    for (int64_t i = 0; i < k_lanes; ++i) {
        const int32_t code = codes == Codes::from_minus_128 ? x[i] ^ 128
                             : codes == Codes::low_nibbles  ? x[i] & 15
                                                            : x[i] >> 4;
        for (int64_t j = 0; j < k_digits; ++j) {
            sums[j * (k_lanes / k_digits) + i / 4] += code * digits[j][i];
        }
    }
    return Ints::load_unaligned(sums);
#endif
}

}  // namespace rotkv::fast
