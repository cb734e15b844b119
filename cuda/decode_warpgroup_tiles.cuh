#pragma once
// A warpgroup's walk over tiles of 64 cells: one of its threads asks the copy engine for a tile's
// rows of one KV head, K and V by an instruction each, as soon as all warps have read what they
// replace. Each warp looks at 16 of the cells.
// Docs: docs/05-attention.md

#include "cuda/decode_warpgroup_job.cuh"

namespace rotkv::cuda::decode {

class GroupTiles {
  public:
    const WarpgroupJob& job;
    const DecodePlace& at;

    // All threads of the block.
    __device__ GroupTiles(const WarpgroupJob& j, const DecodePlace& p, std::byte* memory)
        : job(j),
          at(p),
          ring_(memory + j.tiles_offset() + p.slice * j.group_bytes()),
          full_(reinterpret_cast<uint64_t*>(memory + j.full_offset()) +
                p.slice * 2 * k_group_stages),
          first_((p.split * j.slices + p.slice) * k_group_cells),
          own_(p.member * k_cells),
          limits_(reinterpret_cast<const Seen*>(memory + j.rest_offset() + j.limits_offset())) {
        const uint32_t barriers = k_groups * 2 * k_group_stages;
        if (threadIdx.x < barriers) {
            CopyBarrier(reinterpret_cast<uint64_t*>(memory + j.full_offset()) + threadIdx.x)
                .create(1);
        }
        __syncthreads();
    }

    // What is known before earlier kernels have ended.
    __device__ void find_cells() {
        position_ = positions(job, at);
        some_ = seen_of_lane(0);
        each_ = seen_of_lane(k_warp / 2);
#pragma unroll
        for (int i = 0; i < k_known; ++i) first_positions_[i] = positions_in(i);
        prefetch(0);
        prefetch(1);
    }
    __device__ void start() {
        for (uint32_t i = 0; i < k_group_stages; ++i) {
            ask(0, i, i, true);
            ask(1, i, i, true);
        }
    }
    __device__ void find_rows() {
        look(0, first_positions_[0]);
        look(1, first_positions_[1]);
        coming_ = first_positions_[2];
        skew_[0] = skew_of(job.k);
        skew_[1] = skew_of(job.v);
    }

    __device__ bool is_more() const { return first_ < at.used; }
    // What is seen of the tile after the next one; the positions of the one behind it are asked for
    // a tile before they are looked at.
    __device__ void look_ahead() {
        look(2, coming_);
        coming_ = positions_in(3);
    }
    __device__ void wait(uint32_t side) const {
        CopyBarrier(full_ + side * k_group_stages + stage_).wait(parity_);
    }
    // All warps have read K of this tile, and V of the one before.
    __device__ void ask_next() {
        ask(0, stage_, 2, (uses_ & 4) != 0);
        if (!is_first_) ask(1, stage_ ^ 1, 1, (uses_ & 2) != 0);
        is_first_ = false;
    }
    __device__ void advance() {
        seen_[0] = seen_[1];
        seen_[1] = seen_[2];
        uses_ >>= 1;
        first_ += job.step;
        stage_ ^= 1;
        if (stage_ == 0) parity_ ^= 1;
    }

    __device__ bool is_of_use() const { return (uses_ & 1) != 0; }
    // The warp's cells, as bits: that some row sees, that each row sees.
    __device__ uint32_t seen() const { return seen_[0] & 0xFFFFu; }
    __device__ uint32_t seen_by_each() const { return seen_[0] >> k_cells; }
    // Does row g see the warp's cell r?
    __device__ bool sees(uint32_t g, uint32_t r) const {
        const uint32_t cell = first_ + own_ + r;
        return limits_[g].holds(cell < at.used ? position_[cell] : -1);
    }

    // The rows that a lane multiplies: K of the warp's cells g and g + 8; V of the tile's cells
    // 2t, 2t + 1, 2t + 8, 2t + 9.
    __device__ TwoRows k_rows() const {
        const std::byte* const x = k_row(own_ + lane_of_warp() / 4);
        return {x, x + 8 * job.k_rows.pitch};
    }
    __device__ FourRows v_rows() const {
        const uint32_t pitch = job.v_rows.pitch;
        const std::byte* const x = tile(1) + skew_[1] + lane_of_warp() % 4 * 2 * pitch;
        return {x, x + pitch, x + 8 * pitch, x + 9 * pitch};
    }
    // V of the warp's cell r.
    __device__ std::byte* v_row(uint32_t r) const {
        return tile(1) + skew_[1] + (own_ + r) * job.v_rows.pitch;
    }

