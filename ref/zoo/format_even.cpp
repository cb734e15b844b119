// Even steps from a signed peak, as q4_0 has them, with more bits or another scale.
//   m = the first element of largest magnitude, d = m / -h, h = half of the codes,
//   code = min(2h - 1, trunc(x / d + h + 0.5)), value = d (code - h)
// A fitted scale keeps the codes and takes the d with the least weighted error,
//   d = sum w q x / sum w q^2, q = code - h, w = x^2, or 1 with ":flat"
//   q4_0fit: q4_0 with a fitted scale, 18 bytes for 32, a q4_0 block that ggml reads.
//   q6_0, q6_0:fit: 26 bytes for 32, laid out as in ik_llama.cpp: f16 d; 8 bytes, byte j % 8 with
//     the codes' high two bits of element j in bits 4 (j / 8) and of j + 16 two bits above, j < 16;
//     16 bytes of low nibbles, as q4_0's. Its bytes are not checked against that program.
// Source: ggml's q4_0; the fit is ik_llama.cpp's pull request 1547.
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>

namespace rotkv::zoo {

namespace {

enum class Fit { none, by_square, flat };

// The codes of a block and its scale before it is stored.
struct Codes {
    float d = 0;
    int code[k_block] = {};
};

Codes codes_of(std::span<const float> x, int half, Fit fit) {
    const ref::BlockRange range = ref::block_range(x.data());
    const ref::Step step = ref::block_step(range.peak / float(-half));
    Codes codes{.d = range.peak / float(-half)};
    double numerator = 0, denominator = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const float at = x[i] * step.inverse + float(half) + 0.5f;
        codes.code[i] = std::min(2 * half - 1, int(at));
        const double q = codes.code[i] - half;
        const double weight = fit == Fit::by_square ? double(x[i]) * double(x[i]) : 1;
        numerator += weight * q * double(x[i]);
        denominator += weight * q * q;
    }
    if (fit != Fit::none && denominator > 0) codes.d = float(numerator / denominator);
    return codes;
}

class Even : public BlockFormat {
  protected:
    Even(const std::string& name, int half, Fit fit)
        : BlockFormat(name, k_block), half_(half), fit_(fit) {}

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        if (!all_finite(x)) {
            put_number(bytes, k_nan_scale);
            return;
        }
        const Codes codes = codes_of(x, half_, fit_);
        const uint16_t scale = f32_to_f16(codes.d);
        put_number(bytes, ref::finite_f16(scale) ? scale : k_nan_scale);
        for (int64_t i = 0; i < k_block && ref::finite_f16(scale); ++i) {
            put_even_code(bytes + 2, i, codes.code[i]);
        }
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float d = f16_to_f32(number_at<uint16_t>(bytes));
        for (int64_t i = 0; i < k_block; ++i) {
            y[size_t(i)] = d * float(even_code(bytes + 2, i) - half_);
        }
    }

    virtual void put_even_code(std::byte* bytes, int64_t i, int code) const = 0;
    virtual int even_code(const std::byte* bytes, int64_t i) const = 0;

    static void put_nibble_of(std::byte* bytes, int64_t i, int code) {
        bytes[i % 16] |= std::byte(uint8_t((code & 15) << (i < 16 ? 0 : 4)));
    }
    static int nibble_of(const std::byte* bytes, int64_t i) {
        return std::to_integer<int>(bytes[i % 16]) >> (i < 16 ? 0 : 4) & 15;
    }

  private:
    int half_;
    Fit fit_;
};

class Q4Fit final : public Even {
  public:
    Q4Fit(const std::string& name, Fit fit) : Even(name, 8, fit) {}

  protected:
    int64_t block_bytes(int64_t) const override { return 18; }
    void put_even_code(std::byte* bytes, int64_t i, int code) const override {
        put_nibble_of(bytes, i, code);
    }
    int even_code(const std::byte* bytes, int64_t i) const override { return nibble_of(bytes, i); }
};

class Q6 final : public Even {
  public:
    Q6(const std::string& name, Fit fit) : Even(name, 32, fit) {}

  protected:
    int64_t block_bytes(int64_t) const override { return 26; }
    void put_even_code(std::byte* bytes, int64_t i, int code) const override {
        bytes[i % 8] |= std::byte(uint8_t((code >> 4) << high_shift(i)));
        put_nibble_of(bytes + 8, i, code);
    }
    int even_code(const std::byte* bytes, int64_t i) const override {
        const int high = std::to_integer<int>(bytes[i % 8]) >> high_shift(i) & 3;
        return nibble_of(bytes + 8, i) | high << 4;
    }

  private:
    static int high_shift(int64_t i) { return int(4 * (i % 16 / 8) + 2 * (i / 16)); }
};

}  // namespace

std::vector<FormatFamily> format_even() {
    const auto q4 = [](const std::string& asked,
                       const std::string& parameter) -> std::shared_ptr<const Format> {
        if (parameter.empty()) return std::make_shared<Q4Fit>(asked, Fit::by_square);
        return parameter == "flat" ? std::make_shared<Q4Fit>(asked, Fit::flat) : nullptr;
    };
    const auto q6 = [](const std::string& asked,
                       const std::string& parameter) -> std::shared_ptr<const Format> {
        if (parameter.empty()) return std::make_shared<Q6>(asked, Fit::none);
        return parameter == "fit" ? std::make_shared<Q6>(asked, Fit::by_square) : nullptr;
    };
    return {{.name = "q4_0fit",
             .parameter = "flat, for a fit without weights",
             .what = "q4_0's codes, with the scale of the least error weighted by x^2",
             .members = {"q4_0fit", "q4_0fit:flat"},
             .make = q4},
            {.name = "q6_0",
             .parameter = "fit, for a fitted scale",
             .what = "6-bit codes with one f16 scale for 32 values",
             .members = {"q6_0", "q6_0:fit"},
             .make = q6}};
}

}  // namespace rotkv::zoo
