// The next word of each row of logits: the largest, or the first word v with
//   sum_{w <= v} p_w^(1/T) > u sum_w p_w^(1/T), p_w ~ exp(x_w)
// A block of threads has a row. It is read for its largest, and again for sums of groups of words:
// a warp has a group, each lane every 32nd word of it. One warp then walks the group in which the
// sum passes the goal. Weights and sums are f64.
//   Cost: the row read twice, from the L2 cache into which the product wrote it.
#include "cuda/choose.h"
#include "cuda/reduce.cuh"

#include <algorithm>

namespace rotkv::cuda {
namespace {

constexpr uint32_t k_groups = 1024;       // of a row at most
constexpr uint32_t k_least_group = 1024;  // words
constexpr uint32_t k_at_once = 16;        // logits of a thread that are on their way

struct Draws {
    double u[k_max_logit_rows];
};

// A row's words and their weights.
struct Row {
    const float* x;
    uint32_t words;
    double most, temperature;

    __device__ double weight(uint32_t v) const {
        return v < words ? exp((double(x[v]) - most) / temperature) : 0;
    }
};

// Is some logit not finite? And the largest. Words behind the last repeat it.
__device__ bool find_largest(Largest& largest, const Row& row) {
    bool strange = false;
    Largest mine{-INFINITY, INT32_MAX};
    for (uint32_t first = threadIdx.x; first < row.words; first += k_at_once * k_threads) {
        float x[k_at_once];
        const auto word = [&](uint32_t j) { return min(first + j * k_threads, row.words - 1); };
#pragma unroll
        for (uint32_t j = 0; j < k_at_once; ++j) x[j] = row.x[word(j)];
#pragma unroll
        for (uint32_t j = 0; j < k_at_once; ++j) {
            strange |= !isfinite(x[j]);
            mine.meet({x[j], int32_t(word(j))});
        }
    }
    largest = block_largest(mine);
    return __syncthreads_or(strange) != 0;
}

// Sums of groups of `size` words, warp by warp.
__device__ void sum_groups(double* of_group, const Row& row, uint32_t size) {
    for (uint32_t group = threadIdx.x / k_warp; group * size < row.words;
         group += k_threads / k_warp) {
        double sum = 0;
#pragma unroll 4
        for (uint32_t i = lane_of_warp(); i < size; i += k_warp)
            sum += row.weight(group * size + i);
        for (unsigned h = k_warp / 2; h > 0; h /= 2) sum += __shfl_xor_sync(k_all_lanes, sum, h);
        if (lane_of_warp() == 0) of_group[group] = sum;
    }
}

// By one warp: the first word of [begin, end) with which the sum, `before` so far, passes the goal;
// the last one, if rounding lets none.
__device__ uint32_t walk(const Row& row, uint32_t begin, uint32_t end, double before, double goal) {
    for (uint32_t first = begin; first < end; first += k_warp) {
        double sum = row.weight(first + lane_of_warp());
        for (unsigned h = 1; h < k_warp; h *= 2) {
            const double left = __shfl_up_sync(k_all_lanes, sum, h);
            if (lane_of_warp() >= h) sum += left;
        }
        const uint32_t passed = __ballot_sync(k_all_lanes, before + sum > goal);
        if (passed != 0) return min(first + uint32_t(__ffs(int(passed))) - 1, end - 1);
        before += __shfl_sync(k_all_lanes, sum, k_warp - 1);
    }
    return end - 1;
}

__global__ void __launch_bounds__(k_threads)
    choose_kernel(TensorView logits, double temperature, const __grid_constant__ Draws draws,
                  uint32_t group, int32_t* chosen) {
    __shared__ double of_group[k_groups];
    Row row{reinterpret_cast<const float*>(logits.data + blockIdx.x * logits.stride[2]),
            uint32_t(logits.n[3]), 0, temperature};
    Largest largest;
    if (find_largest(largest, row)) {
        if (threadIdx.x == 0) chosen[blockIdx.x] = -1;
        return;
    }
    if (temperature == 0) {
        if (threadIdx.x == 0) chosen[blockIdx.x] = largest.at;
        return;
    }
    row.most = double(largest.x);
    sum_groups(of_group, row, group);
    __syncthreads();
    if (threadIdx.x >= k_warp) return;
    const uint32_t groups = (row.words + group - 1) / group;
    double all = 0, before = 0;
    for (uint32_t g = 0; g < groups; ++g) all += of_group[g];
    const double goal = draws.u[blockIdx.x] * all;
    uint32_t g = 0;
    for (; g + 1 < groups && before + of_group[g] <= goal; ++g) before += of_group[g];
    const uint32_t begin = g * group, end = min(begin + group, row.words);
    const uint32_t word = walk(row, begin, end, before, goal);
    if (threadIdx.x == 0) chosen[blockIdx.x] = int32_t(word);
}

}  // namespace

void choose_words(const TensorView& logits, double temperature, std::span<const double> u,
                  std::byte* chosen, Stream stream) {
    if (logits.empty()) return;
    Draws draws{};
    std::copy(u.begin(), u.end(), draws.u);
    const uint32_t least = blocks_for(logits.n[3], k_groups);
    const uint32_t group = std::max(k_least_group, (least + k_warp - 1) / k_warp * k_warp);
    choose_kernel<<<unsigned(logits.n[2]), k_threads, 0, stream>>>(
        logits, temperature, draws, group, reinterpret_cast<int32_t*>(chosen));
    require_launched("choose_words");
}

}  // namespace rotkv::cuda
