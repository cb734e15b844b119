// fp8: eight bits of floating point a value, e4m3 or e5m2. Without a scale as serving engines use
// it when nothing is calibrated, or with one f32 scale for a head or for 32 values, so that the
// largest magnitude becomes the type's largest number.
//   value = scale * code
// Layout: the f32 scale if there is one, then the codes, a byte each.
#include "ref/zoo/small_floats.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rotkv::zoo {

namespace {

class Fp8 final : public BlockFormat {
  public:
    /// Scales of `block` values, 0: of a head; scaled false: none but a calibrated one.
    Fp8(const std::string& name, const SmallFloat& type, int64_t block, bool scaled)
        : BlockFormat(name, block), type_(type), scaled_(scaled) {}

  protected:
    int64_t block_bytes(int64_t n) const override { return n + codes_begin(); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext& context) const override {
        float scale = of_calibration(context);
        if (scaled_) {
            float peak = 0;
            for (const float value : x) peak = std::max(peak, std::fabs(value));
            const bool finite = all_finite(x);
            scale = finite ? peak / type_.largest : std::numeric_limits<float>::quiet_NaN();
            put_number(bytes, scale);
        }
        for (size_t i = 0; i < x.size(); ++i) {
            const float code = scale == 0 ? 0 : x[i] / scale;
            bytes[codes_begin() + int64_t(i)] = std::byte(small_float_of(code, type_));
        }
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext& context) const override {
        const float scale = scaled_ ? number_at<float>(bytes) : of_calibration(context);
        for (size_t i = 0; i < y.size(); ++i) {
            const uint32_t code = std::to_integer<uint32_t>(bytes[codes_begin() + int64_t(i)]);
            y[i] = scale * value_of(code, type_);
        }
    }

  private:
    int64_t codes_begin() const { return scaled_ ? int64_t(sizeof(float)) : 0; }

    // The scale of a layer and side, where a calibration knows one.
    static float of_calibration(const RowContext& context) {
        return context.calibration.empty() ? 1 : context.calibration[0];
    }

    SmallFloat type_;
    bool scaled_;
};

FormatFamily family_of(const std::string& name, const SmallFloat& type, const std::string& what) {
    const auto make = [type](const std::string& asked,
                             const std::string& parameter) -> std::shared_ptr<const Format> {
        if (parameter.empty()) return std::make_shared<Fp8>(asked, type, 0, false);
        if (parameter == "head") return std::make_shared<Fp8>(asked, type, 0, true);
        if (parameter == "32") return std::make_shared<Fp8>(asked, type, 32, true);
        return nullptr;
    };
    return {.name = name,
            .parameter = "head or 32, that share an f32 scale (default: no scale)",
            .what = what,
            .members = {name, name + ":head", name + ":32"},
            .make = make};
}

}  // namespace

std::vector<FormatFamily> format_fp8() {
    return {family_of("fp8_e4m3", k_e4m3, "8-bit floats, 4 bits of exponent, to 448"),
            family_of("fp8_e5m2", k_e5m2, "8-bit floats, 5 bits of exponent, to 57344")};
}

}  // namespace rotkv::zoo
