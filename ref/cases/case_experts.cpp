// Cases of a mixture of experts: the choice, products with the chosen, their sum.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/experts.h"

#include <set>

namespace rotkv {

namespace {

Gating gating_of(const std::string& word) {
    if (word == "softmax") return Gating::softmax;
    if (word == "sigmoid") return Gating::sigmoid;
    return word == "softmax_chosen" ? Gating::softmax_chosen : Gating::sqrt_softplus;
}

class RouteCase : public CallCase {
  public:
    explicit RouteCase(Fields& f)
        : gating(gating_of(f.word("gating", "softmax",
                                  {"softmax", "sigmoid", "softmax_chosen", "sqrt_softplus"}))),
          tokens(f.number("T", 7, 0)),
          experts(f.number("X", 8, 1)),
          chosen(f.number("A", 2, 1)),
          groups(f.number("groups", 1, 1)),
          used(f.number("used", 1, 1)),
          biased(f.flag("bias")),
          normalise(f.flag("normalise")),
          scale(f.real("scale", 1)),
          scaled(f.flag("scaled")),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        std::vector<CaseTensor> all = {out("id", DType::i32, {tokens, chosen}),
                                       out("weight", DType::f32, {tokens, chosen}),
                                       in("logits", DType::f32, {tokens, experts})};
        if (biased) all.push_back(in("selection_bias", DType::f32, {experts}));
        if (scaled) all.push_back(in("expert_scale", DType::f32, {experts}));
        return all;
    }
    // Ties: multiples of a half, of which there are few.
    void fill(std::vector<CaseTensor>& tensors) const override {
        const bool ties = kind == "ties";
        std::vector<float> z = case_values(ties ? "normal" : kind, tokens, experts, seed());
        for (float& value : z) value = ties ? std::floor(2 * value) / 2 : value;
        named(tensors, "logits").set(z);
        const auto of_experts = [&](uint64_t n) {
            return case_values("normal", 1, experts, seed() + n);
        };
        if (biased) named(tensors, "selection_bias").set(of_experts(1));
        if (scaled) named(tensors, "expert_scale").set(of_experts(2));
    }
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override;

  protected:
    Call call(const Views& v) const override {
        return RouteArgs{.id = v["id"],
                         .weight = v["weight"],
                         .logits = v["logits"],
                         .selection_bias = v["selection_bias"],
                         .expert_scale = v["expert_scale"],
                         .gating = gating,
                         .groups = groups,
                         .groups_used = used,
                         .normalise = normalise,
                         .scale = float(scale)};
    }

  private:
    std::vector<int32_t> ids(std::span<const CaseTensor> filled) const;
    std::vector<double> of_softmax(std::span<const float> z) const;

