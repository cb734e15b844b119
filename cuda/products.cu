// Products of matrices, by cuBLAS where split_product.h does not take them. A matrix is what a
// tensor's rows are expanded or rounded to:
//   A thread owns four neighbouring elements. Rows are expanded exactly; f16 and bf16 round to
//   nearest even.
//   Cost: the rows' own bytes read, 4 or 2 bytes an element written.
#include "cuda/cublas.h"
#include "cuda/dequant_weight.cuh"
#include "cuda/split_product.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace rotkv::cuda {
namespace {

// Fixed, and not cuBLAS's own: the same product repeats to the bit, and launches can be recorded.
constexpr std::size_t k_cublas_bytes = 32 << 20;

// cuBLAS may leave an error of CUDA's behind, which is not for the next launch to report.
void require_success(cublasStatus_t result, const char* what) {
    if (result == CUBLAS_STATUS_SUCCESS) return;
    const std::string reason =
        std::string("cuBLAS: ") + what + ": " + cublas().status_string(result);
    if (const cudaError_t cause = cudaGetLastError(); cause != cudaSuccess) fail(cause, reason);
    throw Failure(reason, false);
}

cudaDataType_t type_of(DType type) {
    if (type == DType::f32) return CUDA_R_32F;
    if (type == DType::f16) return CUDA_R_16F;
    if (type == DType::bf16) return CUDA_R_16BF;
    std::abort();  // no Matrix is made in another type
}

__global__ void __launch_bounds__(k_threads)
    expand_kernel(std::byte* dst, DType type, TensorView src, uint32_t rows, Divisor per_row,
                  uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, row = per_row.of(thread);
    if (row >= rows) return;
    const uint32_t i = (thread - row * per_row.d) * 4;
    const float4 x = weight4(src.type, src.data + row * src.stride[2], i, d);
    const int64_t first = int64_t(row) * d;
    if (type == DType::f32) {
        store4(reinterpret_cast<float*>(dst) + first, i, d, d % 4 == 0, x);
    } else if (type == DType::f16) {
        store_halves(reinterpret_cast<F16*>(dst) + first, i, d, x);
    } else {
        store_halves(reinterpret_cast<Bf16*>(dst) + first, i, d, x);
    }
}

}  // namespace

int64_t room_for(int64_t elements, DType type) {
    return (elements * type_info(type).block_bytes + 255) / 256 * 256;
}

Matrix matrix_of(const TensorView& tensor, int64_t first, int64_t rows, DType type, std::byte* room,
                 Stream stream) {
    const int64_t d = tensor.n[3], step = tensor.stride[2], unit = type_info(type).block_bytes;
    if (tensor.type == type && step >= row_bytes(type, d) && step % unit == 0) {
        return {tensor.data + first * step, type, step / unit, rows, d};
    }
    return copy_of(tensor, first, rows, type, room, stream);
}

Matrix copy_of(const TensorView& tensor, int64_t first, int64_t rows, DType type, std::byte* room,
               Stream stream) {
    const int64_t d = tensor.n[3], per_row = (d + 3) / 4;
    TensorView part = tensor;
    part.data += first * tensor.stride[2];
    expand_kernel<<<blocks_for(rows * per_row, k_threads), k_threads, 0, stream>>>(
        room, type, part, uint32_t(rows), Divisor(per_row), uint32_t(d));
    require_launched("expand");
    return {room, type, d, rows, d};
}

Products::Products(Stream stream, const DeviceLimits& device) : stream_(stream), device_(device) {}

void CloseCublas::operator()(cublasContext* library) const noexcept {
    static_cast<void>(cublas().destroy(library));
    ignore(cudaPeekAtLastError());
}

// The old memory goes first: both at once may be more than there is. The move is counted before
// anything can fail, for recordings that know that memory.
std::byte* Products::reserve(int64_t bytes) {
    if (bytes <= bytes_) return memory_.get();
    ++moves_;
    bytes_ = 0;
    memory_.reset();  // waits for all that uses it
    memory_.reset(allocate(std::size_t(bytes)));
    bytes_ = bytes;
    return memory_.get();
}

// All of it or nothing: a handle without its stream would multiply out of turn.
void Products::open() {
    if (cublas_ != nullptr) return;
    const Cublas& library = cublas();
    DeviceMemory memory(allocate(k_cublas_bytes));
    cublasHandle_t handle = nullptr;
    require_success(library.create(&handle), "start");
    std::unique_ptr<cublasContext, CloseCublas> opened(handle);
    require_success(library.set_stream(handle, stream_), "stream");
    require_success(library.set_workspace(handle, memory.get(), k_cublas_bytes), "workspace");
    require_success(library.set_math_mode(handle, CUBLAS_DEFAULT_MATH), "math mode");
    cublas_memory_ = std::move(memory);
    cublas_ = std::move(opened);
}

// Rows that only their place keeps from the tensor cores are moved.
Matrix Products::rows_of(const TensorView& x, DType type, std::byte* room) const {
    const Matrix moved{room, type, x.n[3], x.n[2], x.n[3]};
    if (split_takes(moved, device_) && !rows_on_16_bytes(x)) {
        return copy_of(x, 0, x.n[2], type, room, stream_);
    }
    return matrix_of(x, 0, x.n[2], type, room, stream_);
}

Matrix Products::weight_of(const TensorView& weight, int64_t first, int64_t rows,
                           std::span<const Matrix> beside, std::byte* room) const {
    const auto is_taken = [&](const Matrix& x) { return split_takes(x, device_); };
    if (std::all_of(beside.begin(), beside.end(), is_taken)) {
        return split_weight(weight, first, rows, room, stream_);
    }
    return matrix_of(weight, first, rows, beside.front().type, room, stream_);
}

int64_t Products::room_for_weight(int64_t rows, int64_t columns, DType type) const {
    const int64_t plain = room_for(rows * columns, type);
    return type == DType::f32 ? std::max(plain, room_for_split(rows, columns)) : plain;
}

// cuBLAS counts columns first: what is [rows][columns] here is its columns x rows there.
void Products::multiply(float* y, int64_t y_step, const Matrix& x, const Matrix& w) {
    if (w.terms > 1) return split_multiply(y, y_step, x, w, device_, stream_);
    open();
    // Pedantic: no TF32, whatever NVIDIA_TF32_OVERRIDE says. Halves multiply exactly as they are.
    const cublasComputeType_t sums =
        x.type == DType::f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    const float one = 1.0f, zero = 0.0f;
    const cublasStatus_t result = cublas().gemm(
        cublas_.get(), CUBLAS_OP_T, CUBLAS_OP_N, int(w.rows), int(x.rows), int(w.columns), &one,
        w.data, type_of(w.type), int(w.step), x.data, type_of(x.type), int(x.step), &zero, y,
        CUDA_R_32F, int(y_step), sums, CUBLAS_GEMM_DEFAULT);
    require_success(result, "product");
    cuda::require_success(launched(cudaSuccess), "product");
}

}  // namespace rotkv::cuda
