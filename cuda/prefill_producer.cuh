#pragma once
// Prefill on 9.0: the warps that make tiles ready for those that multiply. They look which
// tiles some row sees, 32 at a time, and then
//
//   rows of f16   are copied into the tiles
//   all others    are copied into raw slots, as far ahead as there are such, and expanded there
//
// Docs: docs/05-attention.md

#include "cuda/dependent.cuh"
#include "cuda/prefill_ring.cuh"

namespace rotkv::cuda::prefill {

// Threads that make a side ready: as copies, and by expanding, where large heads need registers
// rather than warps.
constexpr uint32_t k_copiers = k_warpgroup / 2;
template <int D>
constexpr uint32_t k_expanders = D <= 128 ? 2 * k_warpgroup : k_warpgroup;

/// The tiles that some row of the block sees, stream after stream; the same in all threads that
/// make tiles ready, which ask together.
template <uint32_t cells, uint32_t threads>
class Cursor {
  public:
    __device__ Cursor(const Job& job, const Place& at, RingState& state, uint32_t side)
        : job_(job), at_(at), found_(state.found[side]), barrier_(k_producers + side) {}

    int32_t first, stream = -1;  // of the tile: its first cell
    bool whole, filled;  // does each row of the stream see each cell? is none of them empty?
    Strip strip;

    /// Goes on to the next one, if there is one.
    __device__ bool next() {
        while (seen_ == 0) {
            section_ += k_section_tiles;
            if (section_ < tiles_) {
                survey();
            } else if (!begin_stream()) {
                return false;
            }
        }
        const uint32_t bit = uint32_t(__ffs(int(seen_))) - 1;
        seen_ &= seen_ - 1;
        first = first_of(section_ + bit);
        whole = (whole_ >> bit & 1) != 0;
        filled = (filled_ >> bit & 1) != 0;
        return true;
    }
    __device__ TileMark mark() const { return {first, stream, whole, filled}; }

  private:
    static constexpr int32_t k_section_tiles = 32;
    const Job& job_;
    const Place& at_;
    uint32_t (&found_)[2][8][3];
    const uint32_t barrier_;
    Span span_;
    int32_t tiles_ = 0, section_ = 0;  // of the block's share
    uint32_t seen_ = 0, whole_, filled_, turn_ = 0;

    __device__ int32_t first_of(int32_t tile) const {
        return (int32_t(at_.split) + tile * int32_t(job_.parts.splits)) * int32_t(cells);
    }

    __device__ bool begin_stream() {
        stream = next_stream(job_, at_, stream);
        if (stream < 0) return false;
        strip = job_.strip(stream);
        const Share share{at_.split, job_.parts.splits};
        tiles_ = int32_t(share.of((strip.used + cells - 1) / cells));
        section_ = -k_section_tiles;
        const auto token = [&](uint32_t row) { return at_.token(job_, row); };
        span_ = span_of(
            at_.last - at_.first + 1,
            [&](uint32_t row) { return job_.q_stream(token(row)) == stream; },
            [&](uint32_t row) { return limits_of(job_, token(row), stream); });
        return true;
    }

