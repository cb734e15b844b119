#pragma once
// The loop that operations on rows have in common.
// Docs: docs/08-backends.md

#include "ref/types.h"

#include <cstdint>

namespace rotkv {

/// Calls row(i0, i1, i2) for every row of `shape`, in the order of its extents.
template <class Row>
void for_each_row(const TensorView& shape, Row row) {
    for (int64_t i0 = 0; i0 < shape.n[0]; ++i0) {
        for (int64_t i1 = 0; i1 < shape.n[1]; ++i1) {
            for (int64_t i2 = 0; i2 < shape.n[2]; ++i2) row(i0, i1, i2);
        }
    }
}

}  // namespace rotkv
