#include "ref/matrix_shift.h"

#include <algorithm>

namespace rotkv {

namespace {

bool moves(int32_t row) { return row >= 0; }

// Cells first .. first + count of one stream, of a view [S][C] or [S][C][K][D].
TensorView strip(TensorView cells, int stream_extent, int64_t stream, int64_t first,
                 int64_t count) {
    cells.data += stream * cells.stride[stream_extent] + first * cells.stride[stream_extent + 1];
    cells.n[stream_extent] = 1;
    cells.n[stream_extent + 1] = count;
    return cells;
}

}  // namespace

MatrixShift::MatrixShift(Backend& backend, std::span<const int32_t> row, int64_t cells)
    : backend_(backend), cells_(cells) {
    const auto begin = std::ranges::find_if(row, moves);
    if (begin == row.end()) return;
    int64_t last = begin - row.begin();
    for (int64_t i = last; i < int64_t(row.size()); ++i) last = moves(row[size_t(i)]) ? i : last;
    stream_ = last / cells;
    first_ = (begin - row.begin()) % cells;
    count_ = last % cells + 1 - first_;
    std::vector<int32_t> index;
    index.assign(size_t(count_), int32_t(stream_));
    for (int64_t c = first_; c < first_ + count_; ++c) {
        index.push_back(moves(row[size_t(stream_ * cells_ + c)]) ? int32_t(c) : -1);
    }
    index_ = Buffer(backend, index.size() * sizeof(int32_t));
    index_.upload(std::as_bytes(std::span(index)));
}

void MatrixShift::append(std::vector<Call>& calls, const KvShiftArgs& shift,
                         const TensorView& matrix) {
    if (matrix.empty()) return calls.push_back(shift);
    const int64_t kv_heads = shift.k_cache.n[2], d = shift.k_cache.n[3];
    const size_t bytes = size_t(std::max<int64_t>(count_, 1) * kv_heads * d) * sizeof(float);
    if (rows_.empty() || rows_.back().bytes() < bytes) rows_.emplace_back(backend_, bytes);
    const TensorView x = rows_.back().view(DType::f32, {count_, kv_heads, d});
    calls.push_back(
        DequantizeArgs{.dst = x, .src = strip(shift.k_cache, 0, stream_, first_, count_)});
    calls.push_back(TurnArgs{.dst = x, .src = x, .matrix = matrix, .inverse = true});
    KvShiftArgs plain = shift;
    plain.k_cache = x;
    plain.row = strip(shift.row, 2, stream_, first_, count_);
    plain.k_format = {};
    plain.position = {};
    calls.push_back(plain);
    calls.push_back(TurnArgs{.dst = x, .src = x, .matrix = matrix});
    const TensorView index = index_.view(DType::i32, {2, count_});
    KvStoreArgs store{.k_cache = shift.k_cache,
                      .k = x,
                      .stream = strip(index, 2, 0, 0, count_),
                      .cell = strip(index, 2, 1, 0, count_),
                      .k_format = shift.k_format};
    if (shift.k_format.format != nullptr) {
        store.position = strip(shift.position, 2, stream_, first_, count_);
    }
    calls.push_back(store);
}

}  // namespace rotkv
