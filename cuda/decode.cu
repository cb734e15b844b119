// Attention of few tokens on tensor cores, at the speed of memory: version 7 of the ladder, in f16
// precision, and version 8, in f32.
//
// A block of threads takes up to 8 rows, a band of KV heads and some tiles of the cells; the warps
// of a slice copy a tile together (decode_tiles.cuh), after the queries have been asked for, which
// all warps rotate together (decode_queries.cuh). Then each warp attends alone, for up to 8 query
// heads of one KV head, with its own running maximum. fragments.cuh says which lane holds what:
//
//   scores   C[cell][head] = K q~              a block of 32 channels is two products
//   softmax  in C's registers (decode_state.cuh)
//   values   C[channel][head] += V^T p         p in f16, transposed by one instruction
//
// The slices' states become one, the block's part (decode_merge.cuh). A second kernel puts the
// parts together and rotates back (attention_combine.cu); its blocks come while the first kernel
// still runs. Rows, the heads of a group or of several tokens, are the 8 columns of a product: a
// cell is read and its codes are expanded once, whether there are 1 or 8. q~ and p are rounded to
// f16, or are sums of two f16 (decode_terms.cuh); codes are exact, sums are in f32.
//
// Cost: K and V of the visible cells once. A tile of which nothing is seen is not read, unless it
// is one of a slice's first two. Agrees with ref::attention within the bound for its precision.
#include "cuda/decode_cells.cuh"
#include "cuda/decode_merge.cuh"
#include "cuda/decode_queries.cuh"
#include "cuda/decode_scores.cuh"
#include "cuda/dependent.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

// A tile's K, for the warp's KV head: scores, and p.
template <int Steps, int D_v, int Terms>
__device__ void score(const Tiles<>& tiles, const Query<Terms, Steps>& q,
                      const CodeConstants& constants, State<D_v, Terms>& state, Weights<Terms>& p) {
    float s[1][4] = {};
    score_cells(tiles.job.k.type, tiles.job.k_rows.on_words, s[0], q, constants, tiles.k_rows());
    finish_scores(tiles, q.unit, s);
    state.take(s[0]);
    p.set(s[0]);
}

// Its V.
template <int D_v, int Terms>
__device__ void add(const Tiles<>& tiles, const Weights<Terms>& p, const CodeConstants& constants,
                    State<D_v, Terms>& state) {
    if (tiles.seen() != 0xFFFFu) clear_unseen(tiles);
    add_cells(tiles.job.v.type, tiles.job.v_rows.on_words, state, p, constants, tiles.v_rows());
}

// A processor has registers for so many warps.
constexpr uint32_t most_warps(int d, int terms) { return terms == 1 && d <= 128 ? 16 : 8; }

template <int D_k, int D_v, int Terms>
__global__ void __maxnreg__(registers_beside_combine(most_warps(D_k, Terms)))
    decode_kernel(const __grid_constant__ DecodeJob job) {
    extern __shared__ float4 shared[];
    std::byte* const memory = reinterpret_cast<std::byte*>(shared);
    DecodePlace at(job);
    Tiles<> tiles(job, at, memory);
    const CodeConstants constants(job, Terms == 1 ? at.head_of_band : threadIdx.x / k_warp, memory);
    if constexpr (Terms == 1) constants.store_v(job.v_codes);
    Query<Terms, D_k / 16> q;
    job.k_cut.registers == 1 ? begin<2, 1, Terms>(job, at, tiles, memory)
                             : begin<1, 2, Terms>(job, at, tiles, memory);
    load_fragments(q, job, at, QueryRows(job, memory), constants);
    tiles.find_rows();
    State<D_v, Terms> state;
    Weights<Terms> p;
    for (; tiles.is_more(); tiles.advance()) {
        tiles.wait();
        if (tiles.seen() == 0 || at.is_idle) continue;
        score(tiles, q, constants, state, p);
        add(tiles, p, constants, state);
    }
    tiles.end();
    merge_slices(job, DecodePlace(job), memory + job.ring_offset(), state);
}

