#pragma once
// Products of matrices, by cuBLAS or by split_product.h, and the memory on the device that outlives
// one operation.
// Docs: docs/08-backends.md

#include "cuda/kernels.h"

#include <memory>
#include <span>

struct cublasContext;  // a cublasHandle_t points to it

namespace rotkv::cuda {

/// Rows at equal distances, none over another: what is multiplied.
struct Matrix {
    const std::byte* data;
    DType type;    ///< f32, f16 or bf16
    int64_t step;  ///< elements from row to row
    int64_t rows, columns;
    int terms = 1;  ///< 3: so many planes of rows, whose sum the numbers are (split_product.h)
};

struct CloseCublas {
    void operator()(cublasContext* library) const noexcept;
};

/// Of one backend: operations use it one after another, on its stream.
class Products {
  public:
    Products(Stream stream, const DeviceLimits& device);
    Products(const Products&) = delete;
    Products& operator=(const Products&) = delete;

    Stream stream() const { return stream_; }

    /// Device memory, on 256 bytes, until the next call. Throws Failure where there is not enough;
    /// what was reserved before is gone then too, and a later call may ask for less.
    std::byte* reserve(int64_t bytes);

    /// How often reserve() has moved, or lost, its memory. Recorded launches are good for one
    /// value.
    int64_t moves() const { return moves_; }

    /// Activations as a factor: in place, or written to `room`, which has room_for() their
    /// elements.
    Matrix rows_of(const TensorView& x, DType type, std::byte* room) const;

    /// Rows first .. first + rows of a weight as a factor beside every matrix of `beside`, which
    /// have one type and as many columns. Where it is not in place it is written to `room`, which
    /// has room_for_weight() bytes.
    Matrix weight_of(const TensorView& weight, int64_t first, int64_t rows,
                     std::span<const Matrix> beside, std::byte* room) const;
    int64_t room_for_weight(int64_t rows, int64_t columns, DType type) const;

    /// y [x.rows][w.rows] f32 = x w^T, y_step floats from row to row; w from weight_of.
    /// Sums are f32, and f32 factors are not rounded (no TF32).
    void multiply(float* y, int64_t y_step, const Matrix& x, const Matrix& w);

  private:
    void open();

    Stream stream_;
    DeviceLimits device_;
    DeviceMemory memory_, cublas_memory_;
    std::unique_ptr<cublasContext, CloseCublas> cublas_;  ///< from the first product on
    int64_t bytes_ = 0, moves_ = 0;
};

/// Rows first .. first + rows of any weight type as a matrix of `type`: in place where they are
/// that already, else written to `room`, which has rows x columns elements; copy_of: always there.
Matrix matrix_of(const TensorView& tensor, int64_t first, int64_t rows, DType type, std::byte* room,
                 Stream stream);
Matrix copy_of(const TensorView& tensor, int64_t first, int64_t rows, DType type, std::byte* room,
               Stream stream);

/// Bytes of `elements` of a Matrix's type, rounded up so that what follows lies on 256 bytes.
int64_t room_for(int64_t elements, DType type);

}  // namespace rotkv::cuda
