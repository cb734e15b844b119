// Stages of storing and of attention. Read in this order: store, attend; what is around them turns
// bytes into something to look at.
#include "tools/playground/stored_keys.h"

#include "ref/error.h"
#include "ref/format.h"
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/kernels.h"
#include "ref/quant.h"
#include "ref/quant_parts.h"
#include "ref/rotation_policy.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace rotkv::playground {

namespace {

void require_keys(const Cache& cache, std::span<const float> keys) {
    const std::string refusal = cache.type.refusal(cache.d);
    if (!refusal.empty()) throw Error(ErrorCode::unsupported, cache.type.name() + ": " + refusal);
    if (!cache.rotation.fits(cache.d)) {
        throw Error(ErrorCode::bad_argument, "rotation: expected a power of two that divides " +
                                                 std::to_string(cache.d) + ", found " +
                                                 std::to_string(cache.rotation.block));
    }
    require(!keys.empty() && std::ssize(keys) % (cache.d * cache.type.group()) == 0,
            ErrorCode::bad_argument, "keys: expected whole groups of rows");
}

// Rows in the type, to bytes or back. A format gets those of a group together.
template <class OfType, class OfFormat>
void each_group(const Cache& cache, int64_t rows, OfType of_type, OfFormat of_format) {
    const int64_t group = cache.type.group();
    for (int64_t first = 0; first < rows; first += group) {
        if (cache.type.format() == nullptr) {
            of_type(first);
        } else {
            of_format(first, group, RowContext{.position = cache.first_position + first});
        }
    }
}

void encode(const Cache& cache, std::span<std::byte> bytes, std::span<const float> rows) {
    const size_t d = size_t(cache.d), size = size_t(row_bytes(cache.type, cache.d));
    each_group(
        cache, int64_t(rows.size() / d),
        [&](int64_t t) {
            ref::quantize_row(cache.type.cells(), &bytes[size_t(t) * size], &rows[size_t(t) * d],
                              cache.d);
        },
        [&](int64_t t, int64_t group, const RowContext& context) {
            cache.type.format()->encode(bytes.subspan(size_t(t) * size, size_t(group) * size),
                                        rows.subspan(size_t(t) * d, size_t(group) * d), context);
        });
}

void decode(const Cache& cache, std::span<float> rows, std::span<const std::byte> bytes) {
    const size_t d = size_t(cache.d), size = size_t(row_bytes(cache.type, cache.d));
    each_group(
        cache, int64_t(rows.size() / d),
        [&](int64_t t) {
            ref::dequantize_row(cache.type.cells(), &rows[size_t(t) * d], &bytes[size_t(t) * size],
                                cache.d);
        },
        [&](int64_t t, int64_t group, const RowContext& context) {
            cache.type.format()->decode(rows.subspan(size_t(t) * d, size_t(group) * d),
                                        bytes.subspan(size_t(t) * size, size_t(group) * size),
                                        context);
        });
}

void turn_rows(std::vector<float>& rows, const Cache& cache, bool inverse) {
    for (size_t i = 0; i < rows.size(); i += size_t(cache.d)) {
        ref::hadamard_row(&rows[i], &rows[i], cache.d, cache.rotation, inverse);
    }
}

}  // namespace

Policy policy(const CacheType& type, int64_t d) {
    const KvLayer layer{.kv_heads = 1, .d_k = d, .d_v = d, .type_k = type, .type_v = type};
    const RotationSpec spec = decide_rotation({}, KvShape{.cells = 1, .layers = {layer}});
    return {spec.at(0, Side::k), spec.reason(0, Side::k)};
}

StoredKeys store(const Cache& cache, std::span<const float> keys) {
    require_keys(cache, keys);
    StoredKeys stored;

    // 1 rotate
    stored.rotated.assign(keys.begin(), keys.end());
    turn_rows(stored.rotated, cache, false);

    // 2 quantize: from here on there are only bytes
    const size_t rows = keys.size() / size_t(cache.d);
    stored.bytes.resize(rows * size_t(row_bytes(cache.type, cache.d)));
    encode(cache, stored.bytes, stored.rotated);

    // 3 read: what attention sees, still rotated
    stored.cells.resize(keys.size());
    decode(cache, stored.cells, stored.bytes);

    // 4 rotate back, which attention never does with keys: to compare them
    stored.back = stored.cells;
    turn_rows(stored.back, cache, true);
    return stored;
}

std::vector<StoredBlock> blocks_of(const CacheType& type, std::span<const std::byte> row) {
    if (type.format() != nullptr) return {};
    const TypeInfo& info = type_info(type.cells());
    if (info.codes.steps == 0) return {};
    std::vector<StoredBlock> blocks;
    for (size_t i = 0; i < row.size(); i += size_t(info.block_bytes)) {
        const BlockParts parts = block_parts(info.type, &row[i]);
        StoredBlock block{.scale = f16_to_f32(parts.scale)};
        if (info.codes.minimum) block.minimum = f16_to_f32(parts.minimum);
        block.codes.assign(std::begin(parts.code), std::end(parts.code));
        blocks.push_back(std::move(block));
    }
    return blocks;
}

