// The choice of experts, a warp a token. Must equal ref::route bit for bit: ids are decided by
// last bits. A lane has every 32nd expert, whose p and place in the order lie in shared memory.
//   Cost: 4 bytes a logit; A walks over the experts by shuffles.
#include "cuda/dependent.cuh"
#include "cuda/gating.cuh"
#include "cuda/kernels.h"

#include <climits>
#include <cmath>

namespace rotkv::cuda {
namespace {

// Numbers in the order in which they are chosen, as integers: a NaN is the largest, -0 is 0.
constexpr long long k_out = LLONG_MIN, k_nan = LLONG_MAX;  // k_out: is not, or no more, there

__device__ long long key_of(double x) {
    if (isnan(x)) return k_nan;
    const long long bits = __double_as_longlong(x + 0.0);
    return bits ^ ((bits >> 63) & LLONG_MAX);
}

struct Best {
    long long key;
    uint32_t at;

    __device__ void meet(const Best& other) {
        if (other.key > key || (other.key == key && other.at < at)) *this = other;
    }
};

// The largest key, of equals the first, for every lane.
__device__ Best best_of(const long long* keys, uint32_t n) {
    Best best{k_out, UINT32_MAX};
    for (uint32_t i = lane_of_warp(); i < n; i += k_warp) best.meet({keys[i], i});
    for (unsigned h = k_warp / 2; h > 0; h /= 2) {
        best.meet(
            {__shfl_xor_sync(k_all_lanes, best.key, h), __shfl_xor_sync(k_all_lanes, best.at, h)});
    }
    return best;
}

// Lane i's sum and that of lane i + 16, then + 8, ...: lane 0's, for every lane.
__device__ double folded(double sum) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) sum += __shfl_down_sync(k_all_lanes, sum, h);
    return __shfl_sync(k_all_lanes, sum, 0);
}

__device__ double greatest(const double* z, uint32_t n) {
    double top = -INFINITY;
    for (uint32_t i = lane_of_warp(); i < n; i += k_warp) top = z[i] > top ? z[i] : top;
    for (unsigned h = k_warp / 2; h > 0; h /= 2) {
        const double other = __shfl_xor_sync(k_all_lanes, top, h);
        top = other > top ? other : top;
    }
    return top;
}

// Shared memory of a warp.
struct Numbers {
    double* p;                 // [X]
    long long *keys, *groups;  // [X], [G]
    double* weights;           // [A]
    const float* bias;         // [X] or null

    __device__ double score(uint32_t x) const {
        return bias == nullptr ? p[x] : p[x] + double(bias[x]);
    }
};

__device__ void probabilities(Gating gating, double* p, uint32_t n) {
    const uint32_t lane = lane_of_warp();
    if (gating == Gating::softmax) {
        const double top = greatest(p, n);
        double sum = 0;
        for (uint32_t x = lane; x < n; x += k_warp) {
            p[x] = exp_of_negative(p[x] - top);
            sum += p[x];
        }
        sum = folded(sum);
        for (uint32_t x = lane; x < n; x += k_warp) p[x] /= sum;
    } else if (gating != Gating::softmax_chosen) {
        for (uint32_t x = lane; x < n; x += k_warp) p[x] = gated(gating, p[x]);
    }
}

// Experts of all groups but the best leave. A group is worth its two best, a lane looks for them.
__device__ void leave_groups(const Numbers& of, const RouteArgs& args, uint32_t n) {
    const uint32_t lane = lane_of_warp(), groups = uint32_t(args.groups), size = n / groups;
    for (uint32_t g = lane; g < groups; g += k_warp) {
        Best first{k_out, UINT32_MAX}, second = first;
        for (uint32_t x = g * size; x < (g + 1) * size; ++x) {
            const Best here{of.keys[x], x};
            if (here.key > first.key) {
                second = first;
                first = here;
            } else if (here.key > second.key) {
                second = here;
            }
        }
        double sum = 0;
        sum += of.score(first.at);
        if (size > 1) sum += of.score(second.at);
        of.groups[g] = key_of(sum);
    }
    __syncwarp();
    for (int64_t i = 0; i < args.groups_used; ++i) {
        const Best best = best_of(of.groups, groups);
        __syncwarp();
        if (lane == 0) of.groups[best.at] = k_out;  // stays: it is the others that leave
        __syncwarp();
    }
    for (uint32_t x = lane; x < n; x += k_warp) {
        if (of.groups[x / size] != k_out) of.keys[x] = k_out;
    }
    __syncwarp();
}

