// exl3: the cache of exllamav3, 2 to 8 bits a value. 32 values are multiplied by H32 / sqrt(32)
// inside the format, whatever the cache's own rotation, and share their largest magnitude s:
//   code = floor(x / s 2^(b-1) + 2^(b-1)), cut to 0 .. 2^b - 1
//   value = s ((2 code + 1) / 2^b - 1)
// Symmetric, without a level 0. Codes are taken by s as it is stored.
// Layout: f16 s, then the codes; their order is ours, since only values are claimed to be alike.
// Source: exllamav3 (q_cache_kernels); its optional compander is left out.
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>

namespace rotkv::zoo {

namespace {

constexpr int64_t k_group = 32;
constexpr Rotation k_rotation{.kind = Rotation::Kind::sylvester, .block = k_group};

class Exl3 final : public BlockFormat {
  public:
    Exl3(const std::string& name, int bits) : BlockFormat(name, k_group), bits_(bits) {}

    std::string unrotated_because() const override { return "rotates rows itself"; }

  protected:
    int64_t block_bytes(int64_t n) const override { return 2 + packed_bytes(n, bits_); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        float y[k_group], peak = 0;
        ref::hadamard_row(y, x.data(), k_group, k_rotation, false);
        for (const float value : y) peak = std::max(peak, std::fabs(value));
        const bool finite = all_finite(x) && all_finite(y) && ref::finite_f16(f32_to_f16(peak));
        put_number(bytes, finite ? f32_to_f16(peak) : k_nan_scale);
        if (!finite) return;
        const float scale = f16_to_f32(f32_to_f16(peak));
        const float half = float(1 << (bits_ - 1));
        for (int64_t i = 0; i < k_group; ++i) {
            const float at = scale == 0 ? half : std::floor(y[i] / scale * half + half);
            put_code(bytes + 2, i, bits_, uint32_t(std::clamp(at, 0.0f, 2 * half - 1)));
        }
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float scale = f16_to_f32(number_at<uint16_t>(bytes));
        const float levels = float(1 << bits_);
        for (int64_t i = 0; i < k_group; ++i) {
            const float code = float(code_at(bytes + 2, i, bits_));
            y[size_t(i)] = scale * ((2 * code + 1) / levels - 1);
        }
        ref::hadamard_row(y.data(), y.data(), k_group, k_rotation, true);
    }

  private:
    int bits_;
};

}  // namespace

std::vector<FormatFamily> format_exl3() {
    FormatFamily family{
        .name = "exl3",
        .parameter = "BITS, 2 to 8",
        .what = "even steps without 0, H32 inside, one f16 scale for 32 values",
        .members = {},
        .make = [](const std::string& asked, const std::string& parameter) {
            Parameters words(parameter);
            const int64_t bits = words.number(2, 8, 0);
            return bits > 0 && words.empty() ? std::make_shared<Exl3>(asked, int(bits)) : nullptr;
        }};
    for (int bits = 2; bits <= 8; ++bits) family.members.push_back("exl3:" + std::to_string(bits));
    return {family};
}

}  // namespace rotkv::zoo
