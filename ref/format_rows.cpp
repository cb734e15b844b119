// How rows pass through a format on their way into f32 cells: kv_store and kv_shift write the cells
// as those of any f32 cache, and then, on the host, each row that they wrote becomes bytes, and
// what the bytes stand for takes its place. Rows of a format of groups do when the last token of
// theirs is there (class KvCache sees to it that a group lies in order). Where cells are in a
// device's memory, they come and go in one copy a stream.
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

// G tokens of one head, in as many cells one behind the other, the first of them at `first`.
class Group {
  public:
    Group(const FormatRows& rows, int64_t stream, const Written& first, int64_t kv_head)
        : rows_(rows),
          stream_(stream),
          first_(first.cell),
          context_{.layer = rows.layer,
                   .kv_head = kv_head,
                   .side = rows.side,
                   .position = first.position} {}

    /// To bytes and back.
    void pass(HostCells& host) const {
        const int64_t d = rows_.cells.n[3], bytes = rows_.format->row_bytes(d);
        const int64_t tokens = rows_.format->group();
        std::vector<float> values(size_t(tokens * d));
        std::vector<std::byte> codes(size_t(tokens * bytes));
        for (int64_t t = 0; t < tokens; ++t) {
            std::ranges::copy(row(host, t), values.begin() + t * d);
        }
        rows_.format->encode(codes, values, context_);
        rows_.format->decode(values, codes, context_);
        for (int64_t t = 0; t < tokens; ++t) {
            std::copy_n(values.begin() + t * d, d, row(host, t).begin());
            std::copy_n(codes.begin() + t * bytes, bytes,
                        rows_.codes_of(stream_, first_ + t, context_.kv_head));
        }
    }

  private:
    std::span<float> row(HostCells& host, int64_t token) const {
        return host.row(rows_.cells, first_ + token, context_.kv_head);
    }

    const FormatRows& rows_;
    int64_t stream_, first_;
    RowContext context_;
};

// The first tokens of the groups whose last one is there.
std::vector<Written> groups_ended_by(const std::vector<Written>& written, int64_t tokens) {
    std::vector<Written> groups;
    for (const Written& one : written) {
        if ((one.position + 1) % tokens != 0) continue;
        groups.push_back({one.cell - tokens + 1, one.position - tokens + 1});
    }
    return groups;
}

void pass_stream(Backend& backend, const FormatRows& rows, int64_t stream,
                 const std::vector<Written>& written) {
    const int64_t tokens = rows.format->group(), kv_heads = rows.cells.n[2];
    const std::vector<Written> groups = groups_ended_by(written, tokens);
    if (groups.empty()) return;
    const auto [first, last] = std::ranges::minmax_element(groups, {}, &Written::cell);
    HostCells host(backend, rows.cells, stream, first->cell, last->cell + tokens);
    backend.on_host(std::ssize(groups) * kv_heads, [&](int64_t i) {
        Group(rows, stream, groups[size_t(i / kv_heads)], i % kv_heads).pass(host);
    });
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