    // The warps share them out, and look at four at a time.
    __device__ void survey() {
        constexpr uint32_t k_warps = threads / k_warp, k_tiles = k_section_tiles / k_warps;
        const uint32_t warp = threadIdx.x / k_warp % k_warps, lane = lane_of_warp();
        uint32_t seen = 0, whole = 0, filled = 0;
#pragma unroll 1
        for (uint32_t i = 0; i < k_tiles; i += 4) {
            int32_t position[4][cells / k_warp];
#pragma unroll
            for (uint32_t j = 0; j < 4 * cells / k_warp; ++j) {
                const int32_t tile = section_ + int32_t(warp * k_tiles + i + j / (cells / k_warp));
                const int64_t cell = first_of(tile) + int64_t(lane + j % (cells / k_warp) * k_warp);
                const int32_t x = strip.position[min(cell, strip.used - 1)];  // without a branch
                position[j / (cells / k_warp)][j % (cells / k_warp)] = cell < strip.used ? x : -1;
            }
#pragma unroll
            for (uint32_t j = 0; j < 4; ++j) {
                bool some = false, each = true;
                int32_t least = INT32_MAX;
#pragma unroll
                for (const int32_t x : position[j]) {
                    some = some || span_.some.sees(x);
                    each = each && span_.each.sees(x);
                    least = min(least, x);
                }
                seen |= uint32_t(__any_sync(k_all_lanes, some)) << (i + j);
                whole |= uint32_t(__all_sync(k_all_lanes, each)) << (i + j);
                filled |= uint32_t(__all_sync(k_all_lanes, least >= 0)) << (i + j);
            }
        }
        uint32_t(&found)[8][3] = found_[turn_];
        turn_ ^= 1;  // who is late may still read what was found before
        if (lane == 0) found[warp][0] = seen, found[warp][1] = whole, found[warp][2] = filled;
        wait_for_group(barrier_, threads);
        seen_ = whole_ = filled_ = 0;
#pragma unroll
        for (uint32_t w = 0; w < k_warps; ++w) {
            seen_ |= found[w][0] << w * k_tiles;
            whole_ |= found[w][1] << w * k_tiles;
            filled_ |= found[w][2] << w * k_tiles;
        }
    }
};

/// The number of a tile, or of a raw slot, in a ring, and the parity of its round.
struct RingPlace {
    uint32_t place = 0, parity = 0;
    __device__ void advance(uint32_t size) {
        if (++place < size) return;
        place = 0;
        parity ^= 1;
    }
};

/// Says what tile number i is, as soon as its place is free; seen by who waits for its K.
template <uint32_t threads, class Memory>
__device__ void announce(const Memory& memory, uint32_t i, const TileMark& mark, const Job& job) {
    RingState& state = memory.state;
    if (threadIdx.x == 0) state.marks[i % k_remembered] = mark;
    if (mark.is_end() || mark.whole != 0) return;
    const Strip strip = job.strip(mark.stream);
    for (uint32_t t = threadIdx.x; t < Memory::S::cells; t += threads) {
        state.positions[i % k_remembered][t] = strip.at(mark.first + int64_t(t));
    }
}

/// The same by the engine, which leaves nothing out: where no cell is empty. By one thread.
template <int D, uint32_t cells>
__device__ void copy_filled_tile(const RowMap& map, const PhaseBarrier& full, uint32_t tile,
                                 uint32_t kv, const TileMark& mark) {
    constexpr uint32_t k_panels = (D + 63) / 64, k_panel_bytes = cells * 128;
    full.expect(k_panels * k_panel_bytes);
#pragma unroll
    for (uint32_t p = 0; p < k_panels; ++p) {
        copy_box(full, tile + p * k_panel_bytes, map, p * 64, kv, mark.first, mark.stream);
    }
}

/// Rows of D halves on 16 bytes into a tile. Neighbouring threads copy a row together. Empty cells,
/// which hold anything, arrive as zeros.
template <int D, uint32_t cells>
__device__ void copy_tile(const Side& side, uint32_t tile, const std::byte* rows,
                          const Strip& strip, const TileMark& mark) {
    constexpr uint32_t k_pieces = D / 8, k_at_once = k_copiers / k_pieces;
    const uint32_t me = threadIdx.x % k_copiers, first = me / k_pieces, piece = me % k_pieces;
    if (first >= k_at_once) return;
    if (mark.whole != 0) {
#pragma unroll 8
        for (uint32_t i = 0; i < (cells + k_at_once - 1) / k_at_once; ++i) {
            const uint32_t row = first + i * k_at_once;
            if (cells % k_at_once != 0 && row >= cells) break;
            copy_16(tile + place_of(cells, row, piece),
                    rows + uint64_t(row) * side.of_cell + piece * 16, true);
        }
        return;
    }
    constexpr uint32_t k_asked = 8;  // positions that are waited for together
#pragma unroll 1
    for (uint32_t begin = first; begin < cells; begin += k_asked * k_at_once) {
        uint32_t there = 0;
#pragma unroll
        for (uint32_t i = 0; i < k_asked; ++i) {
            there |= uint32_t(strip.at(mark.first + int64_t(begin + i * k_at_once)) >= 0) << i;
        }
#pragma unroll
        for (uint32_t i = 0; i < k_asked; ++i) {
            const uint32_t row = begin + i * k_at_once;
            const bool is_there = (there >> i & 1) != 0;
            if (row >= cells) break;
            copy_16(tile + place_of(cells, row, piece),
                    rows + (is_there ? uint64_t(row) * side.of_cell : 0) + piece * 16, is_there);
        }
    }
}

/// One side as it is, rows of D channels.
template <int D, uint32_t side_number, class Memory>
__device__ void produce_copies(const RingJob& job, const Place& at, const Memory& memory) {
    constexpr uint32_t cells = Memory::S::cells;
    const Side& side = side_number == 0 ? job.k : job.v;
    Cursor<cells, k_copiers> cursor(job, at, memory.state, side_number);
    RingPlace at_stage;
    for (uint32_t i = 0;; ++i, at_stage.advance(k_stages)) {
        const uint32_t stage = at_stage.place;
        const bool is_there = cursor.next();
        if (i == 0) wait_for_earlier();  // integers come before
        if (side_number == 1 && !is_there) break;
        const TileMark mark = cursor.mark();
        const PhaseBarrier full = memory.full(side_number, stage);
        memory.empty(side_number, stage).wait(at_stage.parity ^ 1);
        if (side_number == 0) announce<k_copiers>(memory, i, mark, job);
        const uint32_t tile = shared_address(memory.tile(side_number, stage));
        if (is_there && job.has_maps && mark.filled != 0) {
            if (threadIdx.x % k_copiers == 0) {
                copy_filled_tile<D, cells>(job.map[side_number], full, tile, at.kv, mark);
            }
        } else if (is_there) {
            copy_tile<D, cells>(side, tile, side.row(mark.stream, at.kv, mark.first), cursor.strip,
                                mark);
        }
        full.arrive_when_copied();
        full.arrive();
        if (!is_there) break;
    }
    wait_for_copies();
}

/// The raw ring, and where in a tile its next slot lies: K part after part, then V.
template <int D_k, int D_v>
class RawRing {
  public:
    using S = RingShape<D_k, D_v>;
    static constexpr uint32_t k_threads = k_expanders<D_k>;
    __device__ RawRing(const RingJob& job, const Place& at, const RingMemory<D_k, D_v>& memory)
        : job_(job),
          at_(at),
          memory_(memory),
          cursor_(job, at, memory.state, 0),
          parts_(S::cells / job.raw_cells),
          sharing_(k_threads / job.raw_cells),
          cell_(threadIdx.x / sharing_),
          byte_(threadIdx.x % sharing_ * 16) {}

