#pragma once
// Products with weights, shared out in strips of rows. Docs: docs/08-backends.md

#include "fast/matvec.h"
#include "fast/threads.h"

#include <algorithm>
#include <span>
#include <vector>

namespace rotkv::fast {

/// multiply(products) of a call, as one product whose rows lie in its tensors.
template <class Multiply>
void of_rows(const MatmulArgs& args, const Multiply& multiply) {
    std::vector<const float*> x;
    std::vector<float*> y;
    for (int64_t t = 0; t < args.src.n[2]; ++t) {
        x.push_back(args.src.row<const float>(t));
        y.push_back(args.dst.row<float>(t));
    }
    const RowsProduct product{args.weight, x, y};
    multiply(std::span<const RowsProduct>(&product, 1));
}

/// Rows of a task, a multiple of `together`: as many as are worth taking a task for, and as few as
/// leave something for everybody.
inline int64_t strip_rows(const TensorView& weight, int64_t together) {
    constexpr int64_t elements = 1 << 14;
    const int64_t least = elements / std::max<int64_t>(1, weight.n[3]);
    return (std::max(weight.n[2] / 256, least) / together + 1) * together;
}

/// visit(product, first, end) for every strip of rows_of(weight) rows of every product, shared out.
template <class RowsOf, class Visit>
void for_each_strip_of(std::span<const RowsProduct> products, const RowsOf& rows_of,
                       const Visit& visit) {
    std::vector<int64_t> rows, begin{0};  // of a strip; the number of a product's first strip
    for (const RowsProduct& product : products) {
        rows.push_back(rows_of(product.weight));
        begin.push_back(begin.back() + (product.weight.n[2] + rows.back() - 1) / rows.back());
    }
    share(begin.back(), [&](int64_t task) {
        const auto after = std::upper_bound(begin.begin(), begin.end(), task);
        const size_t i = size_t(after - begin.begin()) - 1;
        const int64_t first = (task - begin[i]) * rows[i];
        visit(i, first, std::min(products[i].weight.n[2], first + rows[i]));
    });
}
/// The same, where strips begin as the weights alone say.
template <class Visit>
void for_each_strip(std::span<const RowsProduct> products, int64_t together, const Visit& visit) {
    const auto rows_of = [&](const TensorView& weight) { return strip_rows(weight, together); };
    for_each_strip_of(products, rows_of, visit);
}

}  // namespace rotkv::fast
