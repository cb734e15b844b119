// Class KvCache: which token sits in which cell, at which position, and where its rows lie.
#include "ref/error.h"
#include "ref/kv_cache.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

namespace rotkv {

int64_t KvLayer::bytes_per_token() const {
    if (kv_heads == 0) return 0;
    const int64_t k = row_bytes(type_k, d_k), v = v_in_k ? 0 : row_bytes(type_v, d_v);
    return kv_heads * (k + v);
}

int64_t KvShape::bytes_per_token() const {
    int64_t bytes = 0;
    for (const KvLayer& layer : layers) bytes += layer.source ? 0 : layer.bytes_per_token();
    return bytes;
}

int64_t KvLayer::f16_bytes_per_token() const {
    const int64_t k = type_k.quantized() ? row_bytes(DType::f16, d_k) : 0;
    const int64_t v = type_v.quantized() && !v_in_k ? row_bytes(DType::f16, d_v) : 0;
    return kv_heads * (k + v);
}

int64_t KvShape::f16_bytes_per_stream() const {
    int64_t bytes = 0;
    for (const KvLayer& layer : layers) bytes += layer.source ? 0 : layer.f16_bytes_per_token();
    return std::min(f16_tokens.first + f16_tokens.recent, cells) * bytes;
}

RecurrentShape KvShape::recurrent() const {
    RecurrentShape shape{.streams = streams, .layers = {}};
    for (const KvLayer& layer : layers) shape.layers.push_back(layer.recurrent);
    return shape;
}

static void check_side(const char* side, const CacheType& type, int64_t kv_heads, int64_t d,
                       const Rotation& rotation, const MatrixPointer& matrix,
                       const F16Tokens& in_f16) {
    const std::string what = std::string("cache ") + side + " of type " + type.name();
    const std::string refusal = type.refusal(d);
    if (!refusal.empty()) throw Error(ErrorCode::unsupported, what + ": " + refusal);
    if (const int64_t raw = type.group() - 1; in_f16.recent < raw) {
        throw Error(ErrorCode::unsupported,
                    what + ": keeps " + std::to_string(type.group()) +
                        " tokens together, and needs recent=" + std::to_string(raw) +
                        " or more to read those of a group that is not full; found recent=" +
                        std::to_string(in_f16.recent));
    }
    if (!rotation.fits(d)) {
        throw Error(ErrorCode::bad_argument,
                    what + ": rotation block " + std::to_string(rotation.block) +
                        " is no power of two that divides the head size " + std::to_string(d));
    }
    if (!matrix) return;
    if (matrix->d() == d && (matrix->heads() == 1 || matrix->heads() == kv_heads)) return;
    throw Error(ErrorCode::bad_argument, what + ": expected 1 or " + std::to_string(kv_heads) +
                                             " rotation matrices of " + std::to_string(d) +
                                             " channels, found " + std::to_string(matrix->heads()) +
                                             " of " + std::to_string(matrix->d()));
}

// V as a view of K, by matrices: V's is what K's does to these channels, which meet no others.
static void check_view_matrix(const KvLayer& layer, const MatrixPointer& k,
                              const MatrixPointer& v) {
    if (!k && !v) return;
    require(k && v, ErrorCode::bad_argument,
            "cache V as a view of K: expected a rotation matrix of both or of neither");
    if (!k->splits_at(layer.v_first, layer.d_v)) {
        throw Error(ErrorCode::bad_argument, "cache V as a view of K: rotation " + k->words() +
                                                 " mixes channels " +
                                                 std::to_string(layer.v_first) + " to " +
                                                 std::to_string(layer.v_first + layer.d_v - 1) +
                                                 ", which are V, with others");
    }
    require(k->part(layer.v_first, layer.d_v).hash() == v->hash(), ErrorCode::bad_argument,
            "cache V as a view of K: expected the part of its rotation matrix that turns V");
}

// V as a view of K: K's rows are what is stored, so that V is turned as they are, in whole blocks.
static void check_view(const KvLayer& layer, const Rotation& k, const Rotation& v) {
    require(layer.type_k == layer.type_v && layer.v_first >= 0 &&
                layer.v_first <= layer.d_k - layer.d_v,
            ErrorCode::bad_argument,
            "cache: V as a view of K must have its type and lie inside it");
    Rotation expected = k;
    if (k.kind == Rotation::Kind::signs) expected.first = layer.v_first;
    if (v != expected) {
        throw Error(ErrorCode::bad_argument, "cache V as a view of K: expected its rotation " +
                                                 rotation_name(expected) + ", found " +
                                                 rotation_name(v));
    }
    const int64_t step =
        std::max<int64_t>(k.on() ? k.block : 1, type_info(layer.type_k.cells()).block_elements);
    if (layer.v_first % step == 0 && layer.d_v % step == 0) return;
    throw Error(ErrorCode::bad_argument,
                "cache V as a view of K: expected channels in whole blocks of " +
                    std::to_string(step) + ", found " + std::to_string(layer.d_v) + " from " +
                    std::to_string(layer.v_first));
}

static void check_layer(const KvShape& shape, int64_t index, const RotationSpec& spec) {
    const KvLayer& layer = shape.layers[size_t(index)];
    if (layer.source) {
        const int64_t source = *layer.source;
        KvLayer own = layer;
        own.source.reset();
        const bool alike = source >= 0 && source < index && shape.layers[size_t(source)] == own &&
                           spec.at(source, Side::k) == spec.at(index, Side::k) &&
                           spec.at(source, Side::v) == spec.at(index, Side::v) &&
                           same_matrix(spec.matrix(source, Side::k), spec.matrix(index, Side::k)) &&
                           same_matrix(spec.matrix(source, Side::v), spec.matrix(index, Side::v));
        if (!alike) {
            throw Error(ErrorCode::bad_argument, "cache: layer " + std::to_string(index) +
                                                     " must be like the earlier one it reads");
        }
    }
    if (layer.kv_heads == 0) return;
    const bool in_f16 = shape.f16_tokens.any() && layer.f16_bytes_per_token() > 0;
    require(!in_f16 || !(spec.matrix(index, Side::k) || spec.matrix(index, Side::v)),
            ErrorCode::unsupported,
            "cache: a matrix cannot turn a layer that keeps tokens in f16 beside it");
    require(layer.kv_heads > 0 && layer.d_k > 0 && layer.d_v > 0, ErrorCode::bad_argument,
            "cache: every extent must be positive");
    const Rotation &k = spec.at(index, Side::k), &v = spec.at(index, Side::v);
    const MatrixPointer &k_matrix = spec.matrix(index, Side::k),
                        &v_matrix = spec.matrix(index, Side::v);
    check_side("K", layer.type_k, layer.kv_heads, layer.d_k, k, k_matrix, shape.f16_tokens);
    check_side("V", layer.type_v, layer.kv_heads, layer.d_v, v, v_matrix, shape.f16_tokens);
    if (!layer.v_in_k) return;
    check_view(layer, k, v);
    check_view_matrix(layer, k_matrix, v_matrix);
}

// How many tokens types keep together, where it is more than one.
static std::vector<int64_t> groups_of(const KvShape& shape) {
    std::set<int64_t> groups;
    for (const KvLayer& layer : shape.layers) {
        if (layer.kv_heads > 0) groups.insert({layer.type_k.group(), layer.type_v.group()});
    }
    groups.erase(1);
    return {groups.begin(), groups.end()};
}

KvCache::KvCache(Backend& backend, const KvShape& shape, const RotationSpec& spec)
    : backend_(backend), shape_(shape), spec_(spec) {
    require(!shape.layers.empty() && shape.streams > 0 && shape.cells > 0, ErrorCode::bad_argument,
            "cache: every extent must be positive");
    require(shape.f16_tokens.first >= 0 && shape.f16_tokens.recent >= 0, ErrorCode::bad_argument,
            "cache: expected no fewer than 0 tokens in f16");
    int64_t bytes = 0;
    // Room for one side of a layer, aligned like memory of its own.
    const auto take = [&](int64_t bytes_of_cell) {
        constexpr int64_t k_alignment = 256;
        const int64_t begin = bytes, size = shape.streams * shape.cells * bytes_of_cell;
        bytes += (size + k_alignment - 1) / k_alignment * k_alignment;
        return begin;
    };
    codes_.resize(size_t(2 * shape.n_layers()));
    groups_ = groups_of(shape);
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        check_layer(shape, l, spec);
        const KvLayer& layer = shape.layers[size_t(l)];
        if (layer.source) {
            for (auto* begin : {&k_begin_, &v_begin_, &k_f16_begin_, &v_f16_begin_}) {
                begin->push_back((*begin)[size_t(*layer.source)]);
            }
            continue;
        }
        k_begin_.push_back(take(layer.kv_heads * row_bytes(layer.type_k.cells(), layer.d_k)));
        const int64_t v_row = layer.v_in_k ? 0 : row_bytes(layer.type_v.cells(), layer.d_v);
        v_begin_.push_back(take(layer.kv_heads * v_row));
        const auto take_f16 = [&](const CacheType& type, int64_t d) {
            const bool kept = shape.f16_tokens.any() && type.quantized();
            return take(kept ? layer.kv_heads * row_bytes(DType::f16, d) : 0);
        };
        k_f16_begin_.push_back(take_f16(layer.type_k, layer.d_k));
        v_f16_begin_.push_back(layer.v_in_k ? 0 : take_f16(layer.type_v, layer.d_v));
        if (layer.kv_heads == 0) continue;
        const auto room = [&](const CacheType& type, int64_t d) {  // for the bytes of a format
            const int64_t row = type.format() == nullptr ? 0 : row_bytes(type, d);
            return size_t(shape.streams * shape.cells * layer.kv_heads * row);
        };
        codes_[size_t(2 * l)].resize(room(layer.type_k, layer.d_k));
        if (!layer.v_in_k) codes_[size_t(2 * l + 1)].resize(room(layer.type_v, layer.d_v));
    }
    const int64_t strips = shape.streams * shape.cells;
    rows_ = Buffer(backend, size_t(bytes));
    position_memory_ = Buffer(backend, size_t(strips) * sizeof(int32_t));
    used_memory_ = Buffer(backend, size_t(shape.streams) * sizeof(int32_t));
    position_.resize(size_t(strips));
    used_.resize(size_t(shape.streams));
    taken_.resize(size_t(shape.streams));
    if (const RecurrentShape states = shape.recurrent(); states.bytes_per_stream() > 0) {
        state_.emplace(backend, states);
    }
    upload_matrices();
    clear();
}

