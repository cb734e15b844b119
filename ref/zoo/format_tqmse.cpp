// tqmse1 .. tqmse4: TurboQuant for the least square error. A block's norm, and the code of each
// coordinate of its direction, by the codebook that is best for a random direction (codebook.h).
// The random rotation that makes directions so is the cache's, and not in here.
//   value = S c, c the levels of the codes / sqrt(n), |c| about 1, and S is
//   raw        |x|               as in the paper's algorithm 1; scores shrink by 1 - D
//   corrected  |x| / |c|         what is decoded has the norm of x; sqrt(1 - D)
//   unbiased   |x|^2 / <c, x>    <value, x> = |x|^2 (EDEN)
//   lsq        <c, x> / |c|^2    the least square error
// Layout: f16 S, then the codes. A block is the head, or 128 values with ":128".
// Source: TurboQuant (arXiv 2504.19874), algorithm 1; EDEN (ICML 2022) for the scales.
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/sphere_code.h"

namespace rotkv::zoo {

namespace {

enum class Norm { raw, corrected, unbiased, lsq };

class TqMse final : public BlockFormat {
  public:
    TqMse(const std::string& name, int bits, int64_t block, Norm norm)
        : BlockFormat(name, block), bits_(bits), norm_(norm) {}

    std::string refusal(int64_t d) const override {
        return d < 3 ? "needs heads of 3 channels or more" : BlockFormat::refusal(d);
    }

  protected:
    int64_t block_bytes(int64_t n) const override { return 2 + packed_bytes(n, bits_); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        const double length = all_finite(x) ? length_of(x) : 0;
        put_direction(bytes + 2, x, length, bits_);
        const std::vector<float> c = direction_at(bytes + 2, int64_t(x.size()), bits_);
        const uint16_t scale = f32_to_f16(float(scale_of(x, c, length)));
        const bool good = all_finite(x) && ref::finite_f16(scale);
        put_number(bytes, good ? scale : k_nan_scale);
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float scale = f16_to_f32(number_at<uint16_t>(bytes));
        const std::vector<float> c = direction_at(bytes + 2, int64_t(y.size()), bits_);
        for (size_t i = 0; i < y.size(); ++i) y[i] = scale * c[i];
    }

  private:
    // S. Codes are on their value's side of 0, so that <c, x> > 0 where there is an x.
    double scale_of(std::span<const float> x, std::span<const float> c, double length) const {
        if (length == 0) return 0;
        switch (norm_) {
            case Norm::raw:
                return length;
            case Norm::corrected:
                return length / length_of(c);
            case Norm::unbiased:
                return length * length / dot(c, x);
            case Norm::lsq:
                break;
        }
        return dot(c, x) / dot(c, c);
    }

    int bits_;
    Norm norm_;
};

FormatFamily family_of(int bits) {
    const std::string name = "tqmse" + std::to_string(bits);
    const auto make = [bits](const std::string& asked,
                             const std::string& parameter) -> std::shared_ptr<const Format> {
        Parameters words(parameter);
        const int64_t block = words.number(128, 128, 0);
        const std::size_t norm = words.word({"raw", "corrected", "unbiased", "lsq"}, 0);
        if (!words.empty()) return nullptr;
        return std::make_shared<TqMse>(asked, bits, block, Norm(norm));
    };
    return {
        .name = name,
        .parameter =
            "128, raw (default), corrected, unbiased or lsq, or 128 and one of these "
            "with a dash",
        .what = std::to_string(bits) + "-bit Lloyd-Max codes of a direction, and its norm",
        .members = {name, name + ":corrected", name + ":unbiased", name + ":lsq", name + ":128"},
        .make = make};
}

}  // namespace

std::vector<FormatFamily> format_tqmse() {
    return {family_of(1), family_of(2), family_of(3), family_of(4)};
}

}  // namespace rotkv::zoo
