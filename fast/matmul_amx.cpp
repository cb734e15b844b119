#include "fast/bf16_terms.h"
#include "fast/matmul_strips.h"
#include "fast/row_blocks.h"
#include "fast/row_strips.h"
#include "fast/workspace.h"

#include <algorithm>

#if ROTKV_AMX
#include <sys/syscall.h>
#include <unistd.h>

namespace rotkv::fast {
namespace {

constexpr int64_t k_tile = 16;               // rows, or tokens, of a tile
constexpr int64_t k_tile_codes = k_tile * k_block;  // bf16 of a tile: 1 KB
constexpr int64_t k_block_codes = k_terms * k_tile_codes;

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

uint16_t* reserve_bf16(Workspace& space, int64_t count) {
    return reinterpret_cast<uint16_t*>(space.reserve((count + 1) / 2));
}

// Terms of up to 16 tokens' columns 32 block ..: [terms][pairs of columns][tokens][2]
void split_tokens(uint16_t* to, const float* const* x, int64_t tokens, int64_t n, int64_t block) {
    __m512i of[k_terms][k_tile] = {};
    const int64_t at = block * k_block, left = n - at;
    for (int64_t t = 0; t < tokens; ++t) {
        const Terms terms = split_terms(load_part(x[t] + at, std::max<int64_t>(0, left)),
                                        left > k_lanes ? load_part(x[t] + at + k_lanes, left - k_lanes) : Vec(0.0f));
        for (int64_t i = 0; i < k_terms; ++i) of[i][t] = terms.of[i];
    }
    for (int64_t i = 0; i < k_terms; ++i) {
        transpose_16(of[i]);
        for (int64_t p = 0; p < k_tile; ++p) {
            _mm512_store_si512(to + i * k_tile_codes + p * k_block, of[i][p]);
        }
    }
}

// Tiles 4 .. 6: the terms of 16 rows. 7: a term of 16 tokens. 0 .. 3: sums [rows][tokens].
void load_rows(const uint16_t* w) {
    _tile_loadd(4, w, 64);
    _tile_loadd(5, w + k_tile_codes, 64);
    _tile_loadd(6, w + 2 * k_tile_codes, 64);
}

// The six products of a group of tokens, small ones first. first, second: the sums that take them
// in turn, so that none waits for the one before.
#define ROTKV_MULTIPLY_GROUP(first, second, x)      \
    _tile_loadd(7, (x) + 2 * k_tile_codes, 64);     \
    _tile_dpbf16ps(first, 4, 7);                    \
    _tile_loadd(7, (x) + k_tile_codes, 64);         \
    _tile_dpbf16ps(second, 5, 7);                   \
    _tile_dpbf16ps(first, 4, 7);                    \
    _tile_loadd(7, x, 64);                          \
    _tile_dpbf16ps(second, 6, 7);                   \
    _tile_dpbf16ps(first, 5, 7);                    \
    _tile_dpbf16ps(second, 4, 7)

// A block of 32 columns: 16 rows and so many groups of 16 tokens, of_group codes apart.
using MultiplyBlock = void (*)(const uint16_t* w, const uint16_t* x, int64_t of_group);

void multiply_1(const uint16_t* w, const uint16_t* x, int64_t) {
    load_rows(w);
    _tile_loadd(7, x + 2 * k_tile_codes, 64);
    _tile_dpbf16ps(0, 4, 7);
    _tile_loadd(7, x + k_tile_codes, 64);
    _tile_dpbf16ps(1, 5, 7);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(7, x, 64);
    _tile_dpbf16ps(3, 4, 7);
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 5, 7);
}
void multiply_2(const uint16_t* w, const uint16_t* x, int64_t of_group) {
    load_rows(w);
    ROTKV_MULTIPLY_GROUP(0, 2, x);
    ROTKV_MULTIPLY_GROUP(1, 3, x + of_group);
}
void multiply_3(const uint16_t* w, const uint16_t* x, int64_t of_group) {
    load_rows(w);
    ROTKV_MULTIPLY_GROUP(0, 0, x);
    ROTKV_MULTIPLY_GROUP(1, 1, x + of_group);
    ROTKV_MULTIPLY_GROUP(2, 2, x + 2 * of_group);
}
void multiply_4(const uint16_t* w, const uint16_t* x, int64_t of_group) {
    load_rows(w);
    ROTKV_MULTIPLY_GROUP(0, 0, x);
    ROTKV_MULTIPLY_GROUP(1, 1, x + of_group);
    ROTKV_MULTIPLY_GROUP(2, 2, x + 2 * of_group);
    ROTKV_MULTIPLY_GROUP(3, 3, x + 3 * of_group);
}
constexpr MultiplyBlock k_multiply[] = {multiply_1, multiply_2, multiply_3, multiply_4};

void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// The sums of so many groups, [groups][rows][tokens].
void take_sums(float* sums, int64_t groups) {
    constexpr int64_t of_tile = k_tile * k_tile;
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + of_tile, 64);
    _tile_stored(2, sums + 2 * of_tile, 64);
    _tile_stored(3, sums + 3 * of_tile, 64);
    zero_sums();
    if (groups > 2) return;
    for (int64_t i = 0; i < 2 * of_tile; ++i) sums[i] += sums[i + 2 * of_tile];
    for (int64_t i = 0; i < of_tile && groups == 1; ++i) sums[i] += sums[i + of_tile];
}