// An empty cell for every token; those of a stream in ascending order, from next[stream] on, which
// moves behind them.
std::vector<int32_t> KvCache::choose_cells(std::span<const int32_t> streams,
                                           std::span<const int32_t> positions,
                                           std::vector<int64_t>& next) const {
    std::vector<int32_t> cells;
    for (size_t t = 0; t < streams.size(); ++t) {
        const int64_t stream = streams[t];
        if (stream < 0 || stream >= shape_.streams || positions[t] < 0) {
            throw Error(ErrorCode::bad_argument, "cache: token " + std::to_string(t) +
                                                     " asks for stream " + std::to_string(stream) +
                                                     " of " + std::to_string(shape_.streams) +
                                                     ", position " + std::to_string(positions[t]));
        }
        const int32_t* strip = position_.data() + stream * shape_.cells;
        int64_t& cell = next[size_t(stream)];
        while (cell < shape_.cells && strip[cell] >= 0) ++cell;
        if (cell == shape_.cells) {
            throw Error(ErrorCode::bad_argument, "cache: stream " + std::to_string(stream) +
                                                     " is full (" + std::to_string(shape_.cells) +
                                                     " cells)");
        }
        cells.push_back(int32_t(cell++));
    }
    return cells;
}

namespace {

// The cells of one stream.
std::span<const int32_t> strip_of(std::span<const int32_t> all, int64_t stream, int64_t cells) {
    return all.subspan(size_t(stream * cells), size_t(cells));
}

// A strip's cells up to the last one in use, and up to the first one that is not.
struct Filled {
    int32_t used = 0;
    int64_t taken = 0;

