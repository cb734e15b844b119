// Rules that join neighbouring calls, one a pattern, and the launch of what they found.
//   products side by side   of one src, for few tokens: q, k and v; gate and up.
//   ... and act_mul         of two such products, in place of the first: gate and up.
//   turns side by side      by the same rows of one table: q and k.
//   turns and kv_store      of the keys that were turned: q, k, and then k and v into the cache.
//   a norm and products     of what it makes: a short row of one token, before q, k and v, or gate,
//                           up and act_mul.
//   a product and a sum     with what it makes: o or down, then residual + output.
//   a sum and its norm      residual + output, then the next rms_norm: of rows that are longer, or
//                           of more tokens.
// Calls side by side run at the same time: none may write what another reads or writes.
#include "cuda/fusion.h"

#include "cuda/call_words.h"
#include "cuda/matmul_few.h"
#include "cuda/products.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define ROTKV_HAS_NVTX
#endif

#include <algorithm>
#include <initializer_list>
#include <vector>

namespace rotkv::cuda {
namespace {

using Calls = std::span<const Call>;

// Where a view's bytes lie: strips of equal length, repeated at equal distances.
struct Strips {
    uintptr_t begin, end;  // of all
    uintptr_t length, distance;

    explicit Strips(const TensorView& view)
        : begin(reinterpret_cast<uintptr_t>(view.data)),
          end(begin + uintptr_t(span_bytes(view))),
          length(end - begin),
          distance(0) {
        uintptr_t run = uintptr_t(row_bytes(view.type, view.n[3]));
        for (int i = 2; i >= 0; --i) {
            const uintptr_t stride = uintptr_t(view.stride[i]), n = uintptr_t(view.n[i]);
            if (n == 1 || stride == 0) continue;
            if (distance == 0 && stride == run) {
                run *= n;
            } else if (distance == 0 && stride > run) {
                distance = stride;
            } else if (distance == 0 || stride % distance != 0) {
                distance = 0;
                return;  // one strip, gaps included
            }
        }
        if (distance != 0) length = run;
    }
};

// Do two views share no byte? Columns of one activation do not, though their rows take turns.
bool apart(const TensorView& x, const TensorView& y) {
    if (x.empty() || y.empty()) return true;
    const Strips a(x), b(y);
    if (a.end <= b.begin || b.end <= a.begin) return true;
    if (a.distance == 0 || a.distance != b.distance) return false;
    const bool a_first = a.begin <= b.begin;
    const uintptr_t gap = a_first ? b.begin - a.begin : a.begin - b.begin;
    const uintptr_t first = a_first ? a.length : b.length, second = a_first ? b.length : a.length;
    return gap % a.distance >= first && gap % a.distance + second <= a.distance;
}

// Each row of one is that row of the other, or they share nothing.
bool in_place_or_apart(const TensorView& x, const TensorView& y) { return x == y || apart(x, y); }

struct Access {
    TensorView writes;
    std::vector<TensorView> reads;
};
Access access(const MatmulArgs& args) { return {args.dst, {args.weight, args.src}}; }
Access access(const RopeArgs& args) { return {args.dst, {args.src, args.table, args.row}}; }

bool unread(const TensorView& written, const std::vector<TensorView>& reads) {
    return std::all_of(reads.begin(), reads.end(),
                       [&](const TensorView& read) { return apart(written, read); });
}

bool independent(const Access& a, const Access& b) {
    return apart(a.writes, b.writes) && unread(a.writes, b.reads) && unread(b.writes, a.reads);
}

// What a launch of several has in common. A weight's type is a parameter of its kernel.
bool alike(const MatmulArgs& a, const MatmulArgs& b) {
    return a.src == b.src && a.weight.type == b.weight.type &&
           (a.src.n[2] <= k_matvec_tokens || (few_takes(a) && few_takes(b)));
}
bool alike(const RopeArgs& a, const RopeArgs& b) {
    return a.table == b.table && a.row == b.row && a.pairs == b.pairs && a.src.n[3] == b.src.n[3];
}

template <class Args>
const Args* call_at(Calls calls, std::size_t i) {
    return i < calls.size() ? std::get_if<Args>(&calls[i]) : nullptr;
}

// So many calls from the first on, at most `most`, are this operation, alike and independent.
template <class Args>
std::size_t side_by_side(Calls calls, std::size_t most) {
    std::size_t count = 0;
    for (; count < most; ++count) {
        const Args* next = call_at<Args>(calls, count);
        if (next == nullptr || next->dst.empty()) break;
        const auto joins = [&](const Call& call) {
            const Args& other = std::get<Args>(call);
            return alike(other, *next) && independent(access(other), access(*next));
        };
        if (!std::all_of(calls.begin(), calls.begin() + std::ptrdiff_t(count), joins)) break;
    }
    return count;
}

// Those of the calls that are this operation.
template <class Args>
std::vector<Args> list_of(Calls calls) {
    std::vector<Args> list;
    for (const Call& call : calls) {
        if (const Args* args = std::get_if<Args>(&call)) list.push_back(*args);
    }
    return list;
}

// Are the first two calls such products of equally many rows, and the third act_mul of them, over
// the first? A block of threads then has a row of each.
bool gated_products(Calls calls) {
    const ActMulArgs* act = call_at<ActMulArgs>(calls, 2);
    if (act == nullptr || side_by_side<MatmulArgs>(calls, 2) < 2) return false;
    const TensorView& gate = std::get<MatmulArgs>(calls[0]).dst;
    const TensorView& up = std::get<MatmulArgs>(calls[1]).dst;
    return act->dst == gate && act->gate == gate && act->up == up;
}

// Is the first call a sum, and the second the norm of it? A block of threads then makes a row of
// the sum and reads it again, while other rows are in other hands.
bool sum_and_norm(Calls calls) {
    const AddArgs* sum = call_at<AddArgs>(calls, 0);
    const RmsNormArgs* norm = call_at<RmsNormArgs>(calls, 1);
    if (sum == nullptr || norm == nullptr || norm->src != sum->dst || sum->dst.empty())
        return false;
    return in_place_or_apart(sum->dst, sum->a) && in_place_or_apart(sum->dst, sum->b) &&
           in_place_or_apart(norm->dst, sum->dst) && apart(norm->dst, sum->a) &&
           apart(norm->dst, sum->b) && apart(norm->weight, sum->dst);
}

// So many calls: products of one src, and act_mul of them where they are gate and up.
std::size_t products_of_one(Calls calls) {
    return gated_products(calls) ? 3 : side_by_side<MatmulArgs>(calls, k_most_products);
}

// So many calls: the norm of a row, and such products of what it makes; 0 if they are not that.
// One block of threads makes and stores the norm, while others multiply what it is made of.
std::size_t normed_products(Calls calls) {
    const RmsNormArgs* norm = call_at<RmsNormArgs>(calls, 0);
    if (norm == nullptr || norm->src.empty()) return 0;
    const std::size_t count = products_of_one(calls.subspan(1));
    if (count == 0 || std::get<MatmulArgs>(calls[1]).src != norm->dst) return 0;
    const std::vector<MatmulArgs> products = list_of<MatmulArgs>(calls.subspan(1, count));
    if (!matvec_takes(*norm, products)) return 0;
    if (!apart(norm->dst, norm->src) || !apart(norm->dst, norm->weight)) return 0;
    const auto joins = [&](const MatmulArgs& product) {
        return apart(product.dst, norm->src) && apart(product.dst, norm->weight) &&
               apart(product.weight, norm->dst);
    };
    return std::all_of(products.begin(), products.end(), joins) ? 1 + count : 0;
}

// Is the second call a sum with what the first, a product, makes? Who has a row's product adds.
bool product_and_sum(Calls calls) {
    const AddArgs* sum = call_at<AddArgs>(calls, 1);
    if (sum == nullptr || side_by_side<MatmulArgs>(calls, 1) == 0) return false;
    const MatmulArgs& product = std::get<MatmulArgs>(calls[0]);
    const bool second = sum->b == product.dst;
    const TensorView& other = second ? sum->a : sum->b;
    if (!alike(product, product) || (!second && sum->a != product.dst)) return false;
    if (sum->dst.n[3] != product.dst.n[3] || sum->dst.rows() != product.dst.rows()) return false;
    const bool joins = in_place_or_apart(sum->dst, product.dst) && apart(other, product.dst) &&
                       in_place_or_apart(sum->dst, other) && apart(sum->dst, product.src) &&
                       apart(sum->dst, product.weight);
    // A sum that its norm would be joined to gains nothing here, if the norm goes nowhere else.
    return joins && (!sum_and_norm(calls.subspan(1)) || normed_products(calls.subspan(2)) != 0);
}

// So many calls: turns, the last of which is of keys, and kv_store of those; 0 if they are not
// that. A block of threads turns rows of keys as it stores them, while others turn queries.
std::size_t turned_and_stored(Calls calls) {
    const std::size_t turns = side_by_side<RopeArgs>(calls, k_most_turns);
    const KvStoreArgs* store = call_at<KvStoreArgs>(calls, turns);
    if (turns == 0 || store == nullptr || !kv_store_turns(*store)) return 0;
    const RopeArgs& keys = std::get<RopeArgs>(calls[turns - 1]);
    if (keys.dst != store->k || !in_place_or_apart(keys.src, keys.dst)) return 0;
    const auto joins = [&](const Call& call) {
        const Access turn = access(std::get<RopeArgs>(call));
        return apart(turn.writes, store->v) && apart(turn.writes, store->k_cache) &&
               apart(turn.writes, store->v_cache) && unread(store->k_cache, turn.reads) &&
               unread(store->v_cache, turn.reads);
    };
    const bool join = std::all_of(calls.begin(), calls.begin() + std::ptrdiff_t(turns), joins);
    return join ? turns + 1 : 0;
}

// One call, or those joined to it: its operation's function.
struct Launch {
    Calls calls;
    const Workspace& workspace;
    Products& products;
    Stream stream = products.stream();

