// The choice of experts, a simdgroup a token. Must equal ref's bit for bit: ids are decided by last
// bits, so that p is f64 made of integers (f64.msl). A lane has every 32nd expert, whose p and
// place in the order lie in threadgroup memory.
#include "metal/gating.msl"
#include "metal/rows.msl"

// Places in the order in which experts are chosen: a NaN is the largest; k_out is not, or no more,
// among them.
constant int64_t k_out = -0x7FFFFFFFFFFFFFFFl - 1, k_nan = 0x7FFFFFFFFFFFFFFFl;
constant uint k_softmax = 0, k_softmax_chosen = 2, k_sigmoid = 1;  // numbers of Gating

struct Best {
    int64_t key;
    uint at;
};
static inline Best better(Best a, Best b) {
    return b.key > a.key || (b.key == a.key && b.at < a.at) ? b : a;
}

/// The largest key, of equals the first, for every lane: the keys' halves one after the other,
/// since lanes exchange 32 bits.
static inline Best best_of(threadgroup int64_t* keys, uint n, uint lane) {
    Best best = {k_out, 0xFFFFFFFFu};
    for (uint i = lane; i < n; i += k_lanes) best = better(best, {keys[i], i});
    const int high = simd_max(int(best.key >> 32));
    const bool is_high = int(best.key >> 32) == high;
    const uint low = simd_max(is_high ? uint(best.key) : 0u);
    const uint at = simd_min(is_high && uint(best.key) == low ? best.at : 0xFFFFFFFFu);
    return {int64_t(ulong(uint(high)) << 32 | low), at};
}

/// Lane i's sum and that of lane i + 16, then + 8, ...: lane 0's, for every lane.
static inline F64 folded(F64 sum) {
    for (uint h = k_lanes / 2; h > 0; h /= 2) {
        const uint low = simd_shuffle_xor(uint(sum.bits), ushort(h));
        const uint high = simd_shuffle_xor(uint(sum.bits >> 32), ushort(h));
        sum = sum + F64{ulong(high) << 32 | low};
    }
    return sum;
}

/// Threadgroup memory of a token.
struct Numbers {
    threadgroup ulong* p;         // [X], bits of f64
    threadgroup int64_t* keys;    // [X]
    threadgroup int64_t* groups;  // [G]
    threadgroup ulong* weights;   // [A]
};

static inline F64 at(threadgroup const ulong* x, uint i) { return {x[i]}; }

/// p of every expert; with softmax_chosen the logits, which become p when the chosen are known.
static inline void probabilities(thread const Numbers& of, uint gating, device const float* z,
                                 uint n, uint lane) {
    if (gating == k_softmax) {
        float top = -INFINITY;
        for (uint x = lane; x < n; x += k_lanes) top = z[x] > top ? z[x] : top;
        const F64 largest = to_f64(simd_max(top));
        F64 sum = {0};
        for (uint x = lane; x < n; x += k_lanes) {
            const F64 p = exp_of_negative(to_f64(z[x]) - largest);
            of.p[x] = p.bits;
            sum = sum + p;
        }
        sum = folded(sum);
        for (uint x = lane; x < n; x += k_lanes) of.p[x] = (at(of.p, x) / sum).bits;
        return;
    }
    for (uint x = lane; x < n; x += k_lanes) {
        const F64 own = to_f64(z[x]);
        if (gating == k_softmax_chosen) {
            of.p[x] = own.bits;
        } else {
            of.p[x] = (gating == k_sigmoid ? sigmoid(own) : root(softplus(own))).bits;
        }
    }
}

