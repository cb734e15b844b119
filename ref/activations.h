#pragma once
// Views of activations: columns of a batch, its heads, a vector for every token.
// Docs: docs/18-models.md

#include "ref/types.h"

namespace rotkv {

/// Columns first .. first + count of an f32 activation [..][n].
inline TensorView columns(const TensorView& x, int64_t first, int64_t count) {
    TensorView part = x;
    part.data += first * int64_t(sizeof(float));
    part.n[3] = count;
    return part;
}

/// A [T][heads * step] activation as [T][heads][d], the first d channels of every step.
inline TensorView as_heads(const TensorView& x, int64_t heads, int64_t d, int64_t step) {
    TensorView split = x;
    split.n[1] = x.n[2];
    split.stride[1] = x.stride[2];
    split.n[2] = heads;
    split.stride[2] = step * int64_t(sizeof(float));
    split.n[3] = d;
    return split;
}

/// A [T][heads * d] activation as [T][heads][d].
inline TensorView as_heads(const TensorView& x, int64_t heads, int64_t d) {
    return as_heads(x, heads, d, d);
}

/// The heads [T][heads][d] of an activation, side by side, as rows of it, [T][heads * d].
inline TensorView as_row(const TensorView& heads) {
    TensorView row = heads;
    row.n[1] = 1;
    row.n[2] = heads.n[1];
    row.stride[2] = heads.stride[1];
    row.n[3] = heads.n[2] * heads.n[3];
    return row;
}

/// An activation [T][n] as [T][count][n], the same for each of `count`.
inline TensorView for_each_of(const TensorView& x, int64_t count) {
    TensorView rows = as_heads(x, 1, x.n[3]);
    rows.n[2] = count;
    rows.stride[2] = 0;
    return rows;
}

/// A vector [n] repeated for every one of `tokens` rows.
inline TensorView repeated(const TensorView& vector, int64_t tokens) {
    TensorView rows = vector;
    rows.n[2] = tokens;
    rows.stride[2] = 0;
    return rows;
}

/// Hands out the columns of an activation from left to right.
class ColumnsOf {
  public:
    explicit ColumnsOf(const TensorView& whole) : whole_(whole) {}

    TensorView next(int64_t count) {
        const TensorView part = columns(whole_, taken_, count);
        taken_ += count;
        return part;
    }

  private:
    TensorView whole_;
    int64_t taken_ = 0;
};

}  // namespace rotkv
