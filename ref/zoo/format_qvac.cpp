// pq3_0, pq4_0: TurboQuant's codes of a direction, and its norm. tbq3_0, tbq4_0: the same, and
// signs of a sketch of what they leave.
//   codes of y = x / |x|, value_1 = |x| c; r = x - value_1, signs of H S r
//   of a key: value_1 + |r| sqrt(pi / 2) / n S H signs; of a value: value_1
// H without its scale, S the signs of xoshiro256** with seed 137, in blocks of 64 with 139. The
// rotation of rows before that is the cache's. Blocks are of 64 on heads of 64, else of 128.
// Levels are what 200 steps of Lloyd's iteration make of the quantiles of the normal distribution.
// For 8 levels that is the best codebook. For 16 it is not yet: levels are up to 6e-4 of their size
// off, which costs less than 1e-4 of the error; tqmse4 has them all the way.
// Layout: codes, the lowest bits first; f16 |x|; of tbq: a bit for each sign, 1 where above 0; f16
// |r|. pq3_0, pq4_0, tbq3_0, tbq4_0 of 128: 50, 66, 68, 84 bytes, of 64: 26, 34, 36, 44.
// Source: qvac-fabric-llm.cpp, ggml-tbq-quants.c, in f32, every product and sum rounded; its
// levels by the script that computes them. Formats named tbq3_0 and tbq4_0 elsewhere (98 and 130
// bytes for 256 values) are others.
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/zoo/codebook.h"
#include "ref/zoo/generator_signs.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>

namespace rotkv::zoo {

namespace {

constexpr float k_nothing = 1e-15f;  // norms below are 0

float norm_of(std::span<const float> x) {
    float square = 0;
    for (const float value : x) square += value * value;
    return std::sqrt(square);
}

// What blocks of n values have in common.
struct Constants {
    std::vector<float> levels, borders, signs;

    Constants(int64_t n, int bits) : signs(xoshiro_signs(n == 64 ? 139 : 137, n)) {
        for (const double level : stopped_codebook(n, int64_t(1) << bits, 200).levels) {
            levels.push_back(float(level / std::sqrt(double(n))));
        }
        for (size_t i = 0; i + 1 < levels.size(); ++i) {
            borders.push_back((levels[i] + levels[i + 1]) * 0.5f);
        }
    }

    uint32_t code(float x) const {
        uint32_t code = 0;
        for (const float border : borders) code += !(x < border);
        return code;
    }

    // H S x
    std::vector<float> sketch(std::span<const float> x) const {
        std::vector<float> y;
        for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * signs[i]);
        ref::hadamard_block(y.data(), y.data(), int64_t(y.size()), 1);
        return y;
    }
};

class Qvac final : public Format {
  public:
    Qvac(const std::string& name, int bits, bool sketched)
        : Format(name), bits_(bits), sketched_(sketched), of_64_(64, bits), of_128_(128, bits) {}

    std::string refusal(int64_t d) const override {
        if (d == 64 || d % 128 == 0) return {};
        return "needs a head size of 64 or a multiple of 128, found " + std::to_string(d);
    }
    int64_t row_bytes(int64_t d) const override { return d / block(d) * block_bytes(block(d)); }

    void encode(std::span<std::byte> codes, std::span<const float> row,
                const RowContext&) const override {
        std::ranges::fill(codes, std::byte{0});
        const int64_t d = int64_t(row.size()), n = block(d);
        for (int64_t b = 0; b < d / n; ++b) {
            encode_block(codes.data() + b * block_bytes(n), row.subspan(size_t(b * n), size_t(n)));
        }
    }
    void decode(std::span<float> row, std::span<const std::byte> codes,
                const RowContext& context) const override {
        const int64_t d = int64_t(row.size()), n = block(d);
        for (int64_t b = 0; b < d / n; ++b) {
            const std::span<float> y = row.subspan(size_t(b * n), size_t(n));
            const std::byte* bytes = codes.data() + b * block_bytes(n);
            decode_codes(y, bytes);
            if (sketched_ && context.side == Side::k) add_sketch(y, bytes + codes_bytes(n) + 2);
        }
    }

