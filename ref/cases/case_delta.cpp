// Cases of layers that keep a state in place of cells: conv_step, delta_step.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/random.h"

#include <limits>

namespace rotkv {

namespace {

// The stream of each token, in no order; of three or more, number 1 has no tokens.
std::vector<int32_t> streams_of(int64_t tokens, int64_t streams, uint64_t seed) {
    const int64_t active = streams >= 3 ? streams - 1 : streams;
    Random random(seed);
    std::vector<int32_t> result;
    for (int64_t t = 0; t < tokens; ++t) {
        const int64_t one = random.below(active);
        result.push_back(int32_t(active < streams && one >= 1 ? one + 1 : one));
    }
    return result;
}

std::vector<double> as_f64(const std::vector<float>& values) {
    return {values.begin(), values.end()};
}

class ConvStepCase : public CallCase {
  public:
    explicit ConvStepCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          streams(f.number("S", 2, 1)),
          channels(f.number("channels", 64, 1)),
          taps(f.number("n", 4, 1)),
          kind(f.word("values", "normal", k_value_kinds)) {
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {tokens, channels}),
                in("src", DType::f32, {tokens, channels}),
                in("weight", DType::f32, {channels, taps}),
                in_out("state", DType::f32, {streams, taps - 1, channels}),
                in("stream", DType::i32, {tokens})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "src").set(case_values(kind, tokens, channels, seed()));
        named(tensors, "weight").set(case_values("normal", channels, taps, seed() + 1));
        named(tensors, "state").set(case_values(kind, streams * (taps - 1), channels, seed() + 2));
        named(tensors, "stream").set(streams_of(tokens, streams, seed() + 3));
    }
    // n products and their sums in f32 are off by n u sum |w u|, and silu hands on at most 1.1
    // times that; its own exp, quotient and products are 12 u, as in act_mul. The state is copied.
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        if (name == "state") return {};
        std::vector<double> all;
        each_sum(filled, [&](double magnitude) {
            const double y = std::fabs(double(expected[all.size()]));
            const bool overflows =
                std::isfinite(magnitude) && magnitude > std::numeric_limits<float>::max();
            all.push_back(overflows ? INFINITY
                                    : k_unit * (1.1 * double(taps + 1) * magnitude + 12 * y) +
                                          2 * double(taps + 1) * k_least);
        });
        return all;
    }

  protected:
    Call call(const Views& v) const override {
        return ConvStepArgs{.dst = v["dst"],
                            .src = v["src"],
                            .weight = v["weight"],
                            .state = v["state"],
                            .stream = v["stream"]};
    }

  private:
    // Calls visit(sum |w u|) for each token and channel.
    template <class Visit>
    void each_sum(std::span<const CaseTensor> filled, const Visit& visit) const {
        const std::vector<double> u = as_f64(named(filled, "src").values()),
                                  w = as_f64(named(filled, "weight").values());
        std::vector<double> state = as_f64(named(filled, "state").values());
        const std::vector<int32_t> stream = named(filled, "stream").indices();
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t c = 0; c < channels; ++c) {
                const auto past = [&](int64_t j) -> double& {
                    return state[size_t((stream[size_t(t)] * (taps - 1) + j) * channels + c)];
                };
                const double input = u[size_t(t * channels + c)];
                double sum = std::fabs(w[size_t((c + 1) * taps - 1)] * input);
                for (int64_t j = 0; j + 1 < taps; ++j) {
                    sum += std::fabs(w[size_t(c * taps + j)] * past(j));
                    past(j) = j + 2 < taps ? past(j + 1) : input;
                }
                visit(sum);
            }
        }
    }

    int64_t tokens, streams, channels, taps;
    std::string kind;
};

// A row of M as the reference has it, and how far off a row computed in f32 may be.
struct BoundedRow {
    std::span<double> m;
    double* error;  ///< of the row's length, from the steps so far
};

// Math: a step maps a row m to keep m (I - gain k k^T) + gain v k. With |k| <= 1 and gain <= 1 the
//       matrix lengthens nothing, and keep <= 1: errors of earlier steps are not enlarged and add
//       up. The step's own, of the row's length, in u: keep and gain may each be one f32 off (1);
//       the product m k is off by keep (walk(D) + 3) sum |m k|; v less it, times gain, times k:
//       5 roundings of gain |v - keep m k| |k|; keep m and the sum: 3 of keep |m|; the reference
//       rounds the new row once, whose length is at most keep |m| + gain |v - keep m k| |k|.
//       y = m q / sqrt(D) hands on the row's error times |q|, with walk(D) + 4 roundings of its
//       own.
struct StepBound {
    double keep, gain;
    double keep_units, gain_units;  ///< how many u each of the two may be off
    std::span<const double> k, q;

