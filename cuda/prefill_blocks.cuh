#pragma once
// Prefill on 9.0 over blocks of codes: how a side's tiles become ready. As many threads as a tile
// has cells:
//
//   one of them   asks the copy engine for the rows of whole tiles, as far ahead as there are raw
//                 slots; a row takes an odd number of 16-byte pieces there
//   each          takes a row of the slot into registers, 16 bytes at a time, and writes its
//                 channels as f16 into the tile, 64 after 64. When the last ones are in registers,
//                 the next tile may come into the slot. Eight lanes that read, or write, 16 bytes
//                 of eight rows meet in no bank, which with words they would
//
// K and V have threads of their own, so that neither waits for the other.
// Docs: docs/05-attention.md

#include "cuda/prefill_producer.cuh"

namespace rotkv::cuda::prefill {

__device__ inline void store_16(uint32_t address, const uint2& low, const uint2& high) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(address), "r"(low.x), "r"(low.y), "r"(high.x), "r"(high.y));
}

/// Where a row of a tile lies in shared memory: its piece p begins at `address` with p exclusively
/// or'ed to its number of 16-byte units, panel by panel.
template <uint32_t cells>
struct TileRow {
    uint32_t address;
    __device__ TileRow(const std::byte* tile, uint32_t row)
        : address(shared_address(tile) + place_of(cells, row, 0)) {}
    explicit __device__ TileRow(uint32_t first_piece) : address(first_piece) {}
    __device__ TileRow next_panel() const { return TileRow(address + cells * 128); }
    __device__ uint32_t piece(uint32_t p) const {
        return (address ^ p % 8 * 16) + p / 8 * cells * 128;
    }
};

/// Block b of a panel as f16. Of an empty cell's row, which holds anything, codes count 0.
template <class Block, uint32_t cells>
__device__ void store_block(const TileRow<cells>& to, uint32_t b, Codes x, bool is_there) {
    if (!is_there) x.d = x.m = both(0.0f);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        store_16(to.piece(4 * b + i), expanded(x, x.u[2 * i]), expanded(x, x.u[2 * i + 1]));
    }
}

template <class Shape>
__device__ TileRow<Shape::cells> row_to_fill(const Ring<Shape>& memory, uint32_t side,
                                             uint32_t stage, uint32_t row) {
    return TileRow<Shape::cells>(memory.tile(side, stage), row);
}

/// Up to two blocks of a row, in a thread's registers.
template <class Block, uint32_t count>
class RowPart {
  public:
    /// From byte `begin` on, a multiple of 4 and the same for the whole warp, of a row in a raw
    /// slot: moved so that the compiler knows where blocks begin. What is read behind is nobody's.
    __device__ RowPart(const std::byte* row, uint32_t begin) {
        const uint4* const pieces = reinterpret_cast<const uint4*>(row) + begin / 16;
#pragma unroll
        for (uint32_t i = 0; i < k_pieces; ++i) {
            const uint4 piece = pieces[i];
            words_[4 * i] = piece.x;
            words_[4 * i + 1] = piece.y;
            words_[4 * i + 2] = piece.z;
            words_[4 * i + 3] = piece.w;
        }
        if (begin % 16 >= 8) move<2>();
        if (begin % 8 >= 4) move<1>();
    }
    /// To a row of a tile.
    template <class Row>
    __device__ void expand(const Row& to, bool is_there) const {
#pragma unroll
        for (uint32_t b = 0; b < count; ++b) {
            store_block<Block>(
                to, b, codes_of(static_cast<const Block*>(nullptr), words_, b * k_bytes), is_there);
        }
    }

  private:
    static constexpr uint32_t k_bytes = sizeof(Block);
    static constexpr uint32_t k_words = (count * k_bytes + 3) / 4;
    static constexpr uint32_t k_pieces = (k_words + 3 + 3) / 4;  // 3: words before it
    uint32_t words_[4 * k_pieces + 2] = {};  // load_words() and move() name some behind, too

    template <uint32_t by>
    __device__ void move() {
#pragma unroll
        for (uint32_t i = 0; i < k_words + 1; ++i) words_[i] = words_[i + by];
    }
};

/// The raw slots of a side, in turn.
template <class Memory>
class RawRows {
  public:
    using S = typename Memory::S;
    __device__ RawRows(const RingJob& job, const Place& at, const Memory& memory, uint32_t side)
        : job_(job), at_(at), memory_(memory), side_(side), cursor_(job, at, memory.state, side) {}

    /// Looks which tile comes next.
    __device__ void find() { is_more_ = is_more_ && cursor_.next(); }
    /// Asks for its rows once a slot is free; behind the last tile only says so.
    __device__ void ask() {
        if (has_ended_) return;
        has_ended_ = !is_more_;
        if (threadIdx.x % S::cells == 0) ask_engine();
        asked_.advance(job_.slots);
    }
    /// What the next slot holds, once it is there.
    __device__ TileMark wait() const {
        memory_.raw_full(number(here_.place)).wait(here_.parity);
        return memory_.state.raw_marks[number(here_.place)];
    }
    /// This thread's row of it, from the multiple of 16 bytes on at or before its beginning; and
    /// how far behind that it begins, as all rows of a head do.
    __device__ const std::byte* row() const {
        return rows(here_.place) + threadIdx.x % S::cells * slot();
    }
    __device__ uint32_t skew() const {
        return skew_of((side_ == 0 ? job_.k : job_.v).row(0, at_.kv, 0));
    }
    /// This slot has been read; on to the next one.
    __device__ void release() {
        __syncwarp();
        if (lane_of_warp() == 0) memory_.raw_empty(number(here_.place)).arrive();
        here_.advance(job_.slots);
    }

