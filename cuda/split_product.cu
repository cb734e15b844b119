// Products of f32 precision on tensor cores: weights as terms, which tile, and the launch.
//   terms    A thread owns four neighbouring elements, expanded exactly and split into three bf16.
//            Cost: the rows' own bytes read, 6 bytes an element written.
//   product  split_product.cuh. Its tile is the one with which the processors, of which each has
//            one block at a time, are done first.
#include "cuda/dequant_weight.cuh"
#include "cuda/matmul_few.h"
#include "cuda/prefill_map.h"
#include "cuda/split_product.cuh"
#include "cuda/split_product.h"

#include <algorithm>
#include <cstdlib>

namespace rotkv::cuda {
namespace {

// A row of terms is whole groups of 16 columns: their order is another (split_terms.cuh).
int64_t split_step(int64_t columns) { return (columns + 15) / 16 * 16; }

// Terms [3][rows][step], step = 4 per_row.d elements.
__global__ void __launch_bounds__(k_threads)
    terms_kernel(std::byte* dst, TensorView src, uint32_t rows, Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, row = per_row.of(thread);
    wait_for_earlier();
    let_next_come();
    if (row >= rows) return;
    const uint32_t four = thread - row * per_row.d;
    const float4 x = weight4(src.type, src.data + row * src.stride[2], four * 4, d);
    uint32_t first[split::k_terms], second[split::k_terms];
    split::split_weights(x.x, x.y, first);
    split::split_weights(x.z, x.w, second);
    const int64_t step = int64_t(per_row.d) * 4;
#pragma unroll
    for (int term = 0; term < split::k_terms; ++term) {
        uint32_t* const to = reinterpret_cast<uint32_t*>(
            dst + ((term * int64_t(rows) + row) * step + split::place_of_four(four)) * 2);
        to[0] = first[term];
        to[4] = second[term];
    }
}

// The copy engine's map of rows of `step` elements, in planes, box by box.
CUtensorMap map_of(CUtensorMapDataType type, const std::byte* data, const Matrix& rows,
                   int64_t element, int64_t box_rows, int64_t planes, CUtensorMapSwizzle swizzle) {
    CUtensorMap map = {};
    const prefill::MapEncoder encode = prefill::map_encoder();
    if (encode == nullptr) return map;  // nothing is launched where there is no driver
    const auto row = cuuint64_t(rows.step * element);
    const cuuint64_t n[3] = {cuuint64_t(rows.columns), cuuint64_t(rows.rows), cuuint64_t(planes)};
    const cuuint64_t strides[2] = {row, row * cuuint64_t(rows.rows)};
    const cuuint32_t box[3] = {split::k_columns, cuuint32_t(box_rows), cuuint32_t(planes)};
    const cuuint32_t steps[3] = {1, 1, 1};
    const CUresult result =
        encode(&map, type, planes > 1 ? 3 : 2, const_cast<std::byte*>(data), n, strides, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) throw Failure("product: no map of its rows", false);
    return map;
}

// A tile and its kernel.
struct SplitKernel {
    uint32_t words, stages, bytes;
    void (*kernel)(split::Job);

