#include "tests/fusion_lists.h"

namespace rotkv::test {
namespace {

// Where tensors lie, in floats: heads, other heads, the cache's K and V.
constexpr int64_t k_y = 40000, k_z = 60000, k_w = 100000, k_v = 300000;

// Heads of d, of `tokens`, turned and stored as `type`.
struct Store {
    TensorView q, k, v, k_cache, v_cache;
    RopeArgs turn_q, turn_k;
    KvStoreArgs store;

    Store(const Memory& m, int64_t tokens, int64_t d, DType type, RopePairs pairs,
          const Rotation& rotation)
        : q(m.heads(k_y, tokens, 3, d, 7 * d)),
          k(m.heads(k_y + 3 * d, tokens, 2, d, 7 * d)),
          v(m.heads(k_y + 5 * d, tokens, 2, d, 7 * d)),
          k_cache(cache(m, k_w, type, d)),
          v_cache(cache(m, k_v, type, d)),
          turn_q{.dst = q, .src = q, .table = m.table(), .row = m.row(tokens), .pairs = pairs},
          turn_k{.dst = k, .src = k, .table = m.table(), .row = m.row(tokens), .pairs = pairs},
          store{.k_cache = k_cache,
                .v_cache = v_cache,
                .k = k,
                .v = v,
                .stream = m.row(tokens),
                .cell = m.row(tokens),
                .k_rotation = rotation,
                .v_rotation = rotation} {
        store.cell.data += 2 * sizeof(int32_t);  // pairs of stream and cell are ten different ones
    }
    // Cell 0 of the first two tokens' streams; the others' are stored nowhere.
    void into_two_cells(const Memory& m) {
        store.cell = m.row(k.n[1]);
        store.cell.data += (Memory::no_cell - 2) * int64_t(sizeof(int32_t));
    }
    static TensorView cache(const Memory& m, int64_t first, DType type, int64_t d) {
        TensorView view = m.all.view(type, {6, 6, 2, d});
        view.data += first * int64_t(sizeof(float));
        return view;
    }
};

std::vector<List> turned_and_stored(const Memory& m, DType type, const Rotation& rotation) {
    std::vector<List> lists;
    for (const RopePairs pairs : {RopePairs::norm, RopePairs::neox}) {
        for (const int64_t d : {32, 64, 128}) {
            const Store some(m, 3, d, type, pairs, rotation), one(m, 1, d, type, pairs, rotation);
            const Store more(m, 9, d, type, pairs, rotation);
            lists.push_back({"q and k, stored", {some.turn_q, some.turn_k, some.store}, {3}});
            lists.push_back({"nine q and k, stored", {more.turn_q, more.turn_k, more.store}, {3}});
            lists.push_back({"one token's q and k", {one.turn_q, one.turn_k, one.store}, {3}});
            lists.push_back({"k alone, stored", {some.turn_k, some.store}, {2}});
        }
    }
    return lists;
}

std::vector<List> around_stores(const Memory& m) {
    const Store s(m, 3, 64, DType::q8_0, RopePairs::neox, {});
    Store many(m, 64, 64, DType::q8_0, RopePairs::neox, {});
    Store too_many(m, 65, 64, DType::q8_0, RopePairs::neox, {});
    for (Store* store : {&many, &too_many}) store->into_two_cells(m);
    const Store odd(m, 3, 96, DType::q8_0, RopePairs::neox, {});
    RopeArgs from_elsewhere = s.turn_k, shifted = s.turn_k, into_v = s.turn_q;
    from_elsewhere.src = m.view(k_z, {3, 2, 64});
    shifted.src.data -= 4 * sizeof(float);
    into_v.dst = into_v.src = s.v;
    RopeArgs into_k = s.turn_q, into_v_cells = s.turn_q;
    into_k.src = into_v_cells.src = m.view(k_z, {3, 3, 64});
    into_k.dst = m.view(k_w, {3, 3, 64});
    into_v_cells.dst = m.view(k_v, {3, 3, 64});
    RopeArgs from_k = s.turn_k, from_v_cells = s.turn_k;
    from_k.src = m.view(k_w, {3, 2, 64});
    from_v_cells.src = m.view(k_v, {3, 2, 64});
    KvStoreArgs of_others = s.store, over_q = s.store;
    of_others.k = m.view(k_z, {3, 2, 64});
    over_q.k_cache.data = s.q.data;
    return {
        {"k turned from elsewhere, stored", {s.turn_q, from_elsewhere, s.store}, {3}},
        {"k turned, then q, stored", {s.turn_k, s.turn_q, s.store}, {2, 1}},
        {"cells over queries", {s.turn_q, s.turn_k, over_q}, {2, 1}},
        {"queries turned into K's cells", {into_k, s.turn_k, s.store}, {2, 1}},
        {"queries turned into V's cells", {into_v_cells, s.turn_k, s.store}, {2, 1}},
        {"keys turned from K's cells", {from_k, s.store}, {1, 1}},
        {"keys turned from V's cells", {from_v_cells, s.store}, {1, 1}},
        {"others are stored", {s.turn_q, s.turn_k, of_others}, {2, 1}},
        {"what is turned is V", {into_v, s.turn_k, s.store}, {2, 1}},
        {"k turned onto itself, a little further", {shifted, s.store}, {1, 1}},
        {"many tokens stored", {many.turn_q, many.turn_k, many.store}, {3}},
        {"more stored", {too_many.turn_q, too_many.turn_k, too_many.store}, {2, 1}},
        {"rows of three pieces", {odd.turn_q, odd.turn_k, odd.store}, {2, 1}},
    };
}

// A norm before products of its row, and what must not be joined to it.
std::vector<List> normed(const Memory& m, int64_t d) {
    const TensorView x = m.view(k_x, {1, d}), y = m.view(k_x + 2000, {1, d}), g = m.view(k_w, {d});
    const TensorView two = m.view(k_x, {2, d}), of_two = m.view(k_x + 4000, {2, d});
    const TensorView w = m.view(k_w + 2000, {97, d}), other = m.view(k_v, {97, d});
    const TensorView gate = m.view(k_y, {1, 97}), up = m.view(k_y + 97, {1, 97});
    const TensorView third = m.view(k_z, {1, 97}), of_x = m.view(k_x + d - 1, {1, 97});
    const TensorView of_g = m.view(k_w + d - 97, {1, 97}), of_y = m.view(k_x + 2000, {97, d});
    const size_t all = d <= 1024 && d % 4 == 0 ? 1 : 0;  // or none
    const auto launches = [&](size_t products) {
        return all == 1 ? std::vector<size_t>{1 + products} : std::vector<size_t>{1, products};
    };
    std::vector<List> all_lists = {
        {"norm, one product", {norm(y, x, g), product(gate, w, y)}, launches(1)},
        {"norm, three products",
         {norm(y, x, g), product(gate, w, y), product(up, other, y), product(third, w, y)},
         launches(3)},
        {"norm, gate, up and silu",
         {norm(y, x, g), product(gate, w, y), product(up, other, y),
          ActMulArgs{.dst = gate, .gate = gate, .up = up}},
         launches(3)},
        {"norm without a weight, one product", {norm(y, x, {}), product(gate, w, y)}, launches(1)},
        {"norm of two tokens",
         {norm(of_two, two, g), product(m.view(k_y, {2, 97}), w, of_two)},
         {1, 1}},
        {"norm in place", {norm(x, x, g), product(gate, w, x)}, {1, 1}},
        {"norm, product of something else", {norm(y, x, g), product(gate, w, x)}, {1, 1}},
        {"norm, product over what was normed", {norm(y, x, g), product(of_x, w, y)}, {1, 1}},
        {"norm, product over its weight", {norm(y, x, g), product(of_g, w, y)}, {1, 1}},
        {"norm of what is its weight",
         {norm(y, x, m.view(k_x + 2000, {d})), product(gate, w, y)},
         {1, 1}},
        {"norm, product with what it makes",
         {norm(y, x, g), product(m.view(k_v + 200000, {1, 97}), of_y, y)},
         {1, 1}},
    };
    for (List& list : all_lists) list.is_exact = list.launches[0] == 1;
    return all_lists;
}

// A product before a sum with what it makes, of `tokens`, and what must not be joined to it.
std::vector<List> summed(const Memory& m, int64_t tokens) {
    const int64_t d = 576, in = 99;
    const TensorView x = m.view(k_x, {tokens, in}), y = m.view(k_y, {tokens, d});
    const TensorView residual = m.view(k_z, {tokens, d}), w = m.view(k_w, {d, in});
    const TensorView z = m.view(k_z + 10000, {tokens, d}), g = m.view(k_v, {d});
    const TensorView of_x = m.view(k_x, {tokens, d}), of_w = m.view(k_w + d * in - 1, {tokens, d});
    const TensorView w_z = m.view(k_v + 10000, {5, d});
    const TensorView result = m.view(k_y + 10000, {tokens, 5});
    TensorView bias = m.view(k_v, {tokens, d});
    bias.stride[2] = 0;
    const MatmulArgs to_y = product(y, w, x);
    const size_t both = tokens <= 8 ? 2 : 0;
    const std::vector<size_t> joined =
        both == 2 ? std::vector<size_t>{2} : std::vector<size_t>{1, 1};
    std::vector<size_t> with_norm{1, 2, 1};
    if (tokens == 1) with_norm = {2, 2};
    return {
        {"product, residual", {to_y, sum(residual, residual, y)}, joined},
        {"product, residual second", {to_y, sum(residual, y, residual)}, joined},
        {"product, a new sum", {to_y, sum(z, residual, y)}, joined},
        {"product, bias in place", {to_y, sum(y, y, bias)}, joined},
        {"product, twice it", {to_y, sum(z, y, y)}, {1, 1}},
        {"product, a sum of others", {to_y, sum(z, z, residual)}, {1, 1}},
        {"product, a sum over what it multiplied", {to_y, sum(of_x, residual, y)}, {1, 1}},
        {"product, a sum over its weight", {to_y, sum(of_w, residual, y)}, {1, 1}},
        {"product, residual, norm",
         {to_y, sum(residual, residual, y), norm(z, residual, g)},
         {1, 2}},
        {"product, residual, norm, product",
         {to_y, sum(residual, residual, y), norm(z, residual, g), product(result, w_z, z)},
         with_norm,
         tokens > 1},
    };
}

}  // namespace

std::vector<List> store_lists(const Memory& memory) {
    std::vector<List> result;
    const Rotation turned{.kind = Rotation::Kind::sylvester, .block = 32};
    for (const std::vector<List>& part :
         {turned_and_stored(memory, DType::q8_0, {}), turned_and_stored(memory, DType::f16, turned),
          turned_and_stored(memory, DType::iq4_nl, turned), around_stores(memory)}) {
        result.insert(result.end(), part.begin(), part.end());
    }
    return result;
}

std::vector<List> norm_lists(const Memory& memory) {
    std::vector<List> result;
    for (const int64_t channels : {96, 577, 1024, 1025}) {
        for (const List& list : normed(memory, channels)) result.push_back(list);
    }
    return result;
}

std::vector<List> sum_lists(const Memory& memory) {
    std::vector<List> result;
    for (const int64_t tokens : {1, 3, 8, 9}) {
        for (const List& list : summed(memory, tokens)) result.push_back(list);
    }
    return result;
}

}  // namespace rotkv::test
