#pragma once
// Prefill in f32 precision on tensor cores (prefill_terms.cu), as prefill_f32.cu asks for it.
// Docs: docs/05-attention.md

#include "cuda/kernels.h"

namespace rotkv::cuda {

/// What it would launch, by arithmetic of the host; null where it takes no such call: heads of 64
/// or 128 channels over caches that f16 holds exactly.
KernelPlan prefill_terms_plan(const AttentionArgs& args, const DeviceLimits& device);
void attention_prefill_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream);

/// The same on 9.0, of those calls that prefill_terms.cu takes, where the copy engine can take the
/// rows (prefill_terms_hopper.cu); false: it has launched nothing.
KernelPlan prefill_terms_hopper_plan(const AttentionArgs& args, const DeviceLimits& device);
bool attention_terms_hopper(const AttentionArgs& args, const Workspace& workspace, Stream stream);

}  // namespace rotkv::cuda
