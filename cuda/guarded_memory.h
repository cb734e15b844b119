#pragma once
// Device memory that lies flush against addresses without memory behind them.
// Docs: docs/10-testing-your-engine.md

#include "ref/guarded_memory.h"

#include <memory>

namespace rotkv::cuda {

/// Memory of the current device. front: it begins where its mapping does; back: its end, rounded up
/// to the 16 bytes that kernels may read at a time, is that of the mapping.
/// What is released waits for an allocation of as many pages, of 2 MiB, and may hold anything.
/// Throws Error(unsupported) where the driver maps no memory.
std::unique_ptr<GuardedMemory> make_guarded_memory(Guard guard);

}  // namespace rotkv::cuda
