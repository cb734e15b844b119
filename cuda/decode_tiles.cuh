#pragma once
// A warp's walk over its tiles of cells, and their way from the cache into shared memory.
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"

namespace rotkv::cuda {

constexpr uint32_t k_cells = 16;  // of a tile
constexpr int k_stages = 3;       // tiles in a warp's ring
constexpr uint32_t k_most_warps = 8;
constexpr float k_log2_e = 1.44269504f;

// Rows of one side of the cache on their way to shared memory: pieces of 16 bytes, as many as a row
// may touch. Rows lie an odd number of pieces apart, so that lanes meet in no bank, each as it does
// in memory within 16 bytes.
struct Side {
    uint32_t bytes, copied, pitch;
    // 2^lane_bits lanes copy a row, a warp so many rows at once, and fours times four of those a
    // tile.
    uint32_t lane_bits = 3, rows_at_once = 4, fours = 1;

    explicit Side(const TensorView& view) : bytes(uint32_t(row_bytes(view.type, view.n[3]))) {
        const uintptr_t places = reinterpret_cast<uintptr_t>(view.data) |
                                 uintptr_t(view.stride[0]) | uintptr_t(view.stride[1]) |
                                 uintptr_t(view.stride[2]) | 16;
        const uint32_t most_lead = 16 - uint32_t(places & (~places + 1));
        const uint32_t pieces = (bytes + most_lead + 15) / 16;
        copied = pieces * 16;
        pitch = (pieces | 1) * 16;
        for (; rows_at_once > 1 && k_warp / rows_at_once < pieces; ++lane_bits) {
            rows_at_once /= 2;
            fours *= 2;
        }
    }
};

// In shared memory: q~ and then the outputs [heads][width]; the block's softmax; the warps' rings,
// and in the end their states (WarpPart) and then the merge's weights.
struct DecodeJob : Task {
    Side k_rows, v_rows;
    uint32_t warps, width, stage_bytes;
    float to_power;  // scores to powers of two

    explicit DecodeJob(const AttentionArgs& a, int64_t most_bytes)
        : Task(a),
          k_rows(a.k_cache),
          v_rows(a.v_cache),
          width(std::max(d_k, d_v)),
          stage_bytes(k_cells * (k_rows.pitch + v_rows.pitch)),
          to_power(softcap > 0 ? scale / softcap : scale * k_log2_e) {
        const int64_t most = (most_bytes - int64_t(head_bytes())) / int64_t(k_stages * stage_bytes);
        warps = uint32_t(std::clamp<int64_t>(most, 1, k_most_warps));
    }
    __host__ __device__ uint32_t head_bytes() const { return k_most_heads * (width + 2) * 4; }
    uint32_t bytes() const { return head_bytes() + warps * k_stages * stage_bytes; }
};

// The rows of a tile from cell `first` on; 0 for cells that are not in `seen`, whose bytes may be
// those of a NaN. What is copied beyond a row's ends belongs to its neighbours; at the end of the
// cells perhaps to nobody, and is not read.
template <bool at_end>
__device__ void copy_rows(std::byte* dst, const Side& side, const std::byte* cells, int64_t stride,
                          uint32_t first, uint32_t seen) {
    const uint32_t lane = lane_of_warp(), r = lane >> side.lane_bits, rows = side.rows_at_once;
    const uint32_t lanes = 1u << side.lane_bits;
#pragma unroll 1
    for (uint32_t i = (lane & (lanes - 1)) * 16; i < side.copied; i += lanes * 16) {
        const std::byte* row = cells + (first + r) * stride;
        std::byte* to = dst + r * side.pitch + i;
        uint32_t bits = seen >> r;
#pragma unroll 1
        for (uint32_t n = side.fours; n > 0; --n) {
#pragma unroll
            for (int four = 0; four < 4; ++four) {
                const uint32_t lead = uint32_t(reinterpret_cast<uintptr_t>(row)) % 16;
                int32_t bytes = 16;
                if (at_end) bytes = min(16, max(0, int32_t(lead + side.bytes - i)));
                copy16(to, row - lead + i, (bits & 1) != 0 ? uint32_t(bytes) : 0);
                row += rows * stride;
                to += rows * side.pitch;
                bits >>= rows;
            }
        }
    }
}

// The walk over a warp's tiles, and their way into the ring.
struct Tiles {
    const DecodeJob& job;
    const Place& at;
    const int32_t* position;
    const std::byte *k, *v;  // of the stream and KV head
    std::byte* ring;
    uint32_t coming, step;               // first cell of the next tile to copy
    uint32_t first;                      // first cell of the tile that is there
    int32_t ahead[k_stages - 1];         // of the tiles to copy next: position of cell lane % 16
    uint32_t seen[k_stages] = {};        // of the tiles in the ring, one bit a cell, oldest first
    uint32_t into = 0, from = k_stages;  // stages of the ring

