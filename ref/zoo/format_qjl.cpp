// qjl: keys as the signs of a random sketch and a norm. A query is not sketched: with the row that
// is decoded, <q, value> = sqrt(pi / 2) / m |k| <S q, sign(S k)>, QJL's estimator of <q, k>, right
// on the average over S (Gaussian), with the variance ((pi / 2) |q|^2 |k|^2 - <q, k>^2) / m.
// As values such rows are poor: an estimator of products is no reconstruction.
// S is m x d, m = 1, 2, ... 8 times d; ":2-orthogonal" makes its rows orthogonal d at a time, as
// QJL's own program does; one S for all layers and heads, from a seed (default 0): ":2-seed-7".
// Layout: f16 |k|, m sign bits, 1 for -. sign(0) = +1.
// Source: QJL (arXiv 2406.03482).
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/sketch.h"
#include "ref/zoo/sphere_code.h"

namespace rotkv::zoo {

namespace {

class Qjl final : public BlockFormat {
  public:
    Qjl(const std::string& name, int64_t times, Sketch sketch, uint64_t seed)
        : BlockFormat(name, 0), times_(times), sketch_(sketch), seed_(seed) {}

  protected:
    int64_t block_bytes(int64_t n) const override { return 2 + packed_bytes(times_ * n, 1); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        const int64_t n = int64_t(x.size());
        const uint16_t norm = f32_to_f16(float(all_finite(x) ? length_of(x) : 0));
        const bool good = all_finite(x) && ref::finite_f16(norm);
        put_number(bytes, good ? norm : k_nan_scale);
        if (good) put_signs(bytes + 2, x, matrix(n), times_ * n);
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const int64_t n = int64_t(y.size());
        const float norm = f16_to_f32(number_at<uint16_t>(bytes));
        const std::vector<float> direction = unsketched(bytes + 2, matrix(n), times_ * n, n);
        for (size_t i = 0; i < y.size(); ++i) y[i] = norm * direction[i];
    }

  private:
    const std::vector<float>& matrix(int64_t n) const {
        return random_matrix(sketch_, times_ * n, n, seed_);
    }

    int64_t times_;  ///< m / d
    Sketch sketch_;
    uint64_t seed_;
};

}  // namespace

std::vector<FormatFamily> format_qjl() {
    const auto make = [](const std::string& asked,
                         const std::string& parameter) -> std::shared_ptr<const Format> {
        Parameters words(parameter);
        const int64_t times = words.number(1, 8, 0);
        const Sketch sketch = sketch_of(words);
        const bool seeded = words.word({"seed"}, 1) == 0;
        const int64_t seed = seeded ? words.number(0, int64_t(1) << 62, -1) : 0;
        if (times == 0 || seed < 0 || !words.empty()) return nullptr;
        return std::make_shared<Qjl>(asked, times, sketch, uint64_t(seed));
    };
    return {{.name = "qjl",
             .parameter = "BITS, 1 to 8, gaussian (default) or orthogonal, and seed-N, with dashes",
             .what = "signs of a random sketch, and the norm: for keys",
             .members = {"qjl:1", "qjl:2", "qjl:2-orthogonal", "qjl:4-orthogonal"},
             .make = make}};
}

}  // namespace rotkv::zoo
