#pragma once
// How decode attention shares its work, and the way of tiles of cells into shared memory.
//
// ROWS are pairs (token, query head) of one KV head. A block of threads takes up to 8 of them,
// which are the columns of its products, for a BAND of neighbouring KV heads, up to 4, and some of
// the cells. Rows are those of one token; of one stream's tokens they are numbered on from token to
// token, so that tokens share a read of the cells. A block consists of SLICES, which walk over
// tiles of 16 cells on their own: as many warps as the band has heads. In most layouts the heads of
// a cell are one piece of memory, which a slice's warps copy together, while each attends for one
// KV head.
//
// Up to 16 rows are those of a TEAM of two warps (decode_team.cu), which attend for one KV head
// together: a slice has a team for each head of the band, and its tiles have 16 cells for each
// member. A team of four is a warpgroup, and has tiles of its own (decode_warpgroup_tiles.cuh).
//
// Docs: docs/05-attention.md

#include "cuda/decode_copies.cuh"
#include "cuda/decode_job.cuh"
#include "cuda/decode_state.cuh"

namespace rotkv::cuda::decode {

// The token and query head of a row.
struct RowOf {
    uint32_t t, h;
};

// What this warp works on. `heads` rows are the columns of its products; `seen` is what some of
// them see, for lanes 0 .. 15, and what each of them sees, for lanes 16 .. 31.
struct DecodePlace : Place {
    uint32_t slice;
    uint32_t member;  // of its team
    uint32_t head_of_band;
    uint32_t first_row;
    uint32_t block_rows;  // `heads`, also where the warp is idle
    bool is_idle;         // the last band has fewer heads: the warp only copies

    explicit __device__ DecodePlace(const DecodeJob& job) {
        const uint32_t warp = threadIdx.x / k_warp;
        t = job.by_rows.of(blockIdx.x);
        const uint32_t column = blockIdx.x - t * job.by_rows.d;
        const uint32_t of_band = job.by_chunks.of(column);
        split = blockIdx.y;
        const uint32_t team = warp >> job.team / 2;  // its warps run on different schedulers
        member = warp & (job.team - 1);
        slice = job.by_band.of(team);
        head_of_band = team - slice * job.band;
        kv = of_band * job.band + head_of_band;
        is_idle = kv >= job.kv_heads;
        first_row = (column - of_band * job.chunks) * job.heads;
        block_rows = min(job.heads, job.rows - first_row);
        heads = is_idle ? 0 : block_rows;
    }

    __device__ RowOf row(const DecodeJob& job, uint32_t of_kv, uint32_t g) const {
        const uint32_t later = job.by_group.of(first_row + g);
        return {t + later, of_kv * job.group + first_row + g - later * job.group};
    }

    // Integers, which no kernel writes (dependent.cuh).
    __device__ void load(const DecodeJob& job) {
        stream = job.streams > 1 ? job.q_stream[t] : 0;
        const uint32_t in_use = uint32_t(job.used[stream]);  // asked for beside the positions
        const bool is_some = lane_of_warp() < k_warp / 2;
        const uint32_t from = row(job, 0, 0).t, to = row(job, 0, block_rows - 1).t;
        if (from == to) {
            seen = job.sight.of(job.q_position[from]);
            used = seen.last < 0 ? 0 : in_use;
            return;
        }
        // A lane a token: their positions are under way together.
        Seen some{INT32_MAX, -1}, each{0, INT32_MAX};
        for (uint32_t token = from + lane_of_warp(); token <= to; token += k_warp) {
            const Seen one = job.sight.of(job.q_position[token]);
            some = {min(some.first, one.first), max(some.last, one.last)};
            each = {max(each.first, one.first), min(each.last, one.last)};
        }
        some = {__reduce_min_sync(k_all_lanes, some.first),
                __reduce_max_sync(k_all_lanes, some.last)};
        each = {__reduce_max_sync(k_all_lanes, each.first),
                __reduce_min_sync(k_all_lanes, each.last)};
        seen = is_some ? some : each;
        used = some.last < 0 ? 0 : in_use;
    }
    __device__ Seen seen_by(const DecodeJob& job, uint32_t g) const {
        return job.sight.of(job.q_position[row(job, 0, min(g, block_rows - 1)).t]);
    }
};

// A slice's threads wait for each other; in a team's kernel they learn whether one says yes.
template <int Team>
__device__ bool sync_slice(const DecodeJob& job, const DecodePlace& at, bool says) {
    if constexpr (Team > 1) return any_of_group(at.slice + 1, job.band * Team * k_warp, says);
    if (job.band == 1) {
        __syncwarp();
    } else {
        wait_for_group(at.slice + 1, job.band * k_warp);
    }
    return says;
}

struct TwoRows {
    const std::byte *x, *y;
};
struct FourRows {
    const std::byte *x, *y, *z, *w;
};

// The slice's walk over its tiles, of each of which a warp looks at its own 16 cells.
template <int Team = 1>
class Tiles {
  public:
    static constexpr int k_stages = k_stages_of<Team>;
    static constexpr uint32_t k_tile = Team * k_cells;

