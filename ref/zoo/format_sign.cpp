// sign: one bit a value. A block of 32 is its signs and the mean of its magnitudes, the scale with
// the least square error for signs. The toy of docs/20-zoo.md: how little a format needs to be.
#include "ref/half.h"
#include "ref/zoo/zoo.h"

#include <cmath>

namespace rotkv::zoo {

namespace {

class Sign final : public BlockFormat {
  public:
    explicit Sign(const std::string& name) : BlockFormat(name, 32) {}

  protected:
    int64_t block_bytes(int64_t n) const override { return 2 + packed_bytes(n, 1); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        double sum = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            sum += std::fabs(double(x[i]));
            put_code(bytes + 2, int64_t(i), 1, x[i] < 0);
        }
        put_number(bytes, f32_to_f16(float(sum / double(x.size()))));
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float scale = f16_to_f32(number_at<uint16_t>(bytes));
        for (size_t i = 0; i < y.size(); ++i) {
            y[i] = code_at(bytes + 2, int64_t(i), 1) ? -scale : scale;
        }
    }
};

}  // namespace

std::vector<FormatFamily> format_sign() {
    return {{.name = "sign",
             .parameter = "",
             .what = "signs, and one f16 scale for 32 values",
             .members = {"sign"},
             .make = [](const std::string& name, const std::string& parameter) {
                 return parameter.empty() ? std::make_shared<Sign>(name) : nullptr;
             }}};
}

}  // namespace rotkv::zoo
