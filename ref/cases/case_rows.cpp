// Cases of what works on rows by themselves: hadamard, quantize, dequantize, rope.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/hadamard.h"
#include "ref/random.h"
#include "ref/rope_table.h"

#include <bit>

namespace rotkv {

std::vector<double> hadamard_bound(std::span<const float> x, const Rotation& rotation) {
    std::vector<double> bound(x.size(), 0.0);
    if (!rotation.on()) return bound;
    const size_t n = size_t(rotation.block);
    const double stages = double(std::bit_width(n) - 1);
    for (size_t block = 0; block < x.size(); block += n) {
        double sum = 0;
        for (size_t i = 0; i < n; ++i) sum += std::fabs(double(x[block + i]));
        const double each = k_unit * (stages + 2) * sum / std::sqrt(double(n));
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

class HadamardCase : public CaseOf<HadamardArgs, &Backend::hadamard> {
  public:
    explicit HadamardCase(Fields& f)
        : rows(f.number("rows", 7)),
          d(f.number("D", 64)),
          rotation(f.rotation("rot")),
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
    Work work() const override {
        Work work = Case::work();
        if (rotation.on()) work.flops = double(rows * d) * std::log2(double(rotation.block));
        return work;
    }

  protected:
    HadamardArgs args(const Views& v) const override {
        return {v["dst"], v["src"], rotation, inverse};
    }

  private:
    int64_t rows, d;
    Rotation rotation;
    bool inverse;
    DType type;
    std::string kind;
};

class QuantizeCase : public CaseOf<QuantizeArgs, &Backend::quantize> {
  public:
    explicit QuantizeCase(Fields& f)
        : type(f.type("type")),
          rows(f.number("rows", 7)),
          d(f.number("D", 64)),
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
    QuantizeArgs args(const Views& v) const override { return {v["dst"], v["src"]}; }

  private:
    DType type;
    int64_t rows, d;
    std::string kind;
};

class DequantizeCase : public CaseOf<DequantizeArgs, &Backend::dequantize> {
  public:
    explicit DequantizeCase(Fields& f)
        : type(f.type("type")),
          rows(f.number("rows", 7)),
          d(f.number("D", 256)),
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
        for (const float y : expected) bound.push_back(2 * k_unit * std::fabs(double(y)));
        return bound;
    }

  protected:
    DequantizeArgs args(const Views& v) const override { return {v["dst"], v["src"]}; }

  private:
    DType type;
    int64_t rows, d;
    bool any_bits;
};

class RopeCase : public CaseOf<RopeArgs, &Backend::rope> {
  public:
    explicit RopeCase(Fields& f)
        : tokens(f.number("T", 7)),
          heads(f.number("H", 3)),
          d(f.number("D", 64)),
          n_rot(f.number("n_rot", 64)),
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
        std::vector<int32_t> row;
        for (int64_t t = 0; t < tokens; ++t) row.push_back(int32_t((3 * t + 3) % k_positions));
        named(tensors, "row").set(row);
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
    RopeArgs args(const Views& v) const override {
        return {v["dst"], v["src"], v["table"], v["row"], neox ? RopePairs::neox : RopePairs::norm};
    }

  private:
    static constexpr int64_t k_positions = 4;
    int64_t tokens, heads, d, n_rot;
    bool neox;
};

}  // namespace

std::span<const CaseOp> row_case_ops() {
    static const CaseOp ops[] = {
        {"hadamard", "exact",
         "rounding: u (log2 N + 2) / sqrt(N) sum of the block's |x|; type=f16, bf16: steps",
         make<HadamardCase>},
        {"quantize", "exact", "steps", make<QuantizeCase>},
        {"dequantize", "exact", "rounding: 2 u |y|", make<DequantizeCase>},
        {"rope", "exact", "rounding: 6 u max |x|", make<RopeCase>},
    };
    return ops;
}

}  // namespace rotkv
