#pragma once
// Products of tiles of bf16 terms in the processor's eight tile registers (AMX), each of 16 rows of
// 64 bytes. Registers are named by literals, hence so many lines.
// Docs: docs/performance.md

#include "fast/bf16_terms.h"
#include "ref/quant.h"

#if ROTKV_AMX

namespace rotkv::fast {

inline constexpr int64_t k_tile = 16;                      // rows, or tokens, of a tile
inline constexpr int64_t k_tile_terms = k_tile * k_block;  // bf16 of a tile: 1 KB
inline constexpr int64_t k_block_terms = k_terms * k_tile_terms;
inline constexpr int64_t k_x_block = k_block_terms + 2 * k_tile;  // and a float for each token
inline constexpr int64_t k_tile_sums = k_tile * k_tile;           // f32 of a tile of sums
inline constexpr int64_t k_most_groups = 4;                       // of 16 tokens, at a time

/// What the registers are set to.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A block of 32 columns with so many groups of 16 tokens, of_group terms apart, is added to tiles
// 0 .. 3: sums of [groups][tiles of rows]. One or two groups meet two tiles of rows, 4 and 5, and
// are 6 and 7; three or four meet one, whose terms are 4, 5 and 6, and come through 7.
using MultiplyBlock = void (*)(const uint16_t* w, const uint16_t* x, int64_t of_group);

inline constexpr int64_t height_for(int64_t groups) { return groups > 2 ? 1 : 2; }

inline void load_two(const uint16_t* w) {
    _tile_loadd(4, w, 64);
    _tile_loadd(5, w + k_tile_terms, 64);
}
// Sums 2 and 3 are of the same products as 0 and 1: so none waits for the one before.
inline void multiply_1(const uint16_t* w, const uint16_t* x, int64_t) {
    constexpr int64_t term = 2 * k_tile_terms;
    load_two(w + 2 * term);
    _tile_loadd(6, x, 64);
    _tile_dpbf16ps(0, 4, 6);  // low, high
    _tile_dpbf16ps(1, 5, 6);
    load_two(w + term);
    _tile_loadd(7, x + k_tile_terms, 64);
    _tile_dpbf16ps(2, 4, 7);  // middle, middle
    _tile_dpbf16ps(3, 5, 7);
    _tile_dpbf16ps(0, 4, 6);  // middle, high
    _tile_dpbf16ps(1, 5, 6);
    load_two(w);
    _tile_dpbf16ps(2, 4, 7);  // high, middle
    _tile_dpbf16ps(3, 5, 7);
    _tile_loadd(7, x + 2 * k_tile_terms, 64);
    _tile_dpbf16ps(0, 4, 6);  // high, high
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);  // high, low
    _tile_dpbf16ps(3, 5, 7);
}
inline void multiply_2(const uint16_t* w, const uint16_t* x, int64_t of_group) {
    constexpr int64_t term = 2 * k_tile_terms;
    const auto load_x = [&](int64_t i) {
        _tile_loadd(6, x + i * k_tile_terms, 64);
        _tile_loadd(7, x + of_group + i * k_tile_terms, 64);
    };
    const auto multiply = [] {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    };
    load_two(w + 2 * term);
    load_x(0);
    multiply();
    load_two(w + term);
    multiply();
    load_x(1);
    multiply();
    load_two(w);
    multiply();
    load_x(2);
    multiply();
    load_x(0);
    multiply();
}
#define ROTKV_MULTIPLY_GROUP(sums, x)           \
    _tile_loadd(7, (x) + 2 * k_tile_terms, 64); \
    _tile_dpbf16ps(sums, 4, 7);                 \
    _tile_loadd(7, (x) + k_tile_terms, 64);     \
    _tile_dpbf16ps(sums, 5, 7);                 \
    _tile_dpbf16ps(sums, 4, 7);                 \
    _tile_loadd(7, x, 64);                      \
    _tile_dpbf16ps(sums, 6, 7);                 \
    _tile_dpbf16ps(sums, 5, 7);                 \
    _tile_dpbf16ps(sums, 4, 7)

