// Cases of what works on rows by themselves: hadamard, quantize, dequantize, rope, turn, merge.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/hadamard.h"
#include "ref/random.h"
#include "ref/rope_table.h"

#include <bit>
#include <limits>

namespace rotkv {

std::vector<double> hadamard_bound(std::span<const float> x, const Rotation& rotation) {
    std::vector<double> bound(x.size(), 0.0);
    if (!rotation.on()) return bound;
    const size_t n = size_t(rotation.block);
    const double stages = double(std::bit_width(n) - 1);
    for (size_t block = 0; block < x.size(); block += n) {
        double sum = 0;
        for (size_t i = 0; i < n; ++i) sum += std::fabs(double(x[block + i]));
        const bool overflows = std::isfinite(sum) && sum > std::numeric_limits<float>::max();
        const double each = overflows ? INFINITY
                                      : k_unit * (stages + 2) * sum / std::sqrt(double(n)) +
                                            2 * double(n) * k_least;
        std::fill_n(bound.begin() + int64_t(block), n, each);
    }
    return bound;
}

namespace {

// Row by row over a tensor of values.
template <class Bound>
std::vector<double> by_rows(const std::vector<float>& values, int64_t d, const Bound& bound_of) {
    std::vector<double> all;
    for (size_t first = 0; d > 0 && first < values.size(); first += size_t(d)) {
        const std::vector<double> row = bound_of(std::span(values).subspan(first, size_t(d)));
        all.insert(all.end(), row.begin(), row.end());
    }
    return all;
}

class HadamardCase : public CallCase {
  public:
    explicit HadamardCase(Fields& f)
        : rows(f.number("rows", 7, 0)),
          d(f.number("D", 64, 1)),
          rotation(f.rotation("rot", d)),
          inverse(f.flag("inverse")),
          type(parse_type(f.word("type", "f32", {"f32", "f16", "bf16"}))),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override {
        return type == DType::f32 ? Agreement::rounding : Agreement::steps;
    }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", type, {rows, d}), in("src", type, {rows, d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "src").set(case_values(kind, rows, d, seed()));
    }
    std::vector<float> unrounded(const std::string&,
                                 std::span<const CaseTensor> filled) const override {
        std::vector<float> y = named(filled, "src").values();
        for (size_t first = 0; d > 0 && first < y.size(); first += size_t(d)) {
            ref::hadamard_row(&y[first], &y[first], d, rotation, inverse);
        }
        return y;
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        return by_rows(named(filled, "src").values(), d,
                       [&](std::span<const float> x) { return hadamard_bound(x, rotation); });
    }
    std::vector<float> with_mistake(const std::string&, std::span<const CaseTensor> filled,
                                    Mistake mistake) const override {
        std::vector<float> y = named(filled, "src").values();
        for (size_t first = 0; d > 0 && first < y.size(); first += size_t(d)) {
            mistaken_hadamard(&y[first], &y[first], d, rotation, inverse, mistake);
        }
        return y;
    }
    Work work() const override {
        Work work = Case::work();
        if (rotation.on()) work.flops = double(rows * d) * std::log2(double(rotation.block));
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return HadamardArgs{
            .dst = v["dst"], .src = v["src"], .rotation = rotation, .inverse = inverse};
    }

  private:
    int64_t rows, d;
    Rotation rotation;
    bool inverse;
    DType type;
    std::string kind;
};

class QuantizeCase : public CallCase {
  public:
    explicit QuantizeCase(Fields& f)
        : type(f.type("type")),
          rows(f.number("rows", 7, 0)),
          d(f.number("D", 64, 1)),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::steps; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", type, {rows, d}), in("src", DType::f32, {rows, d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "src")
            .set(kind == "ties" ? tie_values(type, rows, d, seed())
                                : case_values(kind, rows, d, seed()));
    }
    std::vector<float> unrounded(const std::string&,
                                 std::span<const CaseTensor> filled) const override {
        return named(filled, "src").values();
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor>,
                              std::span<const float>) const override {
        return std::vector<double>(size_t(rows * d), 0.0);  // the input is exact
    }

  protected:
    Call call(const Views& v) const override {
        return QuantizeArgs{.dst = v["dst"], .src = v["src"]};
    }

  private:
    DType type;
    int64_t rows, d;
    std::string kind;
};