    const DecodeJob& job;
    const DecodePlace& at;

    // What is known before earlier kernels have ended. All threads of the block.
    __device__ Tiles(const DecodeJob& j, const DecodePlace& p, std::byte* memory)
        : job(j),
          at(p),
          ring_(memory + j.ring_offset() + p.slice * j.ring_bytes()),
          first_((p.split * j.slices + p.slice) * k_tile),
          own_(Team == 1 ? 0 : p.member * k_cells),
          is_mine_(row_of_lane() % j.band == p.head_of_band),
          limits_(reinterpret_cast<const Seen*>(memory + j.limits_offset())),
          copies_(reinterpret_cast<uint64_t*>(memory), j.slices, p.slice, k_stages, j.band * Team) {
    }

    // Where the stream's cells are, and what lies in the first tiles. The first comes into L2 while
    // earlier kernels still run.
    __device__ void find_cells() {
        const uint32_t kv = at.kv - at.head_of_band;  // the band's first
        const uint32_t heads = min(job.band, job.kv_heads - kv);
        const Cells& cells = is_v() ? job.v : job.k;
        const Side& side = is_v() ? job.v_rows : job.k_rows;
        k_ = job.k.data + at.stream * job.k.stream + kv * job.k.head;
        v_ = job.v.data + at.stream * job.v.stream + kv * job.v.head;
        from_ = (is_v() ? v_ : k_) + (own_ + row_of_lane()) * cells.cell;
        const uint32_t lead = uint32_t(reinterpret_cast<uintptr_t>(from_)) % 16;
        from_ -= lead;
        bytes_ = (lead + side.bytes_of(cells.head, heads) + 15) / 16 * 16;
        to_ = (is_v() ? k_tile * job.k_rows.pitch : 0) + (own_ + row_of_lane()) * side.pitch;
        position_ = positions(job, at);
#pragma unroll
        for (int i = 0; i < k_stages; ++i) first_positions_[i] = position_in(i);
        Copies::prefetch(is_more() && has_row(first_), src(first_), bytes_);
    }

    // The first tiles are asked for before anybody looks whether they are seen.
    __device__ void start() {
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) {
            ask(i, first_ + i * job.step, first_ + own_ + i * job.step < at.used);
        }
    }

