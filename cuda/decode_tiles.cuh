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
// Docs: docs/05-attention.md

#include "cuda/decode_copies.cuh"
#include "cuda/decode_state.cuh"
#include "cuda/fragments.cuh"

namespace rotkv::cuda::decode {

constexpr uint32_t k_cells = 16;  // of a tile
constexpr int k_stages = 3;       // tiles in shared memory: one in use, two on their way
constexpr uint32_t k_most_band = 4;

// One side of the cache in shared memory: a cell's heads of a band as they lie in memory within 16
// bytes, an odd number of 16 bytes apart, so that lanes meet in no bank.
struct Side {
    uint32_t row_bytes, pitch;
    bool on_words;  // every head's row begins on four bytes

    Side(const TensorView& view, uint32_t band)
        : row_bytes(uint32_t(rotkv::row_bytes(view.type, view.n[3]))),
          pitch(((bytes_of(view.stride[2], band) + 16 - unit_of(view, band) + 15) / 16 | 1) * 16),
          on_words(unit_of(view, 1) % 4 == 0) {}

    // Of so many neighbouring heads of a cell, `apart` bytes from one to the next.
    __host__ __device__ uint32_t bytes_of(int64_t apart, uint32_t heads) const {
        return (heads - 1) * uint32_t(apart) + row_bytes;
    }

    // The largest power of two, up to 16, of which the addresses of all bands are multiples.
    static uint32_t unit_of(const TensorView& view, uint32_t band) {
        const uintptr_t places = reinterpret_cast<uintptr_t>(view.data) |
                                 uintptr_t(view.stride[0]) | uintptr_t(view.stride[1]) |
                                 uintptr_t(band * view.stride[2]) | 16;
        return uint32_t(places & (~places + 1));
    }
};

// Heads of a band: as many as divide the KV heads evenly into bands of at most `most`, or 1 where a
// cell's heads are no neighbours in memory.
inline uint32_t band_of(const AttentionArgs& a, uint32_t most) {
    const auto are_neighbours = [](const TensorView& cache) {
        return cache.n[2] * cache.stride[2] <= cache.stride[1] + cache.stride[2];
    };
    const int64_t heads = a.k_cache.n[2];
    if (!are_neighbours(a.k_cache) || !are_neighbours(a.v_cache)) return 1;
    const int64_t bands = (heads + most - 1) / most;
    return uint32_t((heads + bands - 1) / bands);
}

// In shared memory: the copies' barriers, the queries, constants (decode_products.cuh), what each
// row sees, sums of queries where K has codes, then a ring of tiles for each slice, K's cells and
// then V's; in the end the warps' states take the rings' place.
struct DecodeJob : Task {
    uint32_t kv_heads, band, bands, slices;
    uint32_t rows;  // that blocks share out in chunks: of one token, or of all where they can share
    Divisor by_band, by_rows, by_chunks, by_heads, by_group;  // see DecodePlace, QueryPieces
    Side k_rows, v_rows;
    uint32_t stage_bytes;
    uint32_t step = 0;  // cells from a slice's tile to its next
    CodeUnits k_codes, v_codes;
    float to_power;        // scores to powers of two
    uint32_t query_pitch;  // bytes from a query to the next
    uint32_t sums;         // of q over blocks: a KV head's, or with two terms a warp's

    // `terms`: numbers of f16 for a q or a p.
    DecodeJob(const AttentionArgs& a, uint32_t most_warps, uint32_t terms)
        : Task(a),
          kv_heads(uint32_t(a.k_cache.n[2])),
          band(band_of(a, std::min(most_warps, k_most_band))),
          bands((kv_heads + band - 1) / band),
          slices(most_warps / band),
          rows(streams == 1 ? tokens * group : group),
          by_band(band),
          by_rows(bands * ((rows + k_most_heads - 1) / k_most_heads)),
          by_chunks((rows + k_most_heads - 1) / k_most_heads),
          by_heads(std::min(rows, k_most_heads)),
          by_group(group),
          k_rows(a.k_cache, band),
          v_rows(a.v_cache, band),
          stage_bytes(k_cells * (k_rows.pitch + v_rows.pitch)),
          k_codes(code_units(a.k_cache.type)),
          v_codes(code_units(a.v_cache.type)),
          to_power(softcap > 0 ? scale / softcap : scale * k_log2_e),
          query_pitch((d_k * 2 + 32) * terms),
          sums(k_codes.constant[0] == 0 ? 0
               : terms == 1             ? band
                                        : warps()) {
        heads = by_heads.d;
        chunks = by_chunks.d;
        if (terms == 2 && v_codes.constant[0] != 0) {  // codes are the numbers they are
            for (float& unit : v_codes.unit) unit /= k_code;
        }
    }

