// polar_pairs: keys as radius and angle of each pair of channels that RoPE turns together, in even
// steps across the ranges that the pair has over a group of tokens.
//   r = |(x0, x1)|, a = atan2(x1, x0) in [0, 2 pi)
//   scale = (max - min) / 2^b, code = floor((v - min) / scale), value = min + (code + 1 / 2) scale
// with max and min over G tokens (default 128), b = 4 for r and 4 for a: ":norm-3-5" has others.
// RoPE turns a pair by an angle that grows with the position, in slow pairs by little: there the
// angles of neighbours are close, and the radii always are what they were before RoPE.
// Which channels are a pair is the model's affair, and asked for: norm (2i, 2i + 1) or neox
// (i, i + d / 2). Where the model has the other kind, other pairs are kept, and nothing tells.
// Layout of a group of one head: for each pair f16 scale and min of r, f16 scale and min of a, G
// codes of r, G codes of a; a token's share is 1 / G of it, padded to a byte.
// Source: "Leveraging Polar Transformation for Key Cache Quantization" (arXiv 2502.00527) and
// ericshwu/PolarQuant; what is called PolarQuant elsewhere is `polar` or tqmse, which are not this.
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/types.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rotkv::zoo {

namespace {

// Even steps across the range of some values, with the middle of a step for its level.
struct Steps {
    uint16_t scale, minimum;  // f16

    static Steps across(std::span<const float> values, int bits) {
        const auto [least, greatest] = std::ranges::minmax(values);
        return {f32_to_f16((greatest - least) / float(1 << bits)), f32_to_f16(least)};
    }
    bool finite() const { return ref::finite_f16(scale) && ref::finite_f16(minimum); }
    uint32_t code(float value, int bits) const {
        const float step = f16_to_f32(scale), last = float((1 << bits) - 1);
        if (step == 0) return 0;
        return uint32_t(std::clamp(std::floor((value - f16_to_f32(minimum)) / step), 0.0f, last));
    }
    float value(uint32_t code) const {
        return f16_to_f32(minimum) + (float(code) + 0.5f) * f16_to_f32(scale);
    }
};

class PolarPairs final : public Format {
  public:
    PolarPairs(const std::string& name, RopePairs pairs, int radius_bits, int angle_bits,
               int64_t tokens)
        : Format(name),
          pairs_(pairs),
          radius_bits_(radius_bits),
          angle_bits_(angle_bits),
          tokens_(tokens) {}

    std::string refusal(int64_t d) const override {
        if (d % 2 == 0) return {};
        return "needs pairs of channels, found " + std::to_string(d);
    }
    int64_t group() const override { return tokens_; }
    int64_t row_bytes(int64_t d) const override {
        return (d / 2 * pair_bytes() + tokens_ - 1) / tokens_;
    }
    std::string unrotated_because() const override { return "keeps the pairs of RoPE"; }

    void encode(std::span<std::byte> codes, std::span<const float> rows,
                const RowContext&) const override {
        std::ranges::fill(codes, std::byte{0});
        const int64_t d = std::ssize(rows) / tokens_;
        std::vector<float> radii(size_t(tokens_), 0.0f), angles(radii);
        for (int64_t pair = 0; pair < d / 2; ++pair) {
            const auto [first, second] = channels(pair, d);
            bool good = true;
            for (int64_t t = 0; t < tokens_; ++t) {
                const float x = rows[size_t(t * d + first)], y = rows[size_t(t * d + second)];
                good &= std::isfinite(x) && std::isfinite(y);
                const double angle = std::atan2(double(y), double(x));
                angles[size_t(t)] = float(angle < 0 ? angle + 2 * std::numbers::pi : angle);
                radii[size_t(t)] = float(std::hypot(double(x), double(y)));
            }
            encode_pair(codes.data() + pair * pair_bytes(), radii, angles, good);
        }
    }

    void decode(std::span<float> rows, std::span<const std::byte> codes,
                const RowContext&) const override {
        const int64_t d = std::ssize(rows) / tokens_;
        for (int64_t pair = 0; pair < d / 2; ++pair) {
            const std::byte* const bytes = codes.data() + pair * pair_bytes();
            const Steps radius{number_at<uint16_t>(bytes), number_at<uint16_t>(bytes + 2)};
            const Steps angle{number_at<uint16_t>(bytes + 4), number_at<uint16_t>(bytes + 6)};
            const auto [first, second] = channels(pair, d);
            for (int64_t t = 0; t < tokens_; ++t) {
                const float r = radius.value(code_at(bytes + k_scales, t, radius_bits_));
                const float a = angle.value(code_at(bytes + angles_begin(), t, angle_bits_));
                rows[size_t(t * d + first)] = float(double(r) * std::cos(double(a)));
                rows[size_t(t * d + second)] = float(double(r) * std::sin(double(a)));
            }
        }
    }

  private:
    static constexpr int64_t k_scales = 8;  ///< bytes

    int64_t angles_begin() const { return k_scales + packed_bytes(tokens_, radius_bits_); }
    int64_t pair_bytes() const { return angles_begin() + packed_bytes(tokens_, angle_bits_); }
    std::pair<int64_t, int64_t> channels(int64_t pair, int64_t d) const {
        return pairs_ == RopePairs::norm ? std::pair(2 * pair, 2 * pair + 1)
                                         : std::pair(pair, pair + d / 2);
    }

    void encode_pair(std::byte* bytes, std::span<const float> radii, std::span<const float> angles,
                     bool good) const {
        const Steps radius = Steps::across(radii, radius_bits_);
        const Steps angle = Steps::across(angles, angle_bits_);
        good = good && radius.finite() && angle.finite();
        put_number(bytes, good ? radius.scale : k_nan_scale);
        if (!good) return;
        put_number(bytes + 2, radius.minimum);
        put_number(bytes + 4, angle.scale);
        put_number(bytes + 6, angle.minimum);
        for (int64_t t = 0; t < tokens_; ++t) {
            const uint32_t r = radius.code(radii[size_t(t)], radius_bits_);
            const uint32_t a = angle.code(angles[size_t(t)], angle_bits_);
            put_code(bytes + k_scales, t, radius_bits_, r);
            put_code(bytes + angles_begin(), t, angle_bits_, a);
        }
    }

    RopePairs pairs_;
    int radius_bits_, angle_bits_;
    int64_t tokens_;
};

}  // namespace

std::vector<FormatFamily> format_polar_pairs() {
    const auto make = [](const std::string& asked,
                         const std::string& parameter) -> std::shared_ptr<const Format> {
        Parameters words(parameter);
        const size_t pairs = words.word({"norm", "neox"}, 2);
        const int64_t radius = words.number(1, 8, 0), angle = words.number(1, 8, 0);
        const int64_t tokens = words.number(32, 128, 128);
        const bool known = tokens == 32 || tokens == 64 || tokens == 128;
        const bool both = (radius == 0) == (angle == 0);
        if (pairs == 2 || !both || !known || !words.empty()) return nullptr;
        return std::make_shared<PolarPairs>(asked, pairs == 0 ? RopePairs::norm : RopePairs::neox,
                                            radius == 0 ? 4 : int(radius),
                                            angle == 0 ? 4 : int(angle), tokens);
    };
    return {{.name = "polar_pairs",
             .parameter = "norm or neox, the model's pairs of RoPE; bits of radius and angle, 1 to "
                          "8 (default 4-4); 32, 64 or 128 (default) tokens; with dashes",
             .what = "keys: radius and angle of RoPE's pairs, with ranges over groups of tokens",
             .members = {"polar_pairs:norm", "polar_pairs:neox", "polar_pairs:norm-3-3-32"},
             .make = make}};
}

}  // namespace rotkv::zoo
