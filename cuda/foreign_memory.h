#pragma once
// Memory that another library has allocated on the device, used where it lies.
// Docs: docs/08-backends.md

#include "cuda/failure.h"

namespace rotkv::cuda {

/// Is it device memory of this device, `bytes` of it, beginning on 16 bytes and going on to 16
/// bytes (kernels copy so many at a time)? Throws Error(bad_argument) with what it is instead.
void require_usable(const void* memory, std::size_t bytes, int device);

/// What `before` has been given until now comes before what `after` is given from now on. The host
/// does not wait. Throws Failure.
void put_in_order(Stream before, Stream after);

}  // namespace rotkv::cuda