inline void load_terms(const uint16_t* w) {
    _tile_loadd(4, w, 64);
    _tile_loadd(5, w + k_tile_terms, 64);
    _tile_loadd(6, w + 2 * k_tile_terms, 64);
}
inline void multiply_3(const uint16_t* w, const uint16_t* x, int64_t of_group) {
    load_terms(w);
    ROTKV_MULTIPLY_GROUP(0, x);
    ROTKV_MULTIPLY_GROUP(1, x + of_group);
    ROTKV_MULTIPLY_GROUP(2, x + 2 * of_group);
}
inline void multiply_4(const uint16_t* w, const uint16_t* x, int64_t of_group) {
    load_terms(w);
    ROTKV_MULTIPLY_GROUP(0, x);
    ROTKV_MULTIPLY_GROUP(1, x + of_group);
    ROTKV_MULTIPLY_GROUP(2, x + 2 * of_group);
    ROTKV_MULTIPLY_GROUP(3, x + 3 * of_group);
}
#undef ROTKV_MULTIPLY_GROUP

// A block of codes of two tiles of rows with 16 tokens: its sums [two tiles][rows][tokens] are in
// tiles a and b in the end; those of the block before, in c and d, go to `sums` before between(1).
// between(i) is what else there is to do, in k_slots parts.
inline constexpr int64_t k_slots = 8;
#define ROTKV_MULTIPLY_CODES(a, b, c, d)      \
    _tile_loadd(4, w, 64);                    \
    _tile_loadd(6, x + 2 * k_tile_terms, 64); \
    _tile_zero(a);                            \
    _tile_dpbf16ps(a, 4, 6);                  \
    _tile_stored(c, sums, 64);                \
    between(0);                               \
    _tile_loadd(5, w + k_tile_terms, 64);     \
    _tile_zero(b);                            \
    _tile_dpbf16ps(b, 5, 6);                  \
    _tile_stored(d, sums + k_tile_sums, 64);  \
    between(1);                               \
    _tile_loadd(7, x + k_tile_terms, 64);     \
    between(2);                               \
    _tile_dpbf16ps(a, 4, 7);                  \
    between(3);                               \
    _tile_dpbf16ps(b, 5, 7);                  \
    between(4);                               \
    _tile_loadd(6, x, 64);                    \
    between(5);                               \
    _tile_dpbf16ps(a, 4, 6);                  \
    between(6);                               \
    _tile_dpbf16ps(b, 5, 6);                  \
    between(7)

template <int64_t parity, class Between>
[[gnu::always_inline]] inline void multiply_codes(float* sums, const uint16_t* w, const uint16_t* x,
                                                  const Between& between) {
    if constexpr (parity == 0) {
        ROTKV_MULTIPLY_CODES(0, 1, 2, 3);
    } else {
        ROTKV_MULTIPLY_CODES(2, 3, 0, 1);
    }
}
#undef ROTKV_MULTIPLY_CODES

/// The sums that a block of parity 1 has left.
inline void store_last_sums(float* sums) {
    _tile_stored(2, sums, 64);
    _tile_stored(3, sums + k_tile_sums, 64);
}

inline constexpr MultiplyBlock k_multiply[] = {multiply_1, multiply_2, multiply_3, multiply_4};

inline void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// [groups][tiles of rows][rows][tokens]; the tiles are 0 again.
inline void take_sums(float* sums, int64_t groups) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + k_tile_sums, 64);
    _tile_stored(2, sums + 2 * k_tile_sums, 64);
    _tile_stored(3, sums + 3 * k_tile_sums, 64);
    zero_sums();
    if (groups > 1) return;
    for (int64_t i = 0; i < 2 * k_tile_sums; ++i) sums[i] += sums[i + 2 * k_tile_sums];
}

}  // namespace rotkv::fast

#endif
