// Cases of what surrounds the cache: activations, sums, products with weights.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/error.h"

#include <limits>

namespace rotkv {

// y = x W^T: sum |a b| of every element, in f64.
std::vector<double> magnitudes(const CaseTensor& weight, const CaseTensor& x) {
    const std::vector<float> w = weight.values(), v = x.values();
    const size_t n_in = size_t(weight.extents.back());
    std::vector<double> all;
    for (size_t t = 0; t < size_t(x.rows()); ++t) {
        for (size_t o = 0; o < size_t(weight.rows()); ++o) {
            double sum = 0;
            for (size_t i = 0; i < n_in; ++i) {
                sum += std::fabs(double(w[o * n_in + i]) * double(v[t * n_in + i]));
            }
            all.push_back(sum);
        }
    }
    return all;
}

double bound_of_product(double magnitude, double units) {
    if (magnitude > double(std::numeric_limits<float>::max())) return INFINITY;
    return k_unit * units * magnitude + k_least;
}

namespace {

class ActMulCase : public CallCase {
  public:
    explicit ActMulCase(Fields& f)
        : activation(
              of_word(f.word("act", "silu", {"silu", "gelu_tanh", "sigmoid", "swiglu_oai"}))),
          rows(f.number("rows", 7, 0)),
          d(f.number("D", 64, 1)),
          spread(f.real("spread", 1)),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {rows, d}), in("gate", DType::f32, {rows, d}),
                in("up", DType::f32, {rows, d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        for (const char* name : {"gate", "up"}) {
            const bool gate = name[0] == 'g';
            std::vector<float> x = case_values(kind, rows, d, seed() + (gate ? 0 : 1));
            for (float& value : x) value *= gate || cut() ? float(spread) : 1.0f;
            named(tensors, name).set(x);
        }
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor>,
                              std::span<const float> expected) const override {
        return relative(expected, 12);  // exp and its argument a few each, the products one more
    }
    // gelu_tanh: ours is x / (1 + exp(-2 z)). Who computes x / 2 (1 + tanh z) loses all but the
    // last bits of 1 + tanh where tanh is near -1: that is off by 4 u, tanh's two units and its
    // rounding. swiglu_oai: exp of 1.702 g, which rounds in f32, as the constant does.
    std::vector<double> foreign_allowance(const std::string&,
                                          std::span<const CaseTensor> filled) const override {
        if (activation == Activation::silu || activation == Activation::sigmoid) return {};
        std::vector<double> more;
        const std::vector<float> gate = named(filled, "gate").values(),
                                 up = named(filled, "up").values();
        for (size_t i = 0; i < gate.size(); ++i) {
            const double x = double(gate[i]), g = std::min(x, 7.0);
            const double off = cut() ? 2 * 1.702 * g * g / (1 + std::exp(-1.702 * g)) * 8
                                     : 4 * x / 2 * double(up[i]);
            more.push_back(k_unit * std::fabs(off));
        }
        return more;
    }

  protected:
    Call call(const Views& v) const override {
        return ActMulArgs{
            .dst = v["dst"], .gate = v["gate"], .up = v["up"], .activation = activation};
    }

  private:
    static Activation of_word(const std::string& word) {
        if (word == "silu") return Activation::silu;
        if (word == "gelu_tanh") return Activation::gelu_tanh;
        return word == "sigmoid" ? Activation::sigmoid : Activation::swiglu_oai;
    }
    bool cut() const { return activation == Activation::swiglu_oai; }  // up too, so it is wide

    Activation activation;
    int64_t rows, d;
    double spread;
    std::string kind;
};

class AddCase : public CallCase {
  public:
    explicit AddCase(Fields& f)
        : rows(f.number("rows", 7, 0)), d(f.number("D", 64, 1)), bias(f.flag("bias")) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::exact; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {rows, d}), in("a", DType::f32, {rows, d}),
                in("b", DType::f32, {bias ? 1 : rows, d})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "a").set(case_values("normal", rows, d, seed()));
        named(tensors, "b").set(case_values("normal", bias ? 1 : rows, d, seed() + 1));
    }

  protected:
    Call call(const Views& v) const override {
        TensorView b = v["b"];
        if (bias) {
            b.n[2] = rows;
            b.stride[2] = 0;
        }
        return AddArgs{.dst = v["dst"], .a = v["a"], .b = b};
    }

  private:
    int64_t rows, d;
    bool bias;
};

