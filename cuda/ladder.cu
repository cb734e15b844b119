// What looks at the ladders from outside: times and tests.
#include "cuda/fragments.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

__global__ void fragments_kernel(uint4* words) {
    __shared__ BlockQ4_0 x, y;
    const uint32_t lane = threadIdx.x, g = lane / 4, t = lane % 4;
    if (lane < 16) x.qs[lane] = uint8_t(lane | lane << 4);
    if (lane < 16) y.qs[lane] = uint8_t(15 - lane | (15 - lane) << 4);
    __syncwarp();
    const decode::Codes scores = decode::codes_of(x, 4 * t, x, 4 * t + 2);
    const decode::Codes values = decode::codes_of(x, 2 * g, y, 2 * g);
    words[2 * lane] = {scores.low.even, scores.low.odd, scores.high.even, scores.high.odd};
    words[2 * lane + 1] = {values.low.even, values.low.odd, values.high.even, values.high.odd};
}

}  // namespace

void wait_for_ladder(Stream stream) { require_success(cudaStreamSynchronize(stream), "wait"); }

void show_fragments(std::byte* words, Stream stream) {
    fragments_kernel<<<1, k_warp, 0, stream>>>(reinterpret_cast<uint4*>(words));
    require_launched("show_fragments");
}

}  // namespace rotkv::cuda
