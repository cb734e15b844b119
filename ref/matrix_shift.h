#pragma once
// Keys of a cache that a matrix has turned move to other positions by operations that backends have
// anyway: to f32, back by the matrix, kv_shift of what is then no more than an f32 cache, forward,
// and kv_store in the same cells.
// Docs: docs/23-matrix-rotations.md

#include "ref/backend.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv {

class MatrixShift {
  public:
    /// row [S][C], in host memory: as in KvShiftArgs, not -1 in one stream alone.
    MatrixShift(Backend& backend, std::span<const int32_t> row, int64_t cells);

    /// Appends what stands for `shift`, whose keys `matrix` [K][D][D] has turned: the call itself
    /// where the matrix is empty. This must outlive the calls; each set of them leaves the memory
    /// between its operations to the next.
    void append(std::vector<Call>& calls, const KvShiftArgs& shift, const TensorView& matrix);

  private:
    Backend& backend_;
    int64_t cells_;                               ///< of a stream
    int64_t stream_ = 0, first_ = 0, count_ = 0;  ///< the strip of cells that holds all that move
    Buffer index_;                                ///< i32 [2][count]: the stream, the cell or -1
    std::vector<Buffer> rows_;                    ///< f32 [count][K][D]
};

}  // namespace rotkv
