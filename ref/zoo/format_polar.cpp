// polar: PolarQuant's recursive polar coordinates. 16 values become 8 angles of pairs and 8 radii,
// the radii 4 angles and 4 radii, and so on, until one radius is left, the block's norm.
//   level 1: angle of (x_2j, x_2j+1) in [0, 2 pi), 4 bits, even steps (its density is even)
//   levels 2, 3, 4: angle of two radii in [0, pi / 2], 2 bits, by the codebook of the density
//   sin(2 a)^(k - 1), k = 2, 4, 8 values behind each radius (codebook.h)
// Layout: for each block the f16 radius, then 8 x 4 + 4 x 2 + 2 x 2 + 1 x 2 bits of codes, level by
// level, blocks back to back: 62 bits for 16 values, 3.875 bits a value, and a row ends at a byte.
// The angles are independent and so distributed behind a random rotation, which is the cache's.
// Source: PolarQuant (arXiv 2502.02617); what is called PolarQuant elsewhere is tqmse, or the pairs
// of ericshwu/PolarQuant, which are not this.
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/codebook.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rotkv::zoo {

namespace {

constexpr int64_t k_values = 16, k_block_bits = 62;
constexpr int k_pair_bits = 4, k_radius_bits = 2;
constexpr double k_turn = 2 * std::numbers::pi;

// Bits of a row, one field after the other.
class Bits {
  public:
    explicit Bits(int64_t begin) : at_(begin) {}

    void put(std::byte* bytes, int bits, uint32_t code) {
        for (int b = 0; b < bits; ++b) put_code(bytes, at_++, 1, code >> b & 1);
    }
    uint32_t take(const std::byte* bytes, int bits) {
        uint32_t code = 0;
        for (int b = 0; b < bits; ++b) code |= code_at(bytes, at_++, 1) << b;
        return code;
    }

  private:
    int64_t at_;
};

// One row is all of its blocks, since they do not end at bytes.
class Polar final : public Format {
  public:
    explicit Polar(const std::string& name) : Format(name) {}

    std::string refusal(int64_t d) const override {
        if (d % k_values == 0) return {};
        return "needs a head size that is a multiple of 16, found " + std::to_string(d);
    }
    int64_t row_bytes(int64_t d) const override { return packed_bytes(d / k_values, k_block_bits); }
    void encode(std::span<std::byte> codes, std::span<const float> row,
                const RowContext&) const override {
        std::ranges::fill(codes, std::byte{0});
        for (size_t b = 0; b < row.size() / k_values; ++b) {
            encode_block(codes.data(), Bits(int64_t(b) * k_block_bits),
                         row.subspan(b * k_values, k_values));
        }
    }
    void decode(std::span<float> row, std::span<const std::byte> codes,
                const RowContext&) const override {
        for (size_t b = 0; b < row.size() / k_values; ++b) {
            decode_block(row.subspan(b * k_values, k_values), codes.data(),
                         Bits(int64_t(b) * k_block_bits));
        }
    }

  private:
    static void encode_block(std::byte* bytes, Bits bits, std::span<const float> x) {
        std::vector<double> radii(x.begin(), x.end());  // of the level below
        std::vector<std::pair<int, uint32_t>> codes;
        for (int64_t behind = 1; radii.size() > 1; behind *= 2) {  // values behind each of them
            std::vector<double> above;
            for (size_t j = 0; j < radii.size(); j += 2) {
                const double angle = std::atan2(radii[j + 1], radii[j]);
                codes.push_back(behind == 1 ? std::pair(k_pair_bits, pair_code(angle))
                                            : std::pair(k_radius_bits, book(behind).code(angle)));
                above.push_back(std::hypot(radii[j], radii[j + 1]));
            }
            radii = above;
        }
        const uint16_t radius = f32_to_f16(float(radii[0]));
        const bool good = all_finite(x) && ref::finite_f16(radius);
        bits.put(bytes, 16, good ? radius : k_nan_scale);
        if (!good) return;
        for (const auto& [width, code] : codes) bits.put(bytes, width, code);
    }

    static void decode_block(std::span<float> y, const std::byte* bytes, Bits bits) {
        const double radius = double(f16_to_f32(uint16_t(bits.take(bytes, 16))));
        std::vector<std::vector<double>> angles;  // level by level
        for (int64_t behind = 1, count = k_values / 2; count > 0; behind *= 2, count /= 2) {
            auto& level = angles.emplace_back();
            for (int64_t j = 0; j < count; ++j) {
                level.push_back(behind == 1 ? angle_of(bits.take(bytes, k_pair_bits))
                                            : book(behind).levels[bits.take(bytes, k_radius_bits)]);
            }
        }
        std::vector<double> radii = {radius};
        for (auto level = angles.rbegin(); level != angles.rend(); ++level) {
            std::vector<double> below;
            for (size_t j = 0; j < radii.size(); ++j) {
                below.push_back(radii[j] * std::cos((*level)[j]));
                below.push_back(radii[j] * std::sin((*level)[j]));
            }
            radii = below;
        }
        for (size_t i = 0; i < y.size(); ++i) y[i] = float(radii[i]);
    }

    // Even steps around the circle; the level is a step's middle.
    static uint32_t pair_code(double angle) {
        const int steps = 1 << k_pair_bits;
        const double turns = angle < 0 ? angle / k_turn + 1 : angle / k_turn;
        return uint32_t(std::isnan(turns) ? 0 : std::min(int(turns * steps), steps - 1));
    }
    static double angle_of(uint32_t code) {
        return (double(code) + 0.5) * k_turn / double(1 << k_pair_bits);
    }
    static const Codebook& book(int64_t behind) {
        return angle_codebook(behind, int64_t(1) << k_radius_bits);
    }
};

}  // namespace

std::vector<FormatFamily> format_polar() {
    return {{.name = "polar",
             .parameter = "",
             .what = "recursive polar coordinates of 16 values: 15 angles and a norm",
             .members = {"polar"},
             .make = [](const std::string& name, const std::string& parameter) {
                 return parameter.empty() ? std::make_shared<Polar>(name) : nullptr;
             }}};
}

}  // namespace rotkv::zoo
