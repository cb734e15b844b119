#include "fast/joined.h"

#include "fast/kernels.h"
#include "fast/packed_products.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

namespace rotkv::fast {
namespace {

// More tokens have work enough to share out, and would wait long for each other's results.
constexpr int64_t k_joined_tokens = 64;
// Experts that one token has chosen: where there are more, each has its own round.
constexpr int64_t k_joined_experts = 12;
// Pairs of rows that are looked at one by one.
constexpr int64_t k_most_pairs = 144;

// Rows of two matrices that are equally far apart, as columns of one buffer have them: is each of b
// between two of a?
bool rows_alternate(const TensorView& a, const TensorView& b) {
    const int64_t step = a.stride[2];
    if (a.rows() != a.n[2] || b.rows() != b.n[2] || step != b.stride[2] || step <= 0) return false;
    // As numbers: pointers into two buffers have no difference.
    const auto address = [](const TensorView& x) { return reinterpret_cast<intptr_t>(x.data); };
    const int64_t distance = (address(b) - address(a)) % step;
    const int64_t first = distance < 0 ? distance + step : distance;  // of b, behind a row of a
    return first >= row_bytes(a.type, a.n[3]) && first + row_bytes(b.type, b.n[3]) <= step;
}

bool rows_apart(const TensorView& a, const TensorView& b) {
    const int64_t a_bytes = row_bytes(a.type, a.n[3]), b_bytes = row_bytes(b.type, b.n[3]);
    for (int64_t i = 0; i < a.rows(); ++i) {
        const std::byte* x = row_number<std::byte>(a, i);
        for (int64_t j = 0; j < b.rows(); ++j) {
            const std::byte* y = row_number<std::byte>(b, j);
            if (x < y + b_bytes && y < x + a_bytes) return false;
        }
    }
    return true;
}

// Do two views share no byte? Of gate and up, columns of one buffer, rows alternate.
bool apart(const TensorView& a, const TensorView& b) {
    if (a.empty() || b.empty()) return true;
    if (a.data + span_bytes(a) <= b.data || b.data + span_bytes(b) <= a.data) return true;
    if (rows_alternate(a, b)) return true;
    return a.rows() * b.rows() <= k_most_pairs && rows_apart(a, b);
}

// A product of some tokens with a weight, or of one with those of the experts that it chose.
struct Product {
    TensorView dst, weight, src, id, bias;

    static std::vector<Product> of(const Call& call) {  // one or none
        if (const MatmulArgs* args = std::get_if<MatmulArgs>(&call)) {
            const int64_t tokens = args->src.n[2];
            const bool joins =
                tokens <= k_few_tokens || (tokens <= k_joined_tokens && takes_tiles(*args));
            if (joins && !args->dst.empty()) return {{args->dst, args->weight, args->src, {}, {}}};
        }
        if (const ExpertMatmulArgs* args = std::get_if<ExpertMatmulArgs>(&call)) {
            const bool few = args->dst.n[1] == 1 && args->dst.n[2] <= k_joined_experts;
            if (few && !args->dst.empty())
                return {{args->dst, args->weight, args->src, args->id, args->bias}};
        }
        return {};
    }

    bool has_one_token() const { return !id.empty() || dst.n[2] == 1; }
    bool unread_by(const Product& other) const {
        return apart(dst, other.weight) && apart(dst, other.src) && apart(dst, other.id) &&
               apart(dst, other.bias);
    }
    bool independent_of(const Product& other) const {
        return apart(dst, other.dst) && unread_by(other) && other.unread_by(*this);
    }
};

std::vector<Product> products_of(std::span<const Call> calls) {
    std::vector<Product> products;
    for (const Call& call : calls) {
        for (const Product& product : Product::of(call)) products.push_back(product);
    }
    return products;
}

// Are the calls two products of one token, of equally many rows, and this act_mul of them, over the
// first?
bool gates(const ActMulArgs& act, std::span<const Call> calls) {
    const std::vector<Product> products = products_of(calls);
    if (calls.size() != 2 || products.size() != 2) return false;
    const Product &gate = products[0], &up = products[1];
    return gate.has_one_token() && act.dst == gate.dst && act.gate == gate.dst &&
           act.up == up.dst && gate.bias.empty() && up.bias.empty() && gate.id == up.id &&
           gate.weight.n[2] == up.weight.n[2];
}

// The same products, each with one weight.
class Rows {
  public:
    void add(const Product& product) {
        if (product.id.empty()) return add(product, product.weight, 0, product.dst.n[2]);
        for (int64_t a = 0; a < product.dst.n[2]; ++a) {
            TensorView weight = product.weight;
            weight.data += ints(product.id, 0)[a] * weight.stride[1];
            weight.n[1] = 1;
            add(product, weight, a, 1);
        }
    }
    std::vector<RowsProduct> list() const {
        std::vector<RowsProduct> list;
        size_t first = 0;
        for (size_t i = 0; i < weights_.size(); first += counts_[i++]) {
            list.push_back({weights_[i], std::span(x_).subspan(first, counts_[i]),
                            std::span(y_).subspan(first, counts_[i])});
        }
        return list;
    }

  private:
    void add(const Product& product, const TensorView& weight, int64_t first, int64_t count) {
        weights_.push_back(weight);
        counts_.push_back(size_t(count));
        for (int64_t t = first; t < first + count; ++t) {
            x_.push_back(product.src.row<const float>(t));
            y_.push_back(product.dst.row<float>(t));
        }
    }

    std::vector<TensorView> weights_;
    std::vector<size_t> counts_;  // of rows of x
    std::vector<const float*> x_;
    std::vector<float*> y_;
};

}  // namespace

bool JoinedProducts::keep(const Call& call) {
    const bool complete = !calls_.empty() && std::holds_alternative<ActMulArgs>(calls_.back());
    if (complete) return false;
    if (const ActMulArgs* act = std::get_if<ActMulArgs>(&call)) {
        if (!gates(*act, calls_)) return false;
    } else {
        const std::vector<Product> next = Product::of(call);
        if (next.empty()) return false;
        const std::vector<Product> others = products_of(calls_);
        const auto joins = [&](const Product& other) { return next[0].independent_of(other); };
        if (!std::all_of(others.begin(), others.end(), joins)) return false;
    }
    calls_.push_back(call);
    return true;
}

void JoinedProducts::run() {
    const std::vector<Call> calls = std::exchange(calls_, {});
    if (calls.empty()) return;
    Rows rows;
    for (const Product& product : products_of(calls)) rows.add(product);
    const std::vector<RowsProduct> products = rows.list();
    if (const ActMulArgs* act = std::get_if<ActMulArgs>(&calls.back())) {
        return matvec_gated(products, act->activation);
    }
    multiply_packed(products);
    for (const Call& call : calls) {
        const ExpertMatmulArgs* args = std::get_if<ExpertMatmulArgs>(&call);
        if (args != nullptr && !args->bias.empty()) add_expert_bias(*args);
    }
}

}  // namespace rotkv::fast