    Gating gating;
    int64_t tokens, experts, chosen, groups, used;
    bool biased, normalise;
    double scale;
    bool scaled;
    std::string kind;
};

// Whom the reference chooses.
std::vector<int32_t> RouteCase::ids(std::span<const CaseTensor> filled) const {
    std::vector<int32_t> id(size_t(tokens * chosen));
    std::vector<float> weight(id.size());
    std::vector<TensorView> views;
    for (const CaseTensor& tensor : filled) {
        views.push_back(view(tensor.bytes.data(), tensor.type,
                             {tensor.extents.size() > 1 ? tokens : 1, tensor.extents.back()}));
    }
    RouteArgs args = std::get<RouteArgs>(call(Views(filled, views)));
    args.id = view(id.data(), DType::i32, {tokens, chosen});
    args.weight = view(weight.data(), DType::f32, {tokens, chosen});
    for (int64_t t = 0; t < tokens; ++t) ref::route_token(args, t);
    return id;
}

// How far p of each of n experts is off in f32, in u of itself: the difference to the largest
// logit rounds by u times itself, its exp by 4 u; so does every term of the sum, whose error is
// their mean; the sum rounds by walk(n), the quotient by u, and the reference by another.
std::vector<double> RouteCase::of_softmax(std::span<const float> z) const {
    double top = -INFINITY, sum = 0, mean = 0;
    for (const float value : z) top = std::max(top, double(value));
    const auto apart = [&](float value) {
        const double gap = top - double(value);
        return std::isfinite(gap) ? gap : 0;
    };
    for (const float value : z) {
        sum += std::exp(-apart(value));
        mean += std::exp(-apart(value)) * apart(value);
    }
    std::vector<double> units;
    for (const float value : z) {
        units.push_back(apart(value) + mean / sum + walk(int64_t(z.size())) + 10);
    }
    return units;
}

// Beside softmax: a sigmoid has an exp of 4 u, a sum and a quotient of u, twice over; a sqrt halves
// what softplus is off, which is 8 u, and u of 1 where 1 + exp(z) is a sum.
std::vector<double> RouteCase::bound(const std::string& name, std::span<const CaseTensor> filled,
                                     std::span<const float> expected) const {
    if (name == "id") return {};
    const std::vector<float> logits = named(filled, "logits").values();
    const std::vector<int32_t> id = ids(filled);
    std::vector<double> all;
    for (int64_t t = 0; t < tokens; ++t) {
        const std::span row = std::span(logits).subspan(size_t(t * experts), size_t(experts));
        std::vector<float> z;
        for (int64_t a = 0; a < chosen; ++a) z.push_back(row[size_t(id[size_t(t * chosen + a)])]);
        std::vector<double> units(size_t(chosen), 14);
        if (gating == Gating::softmax_chosen) units = of_softmax(z);
        const std::vector<double> of_all = gating == Gating::softmax ? of_softmax(row) : units;
        for (size_t a = 0; a < size_t(chosen); ++a) {
            if (gating == Gating::softmax) {
                units[a] = of_all[size_t(id[size_t(t * chosen) + a])];
            } else if (gating == Gating::sqrt_softplus && std::isfinite(z[a])) {
                units[a] += 1 / std::max(k_unit, std::log1p(std::exp(double(z[a]))));
            }
        }
        const double worst = *std::max_element(units.begin(), units.end());
        const double of_sum = normalise ? worst + walk(chosen) + 2 : 0;
        for (const double one : units) {
            const double y = std::fabs(double(expected[all.size()]));
            all.push_back(k_unit * (one + of_sum + 3) * y + k_least);
        }
    }
    return all;
}

class ExpertMatmulCase : public CallCase {
  public:
    explicit ExpertMatmulCase(Fields& f)
        : type(f.type("type")),
          tokens(f.number("T", 7, 0)),
          experts(f.number("X", 8, 1)),
          uses(f.number("A", 2, 1)),
          n_in(f.number("in", 256, 0)),
          n_out(f.number("out", 67, 1)),
          choice(f.word("ids", "random", {"random", "one", "heads"})),
          shared(f.flag("shared")),
          biased(f.flag("bias")),
          precision(f.precision({"f32", "f16", "bf16"})),
          kind(f.word("values", "normal", k_factor_kinds)) {
        if (uses > experts) f.refuse("A", "at most X", std::to_string(uses));
        read_layout(f, false);
    }
    Agreement agreement() const override {
        return precision == Precision::f32 ? Agreement::rounding : Agreement::nmse;
    }
    std::vector<CaseTensor> tensors() const override {
        CaseTensor id = in("id", DType::i32, {choice == "heads" ? 1 : tokens, uses});
        id.rigid = false;  // its rows may lie apart
        std::vector<CaseTensor> all = {out("dst", DType::f32, {tokens, uses, n_out}),
                                       in("weight", type, {experts, n_out, n_in}),
                                       in("src", DType::f32, {tokens, shared ? 1 : uses, n_in}),
                                       id};
        if (biased) all.push_back(in("bias", DType::f32, {experts, n_out}));
        return all;
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        fill_factors(kind, named(tensors, "weight"), named(tensors, "src"), seed());
        named(tensors, "id").set(choices());
        if (biased) {
            named(tensors, "bias").set(case_values("normal", experts, n_out, seed() + 1000));
        }
    }
    NotFinite not_finite(const std::string&) const override { return not_finite_of(kind); }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override;

    Work work() const override {  // of weight and bias, the experts that are used
        Work work = Case::work();
        const std::vector<int32_t> id = choices();
        const double used = double(std::set<int32_t>(id.begin(), id.end()).size());
        const int64_t of_expert = n_out * (row_bytes(type, n_in) + (biased ? 4 : 0));
        work.bytes -= (double(experts) - used) * double(of_expert);
        work.flops = 2.0 * double(tokens * uses * n_in * n_out);
        return work;
    }

  protected:
    Call exact_call(const Views& v) const override { return in_f32<ExpertMatmulArgs>(call(v)); }
    Call call(const Views& v) const override {
        TensorView src = v["src"], id = v["id"];
        if (shared) {
            src.n[2] = uses;
            src.stride[2] = 0;
        }
        if (choice == "heads") {
            id.n[2] = tokens;
            id.stride[2] = 0;
        }
        return ExpertMatmulArgs{.dst = v["dst"],
                                .weight = v["weight"],
                                .src = src,
                                .id = id,
                                .bias = v["bias"],
                                .precision = precision};
    }