class DequantizeCase : public CallCase {
  public:
    explicit DequantizeCase(Fields& f)
        : type(f.type("type")),
          rows(f.number("rows", 7, 0)),
          d(f.number("D", 256, 1)),
          any_bits(f.word("values", "bits", {"bits", "normal"}) == "bits") {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {rows, d}), in("src", type, {rows, d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        CaseTensor& src = named(tensors, "src");
        if (!any_bits) return src.set(case_values("normal", rows, d, seed()));
        src.bytes.resize(size_t(rows * src.bytes_of_row()));  // every scale, NaN and inf too
        Random random(seed());
        for (std::byte& byte : src.bytes) byte = std::byte(random.below(256));
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor>,
                              std::span<const float> expected) const override {
        // The products are exact (quant.h), so that only the sum rounds; one more for another
        // order.
        std::vector<double> bound;
        for (const float y : expected) bound.push_back(2 * k_unit * std::fabs(double(y)) + k_least);
        return bound;
    }

  protected:
    Call call(const Views& v) const override {
        return DequantizeArgs{.dst = v["dst"], .src = v["src"]};
    }

  private:
    DType type;
    int64_t rows, d;
    bool any_bits;
};

class RopeCase : public CallCase {
  public:
    explicit RopeCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          heads(f.number("H", 3, 1)),
          d(f.number("D", 64, 1)),
          n_rot(f.n_rot(d)),
          neox(f.word("pairs", "norm", {"norm", "neox"}) == "neox") {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        CaseTensor table = in("table", DType::f32, {k_positions, n_rot / 2, 2});
        table.rigid = true;
        return {out("dst", DType::f32, {tokens, heads, d}),
                in("src", DType::f32, {tokens, heads, d}), table, in("row", DType::i32, {tokens})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        RopeConfig config;
        config.n_rot = n_rot;
        const int32_t positions[k_positions] = {0, 1, 77, 5000};
        named(tensors, "src").set(case_values("normal", tokens * heads, d, seed()));
        named(tensors, "table").set(rope_table(config, positions));
        named(tensors, "row").set(rows_of_tokens(tokens, k_positions));
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        // Two products and a sum of a pair: 3 u (|x0| + |x1|), taken over the whole row.
        return by_rows(named(filled, "src").values(), d, [](std::span<const float> x) {
            float largest = 0;
            for (const float value : x) largest = std::max(largest, std::fabs(value));
            return std::vector<double>(x.size(), 6 * k_unit * double(largest));
        });
    }

  protected:
    Call call(const Views& v) const override {
        return RopeArgs{.dst = v["dst"],
                        .src = v["src"],
                        .table = v["table"],
                        .row = v["row"],
                        .pairs = neox ? RopePairs::neox : RopePairs::norm};
    }

  private:
    static constexpr int64_t k_positions = 4;
    int64_t tokens, heads, d, n_rot;
    bool neox;
};

class TurnCase : public CallCase {
  public:
    explicit TurnCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          heads(f.number("H", 4, 1)),
          matrices(f.number("K", 2, 1)),
          d(f.number("D", 64, 1)),
          inverse(f.flag("inverse")),
          kind(f.word("values", "normal", k_value_kinds)) {
        if (heads % matrices != 0) f.refuse("K", "a divisor of H", std::to_string(matrices));
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {tokens, heads, d}),
                in("src", DType::f32, {tokens, heads, d}),
                in("matrix", DType::f32, {matrices, d, d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {  // any matrix, and no two alike
        named(tensors, "src").set(case_values(kind, tokens * heads, d, seed()));
        named(tensors, "matrix").set(case_values("normal", matrices * d, d, seed() + 1));
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        const std::vector<float> x = named(filled, "src").values();
        const std::vector<float> m = named(filled, "matrix").values();
        std::vector<double> all;
        for (size_t i = 0; i < expected.size(); ++i) {
            const int64_t row = int64_t(i) / d, to = int64_t(i) % d;
            const int64_t k = row % heads / (heads / matrices);
            double sum = 0;
            for (int64_t j = 0; j < d; ++j) {
                const int64_t at = inverse ? j * d + to : to * d + j;
                sum +=
                    std::fabs(double(m[size_t(k * d * d + at)]) * double(x[size_t(row * d + j)]));
            }
            all.push_back(bound_of_product(sum, walk(d) + 2));
        }
        return all;
    }
    NotFinite not_finite(const std::string&) const override { return not_finite_of(kind); }
    Work work() const override {
        Work work = Case::work();
        work.flops = 2.0 * double(tokens * heads * d * d);
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return TurnArgs{
            .dst = v["dst"], .src = v["src"], .matrix = v["matrix"], .inverse = inverse};
    }

  private:
    int64_t tokens, heads, matrices, d;
    bool inverse;
    std::string kind;
};

class MergeCase : public CallCase {
  public:
    explicit MergeCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          heads(f.number("H", 4, 1)),
          d(f.number("D", 64, 1)),
          spread(f.real("spread", 2)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {
            out("dst", DType::f32, {tokens, heads, d}), in("a", DType::f32, {tokens, heads, d}),
            out("lse", DType::f32, {tokens, heads}),    in("lse_a", DType::f32, {tokens, heads}),
            in("b", DType::f32, {tokens, heads, d}),    in("lse_b", DType::f32, {tokens, heads})};
    }
    // Nothing took part in every fifth row of a and every third of b, hence in neither now and
    // then; such rows are 0. Every seventh row of b counts for nothing beside a's.
    void fill(std::vector<CaseTensor>& tensors) const override {
        const int64_t rows = tokens * heads;
        std::vector<float> x[2], lse[2];
        for (size_t i = 0; i < 2; ++i) {
            x[i] = case_values("normal", rows, d, seed() + i);
            lse[i] = case_values("normal", rows, 1, seed() + 2 + i);
            for (int64_t r = 0; r < rows; ++r) {
                float& of_row = lse[i][size_t(r)];
                of_row = float(spread * double(of_row)) - (i == 1 && r % 7 == 6 ? 200.0f : 0.0f);
                if (r % (i == 0 ? 5 : 3) != 1) continue;
                of_row = -INFINITY;
                std::fill_n(x[i].begin() + r * d, d, 0.0f);
            }
        }
        named(tensors, "a").set(x[0]);
        named(tensors, "b").set(x[1]);
        named(tensors, "lse_a").set(lse[0]);
        named(tensors, "lse_b").set(lse[1]);
    }
    // In f32 the difference of an lse to the larger one rounds by u times itself, its exp and a log
    // by 4 u, each sum, quotient and product by u, and the reference by another: a weight w_i is
    // off by u (12 + lse - lse_i) w_i, lse by u (8 + 2 |lse|).
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        const std::vector<float> x[] = {named(filled, "a").values(), named(filled, "b").values()};
        const std::vector<float> lse[] = {named(filled, "lse_a").values(),
                                          named(filled, "lse_b").values()};
        std::vector<double> all(expected.size(), 0.0);
        for (size_t i = 0; i < all.size(); ++i) {
            const size_t row = name == "lse" ? i : i / size_t(d);
            const double a = double(lse[0][row]), b = double(lse[1][row]);
            const double top = std::max(a, b);
            if (!std::isfinite(top)) continue;
            const double sum = top + std::log(std::exp(a - top) + std::exp(b - top));
            if (name == "lse") {
                all[i] = k_unit * (8 + 2 * std::fabs(sum));
                continue;
            }
            for (size_t part = 0; part < 2; ++part) {
                const double gap = sum - double(lse[part][row]);
                const double size = std::exp(-gap) * std::fabs(double(x[part][i]));
                if (size > 0) all[i] += k_unit * (12 + gap) * size;
            }
        }
        return all;
    }

  protected:
    Call call(const Views& v) const override {
        return MergeArgs{.dst = v["dst"],
                         .lse = v["lse"],
                         .a = v["a"],
                         .b = v["b"],
                         .lse_a = v["lse_a"],
                         .lse_b = v["lse_b"]};
    }

  private:
    int64_t tokens, heads, d;
    double spread;  ///< of lse
};

}  // namespace

std::span<const CaseOp> row_case_ops() {
    static const CaseOp ops[] = {
        {"hadamard", "exact",
         "rounding: u (log2 N + 2) / sqrt(N) sum of the block's |x| + 2 N 2^-126; type=f16, bf16: "
         "steps",
         make<HadamardCase>},
        {"quantize", "exact", "steps", make<QuantizeCase>},
        {"dequantize", "exact", "rounding: 2 u |y|", make<DequantizeCase>},
        {"rope", "exact", "rounding: 6 u max |x|", make<RopeCase>},
        {"turn", "rounding: u (walk(D) + 2) sum |M x|, nothing where that sum leaves f32",
         "the same", make<TurnCase>},
        {"merge",
         "rounding: u sum w_i (12 + lse - lse_i) |x_i|, w_i = exp(lse_i - lse); lse: u (8 + 2 "
         "|lse|)",
         "the same", make<MergeCase>},
    };
    return ops;
}

}  // namespace rotkv
