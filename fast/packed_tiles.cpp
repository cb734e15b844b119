// Products with a weight where the processor multiplies tiles of bf16 (AMX): 16 x 32 by 32 x 16
// numbers in the time of sixteen multiply-adds of vectors. Activations are sums of three bf16 terms
// (bf16_terms.h). So are weights (term_strip.h), and six of the nine products are computed:
//
//   w x ~ low high + middle middle + high low + middle high + high middle + high high
//
// The other three are below 2^-21 |w x| together, 8 u, and 2 u on average: bits are cut off, so
// that they have the sign of w x. Codes of blocks with an f16 scale are one term each, and three
// products are all (code_strip.h). Tiles add in f32, to nearest, 16 products at a time. What lies
// outside f32's normal numbers they take for 0. So all results of a token with values that terms
// would not hold are computed once more, by multiply_expanded(); so are a token's with 32 rows of
// which one result is no number, and everybody's with a strip that has a weight too small. Nobody
// reads what tiles have made of such a token. But it keeps its place among the others: how they are
// added depends on how many tokens there are, not on what they hold.
#include "fast/code_strip.h"
#include "fast/packed_products.h"
#include "fast/row_strips.h"
#include "fast/term_strip.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <span>
#include <vector>

#if ROTKV_AMX
#include <sys/syscall.h>
#include <unistd.h>

namespace rotkv::fast {
namespace {

constexpr int64_t k_strip_rows = 2 * k_tile;
constexpr int64_t k_least_of_codes = 8;  // tokens

bool has_codes(DType type) {
    return with_weight(type, []<DType of>() { return k_has_codes<of>; });
}

// Do three terms hold every value?
bool all_split(const Magnitudes& seen) { return !seen.below(k_least_x) && !seen.above(k_most_x); }

bool row_is_finite(const float* y, int64_t n) {
    Magnitudes seen;
    for (int64_t i = 0; i < n; i += k_lanes) seen.add(load_part(y + i, n - i));
    return !seen.above(std::numeric_limits<float>::max());
}

// Terms of up to 16 tokens' columns 32 block ..: [terms][pairs of columns][tokens][2], then their
// sums [tokens] in f32. Bit t: these are not the values of token t.
uint16_t split_tokens(uint16_t* to, std::span<const float* const> x, int64_t n, int64_t block,
                      const PairOrder& order) {
    __m512i of[k_terms][k_tile] = {};
    Vec both[k_tile] = {};
    Magnitudes seen;
    const int64_t at = block * k_block, left = n - at;
    for (size_t t = 0; t < x.size(); ++t) {
        const Vec second =
            left > k_lanes ? load_part(x[t] + at + k_lanes, left - k_lanes) : Vec(0.0f);
        const Vec first = load_part(x[t] + at, left);
        const Terms terms = split_terms(first, second);
        seen.add(first);
        seen.add(second);
        both[t] = first + second;
        for (int64_t i = 0; i < k_terms; ++i) of[i][t] = terms.of[i];
    }
    for (int64_t i = 0; i < k_terms; ++i) {
        transpose_16(of[i]);
        for (int64_t p = 0; p < k_tile; ++p) {
            _mm512_store_si512(to + i * k_tile_terms + p * k_block, of[i][order[size_t(p)]]);
        }
    }
    store(reinterpret_cast<float*>(to + k_block_terms), sum_each(both));
    if (all_split(seen)) return 0;
    uint32_t odd = 0;
    for (size_t t = 0; t < x.size(); ++t) {
        Magnitudes of_token;
        of_token.add(load_part(x[t] + at, left));
        if (left > k_lanes) of_token.add(load_part(x[t] + at + k_lanes, left - k_lanes));
        if (!all_split(of_token)) odd |= 1u << t;
    }
    return uint16_t(odd);
}

// The first product with the terms of product i: it reads the same tokens, as q, k and v do, and in
// the same order of pairs.
size_t first_with_terms_of(std::span<const RowsProduct> products, size_t i) {
    const RowsProduct& product = products[i];
    const auto has_them = [&](const RowsProduct& other) {
        return other.weight.n[3] == product.weight.n[3] &&
               pair_order(other.weight.type) == pair_order(product.weight.type) &&
               std::ranges::equal(other.x, product.x);
    };
    return size_t(std::find_if(products.begin(), products.end(), has_them) - products.begin());
}

// Products of a pass, and their tokens' terms.
struct Pass {
    std::vector<RowsProduct> products;
    std::vector<const uint16_t*> x;
    std::vector<std::vector<bool>> odd;  // [products][tokens, or none]: terms are not their values

