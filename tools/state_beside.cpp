#include "tools/state_beside.h"

#include "ref/cases/stored_rows.h"
#include "ref/error.h"
#include "ref/hadamard.h"
#include "ref/quant.h"
#include "ref/rotation_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rotkv::tools {

namespace {

constexpr int64_t k_least_block = 16;

// A stream of the file with the model's layers that it is of.
struct Part {
    const LlamaStream& stream;
    std::vector<int64_t> layers;
};

[[noreturn]] void refuse(const LlamaState& state, const std::string& problem) {
    throw Error(ErrorCode::bad_file, state.path + ": " + problem);
}

std::vector<Part> parts_of(const LlamaState& state, const ModelConfig& config,
                           const KvShape& shape) {
    std::vector<Part> parts;
    for (size_t c = 0; c < state.caches.size(); ++c) {
        const LlamaStream* only = nullptr;
        for (const LlamaStream& stream : state.caches[c]) {
            if (stream.position.empty()) continue;
            if (only != nullptr) refuse(state, "expected one sequence, found several streams");
            only = &stream;
            if (stream.sequences <= 1) continue;
            refuse(state,
                   fmt::format("expected cells of one sequence, found {}", stream.sequences));
        }
        if (only == nullptr) continue;
        Part part{*only, {}};
        for (int64_t l = 0; l < shape.n_layers(); ++l) {
            const KvLayer& layer = shape.layers[size_t(l)];
            if (layer.kv_heads == 0 || layer.source) continue;
            const bool windowed = config.plan[size_t(l)].window > 0;
            if (state.caches.size() == 1 || windowed == (c == 1)) part.layers.push_back(l);
        }
        if (part.layers.size() != only->k.size()) {
            refuse(state, fmt::format("cache {}: expected the model's {} layers, found {}", c,
                                      part.layers.size(), only->k.size()));
        }
        parts.push_back(std::move(part));
    }
    if (parts.empty()) refuse(state, "expected cells, found none");
    return parts;
}

void check_rows(const LlamaState& state, const LlamaRows& rows, int64_t layer, const char* side,
                int64_t values) {
    const int64_t block = type_info(rows.type).block_elements;
    if (values % block == 0 && row_bytes(rows.type, values) == rows.row_bytes) return;
    refuse(state, fmt::format("{} of layer {}: expected cells of {} values, found {} bytes of {}",
                              side, layer, values, rows.row_bytes, type_info(rows.type).name));
}

void check(const LlamaState& state, std::span<const Part> parts, int64_t words,
           const KvShape& shape) {
    for (const int32_t token : state.tokens) {
        if (token >= 0 && token < words) continue;
        refuse(state, fmt::format("expected tokens below {}, found {}", words, token));
    }
    for (const Part& part : parts) {
        for (const int32_t p : part.stream.position) {
            if (p >= 0 && p < int64_t(state.tokens.size())) continue;
            refuse(state, fmt::format("expected cells at positions of its {} tokens, found {}: a "
                                      "shifted cache cannot be computed again from them",
                                      state.tokens.size(), p));
        }
        for (size_t i = 0; i < part.layers.size(); ++i) {
            const KvLayer& layer = shape.layers[size_t(part.layers[i])];
            check_rows(state, part.stream.k[i], part.layers[i], "K", layer.kv_heads * layer.d_k);
            if (layer.v_in_k) continue;
            if (i >= part.stream.v.size()) refuse(state, "expected V beside K");
            check_rows(state, part.stream.v[i], part.layers[i], "V", layer.kv_heads * layer.d_v);
        }
    }
}

// Our rows at the positions of the file's cells, as bytes.
std::vector<std::byte> ours_at(const KvCache& cache, int64_t layer, Side side, int64_t bytes,
                               std::span<const int32_t> positions) {
    const int64_t last = *std::max_element(positions.begin(), positions.end());
    std::vector<std::byte> all(size_t((last + 1) * bytes)), rows;
    cache.read_cells(layer, 0, side, all);  // token p lies in cell p
    for (const int32_t p : positions) {
        rows.insert(rows.end(), all.begin() + p * bytes, all.begin() + (p + 1) * bytes);
    }
    return rows;
}

// What is left of a cell's rows when they are turned back, and how long ours are, squared.
struct Left {
    double apart = 0, length = 0;

