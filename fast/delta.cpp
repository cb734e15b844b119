// Gated DeltaNet (conv_step, delta_step). Beside ref: channels of the convolution, and rows of M,
// know nothing of each other; each is owned by one thread, which takes it through all tokens of
// its stream, M's rows in the nearest cache. The gates are ref's, in f64; rows are f32.
#include "fast/kernels.h"
#include "fast/matvec.h"
#include "fast/simd.h"
#include "fast/threads.h"
#include "fast/workspace.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace rotkv::fast {
namespace {

// The tokens of each stream in their order: list[begin[s]] .. list[begin[s + 1]] of stream s.
struct TokensOfStreams {
    std::vector<int64_t> begin, list;

    TokensOfStreams(const TensorView& stream, int64_t streams)
        : begin(size_t(streams) + 1), list(size_t(stream.n[3])) {
        const int32_t* of = stream.row<const int32_t>(0);
        for (int64_t t = 0; t < stream.n[3]; ++t) ++begin[size_t(of[t]) + 1];
        for (size_t s = 0; s < size_t(streams); ++s) begin[s + 1] += begin[s];
        std::vector<int64_t> next = begin;
        for (int64_t t = 0; t < stream.n[3]; ++t) list[size_t(next[size_t(of[t])]++)] = t;
    }
    std::span<const int64_t> of(int64_t stream) const {
        const size_t first = size_t(begin[size_t(stream)]);
        return std::span(list).subspan(first, size_t(begin[size_t(stream) + 1]) - first);
    }
};

Vec silu(const Vec& x) {  // from exp(-|x| / 2): nothing overflows, nothing vanishes early
    const Vec h = exp(Vec(-0.5f) * xsimd::abs(x));
    return xsimd::select(x < Vec(0.0f), x * h * h, x) / (Vec(1.0f) + h * h);
}

// A strip of one vector of channels, from channel `first` on, through all tokens of a stream.
// window [taps][lanes]: the last inputs, the oldest first; weight likewise.
void conv_strip(const ConvStepArgs& args, int64_t stream, std::span<const int64_t> tokens,
                int64_t first, float* weight, float* window) {
    const int64_t taps = args.weight.n[3], past = taps - 1;
    const int64_t count = std::min(k_lanes, args.src.n[3] - first);
    for (int64_t c = 0; c < count; ++c) {
        const float* w = args.weight.row<const float>(first + c);
        for (int64_t j = 0; j < taps; ++j) weight[j * k_lanes + c] = w[j];
    }
    for (int64_t j = 0; j < past; ++j) {
        const float* state = args.state.row<const float>(stream, j) + first;
        store(window + (j + 1) * k_lanes, load_part(state, count));
    }
    for (const int64_t t : tokens) {
        std::copy_n(window + k_lanes, past * k_lanes, window);
        store(window + past * k_lanes, load_part(args.src.row<const float>(t) + first, count));
        Vec sum(0.0f);
        for (int64_t j = 0; j < taps; ++j) {
            sum = fma(load(weight + j * k_lanes), load(window + j * k_lanes), sum);
        }
        store_part(args.dst.row<float>(t) + first, silu(sum), count);
    }
    for (int64_t j = 0; j < past; ++j) {
        float* state = args.state.row<float>(stream, j) + first;
        store_part(state, load(window + (j + 1) * k_lanes), count);
    }
}

float softplus_gate(double decay, double x) {
    return float(std::exp(decay * (x > 20 ? x : std::log1p(std::exp(x)))));
}

// What is of a token and value head, not of a row: [T][Hv][2], keep and gain.
void fill_gates(const DeltaStepArgs& args, float* gates) {
    const int64_t tokens = args.v.n[1], heads = args.v.n[2];
    const float *decay = args.decay.row<const float>(0), *dt = args.dt.row<const float>(0);
#pragma omp parallel for if (tokens * heads >= k_parallel_from / 64)
    for (int64_t t = 0; t < tokens; ++t) {
        const float* alpha = args.alpha.row<const float>(t);
        const float* beta = args.beta.row<const float>(t);
        for (int64_t h = 0; h < heads; ++h) {
            float* of = gates + (t * heads + h) * 2;
            of[0] = softplus_gate(double(decay[h]), double(alpha[h]) + double(dt[h]));
            of[1] = float(1.0 / (1.0 + std::exp(-double(beta[h]))));
        }
    }
}

// A row of M, that of one value channel; returns M q.
float step_row(float* m, float v, const float* k, const float* q, int64_t d, float keep,
               float gain) {
    Vec found(0.0f), sum(0.0f);
    for (int64_t j = 0; j < d; j += k_lanes) {
        found = fma(load_part(m + j, d - j), load_part(k + j, d - j), found);
    }
    const Vec change(gain * (v - keep * sum_lanes(found)));
    for (int64_t j = 0; j < d; j += k_lanes) {
        const Vec kept = Vec(keep) * load_part(m + j, d - j);
        const Vec next = fma(change, load_part(k + j, d - j), kept);
        store_part(m + j, next, d - j);
        sum = fma(next, load_part(q + j, d - j), sum);
    }
    return sum_lanes(sum);
}

// Rows first .. end of a head's M through all tokens of a stream.
void step_rows(const DeltaStepArgs& args, int64_t stream, std::span<const int64_t> tokens,
               int64_t head, int64_t first, int64_t end, const float* gates) {
    const int64_t heads = args.v.n[2], d = args.v.n[3], key_heads = args.k.n[2];
    const bool grouped = args.key_heads == KeyHeads::grouped;
    const int64_t of = grouped ? head / (heads / key_heads) : head % key_heads;
    const float scale = float(1.0 / std::sqrt(double(d)));
    for (const int64_t t : tokens) {
        const float *k = args.k.row<const float>(t, of), *q = args.q.row<const float>(t, of);
        const float *v = args.v.row<const float>(t, head), *gate = gates + (t * heads + head) * 2;
        float* y = args.dst.row<float>(t, head);
        for (int64_t i = first; i < end; ++i) {
            float* m = args.state.row<float>(stream, head, i);
            y[i] = scale * step_row(m, v[i], k, q, d, gate[0], gate[1]);
        }
    }
}

constexpr int64_t k_rows = 16;  // of M: with 128 channels each, 8 KB

}  // namespace

