// Attention of many tokens on 9.0 over a cache of blocks of codes that the copy engine can take:
// prefill_hopper.cuh.
#include "cuda/prefill_hopper.cuh"

namespace rotkv::cuda {

bool attention_prefill_packed(const AttentionArgs& args, const Workspace& workspace,
                              Stream stream) {
    return prefill::attention_hopper<prefill::Source::blocks>(args, workspace, stream);
}

KernelPlan prefill_packed_plan(const AttentionArgs& args, const DeviceLimits& device) {
    return prefill::hopper_plan<prefill::Source::blocks>(args, device);
}

}  // namespace rotkv::cuda