  private:
    static constexpr int k_known = 3;  // this tile, the next one, the one after

    __device__ std::byte* tile_at(uint32_t side, uint32_t stage) const {
        return ring_ + side * k_group_stages * job.tile_bytes(0) + stage * job.tile_bytes(side);
    }
    __device__ std::byte* tile(uint32_t side) const { return tile_at(side, stage_); }
    __device__ const std::byte* k_row(uint32_t r) const {
        return tile(0) + skew_[0] + r * job.k_rows.pitch;
    }
    // All rows of a head begin so far behind 16 bytes.
    __device__ uint32_t skew_of(const Cells& cells) const {
        return uint32_t(reinterpret_cast<uintptr_t>(cells.data) + at.kv * cells.head) % 16;
    }
    __device__ Seen seen_of_lane(int lane) const {
        return {__shfl_sync(k_all_lanes, at.seen.first, lane),
                __shfl_sync(k_all_lanes, at.seen.last, lane)};
    }

    // Of the tile i steps on: cells lane and lane + 32.
    __device__ int2 positions_in(uint32_t i) const {
        const uint32_t cell = first_ + i * job.step + lane_of_warp();
        return {cell < job.cells ? position_[cell] : -1,
                cell + k_warp < job.cells ? position_[cell + k_warp] : -1};
    }
    __device__ void look(uint32_t i, const int2& position) {
        const uint32_t some[2] = {__ballot_sync(k_all_lanes, some_.holds(position.x)),
                                  __ballot_sync(k_all_lanes, some_.holds(position.y))};
        const uint32_t each[2] = {__ballot_sync(k_all_lanes, each_.holds(position.x)),
                                  __ballot_sync(k_all_lanes, each_.holds(position.y))};
        const uint32_t by = at.member % 2 * k_cells;
        const uint32_t own_some = (at.member < 2 ? some[0] : some[1]) >> by & 0xFFFFu;
        const uint32_t own_each = (at.member < 2 ? each[0] : each[1]) >> by & 0xFFFFu;
        const uint32_t seen = own_some | own_each << k_cells;
        i == 0 ? seen_[0] = seen : i == 1 ? seen_[1] = seen : seen_[2] = seen;
        uses_ |= uint32_t((some[0] | some[1]) != 0) << i;
    }

    // The first tile comes into L2 while earlier kernels still run.
    __device__ void prefetch(uint32_t side) const {
        if (threadIdx.x % k_group_threads != 0 || !is_more()) return;
        prefill::prefetch_box(job.map[side], at.kv, int32_t(first_), int32_t(at.stream));
    }
    // By one thread.
    __device__ void ask(uint32_t side, uint32_t stage, uint32_t i, bool is_wanted) const {
        const uint32_t cell = first_ + i * job.step;
        if (threadIdx.x % k_group_threads != 0 || cell >= at.used) return;
        uint64_t& full = full_[side * k_group_stages + stage];
        CopyBarrier(&full).expect(is_wanted ? job.tile_bytes(side) : 0);
        if (!is_wanted) return;
        prefill::copy_box(PhaseBarrier(full), shared_address(tile_at(side, stage)), job.map[side],
                          0, at.kv, int32_t(cell), int32_t(at.stream));
    }

    std::byte* ring_;
    uint64_t* full_;  // [side][stage]
    uint32_t first_;  // cell of this tile
    uint32_t own_;    // the warp's first cell in it
    const Seen* limits_;
    const int32_t* position_ = nullptr;
    Seen some_, each_;
    int2 first_positions_[k_known], coming_;
    uint32_t seen_[k_known] = {}, uses_ = 0;  // of this tile, the next one, the one after
    uint32_t skew_[2] = {};
    uint32_t stage_ = 0, parity_ = 0;
    bool is_first_ = true;
};

}  // namespace rotkv::cuda::decode
