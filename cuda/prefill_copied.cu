// Attention of many tokens on 9.0 over a cache whose rows are halves on 16 bytes:
// prefill_hopper.cuh.
#include "cuda/prefill_hopper.cuh"

namespace rotkv::cuda {

bool attention_prefill_copied(const AttentionArgs& args, const Workspace& workspace,
                              Stream stream) {
    return prefill::attention_hopper<prefill::Source::halves>(args, workspace, stream);
}

}  // namespace rotkv::cuda
