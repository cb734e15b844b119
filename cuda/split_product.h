#pragma once
// Products of f32 precision on the tensor cores of 9.0, each factor a sum of three bf16: what
// cuBLAS has no way to do within the bound of the table of cases. split_product.cuh says how, and
// how exact it is. Docs: docs/08-backends.md

#include "cuda/products.h"

#include <string>
#include <vector>

namespace rotkv::cuda {

/// The shortest sum whose bound it keeps.
inline constexpr int64_t k_least_split_in = 320;

/// Does it take products with x? f32 rows that the copy engine can take (on 16 bytes), and the
/// device is a 9.0.
bool split_takes(const Matrix& x, const DeviceLimits& device);

/// Bytes of a weight's rows as terms.
int64_t room_for_split(int64_t rows, int64_t columns);

/// Rows first .. first + rows of any weight type as terms, written to `room`.
Matrix split_weight(const TensorView& weight, int64_t first, int64_t rows, std::byte* room,
                    Stream stream);

/// y [x.rows][w.rows] f32 = x w^T, y_step floats from row to row; w from split_weight.
void split_multiply(float* y, int64_t y_step, const Matrix& x, const Matrix& w,
                    const DeviceLimits& device, Stream stream);

/// For people: who multiplies in f32 precision, for usual numbers of tokens and words.
std::vector<std::string> list_product_paths(const DeviceLimits& device);

}  // namespace rotkv::cuda
