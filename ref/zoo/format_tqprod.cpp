// tqprod2 .. tqprod4: TurboQuant for products. tqmse with one bit less, raw norm, and the signs of
// a random sketch of what that leaves, so that products with a query are right on the average.
//   u = x / |x|, c of tqmse, r = u - c, gamma = |r|, signs_i = sign((S r)_i), sign(0) = +1
//   value = |x| (c + sqrt(pi / 2) / n gamma S^T signs)
// S is n x n: entries N(0, 1), or sqrt(n) times an orthogonal matrix with ":orthogonal"; one S for
// all layers and heads, from a seed (default 0).
// Layout: f16 |x|, f16 gamma, the codes, a sign bit a value, 1 for -. A block is the head.
// Source: TurboQuant (arXiv 2504.19874), algorithm 2; QJL (arXiv 2406.03482).
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/sketch.h"
#include "ref/zoo/sphere_code.h"

#include <cmath>

namespace rotkv::zoo {

namespace {

class TqProd final : public BlockFormat {
  public:
    TqProd(const std::string& name, int bits, Sketch sketch, uint64_t seed)
        : BlockFormat(name, 0), bits_(bits - 1), sketch_(sketch), seed_(seed) {}

    std::string refusal(int64_t d) const override {
        return d < 3 ? "needs heads of 3 channels or more" : BlockFormat::refusal(d);
    }

  protected:
    int64_t block_bytes(int64_t n) const override {
        return 4 + packed_bytes(n, bits_) + packed_bytes(n, 1);
    }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        const int64_t n = int64_t(x.size());
        const double length = all_finite(x) ? length_of(x) : 0;
        const uint16_t norm = f32_to_f16(float(length));
        const bool good = all_finite(x) && ref::finite_f16(norm);
        put_number(bytes, good ? norm : k_nan_scale);
        if (!good || length == 0) return;
        put_direction(bytes + 4, x, length, bits_);
        std::vector<float> rest = direction_at(bytes + 4, n, bits_);
        for (size_t i = 0; i < x.size(); ++i) {
            rest[i] = float(double(x[i]) / length - double(rest[i]));
        }
        put_number(bytes + 2, f32_to_f16(float(length_of(rest))));
        put_signs(bytes + 4 + packed_bytes(n, bits_), rest, matrix(n), n);
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const int64_t n = int64_t(y.size());
        const float norm = f16_to_f32(number_at<uint16_t>(bytes));
        const float gamma = f16_to_f32(number_at<uint16_t>(bytes + 2));
        const std::vector<float> c = direction_at(bytes + 4, n, bits_);
        const std::vector<float> rest =
            unsketched(bytes + 4 + packed_bytes(n, bits_), matrix(n), n, n);
        for (size_t i = 0; i < y.size(); ++i) y[i] = norm * (c[i] + gamma * rest[i]);
        if (norm == 0) std::fill(y.begin(), y.end(), 0.0f);
    }

  private:
    const std::vector<float>& matrix(int64_t n) const {
        return random_matrix(sketch_, n, n, seed_);
    }

    int bits_;  ///< of a code, less the sign
    Sketch sketch_;
    uint64_t seed_;
};

FormatFamily family_of(int bits) {
    const std::string name = "tqprod" + std::to_string(bits);
    const auto make = [bits](const std::string& asked,
                             const std::string& parameter) -> std::shared_ptr<const Format> {
        Parameters words(parameter);
        const Sketch sketch = sketch_of(words);
        const int64_t seed = words.number(0, int64_t(1) << 62, 0);
        if (!words.empty()) return nullptr;
        return std::make_shared<TqProd>(asked, bits, sketch, uint64_t(seed));
    };
    return {.name = name,
            .parameter = "gaussian (default) or orthogonal, and a seed, with a dash",
            .what = std::to_string(bits - 1) +
                    "-bit codes of a direction, and signs of a sketch "
                    "of their error",
            .members = {name, name + ":orthogonal"},
            .make = make};
}

}  // namespace

std::vector<FormatFamily> format_tqprod() { return {family_of(2), family_of(3), family_of(4)}; }

}  // namespace rotkv::zoo
