// From the residual stream to likelihoods, one word of the vocabulary at a time: the tokens x words
// matrix of logits never exists. Running sums are kept relative to the largest logit so far, as in
// online softmax: when a larger one m' comes, sums are multiplied by exp(m - m').
#include "ref/kernels.h"
#include "ref/quant.h"

#include <cmath>
#include <vector>

namespace rotkv::ref {

namespace {

// logit_v = softcap(hidden . w_v), in f64. One that f32 cannot hold is infinite, as it is where
// logits are f32: no backend makes a number of a position that another calls none.
double logit(const float* hidden, const std::vector<float>& w, float softcap) {
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) sum += double(hidden[i]) * double(w[i]);
    if (softcap > 0) return softcap * std::tanh(sum / softcap);
    const float rounded = float(sum);
    return std::isinf(rounded) ? double(rounded) : sum;
}

// What one row of logits has shown so far.
struct Running {
    double largest = -INFINITY;
    double sum = 0;  // of exp(logit - largest)
    double target = 0;
    int32_t top = 0;

    // Returns the factor that brought the sums to the new largest.
    double add(double x, int32_t word, int32_t target_word) {
        double factor = 1;
        if (x > largest) {
            factor = std::exp(largest - x);
            sum *= factor;
            largest = x;
            top = word;
        }
        sum += std::exp(largest > -INFINITY ? x - largest : x);  // -inf: all words have p = 0
        if (word == target_word) target = x;
        return factor;
    }
    double log_sum() const { return largest + std::log(sum); }
    double nll() const { return log_sum() - target; }
};

// Calls visit(word, w) for every row of the output matrix, dequantized.
template <class Visit>
void for_each_word(const TensorView& weight, Visit visit) {
    std::vector<float> w(static_cast<size_t>(weight.n[3]));
    for (int64_t word = 0; word < weight.n[2]; ++word) {
        dequantize_row(weight.type, w.data(), weight.row<const std::byte>(word), weight.n[3]);
        visit(int32_t(word), w);
    }
}

}  // namespace

// nll = log(sum_v exp(logit_v)) - logit_target
void nll(const NllArgs& args) {
    const int64_t tokens = args.hidden.n[2];
    const int32_t* target = ints(args.target);
    std::vector<Running> rows(static_cast<size_t>(tokens));
    for_each_word(args.weight, [&](int32_t word, const std::vector<float>& w) {
        for (int64_t t = 0; t < tokens; ++t) {
            const double x = logit(args.hidden.row<const float>(t), w, args.softcap);
            rows[size_t(t)].add(x, word, target[t]);
        }
    });
    for (int64_t t = 0; t < tokens; ++t) {
        args.nll.row<double>(0)[t] = rows[size_t(t)].nll();
        args.top.row<int32_t>(0)[t] = rows[size_t(t)].top;
    }
}

// kld = sum_v p_a (log p_a - log p_b)
//     = sum_v p_a (a_v - b_v) - log_sum_a + log_sum_b,   a, b the two rows of logits
void kld(const KldArgs& args) {
    const int64_t tokens = args.hidden_a.n[2];
    const int32_t* target = ints(args.target);
    struct Pair {
        Running a, b;
        double difference = 0;  // sum of exp(a_v - largest a) (a_v - b_v)
    };
    std::vector<Pair> rows(static_cast<size_t>(tokens));
    for_each_word(args.weight, [&](int32_t word, const std::vector<float>& w) {
        for (int64_t t = 0; t < tokens; ++t) {
            Pair& row = rows[size_t(t)];
            const double a = logit(args.hidden_a.row<const float>(t), w, args.softcap);
            const double b = logit(args.hidden_b.row<const float>(t), w, args.softcap);
            row.difference *= row.a.add(a, word, target[t]);
            row.difference += std::exp(a - row.a.largest) * (a - b);
            row.b.add(b, word, target[t]);
        }
    });
    for (int64_t t = 0; t < tokens; ++t) {
        const Pair& row = rows[size_t(t)];
        const double mean_difference = row.difference / row.a.sum;
        const double kld = mean_difference - row.a.log_sum() + row.b.log_sum();
        args.kld.row<double>(0)[t] = kld < 0 ? 0 : kld;  // rounding may leave -1e-17; a NaN stays
        args.nll_a.row<double>(0)[t] = row.a.nll();
        args.nll_b.row<double>(0)[t] = row.b.nll();
        args.top_a.row<int32_t>(0)[t] = row.a.top;
        args.top_b.row<int32_t>(0)[t] = row.b.top;
    }
}

void logits(const LogitsArgs& args) {
    const int64_t tokens = args.hidden.n[2];
    for_each_word(args.weight, [&](int32_t word, const std::vector<float>& w) {
        for (int64_t t = 0; t < tokens; ++t) {
            const double x = logit(args.hidden.row<const float>(t), w, args.softcap);
            args.dst.row<float>(t)[word] = float(x);
        }
    });
}

}  // namespace rotkv::ref