    void add(const Left& more) { apart += more.apart, length += more.length; }
    double off() const { return std::sqrt(apart / length); }
};

Left left_of(std::span<const float> theirs, std::span<const float> ours, int64_t d,
             const Rotation& rotation) {
    Left left;
    std::vector<float> row(static_cast<size_t>(d));
    for (size_t first = 0; first < theirs.size(); first += size_t(d)) {
        ref::hadamard_row(row.data(), &theirs[first], d, rotation, true);
        for (size_t j = 0; j < size_t(d); ++j) {
            const double one = double(row[j]) - double(ours[first + j]);
            left.apart += one * one;
            left.length += double(ours[first + j]) * double(ours[first + j]);
        }
    }
    return left;
}

// Is what is left of a cell more than its type explains, or far less under another rotation? Where
// a token's rows are much shorter than the layer's, what the two engines round before anything is
// stored may be as long as they are: `usual` is the mean square of a cell's length.
bool is_strange(const Left& left, const Left& by_rounding, double usual,
                std::span<const Left> others) {
    const double length = std::sqrt(std::max(left.length, usual / 4));
    const double allowed = SideBeside::k_most_off * length +
                           SideBeside::k_most_roundings * std::sqrt(by_rounding.apart);
    if (!(std::sqrt(left.apart) <= allowed)) return true;
    if (std::sqrt(left.apart) < SideBeside::k_most_off * length / 2) return false;
    return std::any_of(others.begin(), others.end(),
                       [&](const Left& other) { return other.apart < left.apart / 4; });
}

// The rotation that leaves the least of all cells together; then each cell by itself.
// theirs, ours [cells][heads of d]
void find_rotation(SideBeside& side, std::span<const float> theirs, std::span<const float> ours,
                   int64_t d, std::span<const int32_t> positions) {
    std::vector<Rotation> tried(1);
    for (int64_t n = k_least_block; d % n == 0; n *= 2) {
        tried.push_back({Rotation::Kind::sylvester, n});
    }
    const size_t cells = positions.size(), row = theirs.size() / cells;
    std::vector<std::vector<Left>> left(tried.size());
    side.off = side.off_otherwise = INFINITY;
    size_t best = 0;
    for (size_t r = 0; r < tried.size(); ++r) {
        Left all;
        for (size_t c = 0; c < cells; ++c) {
            left[r].push_back(
                left_of(theirs.subspan(c * row, row), ours.subspan(c * row, row), d, tried[r]));
            all.add(left[r].back());
        }
        const double off = std::isnan(all.off()) ? INFINITY : all.off();
        side.off_otherwise = std::min(side.off_otherwise, std::max(off, side.off));
        if (off < side.off) side.off = off, best = r;
    }
    side.rotation = tried[best];
    side.cells = int64_t(cells);
    const std::vector<float> kept = stored_rows(ours, d, side.type, side.rotation).values();
    double usual = 0;
    for (const Left& cell : left[best]) usual += cell.length / double(cells);
    for (size_t c = 0; c < cells; ++c) {
        std::vector<Left> others;
        for (const std::vector<Left>& other : left) others.push_back(other[c]);
        const Left by_rounding = left_of(std::span(kept).subspan(c * row, row),
                                         ours.subspan(c * row, row), d, side.rotation);
        if (!is_strange(left[best][c], by_rounding, usual, others)) continue;
        if (side.strange_cells++ == 0) side.first_strange = positions[c];
    }
}

// Calls visit(stream, its rows, layer, side, head size) for all of them.
template <class Visit>
void each_side(std::span<const Part> parts, const KvShape& shape, const Visit& visit) {
    for (const Part& part : parts) {
        for (size_t i = 0; i < part.layers.size(); ++i) {
            const KvLayer& layer = shape.layers[size_t(part.layers[i])];
            visit(part.stream, part.stream.k[i], part.layers[i], Side::k, layer.d_k);
            if (layer.v_in_k) continue;
            visit(part.stream, part.stream.v[i], part.layers[i], Side::v, layer.d_v);
        }
    }
}

}  // namespace

