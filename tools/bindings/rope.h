#pragma once
// Position embedding as rotkv.h has it.
// Docs: docs/25-bindings.md

#include "ref/rope_table.h"
#include "tools/bindings/border.h"

namespace rotkv::bindings {

/// The configuration that a caller means: what is 0 there has its usual value.
/// Throws Error(bad_argument) for numbers that are none, for an n_rot that is odd or below 0.
RopeConfig rope_of(const rotkv_rope_config* given);

}  // namespace rotkv::bindings