    __device__ Tiles(const DecodeJob& j, const Place& p, std::byte* rings)
        : job(j),
          at(p),
          position(positions(j, p)),
          k(cells_of(j.k, p)),
          v(cells_of(j.v, p)),
          step(j.warps * j.parts.splits * k_cells) {
        const uint32_t warp = threadIdx.x / k_warp;
        ring = rings + warp * k_stages * job.stage_bytes;
        coming = (at.split * job.warps + warp) * k_cells;
        first = coming - step;
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) ahead[i] = position_in(coming + i * step);
    }

    // Where no cell is, none is visible.
    __device__ int32_t position_in(uint32_t tile) const {
        const uint32_t cell = tile + lane_of_warp() % k_cells;
        return cell < job.cells ? position[cell] : -1;
    }

    // A position is asked for long before its tile is copied. A tile that is not seen is not read.
    __device__ void copy() {
        const uint32_t bits = __ballot_sync(k_all_lanes, is_visible(job, at, ahead[0])) & 0xFFFFu;
        std::byte *const k_rows = ring + into * job.stage_bytes, *const v_rows =
                                                                     k_rows +
                                                                     k_cells * job.k_rows.pitch;
        if (bits != 0 && coming + 2 * k_cells <= job.cells) {
            copy_rows<false>(k_rows, job.k_rows, k, job.k.cell, coming, bits);
            copy_rows<false>(v_rows, job.v_rows, v, job.v.cell, coming, bits);
        } else if (bits != 0) {
            copy_rows<true>(k_rows, job.k_rows, k, job.k.cell, coming, bits);
            copy_rows<true>(v_rows, job.v_rows, v, job.v.cell, coming, bits);
        }
        close_group();
        into = into + 1 == k_stages ? 0 : into + 1;
        coming += step;
#pragma unroll
        for (int i = 0; i < k_stages - 2; ++i) ahead[i] = ahead[i + 1];
        ahead[k_stages - 2] = position_in(coming + (k_stages - 2) * step);
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) seen[i] = seen[i + 1];
        seen[k_stages - 1] = bits;
    }

    // The next tile is there, and the one after those that are under way is asked for.
    __device__ void advance() {
        wait_for_groups<k_stages - 2>();
        __syncwarp();  // all lanes' copies are there; all have read what the next copies replace
        copy();
        from = from + 1 >= k_stages ? 0 : from + 1;
        first += step;
    }
    __device__ bool is_seen(uint32_t r) const { return (seen[0] >> r & 1) != 0; }

    // Rows of the tile that is there.
    __device__ const std::byte* row(const Side& side, const std::byte* cells, int64_t stride,
                                    uint32_t r) const {
        const uint32_t place =
            uint32_t(reinterpret_cast<uintptr_t>(cells)) + (first + r) * uint32_t(stride);
        return ring + from * job.stage_bytes + r * side.pitch + place % 16;
    }
    __device__ const std::byte* k_row(uint32_t r) const {
        return row(job.k_rows, k, job.k.cell, r);
    }
    __device__ const std::byte* v_row(uint32_t r) const {
        return row(job.v_rows, v, job.v.cell, r) + k_cells * job.k_rows.pitch;
    }
};

}  // namespace rotkv::cuda