    explicit Filled(std::span<const int32_t> strip) : used(int32_t(strip.size())) {
        while (used > 0 && strip[size_t(used) - 1] < 0) --used;
        while (taken < used && strip[size_t(taken)] >= 0) ++taken;
    }
};

}  // namespace

KvBatch KvCache::place(std::span<const int32_t> streams, std::span<const int32_t> positions) {
    require(streams.size() == positions.size() && !streams.empty(), ErrorCode::bad_argument,
            "cache: expected one stream and one position per token");
    if (state_) state_->require_next(streams, positions);
    std::vector<int64_t> next = taken_;
    const std::vector<int32_t> cells = choose_cells(streams, positions, next);
    require_in_groups(streams, positions, cells);

    const int64_t tokens = int64_t(streams.size());
    std::vector<int32_t> packed(streams.begin(), streams.end());  // [3][T]: stream, cell, position
    packed.insert(packed.end(), cells.begin(), cells.end());
    packed.insert(packed.end(), positions.begin(), positions.end());
    const std::span<const std::byte> bytes = std::as_bytes(std::span(packed));
    if (batch_memory_.bytes() < bytes.size()) batch_memory_ = Buffer(backend_, bytes.size());
    batch_memory_.upload(bytes);

    // From here on nothing fails. What lies between new cells is uploaded, of one stream or of
    // several; not long stretches of old ones between two streams' news.
    constexpr int64_t k_stretch = 1024;  // cells that take as long as another upload
    std::vector<int64_t> first = next;   // [S] the first new cell
    for (size_t t = streams.size(); t-- > 0;) {
        first[size_t(streams[t])] = cells[t];
        position_[size_t(streams[t] * shape_.cells + cells[t])] = positions[t];
    }
    int64_t begin = 0, end = 0;  // of what is not uploaded yet
    for (int64_t stream = 0; stream < shape_.streams; ++stream) {
        const int64_t from = first[size_t(stream)], to = next[size_t(stream)];
        if (from == to) continue;
        int32_t& used = used_[size_t(stream)];
        used = std::max(used, int32_t(to));
        const int64_t strip = stream * shape_.cells;
        if (begin == end || strip + from - end > k_stretch) {
            upload_positions(0, begin, end);
            begin = strip + from;
        }
        end = strip + to;
    }
    upload_positions(0, begin, end);
    taken_ = std::move(next);
    upload_used();
    if (state_) state_->place(streams, positions);

    std::byte* memory = batch_memory_.data();
    const int64_t step = tokens * int64_t(sizeof(int32_t));
    return {view(memory, DType::i32, {tokens}), view(memory + step, DType::i32, {tokens}),
            view(memory + 2 * step, DType::i32, {tokens})};
}

