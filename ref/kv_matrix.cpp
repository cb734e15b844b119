// Class KvCache: the matrices that turn its sides, in the backend's memory, each once.
#include "ref/kv_cache.h"

#include <algorithm>

namespace rotkv {

void KvCache::upload_matrices() {
    std::vector<MatrixPointer> there;
    const auto place_of = [&](int64_t layer, Side side) -> int64_t {
        const MatrixPointer& matrix = spec_.matrix(layer, side);
        if (matrix == nullptr || layer_at(layer).kv_heads == 0) return -1;
        const auto known = std::ranges::find_if(
            there, [&](const MatrixPointer& one) { return same_matrix(one, matrix); });
        if (known != there.end()) return known - there.begin();
        const std::span<const std::byte> bytes = std::as_bytes(matrix->values());
        matrix_memory_.emplace_back(backend_, bytes.size());
        matrix_memory_.back().upload(bytes);
        there.push_back(matrix);
        return int64_t(there.size()) - 1;
    };
    for (int64_t l = 0; l < shape_.n_layers(); ++l) {
        k_matrix_.push_back(place_of(l, Side::k));
        v_matrix_.push_back(place_of(l, Side::v));
    }
}

TensorView KvCache::matrix(int64_t layer, Side side) const {
    const int64_t place = (side == Side::k ? k_matrix_ : v_matrix_)[size_t(layer)];
    if (place < 0) return {};
    const RotationMatrix& matrix = *spec_.matrix(layer, side);
    return matrix_memory_[size_t(place)].view(DType::f32, {matrix.heads(), matrix.d(), matrix.d()});
}

// What turns the keys of turning_part(): where V lies in them, the corner behind V.
TensorView KvCache::turning_matrix(int64_t layer) const {
    TensorView matrix = this->matrix(layer, Side::k);
    const KvLayer& of = layer_at(layer);
    if (matrix.empty() || !of.v_in_k) return matrix;
    const int64_t first = of.v_first + of.d_v;
    matrix.data += first * matrix.stride[2] + first * matrix.stride[3];
    matrix.n[2] = matrix.n[3] = of.d_k - first;
    return matrix;
}

}  // namespace rotkv
