// rotkv.h: the cache's operations on the caller's arrays.
#include "tools/bindings/arrays.h"
#include "tools/bindings/rope.h"

#include <map>
#include <set>
#include <utility>

using namespace rotkv;
using namespace rotkv::bindings;

rotkv_status rotkv_kv_store(rotkv_backend* backend, const rotkv_kv_store_args* args) {
    return at_border([&] {
        const rotkv_kv_store_args given = known_part(args, "args");
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        Arrays arrays(turn.backend());
        KvStoreArgs call{.k_cache = arrays.out(given.k_cache, "k_cache"),
                         .v_cache = arrays.out(given.v_cache, "v_cache"),
                         .k = arrays.in(given.k, "k"),
                         .v = arrays.in(given.v, "v"),
                         .stream = {},
                         .cell = {},
                         .k_rotation = rotation_of(given.k_rotation),
                         .v_rotation = rotation_of(given.v_rotation)};
        const int64_t tokens = call.k.n[1];
        const std::vector<int32_t> stream =
            indices_or_zeros(given.stream, tokens, "stream", call.k_cache.n[0] - 1);
        const std::span<const int32_t> cell =
            indices(given.cell, tokens, "cell", -1, call.k_cache.n[1] - 1);
        std::set<std::pair<int32_t, int32_t>> taken;
        for (std::size_t t = 0; t < cell.size(); ++t) {
            if (cell[t] >= 0 && !taken.emplace(stream[t], cell[t]).second) {
                refuse("cell", "no two alike", "cell " + std::to_string(cell[t]) + " twice");
            }
        }
        call.stream = arrays.ints(stream);
        call.cell = arrays.ints(cell);
        turn.backend().run(call);
        arrays.finish();
    });
}

// One past the last cell in use of each stream.
static std::vector<int32_t> used_of(std::span<const int32_t> position, int64_t streams) {
    std::vector<int32_t> used(std::size_t(streams), 0);
    const std::size_t cells = streams == 0 ? 0 : position.size() / used.size();
    for (std::size_t i = 0; i < position.size(); ++i) {
        if (position[i] >= 0) used[i / cells] = int32_t(i % cells) + 1;
    }
    return used;
}

static CellBounds bounds_of(const rotkv_attention_args& given) {
    const auto range = [](int64_t from, int64_t to) {
        Range all;
        all.from = from;
        if (to != 0) all.to = to;
        return all;
    };
    return {range(given.position_from, given.position_to),
            range(given.distance_from, given.distance_to)};
}

rotkv_status rotkv_attention(rotkv_backend* backend, const rotkv_attention_args* args) {
    return at_border([&] {
        const rotkv_attention_args given = known_part(args, "args");
        if (given.chunked != 0 && given.window == 0) refuse("chunked", "a window", "none");
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        Arrays arrays(turn.backend());
        AttentionArgs call{.dst = arrays.out(given.dst, "dst"),
                           .lse = arrays.out(given.lse, "lse"),
                           .q = arrays.in(given.q, "q"),
                           .k_cache = arrays.in(given.k_cache, "k_cache"),
                           .v_cache = arrays.in(given.v_cache, "v_cache"),
                           .position = {},
                           .used = {},
                           .q_stream = {},
                           .q_position = {},
                           .sinks = arrays.in(given.sinks, "sinks"),
                           .scale = given.scale,
                           .softcap = given.softcap,
                           .window = given.window,
                           .chunked = given.chunked != 0,
                           .bounds = bounds_of(given),
                           .k_rotation = rotation_of(given.k_rotation),
                           .v_rotation = rotation_of(given.v_rotation),
                           .precision = given.f16 != 0 ? Precision::f16 : Precision::f32};
        const int64_t streams = call.k_cache.n[0], cells = call.k_cache.n[1], tokens = call.q.n[1];
        require_number("k_cache's cells", streams * cells, 0, INT32_MAX);
        const std::span<const int32_t> position =
            indices(given.position, streams * cells, "position", -1, INT32_MAX);
        const std::vector<int32_t> used = used_of(position, streams);
        const std::vector<int32_t> stream =
            indices_or_zeros(given.q_stream, tokens, "q_stream", streams - 1);
        call.position = arrays.ints(position, streams);
        call.used = arrays.ints(used);
        call.q_stream = arrays.ints(stream);
        call.q_position =
            arrays.ints(indices(given.q_position, tokens, "q_position", -1, INT32_MAX));
        turn.backend().run(call);
        arrays.finish();
    });
}

rotkv_status rotkv_kv_shift(rotkv_backend* backend, const rotkv_array* k_cache,
                            const int32_t* difference, const rotkv_rope_config* config,
                            const rotkv_rotation* rotation) {
    return at_border([&] {
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        Arrays arrays(turn.backend());
        const RopeConfig rope = rope_of(config);
        const Rotation turned = rotation_of(needed(rotation, "rotation"));
        const TensorView keys = arrays.out(needed(k_cache, "k_cache"), "k_cache");
        const int64_t streams = keys.n[0];
        require_number("k_cache's cells", streams * keys.n[1], 0, INT32_MAX);
        const std::span<const int32_t> moves =
            elements(difference, streams * keys.n[1], "difference");
        std::vector<int32_t> distinct, row;  // row of the table, one for each distinct difference
        std::map<int32_t, int32_t> row_of;
        for (const int32_t move : moves) {
            const auto [at, is_new] = row_of.try_emplace(move, int32_t(distinct.size()));
            if (move != 0 && is_new) distinct.push_back(move);
            if (move == 0) at->second = -1;
            row.push_back(at->second);
        }
        const std::vector<float> table = rope_shift_table(rope, distinct);
        turn.backend().run(KvShiftArgs{
            .k_cache = keys,
            .table = arrays.floats(table, {int64_t(distinct.size()), rope.n_rot / 2, 2}),
            .row = arrays.ints(row, streams),
            .pairs = rope.pairs,
            .k_rotation = turned});
        arrays.finish();
    });
}
