// From the residual stream to likelihoods. Beside ref, the walk over the vocabulary goes in panels
// of words and tiles of tokens: dnnl_sgemm makes a tile of logits that stays in the L2 cache, and
// one thread per row folds its part of the row into the running sums. Where it is faster
// (packed_products.h) the tile is made from packed words. Logits and their exponentials are f32;
// every sum over words is f64.
#include "fast/kernels.h"
#include "fast/packed_products.h"
#include "fast/panel.h"
#include "fast/simd.h"
#include "fast/threads.h"
#include "fast/workspace.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace rotkv::fast {
namespace {

constexpr int64_t k_tile_tokens = 256;  // with 1024 words a tile is 1 MiB
constexpr int64_t k_few_words = 8192;   // of a tile of few tokens

int64_t tile_width(const TensorView& weight, int64_t tokens) {
    return tokens > k_strip_tokens ? panel_rows(weight) : std::min(k_few_words, weight.n[2]);
}

// x = c tanh(x / c)
void cap_row(float* x, int64_t n, float c) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        const Vec v = load_part(x + i, n - i);
        store_part(x + i, Vec(c) * tanh(v / Vec(c)), n - i);
    }
}

float largest_of(const float* x, int64_t n) {
    Vec largest(-INFINITY);
    int64_t i = 0;
    for (; i + k_lanes <= n; i += k_lanes) largest = max(largest, load(x + i));
    float lanes[k_lanes];
    store(lanes, largest);
    const float rest = i < n ? *std::max_element(x + i, x + n) : -INFINITY;
    return std::max(rest, *std::max_element(lanes, lanes + k_lanes));
}

// y = exp(x - shift); returns the sum of y.
double exp_row(float* y, const float* x, int64_t n, float shift) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        store_part(y + i, exp(load_part(x + i, n - i) - Vec(shift)), n - i);
    }
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += double(y[i]);
    return sum;
}

// Some logits of one row: those of `n` words from word `first` on.
struct Words {
    const float* logit;
    int64_t n, first;
};

// What one row of logits has shown so far.
struct Running {
    float largest = -INFINITY;
    double sum = 0;  // of exp(logit - largest)
    double target = 0;
    int32_t top = 0;

    // Leaves exp(logit - largest) of the new words in e, which may be the logits' own place.
    // Returns the factor that brought the sums to the new largest.
    double add(float* e, const Words& words, int32_t target_word) {
        double factor = 1;
        const float highest = largest_of(words.logit, words.n);
        if (highest > largest) {
            factor = std::exp(double(largest) - double(highest));
            largest = highest;
            const float* end = words.logit + words.n;
            top = int32_t(words.first + (std::find(words.logit, end, highest) - words.logit));
        }
        const int64_t at = target_word - words.first;
        if (at >= 0 && at < words.n) target = double(words.logit[at]);
        const float shift = largest > -INFINITY ? largest : 0;  // -inf: all words have p = 0
        sum = sum * factor + exp_row(e, words.logit, words.n, shift);
        return factor;
    }
    double log_sum() const { return double(largest) + std::log(sum); }
    double nll() const { return log_sum() - target; }
};

// The state of a row of kld: a is the reference.
struct RunningPair {
    Running a, b;
    double difference = 0;  // sum of exp(a_v - largest a) (a_v - b_v)

    void add(float* e, const Words& in_a, const Words& in_b, int32_t target_word) {
        b.add(e, in_b, target_word);
        difference *= a.add(e, in_a, target_word);
        double more = 0;
#pragma omp simd reduction(+ : more)
        for (int64_t i = 0; i < in_a.n; ++i) {
            more += double(e[i]) * (double(in_a.logit[i]) - double(in_b.logit[i]));
        }
        difference += more;
    }
    double kld() const {
        const double value = difference / a.sum - a.log_sum() + b.log_sum();
        return value < 0 ? 0 : value;  // rounding may leave -1e-17, and a NaN stays one
    }
};

// Calls visit(first token, tokens, panel) for every tile of the tokens x words matrix, panel after
// panel. Where weights stay packed no panel is expanded.
template <class Visit>
void for_each_tile(const TensorView& weight, int64_t tokens, Visit visit) {
    const int64_t width = tile_width(weight, tokens), words = weight.n[2];
    for (int64_t first = 0; first < words; first += width) {
        const Panel panel = team_multiplies(tokens)
                                ? Panel{nullptr, 0, first, std::min(width, words - first), 0}
                                : load_panel(weight, first);
        for (int64_t t = 0; t < tokens; t += k_tile_tokens) {
            visit(t, std::min(k_tile_tokens, tokens - t), panel);
        }
    }
}

