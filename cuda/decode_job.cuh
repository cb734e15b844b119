#pragma once
// What a kernel of decode attention is launched with: how many warps, which rows and cells they
// share out, and where in shared memory everything lies. decode_tiles.cuh says what words mean.
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"
#include "cuda/dependent.cuh"
#include "cuda/fragments.cuh"

namespace rotkv::cuda::decode {

constexpr uint32_t k_cells = 16;  // of a tile, for each member of a team
constexpr uint32_t k_most_band = 4;

// Tiles in shared memory: one in use, the others on their way. A team's are large.
template <int Team>
constexpr int k_stages_of = Team == 1 ? 3 : 2;

// A thread's registers, in units of 8, where so many warps fill a processor but for one block of
// combine_kernel's, which comes while they still run, and stays while the next ones come.
constexpr uint32_t registers_beside_combine(int warps) {
    return (65536 - k_combine_registers * k_combine_threads) / (uint32_t(warps) * 32) / 8 * 8;
}

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
// row sees, sums of queries where K has codes, what teams exchange, then a ring of tiles for each
// slice, K's cells and then V's; in the end the warps' states take the rings' place.
struct DecodeJob : Task {
    uint32_t team;     // warps for a KV head: 1, 2, or 4 (decode_warpgroup.cu)
    uint32_t columns;  // rows of a block, at most
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
    DecodeJob(const AttentionArgs& a, uint32_t most_warps, uint32_t terms, uint32_t of_team = 1)
        : DecodeJob(a, most_warps, terms, of_team, k_most_heads * of_team,
                    std::min(most_warps / of_team, k_most_band)) {}
    DecodeJob(const AttentionArgs& a, uint32_t most_warps, uint32_t terms, uint32_t of_team,
              uint32_t of_block, uint32_t most_band)
        : Task(a),
          team(of_team),
          columns(of_block),
          kv_heads(uint32_t(a.k_cache.n[2])),
          band(band_of(a, most_band)),
          bands((kv_heads + band - 1) / band),
          slices(most_warps / (band * team)),
          rows(uint32_t(rows_of(a))),
          by_band(band),
          by_rows(bands * ((rows + most_rows() - 1) / most_rows())),
          by_chunks((rows + most_rows() - 1) / most_rows()),
          by_heads(team == 1 ? std::min(rows, most_rows()) : most_rows()),
          by_group(group),
          k_rows(a.k_cache, band),
          v_rows(a.v_cache, band),
          stage_bytes(team * k_cells * (k_rows.pitch + v_rows.pitch)),
          k_codes(code_units(a.k_cache.type)),
          v_codes(code_units(a.v_cache.type)),
          to_power(softcap > 0 ? scale / softcap : scale * k_log2_e),
          query_pitch((d_k * 2 + 32) * terms),
          sums(k_codes.constant[0] == 0 ? 0
               : terms == 1             ? band
                                        : warps()) {
        heads = by_heads.d;
        chunks = by_chunks.d;
        if (team > 1) count_codes_as_numbers(a.k_cache.type);
        if (terms == 2 && v_codes.constant[0] != 0) {  // codes are the numbers they are
            for (float& unit : v_codes.unit) unit /= k_code;
        }
    }

    void count_codes_as_numbers(DType k_type) {
        if (!has_minimum(k_type)) sums = 0;
        k_codes.constant[0] = k_codes.constant[1] = k_one_and_one;
        v_codes.unit[0] = v_codes.unit[1] = 1;
    }

    // Of the queries of one read: of one token, or of all where they can share.
    static int64_t rows_of(const AttentionArgs& a) {
        const int64_t of_token = a.q.n[2] / std::max<int64_t>(1, a.k_cache.n[2]);
        return a.k_cache.n[0] == 1 ? a.q.n[1] * of_token : of_token;
    }

    __host__ __device__ uint32_t warps() const { return band * slices * team; }
    __host__ __device__ uint32_t most_rows() const { return columns; }
    __host__ __device__ uint32_t stages() const {
        return team == 1 ? k_stages_of<1> : k_stages_of<2>;
    }
    __host__ __device__ uint32_t query_bytes() const { return band * heads * query_pitch; }
    __host__ __device__ uint32_t ring_bytes() const { return stages() * stage_bytes; }
    __host__ __device__ uint32_t barrier_bytes() const {
        return (slices * stages() * 8 + 15) / 16 * 16;
    }
    __host__ __device__ bool has_sums() const { return sums != 0; }
    // A float for each block of 32 channels and head.
    __host__ __device__ uint32_t sum_bytes() const { return d_k / 32 * most_rows() * 4; }
    __host__ __device__ uint32_t constants_offset() const {
        return barrier_bytes() + query_bytes();
    }
    __host__ __device__ uint32_t limits_offset() const { return constants_offset() + 32; }
    __host__ __device__ uint32_t sums_offset() const {
        return limits_offset() + most_rows() * uint32_t(sizeof(Seen));
    }
    // Of each warp of a team: p of its cells, a pair of registers a lane for every 8 rows, and the
    // limits of its rows (decode_team.cuh).
    __host__ __device__ uint32_t exchange_bytes() const { return team * (k_warp * 8 + 32); }
    __host__ __device__ uint32_t exchange_offset() const {
        return sums_offset() + sums * sum_bytes();
    }
    __host__ __device__ uint32_t ring_offset() const {
        return exchange_offset() + (team == 1 ? 0 : warps() * exchange_bytes());
    }
    uint32_t bytes() const { return ring_offset() + slices * ring_bytes(); }
    uint32_t blocks() const { return tokens * group / rows * bands * chunks; }  // for a split

    // As many splits as fill the device and have room for parts, but no more than make a slice's
    // walk shorter: fewer parts are fewer to put together.
    void split(const Workspace& workspace, uint32_t blocks_of_processor) {
        const int64_t all_rows = int64_t(tokens) * all_heads;
        const int64_t most_blocks = blocks_of_processor * workspace.processors;
        const int64_t at_once = k_cells * team * slices;  // cells that a block looks at together
        const int64_t all = std::max<int64_t>(1, (cells + at_once - 1) / at_once);
        const int64_t room = workspace.bytes / (all_rows * part_bytes(d_v));
        const int64_t most = std::max<int64_t>(1, std::min({most_blocks / blocks(), all, room}));
        const int64_t tiles = (all + most - 1) / most;  // of a slice
        parts = parts_in(workspace, all_rows, d_v, (all + tiles - 1) / tiles);
        step = parts.splits * uint32_t(at_once);
    }
};

/// The kernel of a job that has been split, and the one that puts its parts together.
inline void launch(void (*kernel)(DecodeJob), const DecodeJob& job, const AttentionArgs& args,
                   Stream stream) {
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(job.bytes())),
        "attention");
    launch_dependent(kernel, dim3(job.blocks(), job.parts.splits), dim3(job.warps() * k_warp),
                     job.bytes(), stream, job);
    combine_parts(args, job.parts, stream);
}

}  // namespace rotkv::cuda::decode