/// Experts of all groups but the best leave. A group is worth its two best, a lane looks for them.
static inline void leave_groups(thread const Numbers& of, constant metal_args::Route& job,
                                device const float* bias, uint lane) {
    const uint size = job.experts / job.groups;
    for (uint g = lane; g < job.groups; g += k_lanes) {
        Best first = {k_out, 0xFFFFFFFFu}, second = first;
        for (uint x = g * size; x < (g + 1) * size; ++x) {
            const Best here = {of.keys[x], x};
            if (here.key > first.key) {
                second = first;
                first = here;
            } else if (here.key > second.key) {
                second = here;
            }
        }
        F64 sum = {0};
        for (uint i = 0; i < min(2u, size); ++i) {
            const uint x = i == 0 ? first.at : second.at;
            const F64 p = at(of.p, x);
            sum = sum + (job.biased != 0 ? p + to_f64(bias[x]) : p);
        }
        of.groups[g] = order_of(sum);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);  // every group's worth is there
    for (uint i = 0; i < job.groups_used; ++i) {
        const Best best = best_of(of.groups, job.groups, lane);
        simdgroup_barrier(mem_flags::mem_threadgroup);  // all have looked
        if (lane == 0) of.groups[best.at] = k_out;      // stays: it is the others that leave
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (uint x = lane; x < job.experts; x += k_lanes) {
        if (of.groups[x / size] != k_out) of.keys[x] = k_out;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
}

static inline F64 sum_of(threadgroup const ulong* p, uint n) {
    F64 sum = {0};
    for (uint a = 0; a < n; ++a) sum = sum + at(p, a);
    return sum;
}

static inline F64 greatest(threadgroup const ulong* p, uint n) {
    F64 top = {k_f64_sign | k_f64_infinity};
    for (uint a = 0; a < n; ++a) {
        const F64 one = at(p, a);
        if (!is_nan(one) && order_of(one) > order_of(top)) top = one;
    }
    return top;
}

/// exp(z) / sum over the chosen. A lane has every 32nd; each makes the sums itself.
static inline void weigh_chosen(threadgroup ulong* p, uint n, uint lane) {
    const F64 top = greatest(p, n);
    simdgroup_barrier(mem_flags::mem_threadgroup);  // all have read
    for (uint a = lane; a < n; a += k_lanes) p[a] = exp_of_negative(at(p, a) - top).bits;
    simdgroup_barrier(mem_flags::mem_threadgroup);  // all have written
    const F64 sum = sum_of(p, n);
    simdgroup_barrier(mem_flags::mem_threadgroup);  // all have read
    for (uint a = lane; a < n; a += k_lanes) p[a] = (at(p, a) / sum).bits;
    simdgroup_barrier(mem_flags::mem_threadgroup);  // all have written
}

/// The chosen experts' p, which become weights.
static inline void weigh(constant metal_args::Route& job, threadgroup const ulong* p,
                         device const int* id, device float* weight, device const float* of_expert,
                         uint lane) {
    const F64 least = to_f64(6.103515625e-5f);  // 2^-14
    F64 divisor = {k_f64_one};
    if (job.normalise != 0) {
        const F64 sum = sum_of(p, job.chosen);
        divisor = order_of(sum) < order_of(least) ? least : sum;
    }
    for (uint a = lane; a < job.chosen; a += k_lanes) {
        F64 w = at(p, a);
        if (job.normalise != 0) w = w / divisor;
        if (job.scale != 0) w = w * to_f64(job.scale);
        if (job.scaled != 0) w = w * to_f64(of_expert[id[a]]);
        weight[a] = to_f32(w);
    }
}

kernel void route(constant metal_args::Route& job [[buffer(0)]], device uchar* ids [[buffer(1)]],
                  device uchar* weights [[buffer(2)]], device const uchar* logits [[buffer(3)]],
                  device const float* bias [[buffer(4)]],
                  device const float* of_expert [[buffer(5)]],
                  threadgroup ulong* shared [[threadgroup(0)]],
                  uint t [[threadgroup_position_in_grid]],
                  uint lane [[thread_index_in_simdgroup]]) {
    const uint n = job.experts;
    threadgroup int64_t* keys = (threadgroup int64_t*)(shared + n);
    const Numbers of = {shared, keys, keys + n, shared + 2 * n + job.groups};
    device const float* z = (device const float*)(logits + t * job.logits_stride);
    device int* id = (device int*)(ids + t * job.id_stride);
    probabilities(of, job.gating, z, n, lane);
    for (uint x = lane; x < n; x += k_lanes) {
        keys[x] = order_of(job.biased != 0 ? at(of.p, x) + to_f64(bias[x]) : to_f64(z[x]));
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);  // every p and key is there
    if (job.groups_used < job.groups) leave_groups(of, job, bias, lane);
    for (uint a = 0; a < job.chosen; ++a) {
        const Best best = best_of(keys, n, lane);
        simdgroup_barrier(mem_flags::mem_threadgroup);  // all have looked
        if (lane == 0) {
            id[a] = int(best.at);
            of.weights[a] = best.key == k_nan ? k_f64_nan : ulong(of.p[best.at]);
            keys[best.at] = k_out;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (job.gating == k_softmax_chosen) weigh_chosen(of.weights, job.chosen, lane);
    simdgroup_barrier(mem_flags::mem_device);  // ids are there
    weigh(job, of.weights, id, (device float*)(weights + t * job.weight_stride), of_expert, lane);
}