    // Takes the row through one step; returns how far its output may be off.
    double take(const BoundedRow& row, double v) const {
        const double d = double(k.size());
        double found = 0, products = 0, row2 = 0, k2 = 0, q2 = 0;
        for (size_t j = 0; j < k.size(); ++j) {
            found += row.m[j] * k[j];
            products += std::fabs(row.m[j] * k[j]);
            row2 += row.m[j] * row.m[j];
            k2 += k[j] * k[j];
            q2 += q[j] * q[j];
        }
        const double change = gain * (v - keep * found), length = std::sqrt(k2);
        const double longer = keep * std::max(1.0, std::fabs(1 - gain * k2));
        const double own =
            gain * keep * (walk(int64_t(k.size())) + 3 + keep_units) * products * length +
            (5 + gain_units) * std::fabs(change) * length +
            (3 + keep_units) * keep * std::sqrt(row2);
        *row.error = longer * *row.error + k_unit * own + 5 * d * k_least;
        double outputs = 0;
        for (size_t j = 0; j < k.size(); ++j) {
            row.m[j] = keep * row.m[j] + change * k[j];
            outputs += std::fabs(row.m[j] * q[j]);
        }
        const double rounded = k_unit * (walk(int64_t(k.size())) + 4) * outputs;
        return (*row.error * std::sqrt(q2) + rounded) / std::sqrt(d) + 2 * d * k_least;
    }
};

