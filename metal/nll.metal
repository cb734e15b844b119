// nll, kld: no tokens x words matrix. A simdgroup walks over every n-th word for eight tokens,
// whose logits a row of the weight gives at once; lane t keeps what token t has shown so far. Metal
// has no double: sums of exponentials are two floats, high and low. The host joins the simdgroups'
// states.
#include "metal/functions.msl"
#include "metal/instance.msl"
#include "metal/products.msl"

/// high + low <- (high + low) factor + term.
static inline void add_scaled(thread float& high, thread float& low, float factor, float term) {
    const TwoFloats scaled = product(high, factor), all = sum(scaled.high, term);
    low = low * factor + scaled.low + all.low;
    high = all.high;
}

/// One logit more; what it makes of sums in the old unit.
static inline float add_logit(thread metal_args::Likelihood& state, float x, uint word,
                              int target) {
    float factor = 1;
    if (x > state.largest) {
        factor = exp_f32(state.largest - x);
        state.largest = x;
        state.top = int(word);
    }
    // -inf alone: all words have p = 0
    const float p = exp_f32(state.largest > -INFINITY ? x - state.largest : x);
    add_scaled(state.sum, state.rest, factor, p);
    if (int(word) == target) state.target = x;
    return factor;
}

static inline metal_args::Likelihood nothing_seen() { return {-INFINITY, 0, 0, 0, 0}; }

static inline void store(device metal_args::Likelihood& to,
                         thread const metal_args::Likelihood& of) {
    to.largest = of.largest;
    to.sum = of.sum;
    to.rest = of.rest;
    to.target = of.target;
    to.top = of.top;
}

/// softcap(sums[lane]), of this lane's token.
static inline float logit_of(thread const float* sums, uint lane, float softcap) {
    float own = 0;
    for (uint t = 0; t < k_tokens; ++t) own = t == lane ? sums[t] : own;
    return softcap > 0 ? softcap * tanh_f32(own / softcap) : own;
}

template <class Format>
[[kernel]] void nll(constant metal_args::Words& job [[buffer(0)]],
                    device metal_args::Likelihood* states [[buffer(1)]],
                    device const uchar* weight [[buffer(2)]],
                    device const uchar* hidden [[buffer(3)]],
                    device const int* target [[buffer(4)]],
                    uint3 group [[threadgroup_position_in_grid]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]],
                    uint lane [[thread_index_in_simdgroup]]) {
    const uint of_words = group.x * k_simdgroups + simdgroup, first = group.y * k_tokens;
    const uint tokens = min(k_tokens, job.tokens - first);
    const int wanted = lane < tokens ? target[first + lane] : -1;
    metal_args::Likelihood state = nothing_seen();
    for (uint word = of_words; word < job.words; word += job.simdgroups) {
        float sums[k_tokens];
        products<Format>(sums, weight + word * job.weight_stride, hidden + first * job.a_stride,
                         job.a_stride, tokens, job.width, lane);
        add_logit(state, logit_of(sums, lane, job.softcap), word, wanted);
    }
    if (lane < tokens) store(states[of_words * job.tokens + first + lane], state);
}

template <class Format>
[[kernel]] void kld(
    constant metal_args::Words& job [[buffer(0)]],
    device metal_args::Divergence* states [[buffer(1)]], device const uchar* weight [[buffer(2)]],
    device const uchar* hidden_a [[buffer(3)]], device const uchar* hidden_b [[buffer(4)]],
    device const int* target [[buffer(5)]], uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const uint of_words = group.x * k_simdgroups + simdgroup, first = group.y * k_tokens;
    const uint tokens = min(k_tokens, job.tokens - first);
    const int wanted = lane < tokens ? target[first + lane] : -1;
    metal_args::Divergence state = {nothing_seen(), nothing_seen(), 0, 0};
    for (uint word = of_words; word < job.words; word += job.simdgroups) {
        float sums[k_tokens];
        device const uchar* row = weight + word * job.weight_stride;
        products<Format>(sums, row, hidden_a + first * job.a_stride, job.a_stride, tokens,
                         job.width, lane);
        const float a = logit_of(sums, lane, job.softcap);
        products<Format>(sums, row, hidden_b + first * job.b_stride, job.b_stride, tokens,
                         job.width, lane);
        const float b = logit_of(sums, lane, job.softcap);
        const float factor = add_logit(state.a, a, word, wanted);
        add_scaled(state.sum, state.rest, factor, exp_f32(a - state.a.largest) * (a - b));
        add_logit(state.b, b, word, wanted);
    }
    if (lane >= tokens) return;
    device metal_args::Divergence& to = states[of_words * job.tokens + first + lane];
    store(to.a, state.a);
    store(to.b, state.b);
    to.sum = state.sum;
    to.rest = state.rest;
}

#define ROTKV_X(name, Format)                 \
    ROTKV_INSTANCE("nll_" #name, nll<Format>) \
    ROTKV_INSTANCE("kld_" #name, kld<Format>)
ROTKV_WEIGHT_FORMATS
