#include "ref/cases/path_allowance.h"

#include "ref/hadamard.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>

namespace rotkv {

namespace {

constexpr double k_f16 = 0x1p-11;  // half the distance from 1 to the next f16

// How far the rotated q may be off in each channel.
std::vector<double> error_of_q(std::span<const float> q, PathPrecision precision) {
    std::vector<double> error(q.size(), 0.0);
    if (precision == PathPrecision::f32) return error;
    for (size_t j = 0; j < q.size(); ++j) error[j] = k_f16 * std::fabs(double(q[j])) + 0x1p-25;
    if (precision == PathPrecision::f16) return error;
    for (size_t first = 0; first < q.size(); first += k_block) {
        const std::span<const float> block =
            q.subspan(first, std::min<size_t>(k_block, q.size() - first));
        double largest = 0;
        for (const float x : block) largest = std::max(largest, std::fabs(double(x)));
        for (size_t j = 0; j < block.size(); ++j) {  // half a step, and the step rounded to f16
            error[first + j] +=
                (1 + 2 * k_f16) * (largest / 254 + 2 * k_f16 * std::fabs(double(block[j])));
        }
    }
    return error;
}

// One cell as a head of one token sees it.
struct Seen {
    double p, moved;          // probability, D_i
    std::vector<float> back;  // its values, rotated back
    const float *v, *v_reach;
};

struct Head {
    std::vector<Seen> cells;
    double sink = 0;  // its probability
};

// A number of the cache that the engine rounds once more.
double again(double x, PathPrecision precision) {
    return precision == PathPrecision::f32 ? 0 : k_f16 * std::fabs(x) + 0x1p-25;
}

Head head_of(const RowsOfAttention& in, std::span<const float> k_reach,
             std::span<const float> v_reach, PathPrecision precision, int64_t i) {
    const int64_t h = i % in.heads, kv = h / (in.heads / in.kv_heads);
    std::vector<float> q(&in.q[size_t(i * in.d_k)], &in.q[size_t(i * in.d_k)] + in.d_k);
    ref::hadamard_row(q.data(), q.data(), in.d_k, in.rule.k_rotation, false);
    const std::vector<double> q_error = error_of_q(q, precision);
    Head head;
    std::vector<double> scores;
    double top = in.sinks.empty() ? -INFINITY : double(in.sinks[size_t(h)]);
    for (size_t c = 0; c < in.position.size(); ++c) {
        if (!in.rule.takes_part(in.position[c], in.q_position[size_t(i / in.heads)])) continue;
        const size_t row = c * size_t(in.kv_heads) + size_t(kv);
        double sum = 0, moved = 0;
        for (int64_t j = 0; j < in.d_k; ++j) {
            const size_t at = row * size_t(in.d_k) + size_t(j);
            const double k = double(in.k[at]), off = double(k_reach[at]) + again(k, precision);
            sum += double(q[size_t(j)]) * k;
            moved +=
                std::fabs(double(q[size_t(j)])) * off + q_error[size_t(j)] * (std::fabs(k) + off);
        }
        const double scale = std::fabs(double(in.rule.scale)), cap = double(in.rule.softcap);
        sum *= double(in.rule.scale);
        scores.push_back(cap > 0 ? cap * std::tanh(sum / cap) : sum);
        top = std::max(top, scores.back());
        const float* const v = &in.v[row * size_t(in.d_v)];
        std::vector<float> back(v, v + in.d_v);
        ref::hadamard_row(back.data(), v, in.d_v, in.rule.v_rotation, true);
        head.cells.push_back({0, scale * moved, back, v, &v_reach[row * size_t(in.d_v)]});
    }
    const double of_sink = in.sinks.empty() ? 0 : std::exp(double(in.sinks[size_t(h)]) - top);
    double all = of_sink;
    for (const double score : scores) all += std::exp(score - top);
    for (size_t c = 0; c < scores.size(); ++c) head.cells[c].p = std::exp(scores[c] - top) / all;
    head.sink = all > 0 ? of_sink / all : 0;
    return head;
}

// Probabilities that differ: channel j of the output.
double moved_by_scores(const Head& head, double m, size_t j) {
    double output = 0, bound = 0;
    for (const Seen& cell : head.cells) output += cell.p * double(cell.back[j]);
    for (const Seen& cell : head.cells) {
        bound += cell.p * std::expm1(cell.moved + m) * std::fabs(double(cell.back[j]) - output);
    }
    return bound + head.sink * std::expm1(m) * std::fabs(output);
}

// Values that differ: channel j of the output before it is rotated back.
double moved_by_values(const Head& head, double m, size_t j, PathPrecision precision) {
    double bound = 0;
    for (const Seen& cell : head.cells) {
        const double v = std::fabs(double(cell.v[j]));
        bound +=
            cell.p * std::exp(cell.moved + m) * (double(cell.v_reach[j]) + again(v, precision));
        // p of f16: relative, and where it is below the smallest normal one, of the largest, 1.
        if (precision == PathPrecision::f32) continue;
        bound += (k_f16 * cell.p * std::exp(cell.moved + m) + 0x1p-25) *
                 (v + double(cell.v_reach[j]) + again(v, precision));
    }
    return bound;
}

}  // namespace

std::vector<double> path_allowance(const RowsOfAttention& in, std::span<const float> k_reach,
                                   std::span<const float> v_reach, PathPrecision precision) {
    const int64_t rows = int64_t(in.q_position.size()) * in.heads;
    const size_t n = in.rule.v_rotation.on() ? size_t(in.rule.v_rotation.block) : 1;
    std::vector<double> all;
    for (int64_t i = 0; i < rows; ++i) {
        const Head head = head_of(in, k_reach, v_reach, precision, i);
        double sum = head.sink;
        for (const Seen& cell : head.cells) sum += cell.p * std::exp(cell.moved);
        const double m = sum > 0 ? std::log(sum) : 0;
        for (size_t block = 0; block < size_t(in.d_v); block += n) {
            double mixed = 0;
            for (size_t j = block; j < block + n; ++j) {
                mixed += moved_by_values(head, m, j, precision);
            }
            for (size_t j = block; j < block + n; ++j) {
                all.push_back(mixed / std::sqrt(double(n)) + moved_by_scores(head, m, j));
            }
        }
    }
    return all;
}

}  // namespace rotkv
