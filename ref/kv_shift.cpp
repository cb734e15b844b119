// Class KvCache: how cached keys move to other positions.
#include "ref/error.h"
#include "ref/kv_cache.h"
#include "ref/matrix_shift.h"
#include "ref/rope_table.h"

namespace rotkv {

// The layers whose own keys turn, one after the other.
std::vector<int64_t> KvCache::turning_layers(const std::function<RopeConfig(int64_t)>& rope) const {
    std::vector<int64_t> layers;
    for (int64_t l = 0; l < shape_.n_layers(); ++l) {
        const KvLayer& layer = layer_at(l);
        if (layer.source || layer.kv_heads == 0 || rope(l).n_rot == 0) continue;
        const int64_t behind = layer.d_k - (layer.v_first + layer.d_v);  // V
        if (layer.v_in_k && behind != rope(l).n_rot) {
            throw Error(ErrorCode::unsupported,
                        "cache: layer " + std::to_string(l) +
                            " cannot be shifted, its V is a view of the keys that would turn");
        }
        layers.push_back(l);
    }
    return layers;
}

// One row for kv_shift. Where channels stand still before those that turn, they are pairs that turn by
// nothing: neighbours are pairs there.
static std::vector<float> shift_table(const RopeConfig& rope, int32_t difference) {
    require(rope.first == 0 || (rope.pairs == RopePairs::norm && rope.first % 2 == 0),
            ErrorCode::unsupported,
            "cache: keys cannot be shifted whose pairs begin behind channels that stand still, unless "
            "they are pairs of neighbours");
    std::vector<float> table;
    for (int64_t i = 0; i < rope.first / 2; ++i) table.insert(table.end(), {1.0f, 0.0f});
    const std::vector<float> turning = rope_shift_table(rope, std::span(&difference, 1));
    table.insert(table.end(), turning.begin(), turning.end());
    return table;
}

// The keys that turn in a layer: all channels or, where V lies in them, those behind it. Both begin
// and end at a block of type and rotation, so that these are rows like any other.
KvShiftArgs KvCache::turning_part(int64_t layer, const RopeConfig& rope,
                                  const TensorView& k) const {
    const KvLayer& of = layer_at(layer);
    const bool main = k.data == this->k(layer).data;
    KvShiftArgs part{.k_cache = k,
                     .table = {},
                     .row = {},
                     .pairs = rope.pairs,
                     .k_rotation = main ? spec_.at(layer, Side::k) : Rotation(),
                     .k_format = main ? format_rows(layer, Side::k) : FormatRows()};
    if (!of.v_in_k) return part;
    const int64_t first = of.v_first + of.d_v;
    part.k_cache.n[3] = rope.n_rot;
    part.k_cache.data += block_offset(k.type, first);
    if (part.k_rotation.kind == Rotation::Kind::signs) part.k_rotation.first = first;
    return part;
}

// Turns the keys of these layers by `difference` in the cells whose row is 0, not -1, to positions
// `moved`: in all of the layers or, where one of the calls is refused, in none.
void KvCache::turn_keys(std::span<const int64_t> layers, std::span<const int32_t> row,
                        std::span<const int32_t> moved, int32_t difference,
                        const std::function<RopeConfig(int64_t)>& rope) const {
    const Buffer row_memory(backend_, row.size_bytes());
    row_memory.upload(std::as_bytes(row));
    const Buffer moved_memory(backend_, moved.size_bytes());
    moved_memory.upload(std::as_bytes(moved));
    std::vector<std::vector<float>> tables;
    std::vector<Buffer> table_memory;
    std::vector<Call> calls;
    MatrixShift by_matrix(backend_, row, shape_.cells);
    for (const int64_t layer : layers) {
        const RopeConfig config = rope(layer);
        tables.push_back(shift_table(config, difference));
        table_memory.emplace_back(backend_, tables.back().size() * sizeof(float));
        table_memory.back().upload(std::as_bytes(std::span(tables.back())));
        const auto move = [&](const TensorView& k, const TensorView& matrix) {
            KvShiftArgs part = turning_part(layer, config, k);
            part.table =
                table_memory.back().view(DType::f32, {1, (config.first + config.n_rot) / 2, 2});
            part.row = row_memory.view(DType::i32, {shape_.streams, shape_.cells});
            if (part.k_format.format != nullptr) {
                part.position = moved_memory.view(DType::i32, {shape_.streams, shape_.cells});
            }
            by_matrix.append(calls, part, matrix);
        };
        move(k(layer), turning_matrix(layer));
        const TensorView in_f16 = f16_rows(layer).k;
        if (!in_f16.empty() && in_f16.data != k(layer).data) move(in_f16, {});
    }
    for (const Call& call : calls) backend_.require_supported(call);
    for (const Call& call : calls) backend_.run(call);
    backend_.synchronize();  // the tables go out of scope
}

// That no token needs rows in f16 at its new position that it would not have had before.
void KvCache::require_f16_rows(std::span<const int32_t> moved, int32_t difference) const {
    const auto [first, recent] = shape_.f16_tokens;
    bool any = false;
    for (size_t c = 0; c < moved.size(); ++c) {
        any |= moved[c] != position_[c];
        if (position_[c] >= first && moved[c] >= 0 && moved[c] < first) {
            throw Error(ErrorCode::unsupported, "cache: the first " + std::to_string(first) +
                                                    " tokens are kept in f16, one at position " +
                                                    std::to_string(position_[c]) +
                                                    " cannot become one of them");
        }
    }
    require(recent == 0 || difference <= 0 || !any, ErrorCode::unsupported,
            "cache: recent tokens are kept in f16, older ones cannot move towards them");
}

void KvCache::shift(int64_t stream, int32_t from, int32_t to, int32_t difference,
                    const std::function<RopeConfig(int64_t)>& rope) {
    require(stream >= 0 && stream < shape_.streams, ErrorCode::bad_argument,
            "cache: shift of an unknown stream");
    if (state_) state_->require_shift(stream, from, to, difference);
    const std::vector<int64_t> layers = turning_layers(rope);
    std::vector<int32_t> moved = position_;
    std::vector<int32_t> row(position_.size(), -1);  // of the table with one row: `difference`
    for (int64_t c = stream * shape_.cells; c < (stream + 1) * shape_.cells; ++c) {
        int32_t& position = moved[size_t(c)];
        if (position < from || position >= to || position < 0) continue;
        const int64_t target = int64_t(position) + difference;
        if (target < 0 || target > INT32_MAX) {
            throw Error(ErrorCode::bad_argument, "cache: shift by " + std::to_string(difference) +
                                                     " moves position " + std::to_string(position) +
                                                     " to " + std::to_string(target));
        }
        position = int32_t(target);
        row[size_t(c)] = 0;
    }
    require_whole_groups(stream, moved);
    require_f16_rows(moved, difference);
    turn_keys(layers, row, moved, difference, rope);
    if (state_) state_->shift(stream, from, to, difference);
    position_ = std::move(moved);
    upload_positions(stream, 0, shape_.cells);
}

}  // namespace rotkv
