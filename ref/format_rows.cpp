// How rows pass through a format on their way into f32 cells: kv_store and kv_shift write the cells
// as those of any f32 cache, and then, on the host, each row that they wrote becomes bytes, and
// what the bytes stand for takes its place. Where cells are in a device's memory, they come and go
// in one copy a stream.
#include "ref/format_rows.h"

#include <algorithm>
#include <span>
#include <vector>

namespace rotkv {

namespace {

// The cells of one stream, from one to another, on the host.
class HostCells {
  public:
    HostCells(Backend& backend, const TensorView& cells, int64_t stream, int64_t begin, int64_t end)
        : backend_(backend), there_(cells.row<std::byte>(stream, begin, 0)), begin_(begin) {
        if (backend.in_host_memory()) {
            backend.synchronize();
            return;
        }
        copy_.resize(size_t((end - begin) * cells.stride[1]));
        backend.download(copy_, there_);
    }

    /// Where a head's row lies.
    std::span<float> row(const TensorView& cells, int64_t cell, int64_t head) {
        std::byte* first = copy_.empty() ? there_ : copy_.data();
        first += (cell - begin_) * cells.stride[1] + head * cells.stride[2];
        return {reinterpret_cast<float*>(first), size_t(cells.n[3])};
    }

    void put_back() {
        if (!copy_.empty()) backend_.upload(there_, copy_);
    }

  private:
    Backend& backend_;
    std::byte* there_;
    int64_t begin_;
    std::vector<std::byte> copy_;  ///< empty: they are on the host
};

// One cell that was written, and the position of its token.
struct Written {
    int64_t cell, position;
};

void pass_stream(Backend& backend, const FormatRows& rows, int64_t stream,
                 const std::vector<Written>& written) {
    if (written.empty()) return;
    const auto [first, last] = std::ranges::minmax_element(written, {}, &Written::cell);
    const TensorView& cells = rows.cells;
    const int64_t kv_heads = cells.n[2], bytes = rows.format->row_bytes(cells.n[3]);
    HostCells host(backend, cells, stream, first->cell, last->cell + 1);
    RowContext context{.layer = rows.layer, .side = rows.side};
    for (const Written& one : written) {
        context.position = one.position;
        for (context.kv_head = 0; context.kv_head < kv_heads; ++context.kv_head) {
            const std::span<std::byte> codes(rows.codes_of(stream, one.cell, context.kv_head),
                                             size_t(bytes));
            const std::span<float> row = host.row(cells, one.cell, context.kv_head);
            rows.format->encode(codes, row, context);
            rows.format->decode(row, codes, context);
        }
    }
    host.put_back();
}

// By stream, in the order they were written.
using ByStream = std::vector<std::vector<Written>>;

void pass(Backend& backend, const FormatRows& rows, const ByStream& written) {
    if (rows.format == nullptr) return;
    for (size_t stream = 0; stream < written.size(); ++stream) {
        pass_stream(backend, rows, int64_t(stream), written[stream]);
    }
}

}  // namespace

std::byte* FormatRows::codes_of(int64_t stream, int64_t cell, int64_t kv_head) const {
    const int64_t row = (stream * cells.n[1] + cell) * cells.n[2] + kv_head;
    return codes + row * format->row_bytes(cells.n[3]);
}

bool names_format(const Call& call) {
    if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
        return store->k_format.format != nullptr || store->v_format.format != nullptr;
    }
    const auto* shift = std::get_if<KvShiftArgs>(&call);
    return shift != nullptr && shift->k_format.format != nullptr;
}

Call without_formats(const Call& call) {
    Call plain = call;
    if (auto* store = std::get_if<KvStoreArgs>(&plain)) store->k_format = store->v_format = {};
    if (auto* shift = std::get_if<KvShiftArgs>(&plain)) shift->k_format = {};
    return plain;
}

void pass_through_formats(Backend& backend, const Call& call) {
    if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
        const std::vector<int32_t> stream = contents<int32_t>(backend, store->stream);
        const std::vector<int32_t> cell = contents<int32_t>(backend, store->cell);
        const std::vector<int32_t> position = contents<int32_t>(backend, store->position);
        ByStream written(size_t(store->k_cache.n[0]));
        for (size_t t = 0; t < cell.size(); ++t) {
            if (cell[t] >= 0) written[size_t(stream[t])].push_back({cell[t], position[t]});
        }
        pass(backend, store->k_format, written);
        pass(backend, store->v_format, written);
    } else if (const auto* shift = std::get_if<KvShiftArgs>(&call)) {
        const int64_t cells = shift->k_cache.n[1];
        const std::vector<int32_t> row = contents<int32_t>(backend, shift->row);
        const std::vector<int32_t> position = contents<int32_t>(backend, shift->position);
        ByStream written(size_t(shift->k_cache.n[0]));
        for (size_t i = 0; i < row.size(); ++i) {
            if (row[i] < 0) continue;
            written[i / size_t(cells)].push_back({int64_t(i) % cells, position[i]});
        }
        pass(backend, shift->k_format, written);
    }
}

}  // namespace rotkv