KvCache filled_cache(Model& model, const KvShape& shape, const RotationSpec& spec,
                     std::span<const int32_t> tokens) {
    KvCache cache(model.backend(), shape, spec);
    constexpr size_t at_once = 512;
    for (size_t first = 0; first < tokens.size(); first += at_once) {
        const std::span<const int32_t> batch =
            tokens.subspan(first, std::min(at_once, tokens.size() - first));
        std::vector<int32_t> stream(batch.size(), 0), position(batch.size());
        std::iota(position.begin(), position.end(), int32_t(first));
        model.forward(cache, batch, stream, position);
    }
    return cache;
}

bool StateBeside::explained() const {
    return std::all_of(sides.begin(), sides.end(),
                       [](const SideBeside& side) { return side.explained() && side.as_said(); });
}

bool StateBeside::as_policy() const {
    return std::all_of(sides.begin(), sides.end(), [&](const SideBeside& side) {
        return side.rotation == policy.at(side.layer, side.side);
    });
}

bool StateBeside::never_rotated() const {
    return std::none_of(sides.begin(), sides.end(),
                        [](const SideBeside& side) { return side.rotation.on(); });
}

int64_t tokens_needed(const LlamaState& state) {
    int64_t most = 0;
    for (const std::vector<LlamaStream>& cache : state.caches) {
        for (const LlamaStream& stream : cache) {
            for (const int32_t p : stream.position) most = std::max(most, int64_t(p) + 1);
        }
    }
    return std::min(most, int64_t(state.tokens.size()));
}

StateBeside hold_beside(Model& model, const LlamaState& state) {
    const std::span<const int32_t> tokens =
        std::span(state.tokens).first(size_t(tokens_needed(state)));
    const int64_t cells = std::max<int64_t>(int64_t(tokens.size()), 1);
    KvShape shape = model.config().cache_shape(1, cells, DType::f32, DType::f32);
    if (shape.recurrent().bytes_per_stream() > 0) {
        throw Error(ErrorCode::unsupported,
                    state.path + ": states of recurrent layers in llama.cpp's files are not read");
    }
    const std::vector<Part> parts = parts_of(state, model.config(), shape);
    check(state, parts, model.weights().embedding.n[2], shape);
    StateBeside result;
    KvShape typed = shape;
    std::vector<RotationSpec::Layer> rotations(shape.layers.size());
    const KvCache plain = filled_cache(model, shape, {}, tokens);
    each_side(
        parts, shape,
        [&](const LlamaStream& stream, const LlamaRows& rows, int64_t l, Side side, int64_t d) {
            SideBeside one;
            one.layer = l, one.side = side, one.type = rows.type;
            one.said = side == Side::k ? stream.k_block : stream.v_block;
            const int64_t heads = shape.layers[size_t(l)].kv_heads;
            const std::vector<std::byte> ours =
                ours_at(plain, l, side, heads * d * 4, stream.position);
            find_rotation(one, values_of(rows.type, rows.rows, d), values_of(DType::f32, ours, d),
                          d, stream.position);
            KvLayer& layer = typed.layers[size_t(l)];
            (side == Side::k ? layer.type_k : layer.type_v) = rows.type;
            (side == Side::k ? rotations[size_t(l)].k : rotations[size_t(l)].v) = one.rotation;
            if (layer.v_in_k) {  // what holds of K holds of the V inside
                layer.type_v = rows.type;
                rotations[size_t(l)].v = one.rotation;
            }
            result.cells = std::max(result.cells, int64_t(stream.position.size()));
            result.sides.push_back(one);
        });
    result.policy = decide_rotation({}, typed);
    const KvCache twin = filled_cache(model, typed, RotationSpec(rotations), tokens);
    auto one = result.sides.begin();
    each_side(
        parts, shape,
        [&](const LlamaStream& stream, const LlamaRows& rows, int64_t l, Side side, int64_t d) {
            const int64_t heads = shape.layers[size_t(l)].kv_heads;
            one->steps = steps_apart(rows.type, rows.rows,
                                     ours_at(twin, l, side, rows.row_bytes, stream.position), d);
            one->cell = one->steps.row / heads, one->head = one->steps.row % heads;
            ++one;
        });
    return result;
}

}  // namespace rotkv::tools
