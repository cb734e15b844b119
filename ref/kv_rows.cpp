// Class KvCache: where the rows of a layer lie, and strips of them as a saved cache holds them.
// Rows of a format of the zoo are twice there: their bytes, which are the cache, on the host, and
// what these stand for in cells of f32.
#include "ref/error.h"
#include "ref/kv_cache.h"

#include <algorithm>
#include <vector>

namespace rotkv {

// [S][C][K][D]; empty for a layer that keeps nothing.
TensorView KvCache::rows(int64_t layer, int64_t begin, const CacheType& type, int64_t d) const {
    const int64_t kv_heads = layer_at(layer).kv_heads;
    if (kv_heads == 0) return {};
    return view(rows_.data() + begin, type.cells(), {shape_.streams, shape_.cells, kv_heads, d});
}

FormatRows KvCache::format_rows(int64_t layer, Side side) const {
    const int64_t own = layer_at(layer).source.value_or(layer);
    std::vector<std::byte>& codes = codes_[size_t(2 * own + (side == Side::v))];
    if (codes.empty()) return {};
    return {.format = layer_at(own).type(side).format(),
            .cells = side == Side::k ? k(own) : v(own),
            .codes = codes.data(),
            .layer = own,
            .side = side};
}

TensorView KvCache::k(int64_t layer) const {
    return rows(layer, k_begin_[size_t(layer)], layer_at(layer).type_k, layer_at(layer).d_k);
}

TensorView KvCache::v(int64_t layer) const {
    const KvLayer& of = layer_at(layer);
    if (!of.v_in_k || of.kv_heads == 0)
        return rows(layer, v_begin_[size_t(layer)], of.type_v, of.d_v);
    return v_inside(layer, k(layer));
}

// V, of rows of K that it lies in.
TensorView KvCache::v_inside(int64_t layer, const TensorView& k) const {
    TensorView inside = k;
    inside.n[3] = layer_at(layer).d_v;
    inside.data += block_offset(k.type, layer_at(layer).v_first);
    return inside;
}

KvRows KvCache::f16_rows(int64_t layer) const {
    const KvLayer& of = layer_at(layer);
    if (!shape_.f16_tokens.any() || of.f16_bytes_per_token() == 0) return {};
    KvRows found{k(layer), v(layer), spec_.at(layer, Side::k), spec_.at(layer, Side::v)};
    if (of.type_k.quantized()) {
        found.k = rows(layer, k_f16_begin_[size_t(layer)], DType::f16, of.d_k);
        found.k_rotation = {};
    }
    if (of.type_v.quantized()) {
        found.v = of.v_in_k ? v_inside(layer, found.k)
                            : rows(layer, v_f16_begin_[size_t(layer)], DType::f16, of.d_v);
        found.v_rotation = {};
    }
    return found;
}

void KvCache::require_one_kind_of_rows() const {
    require(!shape_.f16_tokens.any(), ErrorCode::unsupported,
            "saved caches: the rows of first and recent tokens in f16 are not saved");
}

void KvCache::read_cells(int64_t layer, int64_t stream, Side side,
                         std::span<std::byte> bytes) const {
    if (const FormatRows rows = format_rows(layer, side); rows.format != nullptr) {
        std::copy_n(rows.codes_of(stream, 0, 0), bytes.size(), bytes.data());
        return;
    }
    const TensorView cells = side == Side::k ? k(layer) : v(layer);
    backend_.download(bytes, cells.row<const std::byte>(stream, 0, 0));
}

void KvCache::write_cells(int64_t layer, int64_t stream, Side side,
                          std::span<const std::byte> bytes) {
    if (const FormatRows rows = format_rows(layer, side); rows.format != nullptr) {
        std::copy(bytes.begin(), bytes.end(), rows.codes_of(stream, 0, 0));
        const int64_t row = rows.format->row_bytes(rows.cells.n[3]);
        return decode_cells(rows, stream, int64_t(bytes.size()) / (row * rows.cells.n[2]));
    }
    const TensorView cells = side == Side::k ? k(layer) : v(layer);
    backend_.upload(cells.row<std::byte>(stream, 0, 0), bytes);
}

// What the bytes of the first cells of a stream stand for, into these cells; 0 into empty ones.
void KvCache::decode_cells(const FormatRows& rows, int64_t stream, int64_t cells) const {
    const int64_t kv_heads = rows.cells.n[2], d = rows.cells.n[3];
    const size_t bytes = size_t(rows.format->row_bytes(d));
    std::vector<float> values(size_t(cells * kv_heads * d));
    RowContext context{.layer = rows.layer, .side = rows.side};
    for (int64_t cell = 0; cell < cells; ++cell) {
        context.position = position_[size_t(stream * shape_.cells + cell)];
        for (context.kv_head = 0; context.position >= 0 && context.kv_head < kv_heads;
             ++context.kv_head) {
            const size_t begin = size_t((cell * kv_heads + context.kv_head) * d);
            rows.format->decode(
                std::span(values).subspan(begin, size_t(d)),
                std::span<const std::byte>(rows.codes_of(stream, cell, context.kv_head), bytes),
                context);
        }
    }
    backend_.upload(rows.cells.row<std::byte>(stream, 0, 0), std::as_bytes(std::span(values)));
}

}  // namespace rotkv
