// q8_kv: a row is one f32 scale, the sum of its codes, and 8-bit codes; ik_llama.cpp's q8_KV.
//   d = max |x| / 127, code = x (1 / d) to nearest, ties to even; value = d code
// Layout: f32 d; i32 sum of the codes, which kernels of products read and values do not need; d
// bytes of codes. 8 + 64 / D bits a value: a row is a head, as in that program's cache of keys.
// Where 1 / d is no f32, d and the codes are 0; the row of a NaN or an infinity has a NaN for d.
// Source: ik_llama.cpp at 8337e4c, iqk_quantize.cpp.
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rotkv::zoo {

namespace {

class Q8Kv final : public BlockFormat {
  public:
    explicit Q8Kv(const std::string& name) : BlockFormat(name, 0) {}

    std::string refusal(int64_t d) const override {
        if (d % 32 == 0) return {};
        return "needs a head size that is a multiple of 32, found " + std::to_string(d);
    }

  protected:
    int64_t block_bytes(int64_t n) const override { return k_codes + n; }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        if (!all_finite(x)) {
            put_number(bytes, std::numeric_limits<float>::quiet_NaN());
            return;
        }
        float peak = 0;
        for (const float value : x) peak = std::max(peak, std::fabs(value));
        const float d = peak / 127, inverse = 1 / d;
        if (!std::isfinite(inverse)) return;
        int32_t sum = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            const int8_t code = int8_t(std::nearbyint(x[i] * inverse));
            bytes[size_t(k_codes) + i] = std::byte(uint8_t(code));
            sum += code;
        }
        put_number(bytes, d);
        put_number(bytes + sizeof d, sum);
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float d = number_at<float>(bytes);
        for (size_t i = 0; i < y.size(); ++i) {
            y[i] = d * float(number_at<int8_t>(bytes + k_codes + int64_t(i)));
        }
    }

  private:
    static constexpr int64_t k_codes = 8;
};

}  // namespace

std::vector<FormatFamily> format_q8_kv() {
    return {{.name = "q8_kv",
             .parameter = "",
             .what = "8-bit codes with one f32 scale for a head, as ik_llama.cpp has them",
             .members = {"q8_kv"},
             .make = [](const std::string& name, const std::string& parameter) {
                 return parameter.empty() ? std::make_shared<Q8Kv>(name) : nullptr;
             }}};
}

}  // namespace rotkv::zoo
