// Cases of the output matrix: nll, kld, logits.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"

namespace rotkv {

namespace {

// Residual streams, the output matrix, targets: shared by nll, kld and logits.
struct Likelihood {
    DType type;
    int64_t tokens, words, width;
    double softcap;

    explicit Likelihood(Fields& f)
        : type(f.type("type")),
          tokens(f.number("T", 7, 0)),
          words(f.number("V", 301, 1)),
          width(f.number("E", 96, 1)),
          softcap(f.real("softcap", 0)) {}

    CaseTensor weight() const { return in("weight", type, {words, width}); }
    CaseTensor hidden(const char* name) const { return in(name, DType::f32, {tokens, width}); }

    void fill_target(CaseTensor& target) const {
        std::vector<int32_t> token;
        for (int64_t t = 0; t < tokens; ++t) token.push_back(int32_t(83 * t % words));
        target.set(token);
    }
    // The largest error of a row's logits: u (walk(E) + 8) max over the words of sum |h w|; tanh
    // and its factor are among the 8.
    std::vector<double> logit_error(const CaseTensor& weight, const CaseTensor& hidden) const {
        const std::vector<double> sums = magnitudes(weight, hidden);
        std::vector<double> error;
        for (auto row = sums.begin(); row != sums.end(); row += words) {
            error.push_back(k_unit * (walk(width) + 8) * *std::max_element(row, row + words));
        }
        return error;
    }
    // -log p = log sum exp(logit) - logit: twice the logits' error, and the sum's own.
    std::vector<double> nll_error(const CaseTensor& weight, const CaseTensor& hidden) const {
        std::vector<double> error = logit_error(weight, hidden);
        for (double& one : error) one = 2 * one + k_unit * (walk(words) + 8);
        return error;
    }
};

class NllCase : public CallCase {
  public:
    explicit NllCase(Fields& f) : shape(f) {}
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("nll", DType::f64, {shape.tokens}), out("top", DType::i32, {shape.tokens}),
                shape.hidden("hidden"), shape.weight(), in("target", DType::i32, {shape.tokens})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "hidden").set(case_values("normal", shape.tokens, shape.width, seed()));
        fill_weight(named(tensors, "weight"), seed() + 1);
        shape.fill_target(named(tensors, "target"));
    }
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        if (name == "top") return {};
        return shape.nll_error(named(filled, "weight"), named(filled, "hidden"));
    }

    Work work() const override {
        Work work = Case::work();
        work.flops = 2.0 * double(shape.tokens * shape.width * shape.words);
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return NllArgs{.nll = v["nll"],
                       .top = v["top"],
                       .hidden = v["hidden"],
                       .weight = v["weight"],
                       .target = v["target"],
                       .softcap = float(shape.softcap)};
    }

  private:
    Likelihood shape;
};

class KldCase : public CallCase {
  public:
    explicit KldCase(Fields& f) : shape(f) {}
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        std::vector<CaseTensor> all;
        for (const char* name : {"kld", "nll_a", "nll_b"}) {
            all.push_back(out(name, DType::f64, {shape.tokens}));
        }
        for (const char* name : {"top_a", "top_b"}) {
            all.push_back(out(name, DType::i32, {shape.tokens}));
        }
        all.push_back(shape.hidden("hidden_a"));
        all.push_back(shape.hidden("hidden_b"));
        all.push_back(shape.weight());
        all.push_back(in("target", DType::i32, {shape.tokens}));
        return all;
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        std::vector<float> x = case_values("normal", shape.tokens, shape.width, seed());
        named(tensors, "hidden_a").set(x);
        const std::vector<float> noise =
            case_values("normal", shape.tokens, shape.width, seed() + 2);
        for (size_t i = 0; i < x.size(); ++i) x[i] += 0.02f * noise[i];
        named(tensors, "hidden_b").set(x);
        fill_weight(named(tensors, "weight"), seed() + 1);
        shape.fill_target(named(tensors, "target"));
    }
    // kld = sum p_a (log p_a - log p_b): each log-probability is off by its nll's error e, and each
    // p_a by e of itself; with e below 1 / 100 the mean of |log p_a - log p_b| stays below 1 here.
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        const CaseTensor& weight = named(filled, "weight");
        std::vector<double> a = shape.nll_error(weight, named(filled, "hidden_a"));
        const std::vector<double> b = shape.nll_error(weight, named(filled, "hidden_b"));
        if (name == "nll_a") return a;
        if (name == "nll_b") return b;
        if (name != "kld") return {};
        for (size_t t = 0; t < a.size(); ++t) a[t] = 2 * a[t] + b[t];
        return a;
    }

    Work work() const override {
        Work work = Case::work();
        work.flops = 4.0 * double(shape.tokens * shape.width * shape.words);
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return KldArgs{.kld = v["kld"],
                       .nll_a = v["nll_a"],
                       .nll_b = v["nll_b"],
                       .top_a = v["top_a"],
                       .top_b = v["top_b"],
                       .hidden_a = v["hidden_a"],
                       .hidden_b = v["hidden_b"],
                       .weight = v["weight"],
                       .target = v["target"],
                       .softcap = float(shape.softcap)};
    }

  private:
    Likelihood shape;
};

class LogitsCase : public CallCase {
  public:
    explicit LogitsCase(Fields& f) : shape(f) {}
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {shape.tokens, shape.words}), shape.hidden("hidden"),
                shape.weight()};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "hidden").set(case_values("normal", shape.tokens, shape.width, seed()));
        fill_weight(named(tensors, "weight"), seed() + 1);
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        std::vector<double> bound;
        for (const double one :
             shape.logit_error(named(filled, "weight"), named(filled, "hidden"))) {
            bound.insert(bound.end(), size_t(shape.words), one);
        }
        return bound;
    }

    Work work() const override {
        Work work = Case::work();
        work.flops = 2.0 * double(shape.tokens * shape.width * shape.words);
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return LogitsArgs{.dst = v["dst"],
                          .hidden = v["hidden"],
                          .weight = v["weight"],
                          .softcap = float(shape.softcap)};
    }

  private:
    Likelihood shape;
};

}  // namespace

std::span<const CaseOp> likelihood_case_ops() {
    static const CaseOp ops[] = {
        {"nll", "rounding: u (2 (walk(E) + 8) max sum |h w| + walk(V) + 8); top exact", "the same",
         make<NllCase>},
        {"kld", "rounding: twice a's bound of nll and once b's; tops exact", "the same",
         make<KldCase>},
        {"logits", "rounding: u (walk(E) + 8) max sum |h w|", "the same", make<LogitsCase>},
    };
    return ops;
}

}  // namespace rotkv
