#pragma once
// Prefill on 9.0 over blocks of codes: how a side's tiles become ready. As many threads as a tile
// has cells:
//
//   one of them   asks the copy engine for the rows of whole tiles, as far ahead as there are raw
//                 slots; a row takes an odd number of 16-byte pieces there, against conflicts
//   each          reads a row of the slot, a word at a time, and writes its channels as f16 into
//                 the tile. Where in a row its blocks begin, the compiler knows; eight lanes that
//                 write their rows' 16 bytes side by side meet in no bank
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
    __device__ uint32_t piece(uint32_t p) const {
        return (address ^ p % 8 * 16) + p / 8 * cells * 128;
    }
};

/// One row of a raw slot, D channels in blocks, to a row of a tile. A block is loaded while the one
/// before is expanded.
template <class Block, int D, uint32_t cells>
__device__ void expand_row(TileRow<cells> to, const uint32_t* raw) {
    constexpr uint32_t k_blocks = (D + 31) / 32;
    constexpr const Block* k_type = nullptr;
    // Of each type its own: the addresses of all its pieces together would take many registers.
    asm volatile("" : "+r"(to.address));
    Codes x = codes_of(k_type, raw, 0);
#pragma unroll
    for (uint32_t b = 0; b < k_blocks; ++b) {
        const uint32_t next = min(b + 1, k_blocks - 1);
        const Codes y = codes_of(k_type, raw, next * uint32_t(sizeof(Block)));
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            store_16(to.piece(4 * b + i), expanded(x, x.u[2 * i]), expanded(x, x.u[2 * i + 1]));
        }
        x = y;
    }
}

template <int D, uint32_t cells>
__device__ void expand_row(DType type, const TileRow<cells>& to, const uint32_t* raw) {
    // clang-format off
    switch (type) {
        case DType::q8_0: return expand_row<BlockQ8_0, D, cells>(to, raw);
        case DType::q5_1: return expand_row<BlockQ5_1, D, cells>(to, raw);
        case DType::q5_0: return expand_row<BlockQ5_0, D, cells>(to, raw);
        case DType::q4_1: return expand_row<BlockQ4_1, D, cells>(to, raw);
        case DType::q4_0: return expand_row<BlockQ4_0, D, cells>(to, raw);
        case DType::iq4_nl: return expand_row<BlockIq4Nl, D, cells>(to, raw);
        case DType::f32: case DType::f16: case DType::bf16: case DType::q2_k: case DType::q3_k:
        case DType::q4_k: case DType::q5_k: case DType::q6_k: case DType::iq4_xs:
        case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // the host has chosen this kernel for blocks of codes
}

/// Zeros in place of an empty cell's row.
template <int D, uint32_t cells>
__device__ void clear_row(const TileRow<cells>& to) {
#pragma unroll 1
    for (uint32_t p = 0; p < (D + 31) / 32 * 4; ++p) store_16(to.piece(p), {0, 0}, {0, 0});
}

/// The raw slots of a side, in turn.
template <int D_k, int D_v>
class RawRows {
  public:
    using S = RingShape<D_k, D_v>;
    __device__ RawRows(const RingJob& job, const Place& at, const RingMemory<D_k, D_v>& memory,
                       uint32_t side)
        : job_(job), at_(at), memory_(memory), side_(side), cursor_(job, at, memory.state, side) {}

    /// Asks for the next tile's rows once a slot is free; behind the last tile only says so.
    __device__ void ask(bool is_first) {
        if (has_ended_) return;
        has_ended_ = !cursor_.next();
        if (is_first) wait_for_earlier();  // integers come before
        if (threadIdx.x % S::cells == 0) ask_engine();
        asked_.advance(job_.slots);
    }
    /// What the next slot holds, once it is there.
    __device__ TileMark wait() const {
        memory_.raw_full(number(here_.place)).wait(here_.parity);
        return memory_.state.raw_marks[number(here_.place)];
    }
    /// This thread's row of it. All rows of a head begin equally far behind 16 bytes.
    __device__ const uint32_t* row() const {
        const Side& side = side_ == 0 ? job_.k : job_.v;
        const uint32_t byte = threadIdx.x % S::cells * slot() + skew_of(side.row(0, at_.kv, 0));
        return reinterpret_cast<const uint32_t*>(rows(here_.place) + byte);
    }
    /// This slot has been read; on to the next one.
    __device__ void release() {
        memory_.raw_empty(number(here_.place)).arrive();
        here_.advance(job_.slots);
    }

  private:
    const RingJob& job_;
    const Place& at_;
    const RingMemory<D_k, D_v>& memory_;
    const uint32_t side_;
    Cursor<S::cells, S::cells> cursor_;
    RingPlace asked_, here_;
    bool has_ended_ = false;

    __device__ uint32_t slot() const { return side_ == 0 ? job_.k.slot : job_.v.slot; }
    __device__ uint32_t number(uint32_t place) const { return side_ * k_most_slots / 2 + place; }
    __device__ std::byte* rows(uint32_t place) const {
        return memory_.raw(job_, place) + side_ * S::cells * job_.k.slot;
    }
    __device__ void ask_engine() {
        const uint32_t place = asked_.place;
        const PhaseBarrier full = memory_.raw_full(number(place));
        memory_.raw_empty(number(place)).wait(asked_.parity ^ 1);
        memory_.state.raw_marks[number(place)] = cursor_.mark();
        if (!has_ended_) {
            full.expect(S::cells * slot());
            full.copy_box(shared_address(rows(place)), job_.map[side_], 0, at_.kv, cursor_.first,
                          cursor_.stream);
        }
        full.arrive();
    }
};

/// Tiles of one side, of D channels. Those of K are announced.
template <int D, int D_k, int D_v>
__device__ void produce_rows(const RingJob& job, const Place& at,
                             const RingMemory<D_k, D_v>& memory, uint32_t side) {
    constexpr uint32_t cells = RingShape<D_k, D_v>::cells;
    const uint32_t row = threadIdx.x % cells;
    const DType type = side == 0 ? job.k.type : job.v.type;
    RawRows<D_k, D_v> raw(job, at, memory, side);
    RingPlace stage;
    for (uint32_t asked = 1, i = 0;; ++asked) {
        raw.ask(asked == 1);
        if (asked < job.slots) continue;  // before the first tile, for all slots
        const TileMark mark = raw.wait();
        memory.empty(side, stage.place).wait(stage.parity ^ 1);
        const Strip strip = job.strip(max(mark.stream, 0));
        if (side == 0) announce<cells>(memory, i, mark, strip);
        if (!mark.is_end()) {
            const bool is_there = mark.filled != 0 || strip.at(mark.first + int64_t(row)) >= 0;
            const TileRow<cells> to(memory.tile(side, stage.place), row);
            is_there ? expand_row<D>(type, to, raw.row()) : clear_row<D>(to);
            raw.release();
            publish_stores();
        }
        memory.full(side, stage.place).arrive();
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
