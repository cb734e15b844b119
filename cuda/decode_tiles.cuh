#pragma once
// How decode attention shares its work, and the way of tiles of cells into shared memory.
//
// A block of threads takes a token, a BAND of neighbouring KV heads, up to 8, and some of the
// cells. It consists of SLICES, which walk over tiles of 16 cells on their own: as many warps as
// the band has heads. In most layouts the heads of a cell are one piece of memory, which a slice's
// warps copy together, while each attends for one KV head.
//
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"

namespace rotkv::cuda {

constexpr uint32_t k_cells = 16;  // of a tile
constexpr int k_stages = 3;       // tiles in shared memory: one in use, two on their way
constexpr uint32_t k_most_band = 8;
constexpr float k_log2_e = 1.44269504f;

// One side of the cache: a cell's heads of a band as pieces of 16 bytes, as many as they may touch.
// Cells lie an odd number of pieces apart, so that lanes meet in no bank, each as it does in memory
// within 16 bytes.
struct Side {
    uint32_t row_bytes, bytes, most_lead, pitch;
    Divisor pieces;

    Side(const TensorView& view, uint32_t band)
        : row_bytes(uint32_t(rotkv::row_bytes(view.type, view.n[3]))),
          bytes(uint32_t((band - 1) * view.stride[2]) + row_bytes),
          most_lead(16 - unit_of(view)),
          pitch(((bytes + most_lead + 15) / 16 | 1) * 16),
          pieces((bytes + most_lead + 15) / 16) {}

