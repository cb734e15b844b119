#include "cuda/prefill_map.h"

#include "cuda/driver.h"

namespace rotkv::cuda::prefill {
namespace {

MapEncoder find_encoder() {
    MapEncoder encode = nullptr;
    try {
        find_in_driver(encode, "cuTensorMapEncodeTiled");
    } catch (const Error&) {  // no driver: all that this build runs on (12.0 and later) have it
    }
    return encode;
}

}  // namespace

MapEncoder map_encoder() {
    static const MapEncoder encode = find_encoder();
    return encode;
}

bool map_rows(RowMap& map, const TensorView& cache, uint32_t units, uint32_t cells, bool swizzled) {
    const MapEncoder encode = map_encoder();
    const int64_t streams = cache.n[0], all_cells = cache.n[1], heads = cache.n[2];
    const int64_t row = int64_t(row_bytes(cache.type, cache.n[3])), of_head = cache.stride[2];
    const bool apart = heads == 1 || of_head % 16 == 0;
    const int64_t before = int64_t(reinterpret_cast<uintptr_t>(cache.data) % 16);
    if (cache.empty() || (of_head | before) % 2 != 0 || cache.stride[1] <= 0) {
        return false;
    }
    map.units_before = uint32_t(before / 2);
    map.units_of_head = apart ? 0 : uint32_t(of_head / 2);
    map.rows_of_head = apart ? 1 : 0;
    // Of an extent of 1 the engine wants a stride that it likes, and does not use it.
    const auto stride = [&](int64_t n, int64_t bytes) {
        return cuuint64_t(n > 1 ? bytes : (cache.stride[1] + 15) / 16 * 16);
    };
    const cuuint64_t n[4] = {cuuint64_t((before + (apart ? 0 : (heads - 1) * of_head) + row) / 2),
                             cuuint64_t(apart ? heads : 1), cuuint64_t(all_cells),
                             cuuint64_t(streams)};
    const cuuint64_t strides[3] = {stride(int64_t(n[1]), of_head),
                                   stride(all_cells, cache.stride[1]),
                                   stride(streams, cache.stride[0])};
    for (const cuuint64_t bytes : strides) {  // the engine's rule, so that nothing is asked in vain
        if (bytes % 16 != 0) return false;
    }
    if (encode == nullptr) return true;  // nothing is launched where there is no driver
    const cuuint32_t box[4] = {units, 1, cells, 1}, steps[4] = {1, 1, 1, 1};
    return encode(&map.map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, cache.data - before, n, strides, box,
                  steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace rotkv::cuda::prefill
