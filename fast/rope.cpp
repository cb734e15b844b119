// RoPE in vectors. Beside ref, a row of the table is first laid out like the channels it turns:
//
//   norm   c0  c0  c1  c1 ..     neox   c0  c1 .. | c0  c1 ..     factors of the channel itself
//         -s0  s0 -s1  s1 ..           -s0 -s1 .. | s0  s1 ..     factors of its partner
//
// so that y_i = x_i c_i + x_partner s_i for every channel. x0 c - x1 s and x0 c + x1 (-s) are the
// same number: the result is exact. (Written as ref writes it, g++ 12 turns the norm loop into
// fused vfmaddsub when it vectorizes it, whatever -ffp-contract says.)
#include "fast/kernels.h"
#include "fast/simd.h"
#include "fast/workspace.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

// Partners are neighbours: an exchange inside the vector.
void turn_norm(float* y, const float* x, const float* c, const float* s, int64_t n_rot) {
    for (int64_t i = 0; i < n_rot; i += k_lanes) {
        const int64_t count = n_rot - i;
        const Vec v = load_part(x + i, count);
        const Vec own = v * load_part(c + i, count);
        store_part(y + i, own + exchange<1>(v) * load_part(s + i, count), count);
    }
}

// Partners are half of n_rot apart: two vectors turn together.
void turn_neox(float* y, const float* x, const float* c, const float* s, int64_t n_rot) {
    const int64_t half = n_rot / 2;
    for (int64_t i = 0; i < half; i += k_lanes) {
        const int64_t count = half - i;
        const Vec x0 = load_part(x + i, count), x1 = load_part(x + half + i, count);
        const Vec c0 = load_part(c + i, count), s1 = load_part(s + half + i, count);
        store_part(y + i, x0 * c0 + x1 * load_part(s + i, count), count);
        store_part(y + half + i, x1 * c0 + x0 * s1, count);
    }
}

}  // namespace

const float* rope_factors(const float* table, int64_t n_rot, RopePairs pairs) {
    thread_local Workspace space;
    float* const c = space.reserve(2 * n_rot);
    float* const s = c + n_rot;
    for (int64_t i = 0; i < n_rot / 2; ++i) {
        const int64_t first = pairs == RopePairs::norm ? 2 * i : i;
        const int64_t second = pairs == RopePairs::norm ? 2 * i + 1 : i + n_rot / 2;
        c[first] = c[second] = table[2 * i];
        s[first] = -table[2 * i + 1];
        s[second] = table[2 * i + 1];
    }
    return c;
}

void rope_row(float* y, const float* x, int64_t d, const float* factors, int64_t n_rot,
              RopePairs pairs) {
    const auto turn = pairs == RopePairs::norm ? turn_norm : turn_neox;
    turn(y, x, factors, factors + n_rot, n_rot);
    if (y != x) std::copy(x + n_rot, x + d, y + n_rot);
}

// One thread owns all heads of a token, so that its row of the table is laid out once.
void rope(const RopeArgs& args) {
    const int64_t tokens = args.src.n[1], heads = args.src.n[2], d = args.src.n[3];
    const int64_t n_rot = 2 * args.table.n[2];
    const int32_t* rows = args.row.row<const int32_t>(0);
    for_each_row(tokens, heads * d, [&](int64_t t) {
        const float* table = args.table.row<const float>(rows[t], 0);
        const float* factors = rope_factors(table, n_rot, args.pairs);
        for (int64_t h = 0; h < heads; ++h) {
            rope_row(args.dst.row<float>(t, h), args.src.row<const float>(t, h), d, factors, n_rot,
                     args.pairs);
        }
    });
}

}  // namespace rotkv::fast
