// RoPE: pairs of channels turn by the rows of a table (rope_table.cpp makes it).
#include "ref/kernels.h"

namespace rotkv::ref {

void rope_row(float* y, const float* x, int64_t d, const float* table, int64_t n_rot,
              RopePairs pairs) {
    for (int64_t i = 0; i < n_rot / 2; ++i) {
        const int64_t a = pairs == RopePairs::norm ? 2 * i : i;
        const int64_t b = pairs == RopePairs::norm ? 2 * i + 1 : i + n_rot / 2;
        const float c = table[2 * i], s = table[2 * i + 1];
        const float x0 = x[a], x1 = x[b];
        y[a] = x0 * c - x1 * s;
        y[b] = x0 * s + x1 * c;
    }
    for (int64_t i = n_rot; i < d; ++i) y[i] = x[i];
}

void rope(const RopeArgs& args) {
    const int64_t tokens = args.src.n[1], heads = args.src.n[2], d = args.src.n[3];
    const int64_t n_rot = 2 * args.table.n[2];
    for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row = ints(args.row)[t];
        // The table [rows][n_rot / 2][2] is contiguous from its row on.
        const float* table = args.table.row<const float>(row, 0);
        for (int64_t h = 0; h < heads; ++h) {
            rope_row(args.dst.row<float>(t, h), args.src.row<const float>(t, h), d, table, n_rot,
                     args.pairs);
        }
    }
}

}  // namespace rotkv::ref