    // Groups first .. first + count - 1 of every product that has so many.
    Pass(std::span<const RowsProduct> all, int64_t first, int64_t count) {
        const size_t from = size_t(first * k_tile), most = size_t(count * k_tile);
        for (const RowsProduct& product : all) {
            if (product.x.size() <= from) continue;
            const size_t tokens = std::min(most, product.x.size() - from);
            products.push_back(
                {product.weight, product.x.subspan(from, tokens), product.y.subspan(from, tokens)});
        }
        make_terms();
    }

    static int64_t blocks_of(const RowsProduct& product) {
        return (product.weight.n[3] + k_block - 1) / k_block;
    }

  private:
    void make_terms() {
        struct Task {
            size_t product;
            int64_t first, block;  // token
            uint16_t* to;
            uint16_t odd;  // of its tokens
        };
        std::vector<Task> tasks;
        std::vector<size_t> of;  // whose terms are a product's
        for (size_t i = 0; i < products.size(); ++i) of.push_back(first_with_terms_of(products, i));
        int64_t terms = 0;
        const auto for_each_task = [&](const auto& visit) {
            for (size_t i = 0; i < products.size(); ++i) {
                const int64_t tokens = int64_t(products[i].x.size());
                if (of[i] < i) continue;
                for (int64_t t = 0; t < tokens; t += k_tile) visit(i, t, blocks_of(products[i]));
            }
        };
        for_each_task([&](size_t, int64_t, int64_t blocks) { terms += blocks * k_x_block; });
        thread_local Workspace space;  // of the thread that opens the round
        uint16_t* to = reserve_terms(space, terms);
        x.resize(products.size());
        for_each_task([&](size_t i, int64_t t, int64_t blocks) {
            if (t == 0) x[i] = to;
            for (int64_t b = 0; b < blocks; ++b, to += k_x_block) tasks.push_back({i, t, b, to, 0});
        });
        share(int64_t(tasks.size()), [&](int64_t i) {
            Task& task = tasks[size_t(i)];
            const RowsProduct& product = products[task.product];
            const size_t t = size_t(task.first);
            const size_t tokens = std::min(size_t(k_tile), product.x.size() - t);
            const uint16_t found =
                split_tokens(task.to, product.x.subspan(t, tokens), product.weight.n[3], task.block,
                             pair_order(product.weight.type));
            if (found != 0) task.odd = found;  // seldom: tasks of other threads lie beside it
        });
        odd.resize(products.size());
        for (const Task& task : tasks) {
            if (task.odd == 0) continue;
            std::vector<bool>& marks = odd[task.product];
            marks.resize(products[task.product].x.size());
            for (size_t t = 0; t < size_t(k_tile); ++t) {
                if (task.odd >> t & 1) marks[size_t(task.first) + t] = true;
            }
        }
        for (size_t i = 0; i < products.size(); ++i) {
            x[i] = x[of[i]];
            odd[i] = odd[of[i]];
        }
    }
};

// Once more: results of odd tokens, those that are no numbers, and with them those of the same few
// rows, whoever has multiplied how many; where nothing is right, all.
void multiply_again(const RowsProduct& product, const std::vector<bool>& odd, int64_t first,
                    int64_t end, bool right) {
    std::vector<const float*> again;
    std::vector<float*> y;
    for (size_t t = 0; t < product.x.size(); ++t) {
        const bool splits = odd.empty() || !odd[t];
        if (right && splits && row_is_finite(product.y[t] + first, end - first)) continue;
        again.push_back(product.x[t]);
        y.push_back(product.y[t]);
    }
    if (!y.empty()) multiply_expanded({product.weight, again, y}, first, end);
}

// Rows first .. end - 1 of product i.
void multiply_strip(const Pass& pass, size_t i, int64_t first, int64_t end) {
    const RowsProduct& product = pass.products[i];
    const uint16_t* const x = pass.x[i];
    const int64_t tokens = int64_t(product.x.size()), most = k_most_groups * k_tile;
    const int64_t of_group = Pass::blocks_of(product) * k_x_block;
    const TileShapes shapes;
    _tile_loadconfig(&shapes);
    zero_sums();
    Results all;
    for (int64_t t = 0; t < tokens; t += most) {
        const size_t count = size_t(std::min(most, tokens - t));
        const Tokens some{x + t / k_tile * of_group, of_group, product.y.subspan(size_t(t), count)};
        const Results of_some = with_weight(product.weight.type, [&]<DType type>() {
            if constexpr (k_has_codes<type>) {
                return CodeStrip<type>(product.weight, some, first, end).multiply();
            } else if (some.groups() > 2) {
                return TermStrip<type, 1>(product.weight, some, first, end).multiply();
            } else {
                return TermStrip<type, 2>(product.weight, some, first, end).multiply();
            }
        });
        all.right &= of_some.right;
        all.finite &= of_some.finite;
    }
    _tile_release();
    if (all.right && all.finite && pass.odd[i].empty()) return;
    for (int64_t row = first; row < end; row += k_strip_rows) {
        multiply_again(product, pass.odd[i], row, std::min(end, row + k_strip_rows), all.right);
    }
}

// Rows of a task. Of codes as many as are worth beginning anew, and few enough that every thread
// has some; of terms as the weight alone says, since a value too small for them is the whole
// strip's.
int64_t rows_of_task(std::span<const RowsProduct> products, const TensorView& weight) {
    constexpr int64_t most = 1 << 16;  // elements
    if (!has_codes(weight.type)) return strip_rows(weight, k_strip_rows);
    int64_t strips = 0;
    for (const RowsProduct& product : products) strips += product.weight.n[2] / k_strip_rows;
    const int64_t for_all = strips / (2 * omp_get_max_threads());
    const int64_t worth = most / (std::max<int64_t>(1, weight.n[3]) * k_strip_rows);
    return std::clamp<int64_t>(for_all, 1, std::max<int64_t>(1, worth)) * k_strip_rows;
}

}  // namespace

bool tiles_are_allowed() {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool allowed = syscall(SYS_arch_prctl, request, tile_data) == 0;
    return allowed;
}

bool tiles_are_fastest(DType type, int64_t tokens) {
    return has_tiles() &&
           (tokens > k_few_tokens || (tokens >= k_least_of_codes && has_codes(type)));
}

void multiply_tiles(std::span<const RowsProduct> products) {
    constexpr int64_t terms = 1 << 19;  // of x: what an L2 cache holds, beside others
    int64_t of_group = 1, groups = 0;
    for (const RowsProduct& product : products) {
        of_group = std::max(of_group, Pass::blocks_of(product) * k_x_block);
        groups = std::max(groups, (int64_t(product.x.size()) + k_tile - 1) / k_tile);
    }
    const int64_t most = std::max<int64_t>(1, terms / of_group / k_most_groups) * k_most_groups;
    for (int64_t first = 0; first < groups; first += most) {
        const Pass pass(products, first, most);
        const auto rows_of = [&](const TensorView& weight) {
            return rows_of_task(pass.products, weight);
        };
        for_each_strip_of(pass.products, rows_of, [&](size_t i, int64_t begin, int64_t end) {
            multiply_strip(pass, i, begin, end);
        });
    }
}

}  // namespace rotkv::fast

#else

namespace rotkv::fast {

bool tiles_are_allowed() { return false; }
bool tiles_are_fastest(DType, int64_t) { return false; }
void multiply_tiles(std::span<const RowsProduct>) { std::abort(); }  // has_tiles() is asked first

}  // namespace rotkv::fast

#endif