    /// Asks for the next slot's rows, once it is free; behind the last tile only says so.
    __device__ void ask() {
        if (has_ended_) return;
        if (item_ == 0) has_ended_ = !cursor_.next();
        const uint32_t slot = slot_.place;
        memory_.raw_empty(slot).wait(slot_.parity ^ 1);
        const TileMark mark = cursor_.mark();
        if (threadIdx.x == 0) {
            memory_.state.raw_marks[slot] = mark;
            memory_.raw_full(slot).arrive();
        }
        if (!has_ended_) {
            const bool is_v = item_ >= parts_;
            const Side& side = is_v ? job_.v : job_.k;
            const int32_t first =
                mark.first + int32_t((is_v ? item_ - parts_ : item_) * job_.raw_cells);
            copy_rows(side, shared_address(memory_.raw(job_, slot)), mark, first);
        }
        memory_.raw_full(slot).arrive_when_copied();
        slot_.advance(job_.slots);
        if (++item_ == 2 * parts_) item_ = 0;
    }
    __device__ static Member me() { return {threadIdx.x, k_threads}; }

  private:
    const RingJob& job_;
    const Place& at_;
    const RingMemory<D_k, D_v>& memory_;
    Cursor<S::cells, k_threads> cursor_;
    const uint32_t parts_;
    const uint32_t sharing_, cell_, byte_;  // threads of a row; this one's row, its first byte
    uint32_t item_ = 0;
    RingPlace slot_;
    bool has_ended_ = false;

