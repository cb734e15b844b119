#include "fast/packed_products.h"

#include "fast/row_strips.h"
#include "fast/threads.h"

#include <vector>

namespace rotkv::fast {
namespace {

thread_local int t_without_tiles = 0;

}  // namespace

WithoutTiles::WithoutTiles() { ++t_without_tiles; }
WithoutTiles::~WithoutTiles() { --t_without_tiles; }

bool has_tiles() { return t_without_tiles == 0 && tiles_are_allowed(); }

bool team_multiplies(int64_t tokens) { return tokens <= k_strip_tokens || has_tiles(); }

bool takes_f32(const MatmulArgs& args) { return args.precision == Precision::f32; }
bool takes_tiles(const MatmulArgs& args) { return takes_f32(args) && has_tiles(); }

void multiply_packed(std::span<const RowsProduct> products) {
    std::vector<RowsProduct> by_registers, by_strips, by_tiles;
    for (const RowsProduct& product : products) {
        const int64_t tokens = int64_t(product.x.size());
        if (tokens <= k_matvec_tokens) {
            by_registers.push_back(product);
        } else if (tiles_are_fastest(product.weight.type, tokens)) {
            by_tiles.push_back(product);
        } else {
            by_strips.push_back(product);
        }
    }
    if (!by_registers.empty()) matvec(by_registers);
    if (!by_strips.empty()) multiply_strips(by_strips);
    if (!by_tiles.empty()) multiply_tiles(by_tiles);
}

void multiply_packed(const MatmulArgs& args) {
    of_rows(args, [](std::span<const RowsProduct> products) { multiply_packed(products); });
}
void multiply_strips(const MatmulArgs& args) {
    of_rows(args, [](std::span<const RowsProduct> products) { multiply_strips(products); });
}
void multiply_tiles(const MatmulArgs& args) {
    of_rows(args, [](std::span<const RowsProduct> products) { multiply_tiles(products); });
}

}  // namespace rotkv::fast
