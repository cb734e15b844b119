// Cases of norms and of scale.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"

namespace rotkv {

std::vector<double> relative(std::span<const float> y, double units) {
    std::vector<double> bound;
    for (const float value : y) {
        bound.push_back(units * k_unit * std::fabs(double(value)) + k_least);
    }
    return bound;
}

namespace {

class RmsNormCase : public CallCase {
  public:
    explicit RmsNormCase(Fields& f)
        : rows(f.number("rows", 7, 0)),
          d(f.number("D", 64, 1)),
          weighted(f.word("weight", "on", {"on", "off"}) == "on"),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        std::vector<CaseTensor> list = {out("dst", DType::f32, {rows, d}),
                                        in("src", DType::f32, {rows, d})};
        if (weighted) list.push_back(in("weight", DType::f32, {d}));
        return list;
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "src").set(case_values(kind, rows, d, seed()));
        if (!weighted) return;
        named(tensors, "weight").set(case_values("normal", 1, d, seed() + 1));
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor>,
                              std::span<const float> expected) const override {
        return relative(expected, walk(d) / 2 + 6);  // half of the sum's error: a root follows
    }

    std::vector<std::pair<std::string, double>> constants() const override {
        return {{"epsilon", double(k_epsilon)}};
    }

  protected:
    Call call(const Views& v) const override {
        return RmsNormArgs{
            .dst = v["dst"], .src = v["src"], .weight = v["weight"], .epsilon = k_epsilon};
    }

  private:
    static constexpr float k_epsilon = 1e-5f;
    int64_t rows, d;
    bool weighted;
    std::string kind;
};

class LayerNormCase : public CallCase {
  public:
    explicit LayerNormCase(Fields& f)
        : rows(f.number("rows", 7, 0)),
          d(f.number("D", 64, 1)),
          mean(f.real("mean", 1)),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {rows, d}), in("src", DType::f32, {rows, d}),
                in("weight", DType::f32, {d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        std::vector<float> src = case_values(kind, rows, d, seed());
        for (float& x : src) x += float(mean);
        named(tensors, "src").set(src);
        named(tensors, "weight").set(case_values("normal", 1, d, seed() + 1));
    }
    // As of rms_norm; and the mean, a sum in f32, may be off by u walk(D) mean |x|, which every
    // channel then is, in units of the standard deviation, times its weight. The variance does not
    // feel it: its first order is a sum of differences from the mean, which is 0.
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        const std::vector<float> x = named(filled, "src").values();
        const std::vector<float> weight = named(filled, "weight").values();
        std::vector<double> bound = relative(expected, walk(d) / 2 + 6);
        for (size_t first = 0; first < x.size(); first += size_t(d)) {
            double sum = 0, magnitude = 0, squares = 0;
            for (size_t i = 0; i < size_t(d); ++i) {
                sum += double(x[first + i]);
                magnitude += std::fabs(double(x[first + i]));
            }
            const double centre = sum / double(d);
            for (size_t i = 0; i < size_t(d); ++i) {
                squares += (double(x[first + i]) - centre) * (double(x[first + i]) - centre);
            }
            const double scale = 1 / std::sqrt(squares / double(d) + double(k_epsilon));
            const double off = k_unit * (walk(d) + 1) * magnitude / double(d) * scale;
            for (size_t i = 0; i < size_t(d); ++i) {
                bound[first + i] += off * std::fabs(double(weight[i]));
            }
        }
        return bound;
    }
    std::vector<std::pair<std::string, double>> constants() const override {
        return {{"epsilon", double(k_epsilon)}};
    }

  protected:
    Call call(const Views& v) const override {
        return LayerNormArgs{
            .dst = v["dst"], .src = v["src"], .weight = v["weight"], .epsilon = k_epsilon};
    }

  private:
    static constexpr float k_epsilon = 1e-5f;
    int64_t rows, d;
    double mean;  ///< of the row, in standard deviations
    std::string kind;
};

class ScaleCase : public CallCase {
  public:
    explicit ScaleCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          heads(f.number("H", 3, 1)),
          d(f.number("D", 64, 1)),
          by_row(f.flag("factor")),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        std::vector<CaseTensor> list = {out("dst", DType::f32, {tokens, heads, d}),
                                        in("src", DType::f32, {tokens, heads, d})};
        if (by_row) {
            list.push_back(in("factor", DType::f32, {k_factors}));
            list.push_back(in("row", DType::i32, {tokens}));
        }
        return list;
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "src").set(case_values(kind, tokens * heads, d, seed()));
        if (!by_row) return;
        named(tensors, "factor").set(case_values("normal", 1, k_factors, seed() + 1));
        named(tensors, "row").set(rows_of_tokens(tokens, k_factors));
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor>,
                              std::span<const float> expected) const override {
        return relative(expected, 3);  // two products, in another order
    }
    std::vector<std::pair<std::string, double>> constants() const override {
        return {{"scale", double(k_scale)}};
    }

  protected:
    Call call(const Views& v) const override {
        return ScaleArgs{.dst = v["dst"],
                         .src = v["src"],
                         .factor = v["factor"],
                         .row = v["row"],
                         .scale = k_scale};
    }

  private:
    static constexpr int64_t k_factors = 5;
    static constexpr float k_scale = 0.3f;
    int64_t tokens, heads, d;
    bool by_row;  ///< or by k_scale alone
    std::string kind;
};

}  // namespace

std::span<const CaseOp> norm_case_ops() {
    static const CaseOp ops[] = {
        {"rms_norm", "rounding: u (walk(D) / 2 + 6) |y|", "the same", make<RmsNormCase>},
        {"layer_norm", "rounding: u (walk(D) / 2 + 6) |y| + u (walk(D) + 1) mean |x| / sd |weight|",
         "the same", make<LayerNormCase>},
        {"scale", "exact", "rounding: 3 u |y|", make<ScaleCase>},
    };
    return ops;
}

}  // namespace rotkv
