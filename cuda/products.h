#pragma once
// Products of matrices by cuBLAS, and the memory on the device that outlives one operation.
// Docs: docs/08-backends.md

#include "cuda/kernels.h"

#include <memory>

struct cublasContext;  // a cublasHandle_t points to it

namespace rotkv::cuda {

/// Rows at equal distances, none over another: what cuBLAS multiplies.
struct Matrix {
    const std::byte* data;
    DType type;    ///< f32, f16 or bf16
    int64_t step;  ///< elements from row to row
    int64_t rows, columns;
};

struct CloseCublas {
    void operator()(cublasContext* library) const noexcept;
};

/// Of one backend: operations use it one after another, on its stream.
class Products {
  public:
    explicit Products(Stream stream);
    Products(const Products&) = delete;
    Products& operator=(const Products&) = delete;

    Stream stream() const { return stream_; }

    /// Device memory, on 256 bytes, until the next call. Throws Failure where there is not enough;
    /// what was reserved before is gone then too, and a later call may ask for less.
    std::byte* reserve(int64_t bytes);

    /// How often reserve() has moved, or lost, its memory. Recorded launches are good for one
    /// value.
    int64_t moves() const { return moves_; }

    /// y [x.rows][w.rows] f32 = x w^T, y_step floats from row to row.
    /// x and w have one type; sums are f32, and f32 factors are not rounded (no TF32).
    void multiply(float* y, int64_t y_step, const Matrix& x, const Matrix& w);

  private:
    void open();

    Stream stream_;
    DeviceMemory memory_, cublas_memory_;
    std::unique_ptr<cublasContext, CloseCublas> cublas_;  ///< from the first product on
    int64_t bytes_ = 0, moves_ = 0;
};

/// Rows first .. first + rows of any weight type as a matrix of `type`: in place where they are
/// that already, else written to `room`, which has rows x columns elements.
Matrix matrix_of(const TensorView& tensor, int64_t first, int64_t rows, DType type, std::byte* room,
                 Stream stream);

/// Bytes of `elements` of a Matrix's type, rounded up so that what follows lies on 256 bytes.
int64_t room_for(int64_t elements, DType type);

}  // namespace rotkv::cuda