double relative_error(std::span<const float> x, std::span<const float> exact) {
    double error = 0, square = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double e = double(x[i]) - double(exact[i]);
        error += e * e;
        square += double(exact[i]) * double(exact[i]);
    }
    if (error == 0) return 0;
    return square > 0 ? error / square : std::numeric_limits<double>::quiet_NaN();
}

Attended attend(std::span<const float> q, std::span<const float> cells, const Rotation& rotation) {
    const int64_t d = std::ssize(q), n = std::ssize(cells) / d;
    Attended result;
    std::vector<float> turned(q.size());
    ref::hadamard_row(turned.data(), q.data(), d, rotation, false);
    for (int64_t c = 0; c < n; ++c) {
        const std::span<const float> key = cells.subspan(size_t(c * d), size_t(d));
        const double sum =
            std::inner_product(key.begin(), key.end(), turned.begin(), 0.0, std::plus<>(),
                               [](float a, float b) { return double(a) * double(b); });
        result.score.push_back(sum / std::sqrt(double(d)));
    }

    // Value c is 1 in channel c and 0 elsewhere: the output of attention is the weights.
    std::vector<float> values(size_t(n * n), 0.0f);
    for (int64_t c = 0; c < n; ++c) values[size_t(c * n + c)] = 1.0f;
    result.weight.resize(size_t(n));
    std::vector<int32_t> position(size_t(n), 0);
    const int32_t used = int32_t(n), zero = 0;
    ref::attention({.dst = view(result.weight.data(), DType::f32, {1, 1, n}),
                    .q = view(q.data(), DType::f32, {1, 1, d}),
                    .k_cache = view(cells.data(), DType::f32, {1, n, 1, d}),
                    .v_cache = view(values.data(), DType::f32, {1, n, 1, n}),
                    .position = view(position.data(), DType::i32, {1, n}),
                    .used = view(&used, DType::i32, {1}),
                    .q_stream = view(&zero, DType::i32, {1}),
                    .q_position = view(&zero, DType::i32, {1}),
                    .scale = 1.0f / std::sqrt(float(d)),
                    .k_rotation = rotation});
    return result;
}

Change change(const Attended& from, const Attended& to) {
    Change sum{0, 0};
    for (size_t c = 0; c < from.score.size(); ++c) {
        const double score = std::abs(to.score[c] - from.score[c]);
        // what is not a number stays the answer
        if (!std::isnan(sum.largest_score) && !(score <= sum.largest_score)) {
            sum.largest_score = score;
        }
        sum.probability += std::abs(double(to.weight[c]) - double(from.weight[c])) / 2;
    }
    return sum;
}

std::vector<ShiftStep> shift(const Cache& cache, std::span<const float> keys, int32_t difference,
                             RopePairs pairs, bool in_rotated_space) {
    if (difference % cache.type.group() != 0) {
        throw Error(ErrorCode::unsupported, cache.type.name() + ": keeps " +
                                                std::to_string(cache.type.group()) +
                                                " tokens together, expected a shift by a multiple");
    }
    std::vector<float> rows = store(cache, keys).cells;
    std::vector<float> exact(keys.begin(), keys.end());
    turn_rows(exact, cache, false);
    std::vector<ShiftStep> steps;
    const auto add = [&](const char* name, const char* what) {
        const auto first = [&](const std::vector<float>& all) {
            return std::vector<float>(all.begin(), all.begin() + cache.d);
        };
        steps.push_back({name, what, first(rows), first(exact), 0});
        steps.back().error = relative_error(steps.back().row, steps.back().exact);
    };
    add("read", "what the cache holds: rotated, quantized once");

    turn_rows(exact, cache, true);
    if (!in_rotated_space) {
        turn_rows(rows, cache, true);
        add("rotated back", "plain channels again: RoPE turns pairs of these");
    }

    RopeConfig rope;
    rope.pairs = pairs;
    rope.n_rot = cache.d;
    const int32_t differences[] = {difference};
    const std::vector<float> table = rope_shift_table(rope, differences);
    for (std::vector<float>* all : {&rows, &exact}) {
        for (size_t i = 0; i < all->size(); i += size_t(cache.d)) {
            ref::rope_row(&(*all)[i], &(*all)[i], cache.d, table.data(), cache.d, pairs);
        }
    }
    if (in_rotated_space) turn_rows(exact, cache, false);
    add("turned", in_rotated_space ? "pairs of rotated channels, which no position ever turned"
                                   : "each pair by its angle times the difference");

    if (!in_rotated_space) {
        turn_rows(rows, cache, false);
        turn_rows(exact, cache, false);
        add("rotated", "ready to be quantized");
    }

    Cache moved = cache;
    moved.first_position += difference;
    std::vector<std::byte> bytes(rows.size() / size_t(cache.d) *
                                 size_t(row_bytes(cache.type, cache.d)));
    encode(moved, bytes, rows);
    decode(moved, rows, bytes);
    add("quantized again", "what the cache holds now: two roundings from the key");
    return steps;
}

}  // namespace rotkv::playground
