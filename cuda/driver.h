#pragma once
// Functions of the driver, which the runtime has opened already: nothing is linked against it, so
// that programs start where there is none.
// Docs: docs/08-backends.md

#include "ref/error.h"

#include <cuda_runtime_api.h>

#include <string>

namespace rotkv::cuda {

/// The driver's function of that name. Throws Error(unsupported) where it has none.
template <class Function>
void find_in_driver(Function*& function, const char* name) {
    void* found = nullptr;
#if CUDART_VERSION >= 12050
    const cudaError_t result =
        cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault);
#else
    const cudaError_t result = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault);
#endif
    if (result != cudaSuccess || found == nullptr) {
        throw Error(ErrorCode::unsupported, "cuda: the driver has no " + std::string(name));
    }
    function = reinterpret_cast<Function*>(found);
}

}  // namespace rotkv::cuda