// Up to 64 tokens.
struct Tokens {
    const RowsProduct* product;
    const uint16_t* x;  // [groups][blocks][terms][pairs of columns][k_tile][2]
    int64_t first, groups, of_group;
};

// y of 16 rows from `row` on, fewer at the end.
void put(const Tokens& tokens, const float* sums, int64_t row, int64_t rows) {
    const int64_t end = int64_t(tokens.product->x.size());
    for (int64_t g = 0; g < tokens.groups; ++g) {
        __m512i columns[k_tile];
        for (int64_t i = 0; i < k_tile; ++i) {
            columns[i] = _mm512_load_si512(sums + (g * k_tile + i) * k_tile);
        }
        transpose_16(columns);
        const int64_t first = tokens.first + g * k_tile, count = std::min(k_tile, end - first);
        for (int64_t t = 0; t < count; ++t) {
            float* const y = tokens.product->y[size_t(first + t)] + row;
            store_part(y, _mm512_castsi512_ps(columns[t]), rows);
        }
    }
}

// Rows first .. end - 1 of the weight. Terms of the next blocks are made while tiles of those
// before are multiplied: two units of the processor, which take turns in the program so that it
// sees work for both.
template <DType type>
void multiply_strip(const Tokens& tokens, int64_t first, int64_t end) {
    [[maybe_unused]] constexpr bool is_super = requires { Super<type>::k_shared; };
    constexpr int64_t k_count = is_super ? k_super_blocks : k_super_blocks / 2;  // blocks of a step
    const TensorView& weight = tokens.product->weight;
    const int64_t n = weight.n[3], blocks = (n + k_block - 1) / k_block;
    const int64_t steps = (blocks + k_count - 1) / k_count;  // of a tile of rows
    const int64_t all = (end - first + k_tile - 1) / k_tile * steps;
    const MultiplyBlock multiply = k_multiply[tokens.groups - 1];
    thread_local Workspace space;
    uint16_t* const w = reserve_bf16(space, 2 * k_count * k_block_codes);
    alignas(64) float sums[4 * k_tile * k_tile];
    const auto expand_row = [&](int64_t step, int64_t r) {
        const int64_t row = first + step / steps * k_tile + r;
        const int64_t block = step % steps * k_count, last = std::min(block + k_count, blocks);
        if (row >= end) return;
        uint16_t* const to = w + (step % 2 * k_count - block) * k_block_codes + r * k_block;
        const auto take = [&](int64_t b, const Vec* v) {
            const Terms terms = split_terms(v[0], v[1]);
            uint16_t* const at = to + b * k_block_codes;
            for (int64_t i = 0; i < k_terms; ++i) {
                _mm512_store_si512(at + i * k_tile_codes, terms.of[i]);
            }
        };
        for_each_block<type>(weight.row<const std::byte>(row), n, block, last, 2048, take);
    };
    for (int64_t step = 0; step <= all; ++step) {
        const int64_t before = step - 1, block = before % steps * k_count;
        for (int64_t i = 0; i < k_count; ++i) {
            for (int64_t r = i * k_tile / k_count; r < (i + 1) * k_tile / k_count; ++r) {
                if (step < all) expand_row(step, r);
            }
            if (step > 0 && block + i < blocks) {
                multiply(w + (before % 2 * k_count + i) * k_block_codes,
                         tokens.x + (block + i) * k_block_codes, tokens.of_group);
            }
        }
        if (step > 0 && step % steps == 0) {
            const int64_t row = first + (before / steps) * k_tile;
            take_sums(sums, tokens.groups);
            put(tokens, sums, row, std::min(k_tile, end - row));
        }
    }
}

}  // namespace

bool has_amx() {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    static const bool allowed = syscall(SYS_arch_prctl, request, tile_data) == 0;
    return allowed;
}

void matmul_amx(const RowsProduct& product) {
    constexpr int64_t most_groups = 4;
    const int64_t n = product.weight.n[3], blocks = (n + k_block - 1) / k_block;
    const int64_t tokens = int64_t(product.x.size()), groups = (tokens + k_tile - 1) / k_tile;
    thread_local Workspace x_space;
    uint16_t* const x = reserve_bf16(x_space, groups * blocks * k_block_codes);
    const int64_t of_group = blocks * k_block_codes;
    share(groups * blocks, [&](int64_t i) {
        const int64_t g = i / blocks, b = i % blocks;
        split_tokens(x + g * of_group + b * k_block_codes, product.x.data() + g * k_tile,
                     std::min(k_tile, tokens - g * k_tile), n, b);
    });
    for_each_strip({&product, 1}, k_tile, [&](size_t, int64_t first, int64_t end) {
        const TileShapes shapes;
        _tile_loadconfig(&shapes);
        zero_sums();
        for (int64_t g = 0; g < groups; g += most_groups) {
            const Tokens some{&product, x + g * of_group, g * k_tile,
                              std::min(most_groups, groups - g), of_group};
            with_weight(product.weight.type,
                        [&]<DType type>() { multiply_strip<type>(some, first, end); });
        }
        _tile_release();
    });
}

}  // namespace rotkv::fast

#endif