void conv_step(const ConvStepArgs& args) {
    const int64_t channels = args.src.n[3], streams = args.state.n[1], taps = args.weight.n[3];
    const int64_t strips = (channels + k_lanes - 1) / k_lanes;
    const TokensOfStreams tokens(args.stream, streams);
    const auto step = [&](int64_t i) {
        const int64_t stream = i / strips, first = i % strips * k_lanes;
        if (tokens.of(stream).empty()) return;
        thread_local Workspace space;
        float* const weight = space.reserve(2 * taps * k_lanes);
        std::fill_n(weight, 2 * taps * k_lanes, 0.0f);
        conv_strip(args, stream, tokens.of(stream), first, weight, weight + taps * k_lanes);
    };
    const int64_t work = args.src.n[2] * channels * taps, tasks = streams * strips;
    if (args.src.n[2] <= k_few_tokens && work >= k_parallel_from) return share(tasks, step);
#pragma omp parallel for if (work >= k_parallel_from)
    for (int64_t i = 0; i < tasks; ++i) step(i);
}

void delta_step(const DeltaStepArgs& args) {
    const int64_t heads = args.v.n[2], d = args.v.n[3], streams = args.state.n[0];
    const int64_t parts = (d + k_rows - 1) / k_rows;
    const TokensOfStreams tokens(args.stream, streams);
    thread_local Workspace space;
    float* const gates = space.reserve(2 * args.v.n[1] * heads);
    fill_gates(args, gates);
    const int64_t tasks = streams * heads * parts;
    const auto step = [&](int64_t i) {
        const int64_t stream = i / (heads * parts), head = i / parts % heads;
        const int64_t first = i % parts * k_rows;
        if (tokens.of(stream).empty()) return;
        step_rows(args, stream, tokens.of(stream), head, first, std::min(d, first + k_rows), gates);
    };
    if (args.v.n[1] <= k_few_tokens) return share(tasks, step);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < tasks; ++i) step(i);
}

}  // namespace rotkv::fast