    // The largest power of two, up to 16, of which all rows' addresses are multiples.
    static uint32_t unit_of(const TensorView& view) {
        const uintptr_t places = reinterpret_cast<uintptr_t>(view.data) |
                                 uintptr_t(view.stride[0]) | uintptr_t(view.stride[1]) |
                                 uintptr_t(view.stride[2]) | 16;
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

// In shared memory: a ring of tiles for each slice, K's cells and then V's. Queries wait where the
// last tile will be; in the end the slices' states take the rings' place.
struct DecodeJob : Task {
    uint32_t kv_heads, band, bands, slices;
    Side k_rows, v_rows;
    uint32_t stage_bytes;
    float to_power;  // scores to powers of two

    DecodeJob(const AttentionArgs& a, uint32_t most_warps)
        : Task(a),
          kv_heads(uint32_t(a.k_cache.n[2])),
          band(band_of(a, std::min(most_warps, k_most_band))),
          bands((kv_heads + band - 1) / band),
          slices(most_warps / band),
          k_rows(a.k_cache, band),
          v_rows(a.v_cache, band),
          stage_bytes(std::max(k_cells * (k_rows.pitch + v_rows.pitch), band * query_bytes())),
          to_power(softcap > 0 ? scale / softcap : scale * k_log2_e) {}

    __host__ __device__ uint32_t warps() const { return band * slices; }
    __host__ __device__ uint32_t query_bytes() const {  // of a warp: its share of a KV head's
        return (heads + slices - 1) / slices * d_k * 4;
    }
    __host__ __device__ uint32_t ring_bytes() const { return k_stages * stage_bytes; }
    uint32_t state_bytes() const { return k_warp * (d_v / 16 * 4 + 4) * 4; }  // of a warp
    uint32_t bytes() const {
        return std::max(slices * ring_bytes(), slices > 1 ? warps() * state_bytes() : 0);
    }
    uint32_t blocks() const { return tokens * bands * chunks; }  // for a split
};

// What this warp works on.
struct DecodePlace : Place {
    uint32_t slice;
    uint32_t head_of_band;
    bool is_idle;  // the last band has fewer heads: the warp only copies

    explicit __device__ DecodePlace(const DecodeJob& job) {
        const uint32_t warp = threadIdx.x / k_warp;
        const uint32_t band_chunk = blockIdx.x % (job.bands * job.chunks);
        column = blockIdx.x;
        split = blockIdx.y;
        t = blockIdx.x / (job.bands * job.chunks);
        slice = warp / job.band;
        head_of_band = warp - slice * job.band;
        kv = band_chunk / job.chunks * job.band + head_of_band;
        is_idle = kv >= job.kv_heads;
        const uint32_t first = band_chunk % job.chunks * job.heads;
        heads = is_idle ? 0 : min(job.heads, job.group - first);
        first_head = kv * job.group + first;
    }
    // What other kernels may have written.
    __device__ void load(const DecodeJob& job) {
        stream = job.streams > 1 ? job.q_stream[t] : 0;
        q_position = job.q_position[t];
        const uint32_t in_use = uint32_t(job.used[stream]);
        used = q_position < 0 ? 0 : in_use;
    }
};

// A slice's threads wait for each other.
__device__ inline void sync_slice(const DecodeJob& job, const DecodePlace& at) {
    if (job.band == 1) return __syncwarp();
    asm volatile("bar.sync %0, %1;" : : "r"(at.slice + 1), "r"(job.band * k_warp) : "memory");
}

// A tile's cells of one side, by all warps of the slice; what is copied beyond a cell's ends
// belongs to its neighbours, at the end of the cells perhaps to nobody, and is not read there.
template <bool at_end>
__device__ void copy_cells(std::byte* dst, const Side& side, const std::byte* band, int64_t stride,
                           uint32_t count, uint32_t thread, uint32_t threads) {
    for (uint32_t piece = thread; piece < count * side.pieces.d; piece += threads) {
        const uint32_t r = side.pieces.of(piece), i = (piece - r * side.pieces.d) * 16;
        const std::byte* const cell = band + r * stride;
        const uint32_t lead = uint32_t(reinterpret_cast<uintptr_t>(cell)) % 16;
        int32_t bytes = 16;
        if (at_end) bytes = min(16, max(0, int32_t(lead + side.bytes - i)));
        copy16(dst + r * side.pitch + i, cell - lead + i, uint32_t(bytes));
    }
}

// The slice's walk over its tiles.
class Tiles {
  public:
    const DecodeJob& job;
    const DecodePlace& at;

    __device__ Tiles(const DecodeJob& j, const DecodePlace& p, std::byte* slice_ring)
        : job(j),
          at(p),
          position_(positions(j, p)),
          ring_(slice_ring),
          step_(j.parts.splits * j.slices * k_cells),
          first_((p.split * j.slices + p.slice) * k_cells),
          coming_(first_) {
        const uint32_t kv = at.kv - at.head_of_band;  // the band's first
        k_ = job.k.data + at.stream * job.k.stream + kv * job.k.head;
        v_ = job.v.data + at.stream * job.v.stream + kv * job.v.head;
        // The first tiles are asked for before anybody knows whether they are seen.
#pragma unroll
        for (int i = 0; i < k_stages; ++i) position_of_[i] = position_in(first_ + i * step_);
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) copy(i, coming_ < at.used);
    }

    __device__ bool is_more() const { return first_ < at.used; }

    // The next tile is there, and the one after those that are under way is asked for.
    __device__ void wait() {
        wait_for_groups<k_stages - 2>();
        sync_slice(job, at);  // all copies are there; all have read what the next ones replace
        copy(into_, coming_ < at.used && look(position_of_[k_stages - 1]) != 0);
        seen_ = look(position_of_[0]);
    }
    __device__ void advance() {
#pragma unroll
        for (int i = 0; i < k_stages - 1; ++i) position_of_[i] = position_of_[i + 1];
        position_of_[k_stages - 1] = position_in(coming_);
        into_ = next(into_);
        from_ = next(from_);
        first_ += step_;
    }

    __device__ uint32_t seen() const { return seen_; }  // cells of the tile that is there, as bits

    // Rows of the warp's head in the tile that is there.
    __device__ std::byte* k_row(uint32_t r) const {
        return row(job.k_rows, k_, job.k.cell, r) + at.head_of_band * uint32_t(job.k.head);
    }
    __device__ std::byte* v_row(uint32_t r) const {
        return row(job.v_rows, v_, job.v.cell, r) + k_cells * job.k_rows.pitch +
               at.head_of_band * uint32_t(job.v.head);
    }

  private:
    static __device__ int next(int stage) { return stage + 1 == k_stages ? 0 : stage + 1; }

    // Asked for long before it is looked at. Where no cell is, none is visible.
    __device__ int32_t position_in(uint32_t tile) const {
        const uint32_t cell = tile + lane_of_warp() % k_cells;
        return cell < job.cells ? position_[cell] : -1;
    }
    __device__ uint32_t look(int32_t position) const {
        return __ballot_sync(k_all_lanes, is_visible(job, at, position)) & 0xFFFFu;
    }

    __device__ void copy(int stage, bool is_wanted) {
        std::byte* const k_rows = ring_ + stage * job.stage_bytes;
        std::byte* const v_rows = k_rows + k_cells * job.k_rows.pitch;
        const std::byte *k = k_ + coming_ * job.k.cell, *v = v_ + coming_ * job.v.cell;
        const uint32_t thread = at.head_of_band * k_warp + lane_of_warp();
        const uint32_t threads = job.band * k_warp;
        if (is_wanted && coming_ + k_cells < job.cells) {
            copy_cells<false>(k_rows, job.k_rows, k, job.k.cell, k_cells, thread, threads);
            copy_cells<false>(v_rows, job.v_rows, v, job.v.cell, k_cells, thread, threads);
        } else if (is_wanted) {
            const uint32_t rest = min(k_cells, job.cells - coming_);
            copy_cells<true>(k_rows, job.k_rows, k, job.k.cell, rest, thread, threads);
            copy_cells<true>(v_rows, job.v_rows, v, job.v.cell, rest, thread, threads);
        }
        close_group();
        coming_ += step_;
    }

    __device__ std::byte* row(const Side& side, const std::byte* band, int64_t stride,
                              uint32_t r) const {
        const uint32_t place =
            uint32_t(reinterpret_cast<uintptr_t>(band)) + (first_ + r) * uint32_t(stride);
        return ring_ + from_ * job.stage_bytes + r * side.pitch + place % 16;
    }

    const int32_t* position_;
    const std::byte *k_, *v_;  // of the stream, from the band's first head on
    std::byte* ring_;
    uint32_t step_, first_, coming_;  // first cells: of the tile that is there, of the next to copy
    int32_t position_of_[k_stages];   // of a tile's cell lane % 16, from the tile that is there on
    uint32_t seen_ = 0;
    int into_ = k_stages - 1, from_ = 0;
};

}  // namespace rotkv::cuda