  private:
    std::vector<int32_t> choices() const;

    DType type;
    int64_t tokens, experts, uses, n_in, n_out;
    std::string choice;
    bool shared, biased;
    Precision precision;
    std::string kind;
};

// heads: expert h for use h of every token, said once; one: the last expert for all; else other
// ones for each token, in any order.
std::vector<int32_t> ExpertMatmulCase::choices() const {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < (choice == "heads" ? 1 : tokens); ++t) {
        const std::vector<int32_t> order = permutation(experts, seed() + 2 + uint64_t(t));
        for (int64_t a = 0; a < uses; ++a) {
            ids.push_back(choice == "random" ? order[size_t(a)]
                                             : int32_t(choice == "one" ? experts - 1 : a));
        }
    }
    return ids;
}

// f32: matmul's bound, and one addition more for the bias. Else matmul's nmse.
std::vector<double> ExpertMatmulCase::bound(const std::string&, std::span<const CaseTensor> filled,
                                            std::span<const float> expected) const {
    const std::vector<float> w = named(filled, "weight").values(),
                             x = named(filled, "src").values();
    const std::vector<float> bias =
        biased ? named(filled, "bias").values() : std::vector<float>(size_t(experts * n_out), 0.0f);
    const std::vector<int32_t> id = choices();
    std::vector<double> all;
    double products = 0, results = 0;
    for (int64_t row = 0; row < tokens * uses; ++row) {
        const float* const from = x.data() + (shared ? row / uses : row) * n_in;
        const int64_t first = int64_t(id[size_t(choice == "heads" ? row % uses : row)]) * n_out;
        for (int64_t o = first; o < first + n_out; ++o) {
            double sum = std::fabs(double(bias[size_t(o)]));
            for (int64_t i = 0; i < n_in; ++i) {
                const double product = double(w[size_t(o * n_in + i)]) * double(from[i]);
                sum += std::fabs(product);
                products += product * product;
            }
            all.push_back(bound_of_product(sum, walk(n_in) + (biased ? 3 : 2)));
        }
    }
    if (precision == Precision::f32) return all;
    for (const float value : expected) results += double(value) * double(value);
    const double r = precision == Precision::f16 ? 0x1p-11 : 0x1p-8;
    return {6 * (2 * r * r / 3) * products / results};
}

class ExpertSumCase : public CallCase {
  public:
    explicit ExpertSumCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          uses(f.number("A", 2, 1)),
          width(f.number("E", 64, 1)),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {tokens, width}),
                in("src", DType::f32, {tokens, uses, width}),
                in("weight", DType::f32, {tokens, uses})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "src").set(case_values(kind, tokens * uses, width, seed()));
        named(tensors, "weight").set(case_values("normal", tokens, uses, seed() + 1));
    }
    std::vector<double> bound(const std::string&, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        const std::vector<float> x = named(filled, "src").values(),
                                 w = named(filled, "weight").values();
        std::vector<double> all(expected.size(), k_least);
        for (size_t i = 0; i < x.size(); ++i) {
            const size_t row = i / size_t(width), to = row / size_t(uses) * size_t(width);
            const double size = std::fabs(double(w[row]) * double(x[i]));
            all[to + i % size_t(width)] += k_unit * (walk(uses) + 2) * size;
        }
        return all;
    }

  protected:
    Call call(const Views& v) const override {
        return ExpertSumArgs{.dst = v["dst"], .src = v["src"], .weight = v["weight"]};
    }

  private:
    int64_t tokens, uses, width;
    std::string kind;
};

}  // namespace

std::span<const CaseOp> expert_case_ops() {
    static const CaseOp ops[] = {
        {"route", "exact",
         "ids exact; weights: rounding, u (c + 3) |w|, c = 14 (sigmoid), 14 + 1 / log(1 + exp(z)) "
         "(sqrt_softplus), max z - z + sum p (max z - z) + walk(X or A) + 10; normalise: + "
         "max c + walk(A) + 2",
         make<RouteCase>},
        {"expert_matmul",
         "rounding: u (walk(in) + 2) sum |w x|, with a bias u (walk(in) + 3) (sum |w x| + |bias|), "
         "nothing where that leaves f32; "
         "precision=f16, bf16: as matmul",
         "the same", make<ExpertMatmulCase>},
        {"expert_sum", "exact", "rounding: u (walk(A) + 2) sum |w x|", make<ExpertSumCase>},
    };
    return ops;
}

}  // namespace rotkv
