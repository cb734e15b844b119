#pragma once
// What decode on warpgroups (decode_warpgroup.cu) is launched with, and what lies where in shared
// memory:
//
//   q      rows of f16 [panels of 64 channels][rows], swizzled as prefill_tile.cuh says
//   p      of each warpgroup [rows][64 cells] of f16, swizzled alike
//   rings  of each warpgroup two tiles of K and two of V, as they are stored
//   the rest: barriers, limits of scores, what DecodeJob knows of
//
// In the end the warpgroups' sums take the place of all that.
// Docs: docs/05-attention.md

#include "cuda/copy_box.cuh"
#include "cuda/decode_queries.cuh"

namespace rotkv::cuda::decode {

constexpr uint32_t k_group_warps = 4;
constexpr uint32_t k_group_threads = k_group_warps * k_warp;
constexpr uint32_t k_group_cells = k_group_warps * k_cells;  // of a tile
constexpr uint32_t k_group_stages = 2;

// A job whose teams are warpgroups; a block has one KV head, and `slices` of them.
struct WarpgroupJob : DecodeJob {
    prefill::RowMap map[2];  // of K, of V
    bool has_maps;

    // A block of threads has up to `of_block` rows.
    WarpgroupJob(const AttentionArgs& a, uint32_t groups, uint32_t of_block)
        : DecodeJob(a, groups * k_group_warps, 1, k_group_warps, of_block, 1) {
        query_pitch = 0;  // they lie elsewhere
        has_maps = map_side(map[0], k_rows, a.k_cache) && map_side(map[1], v_rows, a.v_cache);
    }

    static bool map_side(prefill::RowMap& map, Side& side, const TensorView& cache) {
        side.pitch = prefill::slot_of(cache, side.row_bytes);
        return prefill::map_rows(map, cache, side.pitch / 2, k_group_cells, false);
    }

    __host__ __device__ uint32_t q_bytes() const { return columns * d_k * 2; }
    __host__ __device__ uint32_t p_offset() const { return q_bytes(); }
    __host__ __device__ uint32_t p_bytes() const { return columns * k_group_cells * 2; }
    __host__ __device__ uint32_t tiles_offset() const { return p_offset() + slices * p_bytes(); }
    __host__ __device__ uint32_t tile_bytes(uint32_t side) const {
        return k_group_cells * (side == 0 ? k_rows : v_rows).pitch;
    }
    __host__ __device__ uint32_t group_bytes() const {
        return k_group_stages * (tile_bytes(0) + tile_bytes(1));
    }
    __host__ __device__ uint32_t full_offset() const {
        return tiles_offset() + slices * group_bytes();
    }
    __host__ __device__ uint32_t exchange_at() const {
        return full_offset() + slices * 2 * k_group_stages * 8;
    }
    // Of each warp, limits of its rows, and those that it asks for.
    __host__ __device__ uint32_t exchange_size() const { return 2 * columns * 4; }
    // What DecodeJob's offsets count from.
    __host__ __device__ uint32_t rest_offset() const {
        return (exchange_at() + warps() * exchange_size() + 15) / 16 * 16;
    }
    __host__ __device__ uint32_t part_floats() const { return columns * (d_v + 4 + 1 + 4); }
    uint32_t all_bytes() const {
        return std::max(rest_offset() + exchange_offset(), slices * part_floats() * 4);
    }
};

// A's slots of 16 channels are channels 0 2, 4 6 ... 12 14, 1 3 ... 13 15 (fragments.cuh): so lie
// those of the queries, B.
struct SwizzledQueries {
    std::byte* data;
    uint32_t rows;

    __device__ SwizzledQueries(const WarpgroupJob& job, std::byte* memory)
        : data(memory), rows(job.columns) {}
    __device__ void store(const DecodeJob&, const float4& x, bool is_there, uint32_t, uint32_t g,
                          uint32_t channel) const {
        if (!is_there) return;
        const uint32_t step = channel / 16, t = channel % 16 / 4;
        *word(g, 2 * step, t) = halves_of(x.x, x.z);
        *word(g, 2 * step + 1, t) = halves_of(x.y, x.w);
    }
    // Word t of a piece of eight halves.
    __device__ uint32_t* word(uint32_t g, uint32_t piece, uint32_t t) const {
        const uint32_t at = (piece / 8 * rows + g) * 128 + (piece % 8 ^ g % 8) * 16;
        return reinterpret_cast<uint32_t*>(data + at) + t;
    }
};

}  // namespace rotkv::cuda::decode