  private:
    static int64_t block(int64_t d) { return d == 64 ? 64 : 128; }
    int64_t codes_bytes(int64_t n) const { return packed_bytes(n, bits_); }
    int64_t block_bytes(int64_t n) const {
        return codes_bytes(n) + 2 + (sketched_ ? packed_bytes(n, 1) + 2 : 0);
    }
    const Constants& constants(size_t n) const { return n == 64 ? of_64_ : of_128_; }

    void encode_block(std::byte* bytes, std::span<const float> x) const {
        const Constants& of = constants(x.size());
        const float norm = norm_of(x), inverse = 1 / norm;
        for (size_t i = 0; i < x.size() && !(norm < k_nothing); ++i) {
            put_code(bytes, int64_t(i), bits_, of.code(x[i] * inverse));
        }
        put_number(bytes + codes_bytes(int64_t(x.size())), f32_to_f16(norm < k_nothing ? 0 : norm));
        if (sketched_) encode_rest(bytes, x);
    }

    void encode_rest(std::byte* bytes, std::span<const float> x) const {
        const int64_t n = int64_t(x.size());
        std::vector<float> rest(x.size());
        decode_codes(rest, bytes);
        for (size_t i = 0; i < x.size(); ++i) rest[i] = x[i] - rest[i];
        const float norm = norm_of(rest);
        std::byte* const signs = bytes + codes_bytes(n) + 2;
        put_number(signs + packed_bytes(n, 1), f32_to_f16(norm));
        if (norm < k_nothing) return;
        const std::vector<float> sketch = constants(x.size()).sketch(rest);
        for (int64_t i = 0; i < n; ++i) put_code(signs, i, 1, sketch[size_t(i)] > 0);
    }

    void decode_codes(std::span<float> y, const std::byte* bytes) const {
        const int64_t n = int64_t(y.size());
        const float norm = f16_to_f32(number_at<uint16_t>(bytes + codes_bytes(n)));
        const Constants& of = constants(y.size());
        for (int64_t i = 0; i < n; ++i) {
            y[size_t(i)] = norm == 0 ? 0 : of.levels[code_at(bytes, i, bits_)] * norm;
        }
    }

    // The fork adds |r| sqrt(pi / 2) / n <signs, H S q> to the product with a query q.
    void add_sketch(std::span<float> y, const std::byte* signs) const {
        const int64_t n = int64_t(y.size());
        const float norm = f16_to_f32(number_at<uint16_t>(signs + packed_bytes(n, 1)));
        const float scale = norm * (std::sqrt(1.5707963f) / float(n));
        std::vector<float> sum;
        for (int64_t i = 0; i < n; ++i) sum.push_back(code_at(signs, i, 1) ? 1.0f : -1.0f);
        ref::hadamard_block(sum.data(), sum.data(), n, 1);
        const Constants& of = constants(y.size());
        for (size_t i = 0; i < y.size() && norm != 0; ++i) y[i] += scale * (of.signs[i] * sum[i]);
    }

    int bits_;
    bool sketched_;
    const Constants of_64_, of_128_;
};

FormatFamily family_of(int bits, bool sketched) {
    const std::string name = (sketched ? "tbq" : "pq") + std::to_string(bits) + "_0";
    return {.name = name,
            .parameter = "",
            .what = std::to_string(bits) + "-bit codes of a direction, its norm" +
                    (sketched ? ", and signs of a sketch of the rest" : "") +
                    ", as qvac's fork of llama.cpp has them",
            .members = {name},
            .make = [=](const std::string& asked, const std::string& parameter) {
                return parameter.empty() ? std::make_shared<Qvac>(asked, bits, sketched) : nullptr;
            }};
}

}  // namespace

std::vector<FormatFamily> format_qvac() {
    return {family_of(3, false), family_of(4, false), family_of(3, true), family_of(4, true)};
}

}  // namespace rotkv::zoo