    void operator()(const MatmulArgs& args) const {
        if (calls.size() == 1) return matmul(args, products);
        multiply();
    }
    void multiply() const {
        const std::vector<MatmulArgs> list = list_of<MatmulArgs>(calls);
        matvec({.products = list,
                .act_mul = std::get_if<ActMulArgs>(&calls.back()),
                .norm = std::get_if<RmsNormArgs>(&calls.front()),
                .sum = std::get_if<AddArgs>(&calls.back())},
               stream);
    }
    void operator()(const RopeArgs&) const {
        const KvStoreArgs* store = std::get_if<KvStoreArgs>(&calls.back());
        const std::vector<RopeArgs> turns = list_of<RopeArgs>(calls);
        store != nullptr ? kv_store(*store, turns, stream) : rope(turns, stream);
    }
    void operator()(const KvStoreArgs& args) const { kv_store(args, {}, stream); }
    void operator()(const AddArgs& args) const {
        if (calls.size() == 1) return add(args, stream);
        add_rms_norm(args, std::get<RmsNormArgs>(calls[1]), stream);
    }
    void operator()(const HadamardArgs& args) const { hadamard(args, stream); }
    void operator()(const QuantizeArgs& args) const { quantize(args, stream); }
    void operator()(const DequantizeArgs& args) const { dequantize(args, stream); }
    void operator()(const RmsNormArgs& args) const {
        if (calls.size() == 1) return rms_norm(args, stream);
        multiply();
    }
    void operator()(const LayerNormArgs& args) const { layer_norm(args, stream); }
    void operator()(const ScaleArgs& args) const { scale(args, stream); }
    void operator()(const AttentionArgs& args) const { attention(args, workspace, stream); }
    void operator()(const KvShiftArgs& args) const { kv_shift(args, stream); }
    void operator()(const ConvStepArgs& args) const { conv_step(args, stream); }
    void operator()(const DeltaStepArgs& args) const { delta_step(args, stream); }
    void operator()(const ActMulArgs& args) const { act_mul(args, stream); }
    void operator()(const RouteArgs& args) const { route(args, stream); }
    void operator()(const ExpertMatmulArgs& args) const { expert_matmul(args, products); }
    void operator()(const ExpertSumArgs& args) const { expert_sum(args, stream); }
    void operator()(const EmbedArgs& args) const { embed(args, stream); }
    void operator()(const NllArgs& args) const { nll(args, products); }
    void operator()(const KldArgs& args) const { kld(args, products); }
    void operator()(const LogitsArgs& args) const { logits(args, products); }
    void operator()(const MergeArgs& args) const { merge(args, stream); }
    void operator()(const TurnArgs& args) const { turn(args, stream); }
};

// An operation's name over its launches, in a profiler's timeline; nothing where none looks on.
struct NamedRange {
#ifdef ROTKV_HAS_NVTX
    explicit NamedRange(const char* name) { nvtxRangePushA(name); }
    ~NamedRange() { nvtxRangePop(); }
#else
    explicit NamedRange(const char*) {}
#endif
    NamedRange(const NamedRange&) = delete;
    NamedRange& operator=(const NamedRange&) = delete;
};

// A refusal is this launch's, and says so. A fault may be that of any operation before.
void launch_joined(Calls calls, const Workspace& workspace, Products& products) {
    const NamedRange range(name_of(calls.front()));
    try {
        std::visit(Launch{calls, workspace, products}, calls.front());
    } catch (const Failure& failure) {
        if (failure.fault()) throw;
        const char* more = calls.size() > 1 ? " and what is joined to it" : "";
        throw Failure(words_of(calls.front()) + more + ": " + failure.reason(), false);
    }
}

}  // namespace

std::size_t joined(Calls calls) {
    if (sum_and_norm(calls) || product_and_sum(calls)) return 2;
    return std::max({normed_products(calls), products_of_one(calls), turned_and_stored(calls),
                     side_by_side<RopeArgs>(calls, k_most_turns), std::size_t(1)});
}

void launch(Calls calls, const Workspace& workspace, Products& products) {
    while (!calls.empty()) {
        const std::size_t count = joined(calls);
        launch_joined(calls.first(count), workspace, products);
        calls = calls.subspan(count);
    }
}

}  // namespace rotkv::cuda
