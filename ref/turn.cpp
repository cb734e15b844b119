// A rotation by a matrix: what no butterfly computes. Sums in f64, rounded once.
#include "ref/kernels.h"
#include "ref/rows.h"

#include <algorithm>
#include <vector>

namespace rotkv::ref {

// y_i = sum_j M_ij x_j, or back y_j = sum_i M_ij x_i
void turn(const TurnArgs& args) {
    const int64_t d = args.src.n[3];
    const int64_t group = args.src.n[2] / args.matrix.n[1];  // heads that share a matrix
    std::vector<double> sums(static_cast<size_t>(d));
    for_each_row(args.src, [&](int64_t, int64_t t, int64_t head) {
        const float* x = args.src.row<const float>(t, head);
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t i = 0; i < d; ++i) {
            const float* m = args.matrix.row<const float>(head / group, i);
            for (int64_t j = 0; j < d; ++j) {
                const int64_t from = args.inverse ? i : j, to = args.inverse ? j : i;
                sums[size_t(to)] += double(m[j]) * double(x[from]);
            }
        }
        float* y = args.dst.row<float>(t, head);
        for (int64_t i = 0; i < d; ++i) y[i] = float(sums[size_t(i)]);
    });
}

}  // namespace rotkv::ref