TensorView KvCache::positions() const {
    return position_memory_.view(DType::i32, {shape_.streams, shape_.cells});
}

TensorView KvCache::used() const { return used_memory_.view(DType::i32, {shape_.streams}); }

void KvCache::remove(int64_t stream, int32_t from, int32_t to) {
    require(stream >= 0 && stream < shape_.streams, ErrorCode::bad_argument,
            "cache: removal from an unknown stream");
    std::vector<int32_t> left = position_;
    int32_t* strip = left.data() + stream * shape_.cells;
    for (int64_t c = 0; c < shape_.cells; ++c) {
        if (strip[c] >= from && strip[c] < to) strip[c] = -1;
    }
    require_whole_groups(stream, left);
    if (state_) state_->remove(stream, from, to);
    position_ = std::move(left);
    const Filled filled(strip_of(position_, stream, shape_.cells));
    used_[size_t(stream)] = filled.used;
    taken_[size_t(stream)] = filled.taken;
    upload_positions(stream, 0, shape_.cells);
    upload_used();
}

void KvCache::clear() {
    set_positions(std::vector<int32_t>(position_.size(), -1));
    for (int64_t stream = 0; state_ && stream < shape_.streams; ++stream) state_->clear(stream);
}

void KvCache::set_positions(std::span<const int32_t> positions) {
    require(positions.size() == position_.size(), ErrorCode::bad_argument,
            "cache: expected one position per cell");
    position_.assign(positions.begin(), positions.end());
    for (int64_t stream = 0; stream < shape_.streams; ++stream) {
        const Filled filled(strip_of(position_, stream, shape_.cells));
        used_[size_t(stream)] = filled.used;
        taken_[size_t(stream)] = filled.taken;
    }
    upload_positions(0, 0, std::ssize(position_));
    upload_used();
}

// Brings cells begin .. end, counted from a stream's first, to the backend: its own, and those of
// the streams behind it.
void KvCache::upload_positions(int64_t stream, int64_t begin, int64_t end) const {
    if (begin == end) return;
    const int64_t first = stream * shape_.cells + begin;
    const std::span<const int32_t> cells =
        std::span(position_).subspan(size_t(first), size_t(end - begin));
    std::byte* memory = position_memory_.data() + first * int64_t(sizeof(int32_t));
    backend_.upload(memory, std::as_bytes(cells));
}

void KvCache::upload_used() const { used_memory_.upload(std::as_bytes(std::span(used_))); }

}  // namespace rotkv