    // Later: until here registers are short.
    __device__ void find_rows() {
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) seen_[i] = look(first_positions_[i]);
        coming_position_ = first_positions_[k_stages - 1];
        k_place_ = k_place(own_ + lane_of_warp() / 4);
        v_place_[0] = v_place(lane_of_warp() % 4 * 2);
        v_place_[1] = v_place(lane_of_warp() % 4 * 2 + 1);
    }

    __device__ bool is_more() const { return first_ < at.used; }

    // The next tile is there, and the one after those that are under way is asked for.
    __device__ void wait() {
        copies_.wait<k_stages - 2>(uint32_t(stage_), parity_);
        // All have read what the next copies replace.
        is_of_use_ = sync_slice<Team>(job, at, seen() != 0);
        seen_[k_stages - 1] = look(coming_position_);
        const uint32_t coming = first_ + (k_stages - 1) * job.step;
        ask(stage_ == 0 ? k_stages - 1 : stage_ - 1, coming,
            coming + own_ < at.used && (seen_[k_stages - 1] & k_some) != 0);
    }
    __device__ void advance() {
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) seen_[i] = seen_[i + 1];
        first_ += job.step;
        coming_position_ = position_in(k_stages - 1);
        next_stage();
    }
    // Nothing is under way any more, and the slice has read everything.
    __device__ void end() {
        for (int i = 0; i < k_stages - 1; ++i, next_stage())
            copies_.wait<0>(uint32_t(stage_), parity_);
        sync_slice<Team>(job, at, false);
    }

    // Of the tile that is there, does anybody see something?
    __device__ bool is_of_use() const { return is_of_use_; }
    // The warp's cells in it, as bits: that some row sees, that each row sees.
    __device__ uint32_t seen() const { return seen_[0] & k_some; }
    __device__ uint32_t seen_by_each() const { return seen_[0] >> k_cells; }

    // Does the row that is column g see cell r of the tile that is there? For where rows differ.
    __device__ bool sees(uint32_t g, uint32_t r) const {
        const uint32_t cell = first_ + own_ + r;
        return limits_[g].holds(cell < at.used ? position_[cell] : -1);
    }

    // Of the warp's head, the rows that a lane multiplies (fragments.cuh): K of the warp's cells g
    // and g + 8, V of the first member's 2t, 2t + 1, 2t + 8, 2t + 9. Strides are even: 8 cells
    // further rows lie alike.
    __device__ TwoRows k_rows() const {
        const std::byte* const x = stage() + k_place_;
        return {x, x + 8 * job.k_rows.pitch};
    }
    __device__ FourRows v_rows() const {
        const std::byte *const x = stage() + v_place_[0], *const y = stage() + v_place_[1];
        return {x, y, x + 8 * job.v_rows.pitch, y + 8 * job.v_rows.pitch};
    }
    // V of the warp's cell r.
    __device__ std::byte* v_row(uint32_t r) const { return stage() + v_place(own_ + r); }

  private:
    static constexpr uint32_t k_some = (1u << k_cells) - 1;

    static __device__ bool is_v() { return lane_of_warp() >= k_cells; }
    static __device__ uint32_t row_of_lane() { return lane_of_warp() % k_cells; }

    __device__ void next_stage() {
        stage_ = stage_ + 1 == k_stages ? 0 : stage_ + 1;
        if (stage_ == 0) parity_ ^= 1;
    }

    // Asked for long before it is looked at, and before anybody knows how many cells are in use:
    // those behind are empty. Where no cell is, none is visible.
    __device__ int32_t position_in(int i) const {
        const uint32_t cell = first_ + own_ + i * job.step + row_of_lane();
        return cell < job.cells ? position_[cell] : -1;
    }
    __device__ uint32_t look(int32_t position) const {
        return __ballot_sync(k_all_lanes, at.seen.holds(position));
    }

    // What is copied beyond a row's ends belongs to its neighbours; memory ends on 16 bytes
    // (CudaBackend::allocate).
    __device__ void ask(int stage, uint32_t tile, bool is_wanted) {
        std::byte* const dst = ring_ + stage * job.stage_bytes + to_;
        copies_.ask(uint32_t(stage), is_wanted && has_row(tile), dst, src(tile), bytes_);
    }
    __device__ bool has_row(uint32_t tile) const {
        return is_mine_ && tile + own_ + row_of_lane() < job.cells;
    }
    __device__ const std::byte* src(uint32_t tile) const {
        return from_ + tile * (is_v() ? job.v.cell : job.k.cell);
    }

    // Where the head's row r begins in a stage. All tiles lie alike: 16 cells are a multiple of 16
    // bytes.
    __device__ uint32_t k_place(uint32_t r) const { return place(job.k_rows, k_, job.k, r); }
    __device__ uint32_t v_place(uint32_t r) const {
        return k_tile * job.k_rows.pitch + place(job.v_rows, v_, job.v, r);
    }
    __device__ uint32_t place(const Side& side, const std::byte* band, const Cells& cells,
                              uint32_t r) const {
        const uint32_t address = uint32_t(reinterpret_cast<uintptr_t>(band));
        const uint32_t lead = (address + r * uint32_t(cells.cell)) % 16;
        return r * side.pitch + lead + at.head_of_band * uint32_t(cells.head);
    }
    __device__ std::byte* stage() const { return ring_ + stage_ * job.stage_bytes; }

    std::byte* ring_;
    uint32_t first_;  // cell of the tile that is there
    uint32_t own_;    // the warp's first cell in it
    bool is_of_use_ = true;
    bool is_mine_;        // the lane's row
    const Seen* limits_;  // of each row
    Copies copies_;
    const std::byte *k_, *v_;          // of the stream, from the band's first head on
    const std::byte* from_ = nullptr;  // of the lane's row in tile 0
    uint32_t to_ = 0, bytes_ = 0;      // ... in a stage
    uint32_t k_place_ = 0, v_place_[2] = {};
    const int32_t* position_ = nullptr;
    int32_t first_positions_[k_stages];  // of cell lane % 16
    int32_t coming_position_ = 0;
    uint32_t seen_[k_stages];  // cells: low bits by some, high bits by each; from that tile on
    uint32_t parity_ = 0;
    int stage_ = 0;
};

}  // namespace rotkv::cuda::decode
