// Class KvCache: which token sits in which cell, at which position, and where its rows lie.
#include "ref/error.h"
#include "ref/kv_cache.h"

#include <algorithm>
#include <string>
#include <utility>

namespace rotkv {

int64_t KvShape::bytes_per_token() const {
    const int64_t k = row_bytes(type_k, d_k), v = v_in_k ? 0 : row_bytes(type_v, d_v);
    return layers * kv_heads * (k + v);
}

static void check_side(const char* side, DType type, int64_t d, const Rotation& rotation) {
    const TypeInfo& info = type_info(type);
    const std::string what = std::string("cache ") + side + " of type " + info.name;
    if (!info.cache) throw Error(ErrorCode::unsupported, what + ": no cache type");
    if (d % info.block_elements != 0) {
        throw Error(ErrorCode::unsupported, what + ": needs a head size that is a multiple of " +
                                                std::to_string(info.block_elements) + ", found " +
                                                std::to_string(d));
    }
    if (rotation.on() && d % rotation.block != 0) {
        throw Error(ErrorCode::bad_argument,
                    what + ": rotation block " + std::to_string(rotation.block) +
                        " does not divide the head size " + std::to_string(d));
    }
}

KvCache::KvCache(Backend& backend, const KvShape& shape, const RotationSpec& spec)
    : backend_(backend), shape_(shape), spec_(spec) {
    require(shape.layers > 0 && shape.streams > 0 && shape.cells > 0 && shape.kv_heads > 0 &&
                shape.d_k > 0 && shape.d_v > 0,
            ErrorCode::bad_argument, "cache: every extent must be positive");
    require(!shape.v_in_k || (shape.type_k == shape.type_v && shape.v_first >= 0 &&
                              shape.v_first + shape.d_v <= shape.d_k),
            ErrorCode::bad_argument,
            "cache: V as a view of K must have its type and lie inside it");
    check_side("K", shape.type_k, shape.d_k, spec.at(0, Side::k));
    check_side("V", shape.type_v, shape.d_v, spec.at(0, Side::v));

    const int64_t strips = shape.streams * shape.cells;
    const int64_t rows = shape.layers * strips * shape.kv_heads;
    k_ = Buffer(backend, size_t(rows * row_bytes(shape.type_k, shape.d_k)));
    if (!shape.v_in_k) v_ = Buffer(backend, size_t(rows * row_bytes(shape.type_v, shape.d_v)));
    position_memory_ = Buffer(backend, size_t(strips) * sizeof(int32_t));
    used_memory_ = Buffer(backend, size_t(shape.streams) * sizeof(int32_t));
    position_.assign(size_t(strips), -1);
    used_.assign(size_t(shape.streams), 0);
    upload_positions();
}

KvBatch KvCache::place(std::span<const int32_t> streams, std::span<const int32_t> positions) {
    require(streams.size() == positions.size() && !streams.empty(), ErrorCode::bad_argument,
            "cache: expected one stream and one position per token");
    std::vector<int32_t> position = position_, used = used_, cells;
    std::vector<int64_t> next(size_t(shape_.streams), 0);  // cells below are known to be taken
    for (size_t t = 0; t < streams.size(); ++t) {
        const int64_t stream = streams[t];
        if (stream < 0 || stream >= shape_.streams || positions[t] < 0) {
            throw Error(ErrorCode::bad_argument, "cache: token " + std::to_string(t) +
                                                     " asks for stream " + std::to_string(stream) +
                                                     " of " + std::to_string(shape_.streams) +
                                                     ", position " + std::to_string(positions[t]));
        }
        int32_t* strip = position.data() + stream * shape_.cells;
        int64_t& cell = next[size_t(stream)];
        while (cell < shape_.cells && strip[cell] >= 0) ++cell;
        if (cell == shape_.cells) {
            throw Error(ErrorCode::bad_argument, "cache: stream " + std::to_string(stream) +
                                                     " is full (" + std::to_string(shape_.cells) +
                                                     " cells)");
        }
        strip[cell] = positions[t];
        used[size_t(stream)] = std::max(used[size_t(stream)], int32_t(cell + 1));
        cells.push_back(int32_t(cell));
    }
    position_ = std::move(position);
    used_ = std::move(used);
    upload_positions();

    const int64_t tokens = int64_t(streams.size());
    std::vector<int32_t> packed(streams.begin(), streams.end());  // [3][T]: stream, cell, position
    packed.insert(packed.end(), cells.begin(), cells.end());
    packed.insert(packed.end(), positions.begin(), positions.end());
    const std::span<const std::byte> bytes = std::as_bytes(std::span(packed));
    if (batch_memory_.bytes() < bytes.size()) batch_memory_ = Buffer(backend_, bytes.size());
    batch_memory_.upload(bytes);
    std::byte* memory = batch_memory_.data();
    const int64_t step = tokens * int64_t(sizeof(int32_t));
    return {view(memory, DType::i32, {tokens}), view(memory + step, DType::i32, {tokens}),
            view(memory + 2 * step, DType::i32, {tokens})};
}

TensorView KvCache::k(int64_t layer) const {
    const TensorView all = k_.view(
        shape_.type_k, {shape_.layers * shape_.streams, shape_.cells, shape_.kv_heads, shape_.d_k});
    TensorView one = all;
    one.n[0] = shape_.streams;
    one.data += layer * shape_.streams * all.stride[0];
    return one;
}

TensorView KvCache::v(int64_t layer) const {
    if (shape_.v_in_k) {
        TensorView inside = k(layer);
        inside.n[3] = shape_.d_v;
        inside.data += row_bytes(shape_.type_k, shape_.v_first);
        return inside;
    }
    TensorView one = v_.view(
        shape_.type_v, {shape_.layers * shape_.streams, shape_.cells, shape_.kv_heads, shape_.d_v});
    one.n[0] = shape_.streams;
    one.data += layer * shape_.streams * one.stride[0];
    return one;
}

TensorView KvCache::positions() const {
    return position_memory_.view(DType::i32, {shape_.streams, shape_.cells});
}

TensorView KvCache::used() const { return used_memory_.view(DType::i32, {shape_.streams}); }

void KvCache::shift(int64_t stream, int32_t from, int32_t to, int32_t difference,
                    const std::function<RopeConfig(int64_t)>& rope) {
    require(stream >= 0 && stream < shape_.streams, ErrorCode::bad_argument,
            "cache: shift of an unknown stream");
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
    const Buffer row_memory(backend_, row.size() * sizeof(int32_t));
    row_memory.upload(std::as_bytes(std::span(row)));
    const int32_t differences[] = {difference};
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
        const RopeConfig config = rope(layer);
        if (config.n_rot == 0) continue;
        const std::vector<float> table = rope_shift_table(config, differences);
        const Buffer table_memory(backend_, table.size() * sizeof(float));
        table_memory.upload(std::as_bytes(std::span(table)));
        KvShiftArgs args;
        args.k_cache = k(layer);
        args.table = table_memory.view(DType::f32, {1, config.n_rot / 2, 2});
        args.row = row_memory.view(DType::i32, {shape_.streams, shape_.cells});
        args.pairs = config.pairs;
        args.k_rotation = spec_.at(layer, Side::k);
        backend_.kv_shift(args);
        backend_.synchronize();  // the table goes out of scope
    }
    position_ = std::move(moved);
    upload_positions();
}