class MatmulCase : public CallCase {
  public:
    explicit MatmulCase(Fields& f)
        : type(f.type("type")),
          tokens(f.number("T", 7, 0)),
          n_in(f.number("in", 256, 0)),
          n_out(f.number("out", 67, 1)),
          precision(f.precision({"f32", "f16", "bf16"})),
          kind(f.word("values", "normal", k_factor_kinds)) {
        read_layout(f, false);
    }
    Agreement agreement() const override {
        return precision == Precision::f32 ? Agreement::rounding : Agreement::nmse;
    }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {tokens, n_out}), in("weight", type, {n_out, n_in}),
                in("src", DType::f32, {tokens, n_in})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        fill_factors(kind, named(tensors, "weight"), named(tensors, "src"), seed());
    }
    NotFinite not_finite(const std::string&) const override { return not_finite_of(kind); }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        const CaseTensor &weight = named(filled, "weight"), &src = named(filled, "src");
        if (precision != Precision::f32) return {bound_of_rounded(weight, src, expected)};
        std::vector<double> bound = magnitudes(weight, src);
        for (double& one : bound) one = bound_of_product(one, walk(n_in) + 2);
        return bound;
    }

    Work work() const override {
        Work work = Case::work();
        work.flops = 2.0 * double(tokens * n_in * n_out);
        return work;
    }

  protected:
    Call exact_call(const Views& v) const override { return in_f32<MatmulArgs>(call(v)); }
    Call call(const Views& v) const override {
        return MatmulArgs{
            .dst = v["dst"], .weight = v["weight"], .src = v["src"], .precision = precision};
    }

  private:
    double bound_of_rounded(const CaseTensor& weight, const CaseTensor& src,
                            std::span<const float> y) const;

    DType type;
    int64_t tokens, n_in, n_out;
    Precision precision;
    std::string kind;
};

// nmse, both factors of every product rounded, each by a relative error of at most r, of variance
// r^2 / 3: expected is 2/3 r^2 sum (w x)^2 / sum y^2. A factor of 6, because a product alone may be
// off by 2 r.
double MatmulCase::bound_of_rounded(const CaseTensor& weight, const CaseTensor& src,
                                    std::span<const float> y) const {
    const std::vector<float> w = weight.values(), x = src.values();
    const size_t in = size_t(n_in);
    std::vector<double> w2(in, 0.0), x2(in, 0.0);  // sums of squares of each column
    for (size_t i = 0; i < w.size(); ++i) w2[i % in] += double(w[i]) * double(w[i]);
    for (size_t i = 0; i < x.size(); ++i) x2[i % in] += double(x[i]) * double(x[i]);
    double products = 0, results = 0;
    for (size_t i = 0; i < in; ++i) products += w2[i] * x2[i];
    for (const float value : y) results += double(value) * double(value);
    const double r = precision == Precision::f16 ? 0x1p-11 : 0x1p-8;
    return 6 * (2 * r * r / 3) * products / results;
}

class EmbedCase : public CallCase {
  public:
    explicit EmbedCase(Fields& f)
        : type(f.type("type")),
          tokens(f.number("T", 7, 0)),
          words(f.number("V", 67, 1)),
          width(f.number("E", 256, 1)) {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {tokens, width}), in("weight", type, {words, width}),
                in("token", DType::i32, {tokens})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        fill_weight(named(tensors, "weight"), seed());
        std::vector<int32_t> token;
        for (int64_t t = 0; t < tokens; ++t) token.push_back(int32_t((words - 1 + 13 * t) % words));
        named(tensors, "token").set(token);
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor>,
                              std::span<const float> expected) const override {
        return relative(expected, 3);
    }

    Work work() const override {  // of the weight, only the rows of these tokens
        Work work;
        work.bytes = double(tokens) * double(row_bytes(type, width) + 4 * width);
        return work;
    }

    std::vector<std::pair<std::string, double>> constants() const override {
        return {{"scale", double(k_scale)}};
    }

  protected:
    Call call(const Views& v) const override {
        return EmbedArgs{
            .dst = v["dst"], .weight = v["weight"], .token = v["token"], .scale = k_scale};
    }

  private:
    static constexpr float k_scale = 1.7f;
    DType type;
    int64_t tokens, words, width;
};

}  // namespace

std::span<const CaseOp> weight_case_ops() {
    static const CaseOp ops[] = {
        {"act_mul", "rounding: 12 u |y|",
         "rounding: 12 u |y|; act=gelu_tanh: + 2 u |gate up|; swiglu_oai: + 16 u |1.702 g^2 / (1 + "
         "exp(-1.702 g))|, g = min(gate, 7)",
         make<ActMulCase>},
        {"add", "exact", "exact", make<AddCase>},
        {"matmul",
         "rounding: u (walk(in) + 2) sum |w x|, nothing where that sum leaves f32; precision=f16, "
         "bf16: nmse "
         "4 r^2 sum (w x)^2 / sum y^2, r = 2^-11, 2^-8",
         "the same", make<MatmulCase>},
        {"embed", "exact", "rounding: 3 u |y|", make<EmbedCase>},
    };
    return ops;
}

}  // namespace rotkv
