#pragma once
// The backend "metal": operations as kernels of Apple's GPUs; on other machines "metal-emul", the
// same host and the same kernels with an emulation beneath.
// Docs: docs/22-metal.md

#include "ref/backend.h"

#include <memory>

namespace rotkv {

/// Memory is shared by host and device, import() aliases. Calls are written into command buffers
/// and run when a result is asked for.
/// Throws Error(unsupported) where there is no device.
std::unique_ptr<Backend> make_metal_backend(int threads);

}  // namespace rotkv
