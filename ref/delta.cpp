// Gated DeltaNet: layers that keep a state of fixed size in place of cells. conv_step mixes a
// token's channels with those of the tokens before it, delta_step corrects a matrix towards
// M k = v and reads it with q.
#include "ref/kernels.h"

#include <cmath>

namespace rotkv::ref {

// One channel: y of this token, and the window moves on by one. state(j) is its j-th input.
template <class State>
static float conv_channel(float u, const float* weight, int64_t taps, State state) {
    double sum = 0;
    for (int64_t j = 0; j + 1 < taps; ++j) sum += double(weight[j]) * double(state(j));
    sum += double(weight[taps - 1]) * double(u);
    for (int64_t j = 0; j + 2 < taps; ++j) state(j) = state(j + 1);
    if (taps > 1) state(taps - 2) = u;
    return float(sum / (1.0 + std::exp(-sum)));
}

void conv_step(const ConvStepArgs& args) {
    const int64_t tokens = args.src.n[2], channels = args.src.n[3], taps = args.weight.n[3];
    for (int64_t t = 0; t < tokens; ++t) {
        const int32_t stream = ints(args.stream)[t];
        for (int64_t c = 0; c < channels; ++c) {
            const auto state = [&](int64_t j) -> float& {
                return args.state.row<float>(stream, j)[c];
            };
            args.dst.row<float>(t)[c] = conv_channel(args.src.row<const float>(t)[c],
                                                     args.weight.row<const float>(c), taps, state);
        }
    }
}

static double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// How much of M stays, and how far it goes towards v: one of each for a token and value head.
struct Gates {
    float keep, gain;
};

static Gates gates_of(const DeltaStepArgs& args, int64_t t, int64_t head) {
    const double alpha = double(args.alpha.row<const float>(t)[head]);
    const double beta = double(args.beta.row<const float>(t)[head]);
    const double decay = double(args.decay.row<const float>(0)[head]);
    const double dt = double(args.dt.row<const float>(0)[head]);
    return {float(std::exp(decay * softplus(alpha + dt))), float(1.0 / (1.0 + std::exp(-beta)))};
}

// A row of M, that of one value channel: (1) decay, (2) the delta, (3) the output.
static float step_row(float* m, float v, const float* k, const float* q, int64_t d,
                      const Gates& gates) {
    const double keep = double(gates.keep);
    double found = 0;  // what M, decayed, gives for k
    for (int64_t j = 0; j < d; ++j) found += keep * double(m[j]) * double(k[j]);
    const double change = double(gates.gain) * (double(v) - found);
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) {
        m[j] = float(keep * double(m[j]) + change * double(k[j]));
        sum += double(m[j]) * double(q[j]);
    }
    return float(sum / std::sqrt(double(d)));
}

void delta_step(const DeltaStepArgs& args) {
    const int64_t tokens = args.v.n[1], heads = args.v.n[2], d = args.v.n[3];
    const int64_t key_heads = args.k.n[2], group = heads / key_heads;
    for (int64_t t = 0; t < tokens; ++t) {
        const int32_t stream = ints(args.stream)[t];
        for (int64_t head = 0; head < heads; ++head) {
            const bool grouped = args.key_heads == KeyHeads::grouped;
            const int64_t of = grouped ? head / group : head % key_heads;
            const float *k = args.k.row<const float>(t, of), *q = args.q.row<const float>(t, of);
            const float* v = args.v.row<const float>(t, head);
            float* y = args.dst.row<float>(t, head);
            const Gates gates = gates_of(args, t, head);
            for (int64_t i = 0; i < d; ++i) {
                y[i] = step_row(args.state.row<float>(stream, head, i), v[i], k, q, d, gates);
            }
        }
    }
}

}  // namespace rotkv::ref
