#pragma once
// A matrix product with a weight of any type, some rows of the weight at a time: a panel is
// expanded to f32, used for all tokens, and forgotten, so that the f32 weight never exists as a
// whole. matmul, logits, nll and kld are loops over panels. Docs: docs/08-backends.md

#include "ref/types.h"

#include <cstdint>

namespace rotkv::fast {

/// Rows [first, first + rows) of a weight [out][in] as f32, `step` floats from row to row.
struct Panel {
    const float* data;
    int64_t step;
    int64_t first, rows, in;
};

/// How many rows a panel of this weight has: 1024 unless their f32 would leave the L2 and L3 caches
/// of a small machine.
int64_t panel_rows(const TensorView& weight);

/// The panel that starts at row `first`: the weight itself if it is f32, otherwise expanded by all
/// threads into memory that the next call reuses.
Panel load_panel(const TensorView& weight, int64_t first);

/// y[i][o] = sum_j panel[o][j] x[t + i][j] for `tokens` rows of x from row t on; y_step floats from
/// row to row of y. By dnnl_sgemm.
void multiply_panel(float* y, int64_t y_step, const TensorView& x, int64_t t, int64_t tokens,
                    const Panel& panel);

}  // namespace rotkv::fast