    __host__ __device__ uint32_t warps() const { return band * slices; }
    __host__ __device__ uint32_t query_bytes() const { return band * heads * query_pitch; }
    __host__ __device__ uint32_t ring_bytes() const { return k_stages * stage_bytes; }
    __host__ __device__ uint32_t barrier_bytes() const {
        return (slices * k_stages * 8 + 15) / 16 * 16;
    }
    __host__ __device__ bool has_sums() const { return sums != 0; }
    // A float for each block of 32 channels and head.
    __host__ __device__ uint32_t sum_bytes() const { return d_k / 32 * k_most_heads * 4; }
    __host__ __device__ uint32_t constants_offset() const {
        return barrier_bytes() + query_bytes();
    }
    __host__ __device__ uint32_t limits_offset() const { return constants_offset() + 32; }
    __host__ __device__ uint32_t sums_offset() const {
        return limits_offset() + k_most_heads * uint32_t(sizeof(Seen));
    }
    __host__ __device__ uint32_t ring_offset() const { return sums_offset() + sums * sum_bytes(); }
    uint32_t bytes() const { return ring_offset() + slices * ring_bytes(); }
    uint32_t blocks() const { return tokens * group / rows * bands * chunks; }  // for a split
};

// The token and query head of a row.
struct RowOf {
    uint32_t t, h;
};

// What this warp works on. `heads` rows are the columns of its products; `seen` is what some of
// them see, for lanes 0 .. 15, and what each of them sees, for lanes 16 .. 31.
struct DecodePlace : Place {
    uint32_t slice;
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
        slice = job.by_band.of(warp);
        head_of_band = warp - slice * job.band;
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
        seen = is_some ? Seen{INT32_MAX, -1} : Seen{0, INT32_MAX};
        int32_t last = -1;
        for (uint32_t token = from; token <= to; ++token) {
            const Seen one = job.sight.of(job.q_position[token]);
            seen.first = is_some ? min(seen.first, one.first) : max(seen.first, one.first);
            seen.last = is_some ? max(seen.last, one.last) : min(seen.last, one.last);
            last = max(last, one.last);
        }
        used = last < 0 ? 0 : in_use;
    }
    __device__ Seen seen_by(const DecodeJob& job, uint32_t g) const {
        return job.sight.of(job.q_position[row(job, 0, min(g, block_rows - 1)).t]);
    }
};

// A slice's threads wait for each other.
__device__ inline void sync_slice(const DecodeJob& job, const DecodePlace& at) {
    if (job.band == 1) return __syncwarp();
    wait_for_group(at.slice + 1, job.band * k_warp);
}

struct TwoRows {
    const std::byte *x, *y;
};
struct FourRows {
    const std::byte *x, *y, *z, *w;
};

// The slice's walk over its tiles.
class Tiles {
  public:
    const DecodeJob& job;
    const DecodePlace& at;

    // What is known before earlier kernels have ended. All threads of the block.
    __device__ Tiles(const DecodeJob& j, const DecodePlace& p, std::byte* memory)
        : job(j),
          at(p),
          ring_(memory + j.ring_offset() + p.slice * j.ring_bytes()),
          first_((p.split * j.slices + p.slice) * k_cells),
          is_mine_(row_of_lane() % j.band == p.head_of_band),
          limits_(reinterpret_cast<const Seen*>(memory + j.limits_offset())),
          copies_(reinterpret_cast<uint64_t*>(memory), j.slices, p.slice, k_stages, j.band) {}

