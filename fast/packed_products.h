#pragma once
// Products with weights that stay packed in memory: each row is expanded on its way into the
// caches, and meets its tokens there. Which way is the fastest depends on how many they are.
// Docs: docs/performance.md

#include "fast/matvec.h"

#include <span>

namespace rotkv::fast {

/// Up to here matvec expands blocks into registers, for four tokens at a time.
inline constexpr int64_t k_matvec_tokens = 4;
/// From here on an expanded panel and sgemm are faster than strips.
inline constexpr int64_t k_strip_tokens = 64;

/// Whether multiply_tiles() has a faster way than multiply_strips(): the processor multiplies tiles
/// of bf16 (AMX), this was compiled for it, and the system allows it.
bool has_tiles();
bool tiles_are_allowed();  ///< has_tiles() of a thread without WithoutTiles. packed_tiles.cpp

/// Whether tiles are the fastest way for so many tokens: where has_tiles(), from 13 on, or from 8
/// on if the weight's codes are one term each, which cost less to make. packed_tiles.cpp
bool tiles_are_fastest(DType type, int64_t tokens);

/// While it lives, the calling thread has none: so a machine that has them shows what others do.
class WithoutTiles {
  public:
    WithoutTiles();
    ~WithoutTiles();
    WithoutTiles(const WithoutTiles&) = delete;
    WithoutTiles& operator=(const WithoutTiles&) = delete;
};

/// y[t][o] = sum_i w[o, i] x[t][i], in whichever way is the fastest for a product's tokens. The
/// number of threads changes no bit.
/// Cost: expands a weight once for 64 tokens. Error: the table's bound for matmul, (4/3 sqrt(in) +
/// 4) 2^-24 sum_i |w_i x_i|.
void multiply_packed(std::span<const RowsProduct> products);
void multiply_packed(const MatmulArgs& args);

/// Each row expanded to f32, in strips of four. packed_strips.cpp
void multiply_strips(std::span<const RowsProduct> products);
void multiply_strips(const MatmulArgs& args);
/// Rows first .. end - 1 of the weight, by one thread; first is a multiple of 4.
void multiply_expanded(const RowsProduct& product, int64_t first, int64_t end);

/// Each row as bf16, three terms of a weight or its code, where has_tiles(). packed_tiles.cpp
void multiply_tiles(std::span<const RowsProduct> products);
void multiply_tiles(const MatmulArgs& args);

/// Panels of the weight, expanded to f32, and dnnl_sgemm. matmul.cpp
void multiply_panels(const MatmulArgs& args);

bool takes_f32(const MatmulArgs& args);    ///< of no asked-for rounding
bool takes_tiles(const MatmulArgs& args);  ///< the same, where has_tiles()

/// A product by each way there is.
inline constexpr MatvecVersion k_products_ladder[] = {
    {"1_panels", takes_f32, multiply_panels},
    {"2_registers", takes_f32, matvec},
    {"3_strips", takes_f32, multiply_strips},
    {"4_tiles", takes_tiles, multiply_tiles},
};

}  // namespace rotkv::fast
