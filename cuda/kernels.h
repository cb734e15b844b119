#pragma once
// The operations of the backend "cuda", one function per struct of ops.h, each in the file of its
// stem with the name it has in ref; where calls can share a launch, it takes a list of them.
// Arguments have passed check() and supports(). A function launches its kernels on the stream and
// returns; results are there after a download or synchronize. Docs: docs/08-backends.md

#include "cuda/attention_path.h"
#include "cuda/failure.h"
#include "ref/backend.h"

#include <cstddef>
#include <span>
#include <string>

namespace rotkv::cuda {

class Products;  // products.h: cuBLAS, memory, and the stream that they belong to

void hadamard(const HadamardArgs& args, Stream stream);      // hadamard.cu
void quantize(const QuantizeArgs& args, Stream stream);      // quant.cu
void dequantize(const DequantizeArgs& args, Stream stream);  // quant.cu
void rope(std::span<const RopeArgs> calls, Stream stream);   // rope.cu
void rms_norm(const RmsNormArgs& args, Stream stream);       // norm.cu
void layer_norm(const LayerNormArgs& args, Stream stream);   // norm.cu
void scale(const ScaleArgs& args, Stream stream);            // norm.cu
void act_mul(const ActMulArgs& args, Stream stream);         // norm.cu
void add(const AddArgs& args, Stream stream);                // norm.cu
void matmul(const MatmulArgs& args, Products& products);     // matmul.cu
void embed(const EmbedArgs& args, Stream stream);            // matmul.cu
void kv_shift(const KvShiftArgs& args, Stream stream);       // kv_shift.cu
void conv_step(const ConvStepArgs& args, Stream stream);     // delta.cu
void delta_step(const DeltaStepArgs& args, Stream stream);   // delta.cu
void nll(const NllArgs& args, Products& products);           // nll.cu
void kld(const KldArgs& args, Products& products);           // nll.cu
void logits(const LogitsArgs& args, Products& products);     // nll.cu

// A mixture of experts: route.cu, experts.cu
void route(const RouteArgs& args, Stream stream);
void expert_matmul(const ExpertMatmulArgs& args, Products& products);
void expert_sum(const ExpertSumArgs& args, Stream stream);

/// Experts whose numbers a block of threads keeps in shared memory, at most.
inline constexpr int64_t k_most_experts = 1024;

/// Rows of an expert's matrix, at most: a grid has 2^16 - 1 blocks of four in that direction.
inline constexpr int64_t k_most_expert_rows = 4 * 65535;

/// Memory in which blocks of threads that share a reduction meet, and what the device offers them.
/// A backend makes one; two launches that use it must not run at the same time.
struct Workspace : DeviceLimits {
    Workspace() = default;
    ~Workspace() { destroy(); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    unsigned* arrived = nullptr;  ///< [k_most_columns] counters, 0 between launches
    std::byte* parts = nullptr;
    int64_t bytes = 0;  ///< of parts

    // attention.cu
    void create();  ///< on the current device, once; throws Failure
    void destroy();
};
inline constexpr int64_t k_most_columns = 16384;
inline constexpr int64_t k_part_bytes = int64_t(16) << 20;

void attention(const AttentionArgs& args, const Workspace& workspace, Stream stream);

void merge(const MergeArgs& args, Stream stream);  // merge.cu
void turn(const TurnArgs& args, Stream stream);    // turn.cu

/// Channels of a row that turns: a block of threads keeps it in shared memory.
inline constexpr int64_t k_most_turned_channels = 8192;

/// Attention in f16 precision for many tokens at once; prefill.cu.
void attention_prefill(const AttentionArgs& args, const Workspace& workspace, Stream stream);

/// The same on the tensor cores of 9.0, if it has a kernel for these heads: over rows of f16 that
/// begin on 16 bytes, over blocks of codes where the copy engine takes their rows, over all others;
/// prefill_copied.cu, prefill_packed.cu, prefill_expanded.cu.
bool attention_prefill_copied(const AttentionArgs& args, const Workspace& workspace, Stream stream);
bool attention_prefill_packed(const AttentionArgs& args, const Workspace& workspace, Stream stream);
bool attention_prefill_expanded(const AttentionArgs& args, const Workspace& workspace,
                                Stream stream);

/// Attention in f32 precision for many tokens at once; prefill_f32.cu, and prefill_terms.cu on
/// tensor cores.
void attention_prefill_f32(const AttentionArgs& args, const Workspace& workspace, Stream stream);

/// Why attention_prefill cannot take these shapes; "" where it can.
std::string prefill_refusal(const AttentionArgs& args);

// Calls that are one launch (fusion.h): of one operation, alike and independent of each other.
inline constexpr std::size_t k_most_products = 3;
inline constexpr std::size_t k_most_turns = 2;

/// Products of one src for so many tokens, or fewer, read the weights packed, which are of one
/// type: matvec.cu. Two of equally many rows may end in act_mul, which is theirs and in place; one
/// may end in a sum with what it makes. Before them a norm that matvec_takes, of one row of so many
/// channels or fewer, may make src. Null: none.
inline constexpr int64_t k_matvec_tokens = 8;
inline constexpr int64_t k_normed_channels = 1024;
struct JoinedProducts {
    std::span<const MatmulArgs> products;
    const ActMulArgs* act_mul = nullptr;
    const RmsNormArgs* norm = nullptr;
    const AddArgs* sum = nullptr;
};
void matvec(const JoinedProducts& calls, Stream stream);
bool matvec_takes(const RmsNormArgs& norm, std::span<const MatmulArgs> products);

/// turns, one or two alike, the last of which makes args.k, then kv_store; or kv_store alone.
/// kv_store_turns: does it, of so few tokens, cut into such pieces? kv_cache.cu.
inline constexpr int64_t k_turned_tokens = 64;
void kv_store(const KvStoreArgs& args, std::span<const RopeArgs> turns, Stream stream);
bool kv_store_turns(const KvStoreArgs& args);

/// sum, then norm, whose src is the sum; norm.cu.
void add_rms_norm(const AddArgs& sum, const RmsNormArgs& norm, Stream stream);

/// The largest rotation block: 1024 channels are 32 registers of each lane of a warp.
inline constexpr int64_t k_largest_block = 1024;

/// Shared memory of a block of threads that every device grants without being asked.
inline constexpr int64_t k_shared_bytes = 48 << 10;

/// A row that kv_shift keeps in shared memory has at most so many channels.
inline constexpr int64_t k_largest_row = 1024;

/// conv_step keeps so many inputs of a channel in registers, delta_step a row of M of so many
/// channels in those of eight lanes; heads and streams count blocks of threads.
inline constexpr int64_t k_most_taps = 8;
inline constexpr int64_t k_most_key_channels = 256;
inline constexpr int64_t k_most_blocks = 65535;

/// Query heads that share a read of the cache.
inline constexpr uint32_t k_most_heads = 8;

bool has_tensor_kernel(const AttentionArgs& args);  ///< for these head sizes? decode.cu

}  // namespace rotkv::cuda
