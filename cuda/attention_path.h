#pragma once
// Who computes a call of attention on a device, and what a block of threads takes for it: asked by
// the launch, by what the backend supports, and by whoever lists backends. It is arithmetic of the
// host, for any device: tests ask it about cards that are not there (tests/test_cuda_paths.cpp).
// Docs: docs/08-backends.md

#include "ref/ops.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::cuda {

/// What a device offers.
struct DeviceLimits {
    bool has_wgmma = false;  ///< tensor cores of 9.0, those of no other one, and code for them
    int64_t processors = 0;
    int64_t shared_bytes = 0;       ///< of one processor
    int64_t most_shared_bytes = 0;  ///< of one block of threads
};

/// The current device's; throws Failure.
DeviceLimits current_device();

/// On the current device: was prefill_hopper.cuh compiled for it? prefill_copied.cu.
bool has_wgmma_code();

/// A kernel and its block of threads.
struct KernelPlan {
    const char* kernel = nullptr;  ///< the file that says what it does; null: none takes the call
    uint32_t warps = 0;
    uint32_t stages = 0;  ///< tiles of cells in shared memory, of each group that walks over them
    uint32_t shared_bytes = 0;

    explicit operator bool() const { return kernel != nullptr; }
};

// What each file would launch, by its own arithmetic; null where it takes no such call.
KernelPlan split_plan(const AttentionArgs& args);  // attention.cu
KernelPlan decode_plan(const AttentionArgs& args, uint32_t terms, const DeviceLimits& device);
KernelPlan decode_cluster_plan(const AttentionArgs& args, const DeviceLimits& device);
KernelPlan prefill_plan(const AttentionArgs& args, const DeviceLimits& device);
KernelPlan prefill_copied_plan(const AttentionArgs& args, const DeviceLimits& device);
KernelPlan prefill_packed_plan(const AttentionArgs& args, const DeviceLimits& device);
KernelPlan prefill_expanded_plan(const AttentionArgs& args, const DeviceLimits& device);
KernelPlan prefill_f32_plan(const AttentionArgs& args, const DeviceLimits& device);

/// Does each query head of one token have room for a part (attention_combine.cuh)?
bool has_room_for_parts(const AttentionArgs& args);

/// In words: "decode.cu, 8 warps, 3 stages, 100 KiB".
std::string words_of(const KernelPlan& plan);

/// Who computes a call. Where no kernel on tensor cores takes a call in f16 precision, it is one in
/// f32, which is more exact than was asked for.
enum class AttentionKind {
    split,       ///< f32, few tokens at a time: takes every call
    cluster,     ///< f32, one token over few cells
    tensor,      ///< f16, few tokens, on tensor cores
    terms,       ///< f32, the same with two f16 for a number
    prefill,     ///< f16, many tokens, on tensor cores
    prefill_f32  ///< f32, many tokens
};
struct AttentionPath {
    AttentionKind kind;
    KernelPlan plan;
};
AttentionPath attention_path(const AttentionArgs& args, const DeviceLimits& device);

/// Why nobody computes it; "": somebody does.
std::string attention_refusal(const AttentionArgs& args, const DeviceLimits& device);

/// For people: paths of usual heads and types, a line for each number of tokens and precision.
std::vector<std::string> list_attention_paths(const DeviceLimits& device);

}  // namespace rotkv::cuda
