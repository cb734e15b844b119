#pragma once
// Attention of 9 to 64 rows over blocks of codes, in f16 precision, on the tensor cores of 9.0;
// decode_warpgroup.cu says how.
// Docs: docs/05-attention.md

#include "cuda/attention_path.h"
#include "cuda/kernels.h"

namespace rotkv::cuda {

/// Null where it takes no such call.
KernelPlan decode_warpgroup_plan(const AttentionArgs& args, const DeviceLimits& device);

/// Of a call that has a plan.
void decode_warpgroup(const AttentionArgs& args, const Workspace& workspace, Stream stream);

}  // namespace rotkv::cuda
