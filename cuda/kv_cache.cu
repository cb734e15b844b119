// How a row goes into the cache: per head row, rotate (hadamard.cuh), quantize (quant.cuh), write
// to (stream, cell).
//   Nothing lies in memory between the steps: a piece stays in the registers of its lanes, its
//   blocks are put together in shared memory (store.cuh).
//   One launch: the first blocks of threads take K, the others V. Addresses are worked out, and
//   cells read, before earlier kernels have ended: of few tokens the time is that of its waits.
//   Of few tokens it turns them too, K on its way and queries in blocks of their own.
//   Cost: 4 bytes read and the type's bytes written for each element, each once.
// Must write the bytes that ref::kv_store writes.
#include "cuda/dependent.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"
#include "cuda/rope.cuh"
#include "cuda/store.cuh"

namespace rotkv::cuda {
namespace {

// So many loads of 16 bytes are in flight at once when each thread has one of them: with fewer,
// more loads a thread would only leave processors idle (132 processors of 2048 threads).
constexpr int64_t k_few_fours = 200000;

__device__ std::byte* cache_row(const TensorView& cache, uint32_t stream, uint32_t cell,
                                uint32_t head) {
    return cache.data + stream * cache.stride[0] + cell * cache.stride[1] + head * cache.stride[2];
}

// What is stored of K, or of V.
struct StoreSide {
    TensorView rows, cache;
    Pieces cut;
    Divisor per_token;  // pieces of all its heads
    uint32_t word;
    bool vectors;

    StoreSide(const TensorView& x, const TensorView& to, const Pieces& pieces)
        : rows(x),
          cache(to),
          cut(pieces),
          per_token(x.n[2] * cut.per_row.d),
          word(store_word(to, cut)),
          vectors(rows_on_16_bytes(x)) {}
};

// What is turned before: the queries, or nothing else; K's rows, read where they lie before that.
struct TurnArgs {
    TurnedRows queries;
    Angles angles;
    TensorView keys;
    unsigned blocks;  // of queries
};

struct StoreArgs {
    StoreSide k, v;
    unsigned k_blocks;
    uint32_t tokens;
    const int32_t *stream, *cell;
};

// A group owns one piece of one token; what ref's store_row does to a whole row. `turn`: of K, or
// null; rows are then not shared by blocks of threads.
template <int R>
__device__ void store_side(const StoreSide& side, const StoreArgs& args, const TurnArgs* turn,
                           unsigned block) {
    const Pieces& cut = side.cut;
    const uint32_t lane = threadIdx.x & (cut.lanes - 1);
    const uint32_t group = (block * k_quant_threads + threadIdx.x) >> cut.lane_bits;
    const uint32_t t = side.per_token.of(group), piece = group - t * side.per_token.d;
    const uint32_t head = cut.per_row.of(piece);
    const uint32_t begin[1] = {cut.begin_of(piece, head) + 4 * lane};
    const bool is_there = t < args.tokens;
    const uint32_t token = is_there ? t : 0;
    const auto row_of = [&](const TensorView& rows) {
        return reinterpret_cast<float*>(rows.data + head * rows.stride[2] + token * rows.stride[1]);
    };
    float* const x = row_of(side.rows);
    const int32_t cell = args.cell[token], stream = args.stream[token];
    const float* const angles = turn != nullptr ? turn->angles.of_token(token) : nullptr;
    wait_for_earlier();
    // 1 load
    float4 v[1][R];
#pragma unroll
    for (int j = 0; j < R; ++j) {
        const uint32_t i = begin[0] + 4 * cut.lanes * j;
        if (turn == nullptr) {
            v[0][j] = load4(x, i, cut.d, side.vectors);
        } else {
            v[0][j] = turned4(row_of(turn->keys), angles, i, cut.d, turn->angles.n_rot,
                              turn->angles.pairs);
        }
    }
    if (turn != nullptr) {
        __syncthreads();  // all have read what may lie where it is written
#pragma unroll
        for (int j = 0; j < R; ++j) {
            const uint32_t i = begin[0] + 4 * cut.lanes * j;
            if (is_there) store4(x, i, cut.d, side.vectors, v[0][j]);
        }
    }
    // 2 rotate
    rotate(v, cut, begin, false);
    // 3 store
    std::byte* y = is_there && cell >= 0 ? cache_row(side.cache, stream, cell, head) : nullptr;
    store_piece(side.cache.type, y, begin[0], cut, side.word, v[0]);
}

// Written out for both sides: what is known at the launch is then part of the instructions, and
// nothing is selected.
template <int R>
__global__ void __launch_bounds__(k_quant_threads)
    kv_store_kernel(const __grid_constant__ StoreArgs args) {
    let_next_come();
    if (blockIdx.x < args.k_blocks) {
        store_side<R>(args.k, args, nullptr, blockIdx.x);
    } else {
        store_side<R>(args.v, args, nullptr, blockIdx.x - args.k_blocks);
    }
}

template <int R>
__global__ void __launch_bounds__(k_quant_threads)
    turn_and_store_kernel(const __grid_constant__ StoreArgs args,
                          const __grid_constant__ TurnArgs turn) {
    let_next_come();
    fetch_arguments(args);
    fetch_arguments(turn);
    const unsigned block = blockIdx.x - turn.blocks;
    if (blockIdx.x < turn.blocks) {
        wait_for_earlier();
        turn.queries.turn(turn.angles, blockIdx.x * k_quant_threads + threadIdx.x);
    } else if (block < args.k_blocks) {
        store_side<R>(args.k, args, &turn, block);
    } else {
        store_side<R>(args.v, args, nullptr, block - args.k_blocks);
    }
}

template <int R>
void launch_kv_store(StoreArgs& args, bool with_v, std::span<const RopeArgs> turns, Stream stream) {
    const int64_t groups = k_quant_threads / args.k.cut.lanes;
    args.k_blocks = blocks_for(int64_t(args.tokens) * args.k.per_token.d, groups);
    const unsigned v_blocks =
        with_v ? blocks_for(int64_t(args.tokens) * args.v.per_token.d, groups) : 0;
    if (turns.empty()) {
        return launch_dependent(kv_store_kernel<R>, args.k_blocks + v_blocks, k_quant_threads, 0,
                                stream, args);
    }
    TurnArgs turn{TurnedRows(turns.front()), Angles(turns.back()), turns.back().src, 0};
    if (turns.size() > 1) turn.blocks = blocks_for(turn.queries.threads(), k_quant_threads);
    launch_dependent(turn_and_store_kernel<R>, turn.blocks + args.k_blocks + v_blocks,
                     k_quant_threads, 0, stream, args, turn);
}

bool is_few(const KvStoreArgs& args) { return args.k.rows() * args.k.n[3] / 4 < k_few_fours; }

// Both sides in pieces of one width, and so with as many registers.
struct BothCut {
    Pieces k, v;