class DeltaStepCase : public CallCase {
  public:
    explicit DeltaStepCase(Fields& f)
        : tokens(f.number("T", 7, 0)),
          streams(f.number("S", 2, 1)),
          key_heads(f.number("Hk", 2, 1)),
          heads(f.number("Hv", 4, 1)),
          d(f.number("D", 32, 1)),
          grouped(f.word("heads", "grouped", {"grouped", "interleaved"}) == "grouped"),
          spread(f.real("spread", 1)),
          kind(f.word("values", "normal", k_value_kinds)) {
        if (heads % key_heads != 0) {
            f.refuse("Hv", "a multiple of " + std::to_string(key_heads), std::to_string(heads));
        }
        read_layout(f, true);
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override {
        return {out("dst", DType::f32, {tokens, heads, d}),
                in("v", DType::f32, {tokens, heads, d}),
                in("q", DType::f32, {tokens, key_heads, d}),
                in("k", DType::f32, {tokens, key_heads, d}),
                in("alpha", DType::f32, {tokens, heads}),
                in("beta", DType::f32, {tokens, heads}),
                in("decay", DType::f32, {heads}),
                in("dt", DType::f32, {heads}),
                in_out("state", DType::f32, {streams, heads, d, d}),
                in("stream", DType::i32, {tokens})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        named(tensors, "v").set(case_values(kind, tokens * heads, d, seed()));
        named(tensors, "state").set(case_values(kind, streams * heads * d, d, seed() + 1));
        named(tensors, "q").set(units(seed() + 2));
        named(tensors, "k").set(units(seed() + 3));
        for (const char* name : {"alpha", "beta", "dt", "decay"}) {
            CaseTensor& gate = named(tensors, name);
            std::vector<float> x = case_values("normal", gate.rows(), heads, seed() + name[1]);
            for (float& one : x) one *= float(spread);
            if (name[1] == 'e' && name[0] == 'd') {
                for (float& one : x) one = -std::fabs(one);
            }
            gate.set(x);
        }
        named(tensors, "stream").set(streams_of(tokens, streams, seed() + 4));
    }
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        return bound_by(name, filled, false);
    }
    // Another engine computes the gates in f32 too: softplus of a sum that is one rounding off,
    // 4 u of itself, times decay, its exp, and the quotient of a sigmoid.
    std::vector<double> foreign_allowance(const std::string& name,
                                          std::span<const CaseTensor> filled) const override {
        std::vector<double> more = bound_by(name, filled, true);
        const std::vector<double> ours = bound_by(name, filled, false);
        for (size_t i = 0; i < more.size(); ++i) more[i] -= ours[i];
        return more;
    }
    Work work() const override {
        Work work;
        const double matrix = double(heads * d * d), rows = double(tokens * heads * d);
        work.bytes = 8 * matrix * double(std::min(tokens, streams)) + 4 * 2 * rows +
                     8 * double(tokens * key_heads * d);
        work.flops = 7 * matrix * double(tokens);
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return DeltaStepArgs{.dst = v["dst"],
                             .q = v["q"],
                             .k = v["k"],
                             .v = v["v"],
                             .alpha = v["alpha"],
                             .beta = v["beta"],
                             .decay = v["decay"],
                             .dt = v["dt"],
                             .state = v["state"],
                             .stream = v["stream"],
                             .key_heads = grouped ? KeyHeads::grouped : KeyHeads::interleaved};
    }

  private:
    // Rows of length 1, as a norm leaves them; of small vectors less, of zeros nothing.
    std::vector<float> units(uint64_t seed) const {
        std::vector<float> x = case_values("normal", tokens * key_heads, d, seed);
        for (int64_t r = 0; r < tokens * key_heads; ++r) {
            const std::span<float> row = std::span(x).subspan(size_t(r * d), size_t(d));
            double squares = 0;
            for (const float one : row) squares += double(one) * double(one);
            const double length = r % 11 == 9 ? 0 : r % 11 == 5 ? 1e-4 : 1;
            for (float& one : row) one = float(double(one) * length / std::sqrt(squares));
        }
        return x;
    }

    struct Gates {
        double keep, gain, keep_units, gain_units;
    };
    Gates gates_of(double alpha, double beta, double decay, double dt, bool foreign) const {
        const double x = alpha + dt, softplus = x > 20 ? x : std::log1p(std::exp(x));
        const double exponent = decay * softplus;
        Gates gates{double(float(std::exp(exponent))), double(float(1 / (1 + std::exp(-beta)))), 1,
                    1};
        if (foreign) {
            gates.keep_units = 4 + std::fabs(exponent) * (6 + std::fabs(x));
            gates.gain_units = 8 + std::fabs(beta);
        }
        return gates;
    }

    std::vector<double> bound_by(const std::string& name, std::span<const CaseTensor> filled,
                                 bool foreign) const {
        const auto numbers = [&](const char* of) { return as_f64(named(filled, of).values()); };
        const std::vector<double> v = numbers("v"), q = numbers("q"), k = numbers("k"),
                                  alpha = numbers("alpha"), beta = numbers("beta"),
                                  decay = numbers("decay"), dt = numbers("dt");
        std::vector<double> state = numbers("state"), outputs(v.size(), 0.0);
        std::vector<double> error(state.size() / size_t(d), 0.0);  // of a row
        const std::vector<int32_t> stream = named(filled, "stream").indices();
        const size_t n = size_t(d);
        for (size_t i = 0; i < alpha.size(); ++i) {  // token and value head
            const size_t t = i / size_t(heads), h = i % size_t(heads);
            const size_t of = grouped ? h / size_t(heads / key_heads) : h % size_t(key_heads);
            const Gates gates = gates_of(alpha[i], beta[i], decay[h], dt[h], foreign);
            const size_t row = (t * size_t(key_heads) + of) * n;
            const StepBound step{gates.keep,
                                 gates.gain,
                                 gates.keep_units,
                                 gates.gain_units,
                                 std::span(k).subspan(row, n),
                                 std::span(q).subspan(row, n)};
            const size_t first = (size_t(stream[t]) * size_t(heads) + h) * n;
            for (size_t r = 0; r < n; ++r) {
                const BoundedRow of_m{std::span(state).subspan((first + r) * n, n),
                                      &error[first + r]};
                outputs[i * n + r] = step.take(of_m, v[i * n + r]);
            }
        }
        if (name == "dst") return outputs;
        for (size_t i = 0; i < state.size(); ++i) state[i] = error[i / n];
        return state;
    }

    int64_t tokens, streams, key_heads, heads, d;
    bool grouped;
    double spread;  ///< of what the gates are made from
    std::string kind;
};

}  // namespace

std::span<const CaseOp> delta_case_ops() {
    static const CaseOp ops[] = {
        {"conv_step", "rounding: u (1.1 (n + 1) sum |w u| + 12 |y|); state exact", "the same",
         make<ConvStepCase>},
        {"delta_step",
         "rounding: a row m of the state adds u (gain keep (walk(D) + 4) sum |m k| |k| + "
         "6 |change| |k| + 4 keep |m|) a step, change = gain (v - keep m k); "
         "dst: (that |q| + u (walk(D) + 4) sum |m q|) / sqrt(D)",
         "the same, with gates in f32", make<DeltaStepCase>},
    };
    return ops;
}

}  // namespace rotkv