    template <int words>
    static constexpr SplitKernel of() {
        using S = split::Shape<words>;
        return {words, S::stages, S::bytes, split::split_product_kernel<words>};
    }
};
constexpr SplitKernel k_kernels[] = {SplitKernel::of<24>(), SplitKernel::of<48>(),
                                     SplitKernel::of<72>(), SplitKernel::of<96>(),
                                     SplitKernel::of<128>()};

// What a run takes whatever the tile's words are: as long as so many of them.
constexpr int64_t k_words_beside = 24;

// How often all processors together go through a tile, times how long one takes.
int64_t time_of(const SplitKernel& kernel, int64_t tokens, int64_t words, int64_t processors) {
    const int64_t tiles =
        int64_t(blocks_for(tokens, split::k_tokens)) * int64_t(blocks_for(words, kernel.words));
    return (tiles + processors - 1) / processors * (kernel.words + k_words_beside);
}

const SplitKernel& kernel_for(int64_t tokens, int64_t words, int64_t processors) {
    return *std::min_element(std::begin(k_kernels), std::end(k_kernels),
                             [&](const SplitKernel& a, const SplitKernel& b) {
                                 return time_of(a, tokens, words, processors) <
                                        time_of(b, tokens, words, processors);
                             });
}

}  // namespace

bool split_takes(const Matrix& x, const DeviceLimits& device) {
    return device.has_wgmma && x.type == DType::f32 && x.columns >= k_least_split_in &&
           reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.step % 4 == 0;
}

int64_t room_for_split(int64_t rows, int64_t columns) {
    return room_for(rows * split_step(columns) * split::k_terms, DType::bf16);
}

Matrix split_weight(const TensorView& weight, int64_t first, int64_t rows, std::byte* room,
                    Stream stream) {
    const int64_t d = weight.n[3], step = split_step(d), per_row = step / 4;
    TensorView part = weight;
    part.data += first * weight.stride[2];
    launch_dependent(terms_kernel, dim3(blocks_for(rows * per_row, k_threads)), dim3(k_threads), 0,
                     stream, room, part, uint32_t(rows), Divisor(per_row), uint32_t(d));
    return {room, DType::bf16, step, rows, d, split::k_terms};
}

void split_multiply(float* y, int64_t y_step, const Matrix& x, const Matrix& w,
                    const DeviceLimits& device, Stream stream) {
    const SplitKernel& kernel = kernel_for(x.rows, w.rows, device.processors);
    Matrix all = w;  // with the columns that fill the last group
    all.columns = w.step;
    const int64_t token_tiles = blocks_for(x.rows, split::k_tokens);
    const int64_t tiles = token_tiles * blocks_for(w.rows, kernel.words);
    const split::Job job{map_of(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, x.data, x, sizeof(float),
                                split::k_tokens, 1, CU_TENSOR_MAP_SWIZZLE_128B),
                         map_of(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, w.data, all, sizeof(uint16_t),
                                kernel.words, split::k_terms, CU_TENSOR_MAP_SWIZZLE_64B),
                         reinterpret_cast<const float*>(x.data),
                         reinterpret_cast<const uint16_t*>(w.data),
                         y,
                         x.step,
                         y_step,
                         w.step,
                         w.rows * w.step,
                         uint32_t(x.rows),
                         uint32_t(w.rows),
                         uint32_t(x.columns),
                         blocks_for(x.columns, split::k_columns),
                         y_step % 2 == 0 && reinterpret_cast<uintptr_t>(y) % 8 == 0,
                         Divisor(token_tiles),
                         uint32_t(tiles)};
    require_success(cudaFuncSetAttribute(kernel.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         int(kernel.bytes)),
                    "product");
    launch_dependent(kernel.kernel, dim3(unsigned(std::min(tiles, device.processors))),
                     dim3(split::k_block_threads), kernel.bytes, stream, job);
}

std::vector<std::string> list_product_paths(const DeviceLimits& device) {
    const std::string many = "products, more than " + std::to_string(k_few_tokens) + " tokens";
    if (!device.has_wgmma) return {many + ", f32: cuBLAS"};
    std::vector<std::string> lines;
    for (const int64_t tokens : {512, 4096}) {
        for (const int64_t words : {192, 576, 1536, 8192}) {
            const SplitKernel& kernel = kernel_for(tokens, words, device.processors);
            const KernelPlan plan{"split_product.cuh", split::k_block_threads / k_warp,
                                  kernel.stages, kernel.bytes};
            lines.push_back("products, " + std::to_string(tokens) + " tokens, " +
                            std::to_string(words) + " rows of a weight, f32: " + words_of(plan) +
                            "; sums of less than " + std::to_string(k_least_split_in) +
                            " elements: cuBLAS");
        }
    }
    return lines;
}

}  // namespace rotkv::cuda
