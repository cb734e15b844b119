#pragma once
// What decode on warpgroups (decode_warpgroup.cu) is launched with, and what lies where in shared
// memory:
//
//   q       rows of f16 [panels of 64 channels][rows], in prefill_tile.cuh's order of pieces
//   p       of each warpgroup [rows][64 cells] of f16, likewise
//   tiles   of each warpgroup two of K and two of V, rows as they are stored
//   full    barriers, of each tile one
//   limits  of scores, of each warp (decode_warpgroup.cuh)
//   rest    what DecodeJob knows of: what each row sees
//
// In the end the warpgroups' sums take the place of all that.
// Docs: docs/05-attention.md

#include "cuda/copy_box.cuh"
#include "cuda/decode_queries.cuh"

namespace rotkv::cuda::decode {

constexpr uint32_t k_groups = 4;  // warpgroups of a block
constexpr uint32_t k_group_warps = 4;
constexpr uint32_t k_group_threads = k_group_warps * k_warp;
constexpr uint32_t k_group_cells = k_group_warps * k_cells;  // of a tile
constexpr uint32_t k_group_stages = 2;
constexpr uint32_t k_group_head = 128;  // channels: of a value each warp has a block of 32

// A job whose teams are warpgroups, a slice each; a block of threads has one KV head.
struct WarpgroupJob : DecodeJob {
    prefill::RowMap map[2];  // of K, of V
    bool has_maps;           // false: rows lie where the copy engine cannot take them

    WarpgroupJob(const AttentionArgs& a, uint32_t of_eight_rows)
        : DecodeJob(a, k_groups * k_group_warps, 1, k_group_warps, of_eight_rows * k_most_heads,
                    1) {
        query_pitch = 0;  // queries lie elsewhere
        has_maps = map_side(map[0], k_rows, a.k_cache) && map_side(map[1], v_rows, a.v_cache);
    }
    static bool map_side(prefill::RowMap& map, Side& side, const TensorView& cache) {
        side.pitch = prefill::slot_of(cache, side.row_bytes);
        return prefill::map_rows(map, cache, side.pitch / 2, k_group_cells, false);
    }

    __host__ __device__ uint32_t p_offset() const { return columns * k_group_head * 2; }
    __host__ __device__ uint32_t p_bytes() const { return columns * k_group_cells * 2; }
    __host__ __device__ uint32_t tiles_offset() const { return p_offset() + k_groups * p_bytes(); }
    __host__ __device__ uint32_t tile_bytes(uint32_t side) const {
        return k_group_cells * (side == 0 ? k_rows : v_rows).pitch;
    }
    __host__ __device__ uint32_t group_bytes() const {
        return k_group_stages * (tile_bytes(0) + tile_bytes(1));
    }
    __host__ __device__ uint32_t full_offset() const {
        return tiles_offset() + k_groups * group_bytes();
    }
    __host__ __device__ uint32_t limits_of_warps() const {
        return full_offset() + k_groups * 2 * k_group_stages * 8;
    }
    __host__ __device__ uint32_t limit_bytes() const { return 2 * columns * 4; }  // of a warp
    __host__ __device__ uint32_t rest_offset() const {
        return limits_of_warps() + k_groups * k_group_warps * limit_bytes();
    }
    // Of a warpgroup: sums four further apart than a row, the largest score, each warp's total.
    __host__ __device__ uint32_t part_floats() const {
        return columns * (k_group_head + 4 + 1 + k_group_warps);
    }
    uint32_t all_bytes() const {
        return std::max(rest_offset() + exchange_offset(), k_groups * part_floats() * 4);
    }
};

// The queries as B. Slots of 16 channels are channels 0 2, 4 6 ... 12 14, 1 3 ... 13 15, as A's
// (fragments.cuh). What makes scores powers of two goes into them.
struct SwizzledQueries {
    std::byte* data;
    uint32_t rows;

    __device__ SwizzledQueries(const WarpgroupJob& job, std::byte* memory)
        : data(memory), rows(job.columns) {}
    __device__ void store(const DecodeJob& job, const float4& x, bool is_there, uint32_t,
                          uint32_t g, uint32_t channel) const {
        if (!is_there) return;
        const uint32_t step = channel / 16, t = channel % 16 / 4;
        const float scale = job.to_power;
        *word(g, 2 * step, t) = halves_of(scale * x.x, scale * x.z);
        *word(g, 2 * step + 1, t) = halves_of(scale * x.y, scale * x.w);
    }
    // Two halves of a piece of eight.
    __device__ uint32_t* word(uint32_t g, uint32_t piece, uint32_t t) const {
        const uint32_t at = (piece / 8 * rows + g) * 128 + (piece % 8 ^ g % 8) * 16;
        return reinterpret_cast<uint32_t*>(data + at) + t;
    }
};

}  // namespace rotkv::cuda::decode