__device__ double sum_of(const double* p, uint32_t n) {
    double sum = 0;
    for (uint32_t a = 0; a < n; ++a) sum += p[a];
    return sum;
}

// The chosen experts' p, which become weights. A lane has every 32nd; each makes the sums itself.
__device__ void weigh(const RouteArgs& args, double* p, uint32_t n, const int32_t* id,
                      float* weight) {
    const uint32_t lane = lane_of_warp();
    if (args.gating == Gating::softmax_chosen) {
        const double top = greatest(p, n);
        __syncwarp();
        for (uint32_t a = lane; a < n; a += k_warp) p[a] = exp_of_negative(p[a] - top);
        __syncwarp();
        const double sum = sum_of(p, n);
        __syncwarp();
        for (uint32_t a = lane; a < n; a += k_warp) p[a] /= sum;
        __syncwarp();
    }
    const double sum = args.normalise ? sum_of(p, n) : 0, divisor = sum < 0x1p-14 ? 0x1p-14 : sum;
    const float* of_expert = reinterpret_cast<const float*>(args.expert_scale.data);
    for (uint32_t a = lane; a < n; a += k_warp) {
        double w = args.normalise ? p[a] / divisor : p[a];
        if (args.scale != 0) w *= double(args.scale);
        if (of_expert != nullptr) w *= double(of_expert[id[a]]);
        weight[a] = float(w);
    }
}

__global__ void __launch_bounds__(k_warp) route_kernel(const __grid_constant__ RouteArgs args) {
    extern __shared__ double room[];
    const uint32_t lane = lane_of_warp(), n = uint32_t(args.logits.n[3]);
    const uint32_t chosen = uint32_t(args.id.n[3]);
    long long* const keys = reinterpret_cast<long long*>(room + n);
    const Numbers of{room, keys, keys + n, reinterpret_cast<double*>(keys + n + args.groups),
                     reinterpret_cast<const float*>(args.selection_bias.data)};
    const int64_t t = blockIdx.x;
    const float* z = reinterpret_cast<const float*>(args.logits.data + t * args.logits.stride[2]);
    int32_t* id = reinterpret_cast<int32_t*>(args.id.data + t * args.id.stride[2]);
    float* weight = reinterpret_cast<float*>(args.weight.data + t * args.weight.stride[2]);
    wait_for_earlier();
    let_next_come();
    for (uint32_t x = lane; x < n; x += k_warp) of.p[x] = double(z[x]);
    probabilities(args.gating, of.p, n);
    for (uint32_t x = lane; x < n; x += k_warp) {
        keys[x] = key_of(of.bias == nullptr ? double(z[x]) : of.score(x));
    }
    __syncwarp();
    if (args.groups_used < args.groups) leave_groups(of, args, n);
    for (uint32_t a = 0; a < chosen; ++a) {
        const Best best = best_of(keys, n);
        __syncwarp();
        if (lane == 0) {
            id[a] = int32_t(best.at);
            of.weights[a] = best.key == k_nan ? NAN : of.p[best.at];
            keys[best.at] = k_out;
        }
        __syncwarp();
    }
    weigh(args, of.weights, chosen, id, weight);
}

}  // namespace

void route(const RouteArgs& args, Stream stream) {
    if (args.logits.empty()) return;
    const int64_t numbers = 2 * args.logits.n[3] + args.groups + args.id.n[3];
    RouteArgs known = args;  // what is empty is null
    if (args.selection_bias.empty()) known.selection_bias.data = nullptr;
    if (args.expert_scale.empty()) known.expert_scale.data = nullptr;
    launch_dependent(route_kernel, unsigned(args.logits.n[2]), k_warp,
                     std::size_t(numbers) * sizeof(double), stream, known);
}

}  // namespace rotkv::cuda
