#include "tools/saved_beside.h"

#include "ref/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace rotkv::tools {
namespace {

[[noreturn]] void differs(const SavedCache& a, const SavedCache& b, const std::string& what,
                          const std::string& of_a, const std::string& of_b) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}: expected {}, as {} has, found {}", b.path,
                                                 what, of_a, a.path, of_b));
}

// The tokens of a stream in the order of their positions, as numbers of rows.
std::vector<size_t> order_of(const SavedStream& stream, std::vector<int32_t>& positions) {
    positions.clear();
    for (const int32_t p : stream.position) {
        if (p >= 0) positions.push_back(p);
    }
    std::vector<size_t> order(positions.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::ranges::stable_sort(order, {}, [&](size_t i) { return positions[i]; });
    std::ranges::sort(positions);
    return order;
}

void require_same_meaning(const SavedCache& a, const SavedCache& b) {
    const auto require = [&](const std::string& what, const auto& of_a, const auto& of_b) {
        if (of_a != of_b) differs(a, b, what, fmt::format("{}", of_a), fmt::format("{}", of_b));
    };
    require("model", hexadecimal(a.fingerprint), hexadecimal(b.fingerprint));
    require("streams", a.streams.size(), b.streams.size());
    require("layers", a.layers, b.layers);
    require("version", a.version, b.version);  // of 1 to 3 each spells its layers in its own way
    for (int64_t l = 0; l < a.layers; ++l) {
        for (size_t i = 0; i < a.layer(l).size(); ++i) {
            const SavedField &of_a = a.layer(l)[i], &of_b = b.layer(l)[i];
            if (of_a == of_b) continue;
            differs(a, b, fmt::format("layer {}: {}", l, of_a.name), words_of(of_a),
                    words_of(of_b));
        }
    }
}

void require_same_positions(const SavedCache& a, const SavedCache& b) {
    std::vector<int32_t> of_a, of_b;
    const auto words = [](const std::vector<int32_t>& all, size_t i) {
        return i < all.size() ? fmt::format("position {}", all[i]) : std::string("no more tokens");
    };
    for (size_t s = 0; s < a.streams.size(); ++s) {
        order_of(a.streams[s], of_a), order_of(b.streams[s], of_b);
        if (of_a == of_b) continue;
        const auto first = std::ranges::mismatch(of_a, of_b);
        const size_t i = size_t(first.in1 - of_a.begin());
        differs(a, b, fmt::format("stream {}: token {}", s, i), words(of_a, i), words(of_b, i));
    }
}

// The rows of one head in the order of positions, of one stream.
std::vector<std::byte> rows_of_head(const SavedRows& rows, const std::vector<size_t>& order,
                                    int64_t heads, int64_t head, size_t bytes) {
    std::vector<std::byte> all;
    all.reserve(order.size() * bytes);
    for (const size_t token : order) {
        const auto row = rows.bytes.subspan((token * size_t(heads) + size_t(head)) * bytes, bytes);
        all.insert(all.end(), row.begin(), row.end());
    }
    return all;
}

// Elements of rows in a format, by the root mean square of our row.
StepsApart shares_apart(const Format& format, const HeadBeside& of, int64_t d,
                        std::span<const int32_t> positions, std::span<const std::byte> theirs,
                        std::span<const std::byte> ours) {
    const size_t bytes = size_t(format.row_bytes(d));
    std::vector<float> a(static_cast<size_t>(d)), b(static_cast<size_t>(d));
    StepsApart result;
    for (size_t r = 0; r < positions.size(); ++r) {
        const RowContext context{
            .layer = of.layer, .kv_head = of.head, .side = of.side, .position = positions[r]};
        format.decode(a, theirs.subspan(r * bytes, bytes), context);
        format.decode(b, ours.subspan(r * bytes, bytes), context);
        double sum = 0;
        for (const float x : b) sum += double(x) * double(x);
        const double unit = std::sqrt(sum / double(d));
        for (size_t i = 0; i < a.size(); ++i) {
            const bool same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]));
            const double apart = std::fabs(double(a[i]) - double(b[i])) / unit;
            const double share = same ? 0 : std::isfinite(apart) ? apart : INFINITY;
            result.take(share, int64_t(r), int64_t(i));
        }
    }
    return result;
}

std::vector<HeadBeside> heads_of(const KvLayer& layer, const SavedRows& rows) {
    std::vector<HeadBeside> heads(size_t(layer.kv_heads));
    const CacheType& type = layer.type(rows.side);
    for (size_t h = 0; h < heads.size(); ++h) {
        heads[h].layer = rows.layer, heads[h].head = int64_t(h), heads[h].side = rows.side;
        heads[h].type = type.name(), heads[h].in_steps = type.format() == nullptr;
    }
    return heads;
}

struct RowsOfStream {
    const SavedRows& rows;
    const SavedStream& stream;
};

void add_stream(std::vector<HeadBeside>& heads, const KvLayer& layer, const RowsOfStream& theirs,
                const RowsOfStream& ours) {
    const Side side = theirs.rows.side;
    const CacheType& type = layer.type(side);
    const int64_t d = side == Side::k ? layer.d_k : layer.d_v, n = layer.kv_heads;
    const size_t bytes = size_t(row_bytes(type, d));
    std::vector<int32_t> positions;
    const std::vector<size_t> of_ours = order_of(ours.stream, positions),
                              of_theirs = order_of(theirs.stream, positions);
    for (HeadBeside& head : heads) {
        const std::vector<std::byte> a = rows_of_head(theirs.rows, of_theirs, n, head.head, bytes),
                                     b = rows_of_head(ours.rows, of_ours, n, head.head, bytes);
        const StepsApart more = head.in_steps
                                    ? steps_apart(type.cells(), a, b, d)
                                    : shares_apart(*type.format(), head, d, positions, a, b);
        if (!head.apart.add(more)) continue;
        head.stream = theirs.rows.stream, head.position = positions[size_t(more.row)];
    }
}

}  // namespace

int64_t SavedBeside::elements() const {
    int64_t all = states.elements;
    for (const HeadBeside& head : heads) all += head.apart.elements;
    return all;
}

int64_t SavedBeside::differ() const {
    int64_t all = states.differ();
    for (const HeadBeside& head : heads) all += head.apart.differ();
    return all;
}

SavedBeside hold_beside(const SavedCache& theirs, const SavedCache& ours) {
    require_same_meaning(theirs, ours);
    require_same_positions(theirs, ours);
    const KvShape shape = shape_of(theirs);
    const std::vector<SavedRows> a = rows_of(theirs, shape), b = rows_of(ours, shape_of(ours));
    SavedBeside result;
    std::map<std::pair<int64_t, Side>, std::vector<HeadBeside>> sides;
    for (size_t i = 0; i < a.size(); ++i) {
        std::vector<HeadBeside>& heads = sides[{a[i].layer, a[i].side}];
        const KvLayer& layer = shape.layers[size_t(a[i].layer)];
        if (heads.empty()) heads = heads_of(layer, a[i]);
        const size_t stream = size_t(a[i].stream);
        add_stream(heads, layer, {a[i], theirs.streams[stream]}, {b[i], ours.streams[stream]});
    }
    for (const auto& [side, heads] : sides) {
        result.heads.insert(result.heads.end(), heads.begin(), heads.end());
    }
    if (const std::span<const std::byte> states = states_of(theirs, shape); !states.empty()) {
        result.states = steps_apart(DType::f32, states, states_of(ours, shape), 1);
    }
    return result;
}

}  // namespace rotkv::tools