void KvCache::remove(int64_t stream, int32_t from, int32_t to) {
    require(stream >= 0 && stream < shape_.streams, ErrorCode::bad_argument,
            "cache: removal from an unknown stream");
    std::vector<int32_t> left = position_;
    int32_t* strip = left.data() + stream * shape_.cells;
    for (int64_t c = 0; c < shape_.cells; ++c) {
        if (strip[c] >= from && strip[c] < to) strip[c] = -1;
    }
    set_positions(left);
}

void KvCache::clear() {
    std::fill(position_.begin(), position_.end(), -1);
    std::fill(used_.begin(), used_.end(), 0);
    upload_positions();
}

void KvCache::read_cells(int64_t layer, int64_t stream, Side side,
                         std::span<std::byte> bytes) const {
    const TensorView cells = side == Side::k ? k(layer) : v(layer);
    backend_.download(bytes, cells.row<const std::byte>(stream, 0, 0));
}

void KvCache::write_cells(int64_t layer, int64_t stream, Side side,
                          std::span<const std::byte> bytes) {
    const TensorView cells = side == Side::k ? k(layer) : v(layer);
    backend_.upload(cells.row<std::byte>(stream, 0, 0), bytes);
}

void KvCache::set_positions(std::span<const int32_t> positions) {
    require(positions.size() == position_.size(), ErrorCode::bad_argument,
            "cache: expected one position per cell");
    position_.assign(positions.begin(), positions.end());
    for (int64_t stream = 0; stream < shape_.streams; ++stream) {
        const int32_t* strip = position_.data() + stream * shape_.cells;
        int64_t last = shape_.cells;
        while (last > 0 && strip[last - 1] < 0) --last;
        used_[size_t(stream)] = int32_t(last);
    }
    upload_positions();
}

void KvCache::upload_positions() {
    position_memory_.upload(std::as_bytes(std::span(position_)));
    used_memory_.upload(std::as_bytes(std::span(used_)));
}

}  // namespace rotkv
