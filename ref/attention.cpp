// Rotated attention for one token, from the rotated query to the output, in the order in which it
// happens. Storing comes first (kv_cache.cpp): a key or value is rotated, quantized and written to
// its cell; what follows reads only the cache.
//
//   1 rotate the query        q~ = R_k q
//   2 score the visible cells s_c = scale * q~ . k~_c        (k~_c = the cached, rotated key)
//   3 softmax                 p_c = exp(s_c) / (exp(sink) + sum_c exp(s_c))
//   4 sum the values          o~ = sum_c p_c v~_c
//   5 rotate back             o = R_v^T o~
//
// R is orthogonal, so q~ . k~ = q . k and R_v^T (sum p R_v v) = sum p v: without quantization the
// rotation cancels exactly in real arithmetic. With it, what was quantized had no outliers.
// Everything between rounds once: reductions run in f64.
//
// A call may be about some of the cells only (args.bounds). Its lse, the log of step 3's
// denominator, is then what merge() weighs the outputs of two such calls by.
#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/quant.h"

#include <cmath>
#include <vector>

namespace rotkv::ref {

namespace {

// A query's view of its stream: the cells that take part, in the order of the cells.
std::vector<int64_t> visible_cells(const AttentionArgs& args, int64_t stream, int32_t q_position) {
    std::vector<int64_t> cells;
    const int32_t* position = ints(args.position, stream);
    const int32_t used = ints(args.used)[stream];
    for (int64_t c = 0; c < used; ++c) {
        if (args.takes_part(position[c], q_position)) cells.push_back(c);
    }
    return cells;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
    return sum;
}

// Scores become probabilities in place. The sink is one more score that has no value to give: it
// only enlarges the denominator, whose log is returned: -inf if there is nothing to sum, which is
// so too where all scores are -inf. Cells weigh 0 then, as one of them would beside another score.
double softmax(std::vector<double>& scores, const float* sink) {
    double largest = sink != nullptr ? double(*sink) : -INFINITY;
    for (const double s : scores) largest = std::max(largest, s);
    const double unit = largest == -INFINITY ? 0.0 : largest;
    double sum = sink != nullptr ? std::exp(double(*sink) - unit) : 0.0;
    for (double& s : scores) {
        s = std::exp(s - unit);
        sum += s;
    }
    for (double& s : scores) s = sum == 0 ? 0.0 : s / sum;
    return unit + std::log(sum);
}

// Attention of one query head of one token over the cells it sees; `kv` is its group's KV head.
void attend(const AttentionArgs& args, int64_t t, int64_t h, int64_t kv, int64_t stream,
            const std::vector<int64_t>& cells) {
    const int64_t d_k = args.q.n[3], d_v = args.dst.n[3];

    // 1 rotate the query
    std::vector<float> q(static_cast<size_t>(d_k));
    hadamard_row(q.data(), args.q.row<const float>(t, h), d_k, args.k_rotation, false);

    // 2 score the visible cells
    std::vector<float> k(static_cast<size_t>(d_k));
    std::vector<double> scores;
    for (const int64_t c : cells) {
        const std::byte* cached = args.k_cache.row<const std::byte>(stream, c, kv);
        dequantize_row(args.k_cache.type, k.data(), cached, d_k);
        double score = double(args.scale) * dot(q, k);
        if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
        scores.push_back(score);
    }

    // 3 softmax
    const float* sink = args.sinks.empty() ? nullptr : args.sinks.row<const float>(0) + h;
    const double lse = softmax(scores, sink);
    if (!args.lse.empty()) args.lse.row<float>(t)[h] = float(lse);

    // 4 sum the values
    std::vector<float> v(static_cast<size_t>(d_v));
    std::vector<double> sum(static_cast<size_t>(d_v), 0.0);
    for (size_t i = 0; i < cells.size(); ++i) {
        const std::byte* cached = args.v_cache.row<const std::byte>(stream, cells[i], kv);
        dequantize_row(args.v_cache.type, v.data(), cached, d_v);
        for (size_t j = 0; j < sum.size(); ++j) sum[j] += scores[i] * double(v[j]);
    }

    // 5 rotate back
    float* out = args.dst.row<float>(t, h);
    for (size_t j = 0; j < sum.size(); ++j) out[j] = float(sum[j]);
    hadamard_row(out, out, d_v, args.v_rotation, true);
}

}  // namespace

void attention(const AttentionArgs& args) {
    const int64_t tokens = args.q.n[1], heads = args.q.n[2], kv_heads = args.k_cache.n[2];
    const int64_t group = heads / kv_heads;  // query heads that share one KV head (GQA)
    for (int64_t t = 0; t < tokens; ++t) {
        const int32_t stream = ints(args.q_stream)[t];
        const int32_t q_position = ints(args.q_position)[t];
        const std::vector<int64_t> cells = visible_cells(args, stream, q_position);
        for (int64_t h = 0; h < heads; ++h) attend(args, t, h, h / group, stream, cells);
    }
}

// An output times its denominator exp(lse) is a sum over cells, and sums of parts add up. All is
// counted in units of exp(the larger lse): a part where nothing took part weighs exp(-inf) = 0.
void merge(const MergeArgs& args) {
    for (int64_t t = 0; t < args.dst.n[1]; ++t) {
        for (int64_t h = 0; h < args.dst.n[2]; ++h) {
            const double lse_a = double(args.lse_a.row<const float>(t)[h]);
            const double lse_b = double(args.lse_b.row<const float>(t)[h]);
            const double unit = std::max(lse_a, lse_b);
            const bool none = lse_a == -INFINITY && lse_b == -INFINITY;
            const double exp_a = none ? 0.0 : std::exp(lse_a - unit);
            const double exp_b = none ? 0.0 : std::exp(lse_b - unit);
            const double sum = exp_a + exp_b;
            args.lse.row<float>(t)[h] = float(unit + std::log(sum));
            const float* a = args.a.row<const float>(t, h);
            const float* b = args.b.row<const float>(t, h);
            float* y = args.dst.row<float>(t, h);
            for (int64_t j = 0; j < args.dst.n[3]; ++j) {
                y[j] = none ? 0.0f : float((exp_a * double(a[j]) + exp_b * double(b[j])) / sum);
            }
        }
    }
}

}  // namespace rotkv::ref
