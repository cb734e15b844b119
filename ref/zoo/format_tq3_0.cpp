// tq3_0: a block of 32, turned inside, as 3-bit codes and its root mean square.
//   y = H S x / rms, S the golden signs, codes the nearest levels c; value = S H c rms
// Levels and borders are those that are best for normal numbers, in four digits.
// Layout: f16 rms, then 12 bytes of codes, the lowest bits first. 3.5 bits a value.
// A block of zeros, or below 1e-10, has an rms of 1 and the codes of 0, and so decodes to a spike
// of 1.386 in its first value: so do the forks, whose bytes these are. rms is not corrected by |c|.
// Source: ports of Aaryan Kapoor's branch of llama.cpp, which agree on signs, layout and levels of
// four digits; the order of the scale's operations is that of the CPU code of one
// (turbo-tan/llama.cpp-tq3), which itself has other levels, from -1.997 to 1.989.
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/zoo/codebook.h"
#include "ref/zoo/generator_signs.h"
#include "ref/zoo/zoo.h"

#include <array>
#include <cmath>

namespace rotkv::zoo {

namespace {

constexpr int64_t k_tq3_block = 32;
using Row = std::array<float, size_t(k_tq3_block)>;

float four_digits(double x) { return float(std::round(x * 1e4) / 1e4); }

class Tq3 final : public BlockFormat {
  public:
    explicit Tq3(const std::string& name) : BlockFormat(name, k_tq3_block) {
        const Codebook& book = normal_codebook(8);
        for (const double level : book.levels) levels_.push_back(four_digits(level));
        for (const double border : book.borders) borders_.push_back(four_digits(border));
    }

    std::string unrotated_because() const override { return "rotates rows itself"; }

  protected:
    int64_t block_bytes(int64_t n) const override { return 2 + packed_bytes(n, 3); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        float square = 0;
        for (const float value : x) square += value * value;
        float rms = std::sqrt(square / float(k_tq3_block));
        if (rms < 1e-10f) rms = 1;
        put_number(bytes, f32_to_f16(rms));
        const float inverse = 1 / rms;
        Row y{};
        for (size_t i = 0; i < y.size(); ++i) y[i] = x[i] * inverse * signs_[i];
        ref::hadamard_block(y.data(), y.data(), k_tq3_block, 1);
        for (size_t i = 0; i < y.size(); ++i) {
            const float value = y[i] * rotation_scale(k_tq3_block);
            uint32_t code = 0;
            for (const float border : borders_) code += value > border;
            put_code(bytes + 2, int64_t(i), 3, code);
        }
    }

    void decode_block(std::span<float> x, const std::byte* bytes,
                      const RowContext&) const override {
        const float rms = f16_to_f32(number_at<uint16_t>(bytes));
        Row y{};
        for (size_t i = 0; i < y.size(); ++i) y[i] = levels_[code_at(bytes + 2, int64_t(i), 3)];
        ref::hadamard_block(y.data(), y.data(), k_tq3_block, 1);
        for (size_t i = 0; i < y.size(); ++i) {
            x[i] = y[i] * (rotation_scale(k_tq3_block) * signs_[i]) * rms;
        }
    }

  private:
    std::vector<float> levels_, borders_;
    const std::vector<float> signs_ = golden_signs(k_tq3_block);
};

}  // namespace

std::vector<FormatFamily> format_tq3_0() {
    return {{.name = "tq3_0",
             .parameter = "",
             .what = "3-bit codes of 32 turned values, and their rms, as forks of llama.cpp have",
             .members = {"tq3_0"},
             .make = [](const std::string& name, const std::string& parameter) {
                 return parameter.empty() ? std::make_shared<Tq3>(name) : nullptr;
             }}};
}

}  // namespace rotkv::zoo