using Launch = void(const AttentionArgs& args, const Workspace& workspace, Stream stream);

// With as many warps as have registers, and rings in so much shared memory: a power of two, or
// three heads of a band, which is what caches of f16 have room for in 99 KB.
DecodeJob job_within(const AttentionArgs& args, uint32_t terms, int64_t most_bytes) {
    uint32_t warps = most_warps(int(args.q.n[3]), int(terms));
    while (warps > 1 && DecodeJob(args, warps, terms).bytes() > most_bytes) {
        warps = warps > k_most_band ? warps / 2 : warps - 1;
    }
    return DecodeJob(args, warps, terms);
}

template <int D_k, int D_v, int Terms>
void launch(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    DecodeJob job = job_within(args, Terms, workspace.most_shared_bytes);
    const uint32_t by_registers = most_warps(D_k, Terms) / job.warps();
    const uint32_t by_memory = uint32_t(workspace.shared_bytes) / (job.bytes() + 1024);
    job.split(workspace, std::max(1u, std::min(by_registers, by_memory)));
    decode::launch(decode_kernel<D_k, D_v, Terms>, job, args, stream);
}

struct Kernel {
    int64_t d_k, d_v;
    Launch *one_term, *two_terms;
};
template <int D_k, int D_v>
constexpr Kernel kernel_of() {
    return {D_k, D_v, launch<D_k, D_v, 1>, launch<D_k, D_v, 2>};
}
constexpr Kernel k_kernels[] = {
    kernel_of<64, 64>(),   kernel_of<80, 80>(),   kernel_of<96, 96>(),   kernel_of<112, 112>(),
    kernel_of<128, 128>(), kernel_of<192, 192>(), kernel_of<192, 128>(), kernel_of<256, 256>(),
};

// Null where there is none, or no room for a part of each head of one token.
const Kernel* kernel_for(const AttentionArgs& args) {
    if (!has_room_for_parts(args)) return nullptr;
    for (const Kernel& kernel : k_kernels) {
        if (kernel.d_k == args.q.n[3] && kernel.d_v == args.dst.n[3]) return &kernel;
    }
    return nullptr;
}

// Does f16 hold what is stored? Then f32 precision needs two terms on one side of a product only.
bool is_f16(DType type) { return type != DType::f32 && type != DType::bf16; }

bool takes(const AttentionArgs& args, uint32_t terms) {
    const bool are_f16 = is_f16(args.k_cache.type) && is_f16(args.v_cache.type);
    return kernel_for(args) != nullptr && (terms == 1 || are_f16);
}

}  // namespace

bool has_tensor_kernel(const AttentionArgs& args) { return kernel_for(args) != nullptr; }

bool has_room_for_parts(const AttentionArgs& args) {
    return args.q.n[2] * part_bytes(args.dst.n[3]) <= k_part_bytes;
}

KernelPlan decode_plan(const AttentionArgs& args, uint32_t terms, const DeviceLimits& device) {
    if (!takes(args, terms)) return {};
    const DecodeJob job = job_within(args, terms, device.most_shared_bytes);
    if (job.bytes() > device.most_shared_bytes) return {};
    return {"decode.cu", job.warps(), job.stages(), job.bytes()};
}

void decode_7_bands(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    in_turns(args, workspace, [&](const AttentionArgs& some) {
        kernel_for(some)->one_term(some, workspace, stream);
    });
}

bool decode_8_takes(const AttentionArgs& args) {
    return args.precision == Precision::f32 && takes(args, 2);
}

void decode_8_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    if (!takes(args, 2)) return decode_2_split(args, workspace, stream);
    in_turns(args, workspace, [&](const AttentionArgs& some) {
        kernel_for(some)->two_terms(some, workspace, stream);
    });
}

}  // namespace rotkv::cuda