// tile[i][word - panel.first] = hidden[t0 + i] . weight[word], `width` floats from row to row.
void multiply_tile(float* tile, int64_t width, const TensorView& hidden, int64_t t0, int64_t count,
                   const TensorView& weight, const Panel& panel) {
    if (panel.data != nullptr) return multiply_panel(tile, width, hidden, t0, count, panel);
    TensorView y = view(tile, DType::f32, {count, panel.rows}), words = weight, x = hidden;
    y.stride[2] = width * int64_t(sizeof(float));
    words.data += panel.first * weight.stride[2];
    words.n[2] = panel.rows;
    x.data += t0 * hidden.stride[2];
    x.n[2] = count;
    multiply_packed({.dst = y, .weight = words, .src = x});
}

}  // namespace

// nll = log(sum_v exp(logit_v)) - logit_target
void nll(const NllArgs& args) {
    const int64_t tokens = args.hidden.n[2], width = tile_width(args.weight, tokens);
    const int32_t* target = args.target.row<const int32_t>(0);
    std::vector<Running> rows(static_cast<size_t>(tokens));
    thread_local Workspace space;
    float* const tile = space.reserve(std::min(k_tile_tokens, tokens) * width);
    for_each_tile(args.weight, tokens, [&](int64_t t0, int64_t count, const Panel& panel) {
        multiply_tile(tile, width, args.hidden, t0, count, args.weight, panel);
        share_batch(tokens, count, [&](int64_t i) {
            float* x = tile + i * width;
            if (args.softcap > 0) cap_row(x, panel.rows, args.softcap);
            rows[size_t(t0 + i)].add(x, {x, panel.rows, panel.first}, target[t0 + i]);
        });
    });
    for (int64_t t = 0; t < tokens; ++t) {
        args.nll.row<double>(0)[t] = rows[size_t(t)].nll();
        args.top.row<int32_t>(0)[t] = rows[size_t(t)].top;
    }
}

// kld = sum_v p_a (a_v - b_v) - log_sum_a + log_sum_b
void kld(const KldArgs& args) {
    const int64_t tokens = args.hidden_a.n[2], width = tile_width(args.weight, tokens);
    const int32_t* target = args.target.row<const int32_t>(0);
    std::vector<RunningPair> rows(static_cast<size_t>(tokens));
    thread_local Workspace space;
    const int64_t tile = std::min(k_tile_tokens, tokens) * width;
    float *const tile_a = space.reserve(2 * tile), *const tile_b = tile_a + tile;
    for_each_tile(args.weight, tokens, [&](int64_t t0, int64_t count, const Panel& panel) {
        multiply_tile(tile_a, width, args.hidden_a, t0, count, args.weight, panel);
        multiply_tile(tile_b, width, args.hidden_b, t0, count, args.weight, panel);
        share_batch(tokens, count, [&](int64_t i) {
            thread_local Workspace own;
            float* const e = own.reserve(width);
            float *a = tile_a + i * width, *b = tile_b + i * width;
            if (args.softcap > 0) cap_row(a, panel.rows, args.softcap);
            if (args.softcap > 0) cap_row(b, panel.rows, args.softcap);
            rows[size_t(t0 + i)].add(e, {a, panel.rows, panel.first}, {b, panel.rows, panel.first},
                                     target[t0 + i]);
        });
    });
    for (int64_t t = 0; t < tokens; ++t) {
        const RunningPair& row = rows[size_t(t)];
        args.kld.row<double>(0)[t] = row.kld();
        args.nll_a.row<double>(0)[t] = row.a.nll();
        args.nll_b.row<double>(0)[t] = row.b.nll();
        args.top_a.row<int32_t>(0)[t] = row.a.top;
        args.top_b.row<int32_t>(0)[t] = row.b.top;
    }
}

// logit_v = softcap(hidden . w_v)
void logits(const LogitsArgs& args) {
    matmul({args.dst, args.weight, args.hidden});
    if (args.softcap <= 0) return;
    constexpr int64_t part = 1 << 13;  // words
    const int64_t words = args.dst.n[3], parts = (words + part - 1) / part;
    share(args.dst.n[2] * parts, [&](int64_t i) {
        const int64_t first = i % parts * part;
        cap_row(args.dst.row<float>(i / parts) + first, std::min(part, words - first),
                args.softcap);
    });
}

}  // namespace rotkv::fast
