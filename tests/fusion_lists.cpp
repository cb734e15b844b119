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
            lists.push_back({"q and k, stored", {some.turn_q, some.turn_k, some.store}, {3}});
            lists.push_back({"one token's q and k", {one.turn_q, one.turn_k, one.store}, {3}});
            lists.push_back({"k alone, stored", {some.turn_k, some.store}, {2}});
        }
    }
    return lists;
}

std::vector<List> around_stores(const Memory& m) {
    const Store s(m, 3, 64, DType::q8_0, RopePairs::neox, {});
    const Store many(m, 9, 64, DType::q8_0, RopePairs::neox, {});
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
        {"many tokens stored", {many.turn_q, many.turn_k, many.store}, {2, 1}},
        {"rows of three pieces", {odd.turn_q, odd.turn_k, odd.store}, {2, 1}},
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

}  // namespace rotkv::test