  private:
    const RingJob& job_;
    const Place& at_;
    const Memory& memory_;
    const uint32_t side_;
    Cursor<S::cells, S::cells> cursor_;
    RingPlace asked_, here_;
    bool is_more_ = true, has_ended_ = false;

    __device__ uint32_t slot() const { return side_ == 0 ? job_.k.slot : job_.v.slot; }
    __device__ uint32_t number(uint32_t place) const { return side_ * k_most_slots / 2 + place; }
    __device__ std::byte* rows(uint32_t place) const {
        return memory_.raw(job_, place) + side_ * S::cells * job_.k.slot;
    }
    __device__ void ask_engine() {
        const uint32_t place = asked_.place;
        const PhaseBarrier full = memory_.raw_full(number(place));
        memory_.raw_empty(number(place)).wait(asked_.parity ^ 1);
        memory_.state.raw_marks[number(place)] = is_more_ ? cursor_.mark() : TileMark{0, -1, 0, 0};
        if (is_more_) {
            full.expect(S::cells * slot());
            copy_box(full, shared_address(rows(place)), job_.map[side_], 0, at_.kv, cursor_.first,
                     cursor_.stream);
        }
        full.arrive();
    }
};

/// This thread's row of a raw slot, D channels in blocks, to a row of a tile.
template <class Block, int D, class Raw, class Row>
__device__ void expand_row(Raw& raw, Row to, bool is_there) {
    constexpr uint32_t k_blocks = (D + 31) / 32;
    // Of each type its own: the addresses of all its pieces together would take many registers.
    asm volatile("" : "+r"(to.address));
    const std::byte* const row = raw.row();
    const uint32_t skew = raw.skew();
#pragma unroll
    for (uint32_t b = 0; b + 2 < k_blocks; b += 2) {
        RowPart<Block, 2>(row, skew + b * uint32_t(sizeof(Block))).expand(to, is_there);
        to = to.next_panel();
    }
    constexpr uint32_t k_last = (k_blocks - 1) / 2 * 2;
    const RowPart<Block, k_blocks - k_last> last(row, skew + k_last * uint32_t(sizeof(Block)));
    raw.release();
    raw.ask();
    last.expand(to, is_there);
}

template <int D, class Raw, class Row>
__device__ void expand_row(DType type, Raw& raw, const Row& to, bool is_there) {
    // clang-format off
    switch (type) {
        case DType::q8_0: return expand_row<BlockQ8_0, D>(raw, to, is_there);
        case DType::q5_1: return expand_row<BlockQ5_1, D>(raw, to, is_there);
        case DType::q5_0: return expand_row<BlockQ5_0, D>(raw, to, is_there);
        case DType::q4_1: return expand_row<BlockQ4_1, D>(raw, to, is_there);
        case DType::q4_0: return expand_row<BlockQ4_0, D>(raw, to, is_there);
        case DType::iq4_nl: return expand_row<BlockIq4Nl, D>(raw, to, is_there);
        case DType::f32: case DType::f16: case DType::bf16: case DType::q2_k: case DType::q3_k:
        case DType::q4_k: case DType::q5_k: case DType::q6_k: case DType::iq4_xs:
        case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // the host has chosen this kernel for blocks of codes
}

/// Tiles of one side, of D channels. Those of K are announced.
template <int D, class Memory>
__device__ void produce_rows(const RingJob& job, const Place& at, const Memory& memory,
                             uint32_t side) {
    using S = typename Memory::S;
    const uint32_t row = threadIdx.x % S::cells;
    const DType type = side == 0 ? job.k.type : job.v.type;
    RawRows<Memory> raw(job, at, memory, side);
    RingPlace stage;
    for (uint32_t found = 0, i = 0;; ++found) {
        raw.find();
        if (found == 0) wait_for_earlier();  // integers come before
        if (found < job.slots) {             // before the first tile, for all slots
            raw.ask();
            continue;
        }
        const TileMark mark = raw.wait();
        memory.empty(side, stage.place).wait(stage.parity ^ 1);
        if (side == 0) announce<S::cells>(memory, i, mark, job);
        if (!mark.is_end()) {
            const bool is_there =
                mark.filled != 0 || job.strip(mark.stream).at(mark.first + int64_t(row)) >= 0;
            expand_row<D>(type, raw, row_to_fill(memory, side, stage.place, row), is_there);
            publish_stores();
        }
        __syncwarp();
        if (lane_of_warp() == 0) memory.full(side, stage.place).arrive();
        if (mark.is_end()) return;
        ++i;
        stage.advance(k_stages);
    }
}

template <int D_k, int D_v>
__device__ void produce_blocks(const RingJob& job, const Place& at,
                               const RingMemory<D_k, D_v>& memory) {
    const uint32_t side = uniform(threadIdx.x / RingShape<D_k, D_v>::cells);
    if constexpr (D_k == D_v) {
        produce_rows<D_k>(job, at, memory, side);
    } else {
        side == 0 ? produce_rows<D_k>(job, at, memory, 0) : produce_rows<D_v>(job, at, memory, 1);
    }
}

}  // namespace rotkv::cuda::prefill