    // Where the stream's cells are, and what lies in the first tiles. The first comes into L2 while
    // earlier kernels still run.
    __device__ void find_cells() {
        const uint32_t kv = at.kv - at.head_of_band;  // the band's first
        const uint32_t heads = min(job.band, job.kv_heads - kv);
        const Cells& cells = is_v() ? job.v : job.k;
        const Side& side = is_v() ? job.v_rows : job.k_rows;
        k_ = job.k.data + at.stream * job.k.stream + kv * job.k.head;
        v_ = job.v.data + at.stream * job.v.stream + kv * job.v.head;
        from_ = (is_v() ? v_ : k_) + row_of_lane() * cells.cell;
        const uint32_t lead = uint32_t(reinterpret_cast<uintptr_t>(from_)) % 16;
        from_ -= lead;
        bytes_ = (lead + side.bytes_of(cells.head, heads) + 15) / 16 * 16;
        to_ = (is_v() ? k_cells * job.k_rows.pitch : 0) + row_of_lane() * side.pitch;
        position_ = positions(job, at);
#pragma unroll
        for (int i = 0; i < k_stages; ++i) first_positions_[i] = position_in(i);
        Copies::prefetch(is_more() && has_row(first_), src(first_), bytes_);
    }

    // The first tiles are asked for before anybody looks whether they are seen.
    __device__ void start() {
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) {
            ask(i, first_ + i * job.step, first_ + i * job.step < at.used);
        }
    }

    // Later: until here registers are short.
    __device__ void find_rows() {
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) seen_[i] = look(first_positions_[i]);
        coming_position_ = first_positions_[k_stages - 1];
        k_place_ = k_place(lane_of_warp() / 4);
        v_place_[0] = v_place(lane_of_warp() % 4 * 2);
        v_place_[1] = v_place(lane_of_warp() % 4 * 2 + 1);
    }

    __device__ bool is_more() const { return first_ < at.used; }

    // The next tile is there, and the one after those that are under way is asked for.
    __device__ void wait() {
        copies_.wait<k_stages - 2>(uint32_t(stage_), parity_);
        sync_slice(job, at);  // all have read what the next copies replace
        seen_[k_stages - 1] = look(coming_position_);
        const uint32_t coming = first_ + (k_stages - 1) * job.step;
        ask(stage_ == 0 ? k_stages - 1 : stage_ - 1, coming,
            coming < at.used && (seen_[k_stages - 1] & k_some) != 0);
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
        sync_slice(job, at);
    }

    // Cells of the tile that is there, as bits: that some row sees, that each row sees.
    __device__ uint32_t seen() const { return seen_[0] & k_some; }
    __device__ uint32_t seen_by_each() const { return seen_[0] >> k_cells; }

    // Does the row that is column g see cell r of the tile that is there? For where rows differ.
    __device__ bool sees(uint32_t g, uint32_t r) const {
        return limits_[g].holds(first_ + r < at.used ? position_[first_ + r] : -1);
    }

    // Of the warp's head, the rows that a lane multiplies (fragments.cuh): K of cells g and g + 8,
    // V of cells 2t, 2t + 1, 2t + 8, 2t + 9. Strides are even: 8 cells further rows lie alike.
    __device__ TwoRows k_rows() const {
        const std::byte* const x = stage() + k_place_;
        return {x, x + 8 * job.k_rows.pitch};
    }
    __device__ FourRows v_rows() const {
        const std::byte *const x = stage() + v_place_[0], *const y = stage() + v_place_[1];
        return {x, y, x + 8 * job.v_rows.pitch, y + 8 * job.v_rows.pitch};
    }
    __device__ std::byte* v_row(uint32_t r) const { return stage() + v_place(r); }

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
        const uint32_t cell = first_ + i * job.step + row_of_lane();
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
        return is_mine_ && tile + row_of_lane() < job.cells;
    }
    __device__ const std::byte* src(uint32_t tile) const {
        return from_ + tile * (is_v() ? job.v.cell : job.k.cell);
    }

    // Where the head's row r begins in a stage. All tiles lie alike: 16 cells are a multiple of 16
    // bytes.
    __device__ uint32_t k_place(uint32_t r) const { return place(job.k_rows, k_, job.k, r); }
    __device__ uint32_t v_place(uint32_t r) const {
        return k_cells * job.k_rows.pitch + place(job.v_rows, v_, job.v, r);
    }
    __device__ uint32_t place(const Side& side, const std::byte* band, const Cells& cells,
                              uint32_t r) const {
        const uint32_t address = uint32_t(reinterpret_cast<uintptr_t>(band));
        const uint32_t lead = (address + r * uint32_t(cells.cell)) % 16;
        return r * side.pitch + lead + at.head_of_band * uint32_t(cells.head);
    }
    __device__ std::byte* stage() const { return ring_ + stage_ * job.stage_bytes; }

    std::byte* ring_;
    uint32_t first_;      // cell of the tile that is there
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