    BothCut(const KvStoreArgs& args, bool with_v)
        : k(cut(args, args.k, args.k_rotation,
                with_v ? cut(args, args.v, args.v_rotation, 0).width : 0)),
          v(with_v ? cut(args, args.v, args.v_rotation, k.width) : k) {}

    static Pieces cut(const KvStoreArgs& args, const TensorView& x, const Rotation& rotation,
                      uint32_t at_least) {
        return is_few(args) ? Pieces(rotation, x.n[3], std::max(at_least, k_least_piece))
                            : wide_pieces(rotation, x.n[3], at_least);
    }
};

}  // namespace

bool kv_store_turns(const KvStoreArgs& args) {
    if (args.k.empty() || args.k.n[1] > k_turned_tokens) return false;
    const Pieces cut = BothCut(args, !args.v_cache.empty()).k;
    return k_quant_threads / cut.lanes % cut.per_row.d == 0;
}

void kv_store(const KvStoreArgs& args, std::span<const RopeArgs> turns, Stream stream) {
    if (args.k.empty()) return;
    const bool with_v = !args.v_cache.empty();  // otherwise V is a view of K
    const BothCut cut(args, with_v);
    const StoreSide k(args.k, args.k_cache, cut.k);
    const StoreSide v = with_v ? StoreSide(args.v, args.v_cache, cut.v) : k;
    StoreArgs all{k,
                  v,
                  0,
                  uint32_t(args.k.n[1]),
                  args.stream.row<const int32_t>(0),
                  args.cell.row<const int32_t>(0)};
    switch (k.cut.registers) {
        case 1:
            return launch_kv_store<1>(all, with_v, turns, stream);
        case 2:
            return launch_kv_store<2>(all, with_v, turns, stream);
        case 4:
            return launch_kv_store<4>(all, with_v, turns, stream);
        default:
            launch_kv_store<8>(all, with_v, turns, stream);
    }
}

}  // namespace rotkv::cuda
