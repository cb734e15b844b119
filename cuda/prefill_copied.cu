// Attention of many tokens on 9.0 over a cache whose rows are halves on 16 bytes:
// prefill_hopper.cuh.
#include "cuda/prefill_hopper.cuh"

namespace rotkv::cuda {

bool has_wgmma_code() {
    cudaFuncAttributes code;
    const auto kernel = prefill::hopper_kernel<64, 64, prefill::Source::halves>;
    require_success(cudaFuncGetAttributes(&code, kernel), "kernel");
    return code.numRegs >= prefill::k_least_registers;
}

bool attention_prefill_copied(const AttentionArgs& args, const Workspace& workspace,
                              Stream stream) {
    return prefill::attention_hopper<prefill::Source::halves>(args, workspace, stream);
}

KernelPlan prefill_copied_plan(const AttentionArgs& args, const DeviceLimits& device) {
    return prefill::hopper_plan<prefill::Source::halves>(args, device);
}

}  // namespace rotkv::cuda
