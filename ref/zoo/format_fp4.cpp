// Four bits of floating point a value, e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
//   mxfp4: 32 values share a power of two, 2^(floor(log2(peak)) - 2), so that the peak falls into
//          4 .. 8 and is cut at 6. 1 byte (e8m0), 16 bytes of codes: 4.25 bits.
//          Source: OCP Microscaling Formats 1.0, 6.3. A block with a NaN or infinity: e8m0's NaN.
//   nvfp4: 16 values share an e4m3 scale, peak / 6, in units of one f32 scale of the whole tensor,
//          which a calibration may know and is 1 otherwise. 1 byte, 8 bytes of codes: 4.5 bits.
//          Source: NVIDIA's NVFP4. A block with a NaN or infinity: e4m3's NaN.
#include "ref/zoo/small_floats.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>

namespace rotkv::zoo {

namespace {

constexpr float k_largest = k_e2m1.largest;

float peak_of(std::span<const float> x) {
    float peak = 0;
    for (const float value : x) peak = std::max(peak, std::fabs(value));
    return peak;
}

class Fp4 : public BlockFormat {
  protected:
    using BlockFormat::BlockFormat;
    int64_t block_bytes(int64_t n) const override { return 1 + packed_bytes(n, 4); }

    static void put_codes(std::byte* bytes, std::span<const float> x, float scale) {
        for (size_t i = 0; i < x.size(); ++i) {
            const float code = scale == 0 ? 0 : x[i] / scale;
            put_code(bytes + 1, int64_t(i), 4, small_float_of(code, k_e2m1));
        }
    }

    static void get_values(std::span<float> y, const std::byte* bytes, float scale) {
        for (size_t i = 0; i < y.size(); ++i) {
            y[i] = scale * value_of(code_at(bytes + 1, int64_t(i), 4), k_e2m1);
        }
    }
};

class Mxfp4 final : public Fp4 {
  public:
    explicit Mxfp4(const std::string& name) : Fp4(name, 32) {}

  protected:
    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        if (!all_finite(x)) {
            bytes[0] = std::byte{0xFF};
            return;
        }
        const float peak = peak_of(x);
        constexpr int k_largest_exponent = 2;  // of 6 = 1.5 * 2^2
        const int exponent = peak == 0 ? -127 : std::ilogb(peak) - k_largest_exponent;
        bytes[0] = std::byte(std::clamp(exponent + 127, 0, 254));
        put_codes(bytes, x, value_of_e8m0(std::to_integer<uint8_t>(bytes[0])));
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        get_values(y, bytes, value_of_e8m0(std::to_integer<uint8_t>(bytes[0])));
    }
};

class Nvfp4 final : public Fp4 {
  public:
    explicit Nvfp4(const std::string& name) : Fp4(name, 16) {}

  protected:
    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext& context) const override {
        if (!all_finite(x)) {
            bytes[0] = std::byte(k_e4m3.nan);
            return;
        }
        const float tensor = of_tensor(context);
        bytes[0] = std::byte(small_float_of(peak_of(x) / k_largest / tensor, k_e4m3));
        put_codes(bytes, x, scale_of(bytes) * tensor);
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext& context) const override {
        get_values(y, bytes, scale_of(bytes) * of_tensor(context));
    }

  private:
    static float of_tensor(const RowContext& context) {
        return context.calibration.empty() ? 1 : context.calibration[0];
    }
    static float scale_of(const std::byte* bytes) {
        return value_of(std::to_integer<uint32_t>(bytes[0]), k_e4m3);
    }
};

template <class Made>
FormatFamily family_of(const char* name, const char* what) {
    return {.name = name,
            .parameter = "",
            .what = what,
            .members = {name},
            .make = [](const std::string& asked, const std::string& parameter) {
                return parameter.empty() ? std::make_shared<Made>(asked) : nullptr;
            }};
}

}  // namespace

std::vector<FormatFamily> format_fp4() {
    return {family_of<Mxfp4>("mxfp4", "4-bit floats, 32 share a power of two"),
            family_of<Nvfp4>("nvfp4", "4-bit floats, 16 share an e4m3 scale")};
}

}  // namespace rotkv::zoo
