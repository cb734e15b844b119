#pragma once
// Products with a weight for some tens of tokens.
// Docs: docs/08-backends.md

#include "fast/matvec.h"

#include <span>

namespace rotkv::fast {

/// As matvec's, for several tokens each: y[t][o] = sum_i w[o, i] x[t][i], in one round of work.
/// Cost: expands the weight once. Error: below in * 2^-24 sum_i |w_i x_i|.
void matmul_strips(std::span<const RowsProduct> products);

}  // namespace rotkv::fast
namespace rotkv::fast { bool has_amx(); void matmul_amx(const RowsProduct& product); }
