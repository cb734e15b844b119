#pragma once
// Attention of 9 to 16 rows over blocks of codes, in f16 precision; decode_team.cu says how.
// Docs: docs/05-attention.md

#include "cuda/attention_path.h"
#include "cuda/kernels.h"

namespace rotkv::cuda {

/// Null where it takes no such call.
KernelPlan decode_team_plan(const AttentionArgs& args, const DeviceLimits& device);

/// Of a call that has a plan.
void decode_team(const AttentionArgs& args, const Workspace& workspace, Stream stream);

}  // namespace rotkv::cuda
