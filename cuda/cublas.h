#pragma once
// cuBLAS, loaded when the first product is asked for. Linked, it would cost every program of a
// build with CUDA 150 MB and a twentieth of a second, products or not.
// Docs: docs/08-backends.md

#include <cublas_v2.h>

namespace rotkv::cuda {

/// The functions in use, under their names.
struct Cublas {
    decltype(&cublasCreate_v2) create;
    decltype(&cublasDestroy_v2) destroy;
    decltype(&cublasSetStream_v2) set_stream;
    decltype(&cublasSetWorkspace_v2) set_workspace;
    decltype(&cublasSetMathMode) set_math_mode;
    // cublasGemmEx, which the header overloads
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n,
                           int k, const void* alpha, const void* a, cudaDataType_t a_type,
                           int a_step, const void* b, cudaDataType_t b_type, int b_step,
                           const void* beta, void* c, cudaDataType_t c_type, int c_step,
                           cublasComputeType_t, cublasGemmAlgo_t);
    decltype(&cublasGetStatusString) status_string;
};

/// The library that the build found, or else the one of its version that the system finds. It
/// stays. Throws Error(io) where there is none.
const Cublas& cublas();

}  // namespace rotkv::cuda