    // As they are stored, from the multiple of 16 bytes on at or before their beginning. Empty
    // cells, which hold anything, arrive as zeros.
    __device__ void copy_rows(const Side& side, uint32_t slot, const TileMark& mark,
                              int32_t first) const {
        constexpr uint32_t k_at_once = 5;  // each with its own address, under way together
        const bool there = mark.whole != 0 || cursor_.strip.at(first + int64_t(cell_)) >= 0;
        const std::byte* const row = side.row(mark.stream, at_.kv, first + int64_t(cell_));
        const uint32_t skew = skew_of(row), end = side.row_bytes + skew;
        const std::byte* const from = there ? row - skew : side.data - skew_of(side.data);
        const uint32_t to = slot + cell_ * side.slot, step = sharing_ * 16;
#pragma unroll 1
        for (uint32_t begin = byte_; begin < end; begin += k_at_once * step) {
#pragma unroll
            for (uint32_t i = 0; i < k_at_once; ++i) {
                const uint32_t byte = begin + i * step;
                if (byte < end) copy_16(to + byte, from + byte, there);
            }
        }
    }
};

/// One side's raw slots of a tile become f16. False behind the last tile.
template <int D_k, int D_v>
__device__ bool expand_side(const RingJob& job, const Place& at, const RingMemory<D_k, D_v>& memory,
                            RawRing<D_k, D_v>& raw, RingPlace& slot, const RingPlace& stage,
                            uint32_t i, uint32_t is_v) {
    using S = RingShape<D_k, D_v>;
    const Side& side = is_v != 0 ? job.v : job.k;
    std::byte* const tile = memory.tile(is_v, stage.place);
    memory.empty(is_v, stage.place).wait(stage.parity ^ 1);
#pragma unroll 1
    for (uint32_t cell = 0; cell < S::cells; cell += job.raw_cells) {
        raw.ask();
        memory.raw_full(slot.place).wait(slot.parity);
        const TileMark mark = memory.state.raw_marks[slot.place];
        if (is_v == 0 && cell == 0) announce<k_expanders<D_k>>(memory, i, mark, job);
        if (mark.is_end()) {
            memory.full(0, stage.place).arrive();
            return false;
        }
        expand(side, tile + cell * 128, S::cells, memory.raw(job, slot.place),
               side.row(mark.stream, at.kv, mark.first + int32_t(cell)), job.raw_cells,
               RawRing<D_k, D_v>::me());
        memory.raw_empty(slot.place).arrive();
        slot.advance(job.slots);
    }
    publish_stores();
    memory.full(is_v, stage.place).arrive();
    return true;
}

template <int D_k, int D_v>
__device__ void produce_expanded(const RingJob& job, const Place& at,
                                 const RingMemory<D_k, D_v>& memory) {
    wait_for_earlier();
    RawRing<D_k, D_v> raw(job, at, memory);
    for (uint32_t i = 1; i < job.slots; ++i) raw.ask();
    RingPlace slot, stage;
    uint32_t is_v = 0;
    for (uint32_t i = 0; expand_side(job, at, memory, raw, slot, stage, i, is_v); is_v ^= 1) {
        if (is_v == 0) continue;
        stage.advance(k_stages);
        ++i;
    }
    wait_for_copies();
}

}  // namespace rotkv::cuda::prefill
