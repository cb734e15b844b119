// Attention of many tokens on 9.0 over a cache of any other kind: prefill_hopper.cuh.
#include "cuda/prefill_hopper.cuh"

namespace rotkv::cuda {

bool attention_prefill_expanded(const AttentionArgs& args, const Workspace& workspace,
                                Stream stream) {
    return prefill::attention_hopper<prefill::Source::others>(args, workspace, stream);
}

KernelPlan prefill_expanded_plan(const AttentionArgs& args, const DeviceLimits& device) {
    return prefill::hopper_plan<prefill::Source::others>(args, device);
}

}  // namespace rotkv::cuda
