#include "ref/recurrent_state.h"

#include "ref/error.h"

#include <algorithm>
#include <string>

namespace rotkv {

static int64_t bytes_of_inputs(const RecurrentLayer& layer) {
    return layer.heads == 0 ? 0 : (layer.taps - 1) * layer.channels * int64_t(sizeof(float));
}

static int64_t bytes_of_matrices(const RecurrentLayer& layer) {
    return layer.heads * layer.d * layer.d * int64_t(sizeof(float));
}

int64_t RecurrentLayer::bytes_per_stream() const {
    return bytes_of_inputs(*this) + bytes_of_matrices(*this);
}

int64_t RecurrentShape::bytes_per_stream() const {
    int64_t bytes = 0;
    for (const RecurrentLayer& layer : layers) bytes += layer.bytes_per_stream();
    return bytes;
}

RecurrentState::RecurrentState(Backend& backend, const RecurrentShape& shape)
    : backend_(backend), shape_(shape) {
    require(shape.streams > 0 && !shape.layers.empty(), ErrorCode::bad_argument,
            "recurrent state: every extent must be positive");
    int64_t bytes = 0;
    const auto take = [&](int64_t of_stream) {  // aligned like memory of its own
        constexpr int64_t k_alignment = 256;
        const int64_t begin = bytes, size = shape.streams * of_stream;
        bytes += (size + k_alignment - 1) / k_alignment * k_alignment;
        return begin;
    };
    for (const RecurrentLayer& layer : shape.layers) {
        const bool none = layer == RecurrentLayer();
        require(none || (layer.heads > 0 && layer.d > 0 && layer.channels > 0 && layer.taps > 0),
                ErrorCode::bad_argument, "recurrent state: every extent must be positive");
        inputs_begin_.push_back(take(bytes_of_inputs(layer)));
        matrices_begin_.push_back(take(bytes_of_matrices(layer)));
    }
    memory_ = Buffer(backend, size_t(bytes));
    held_.resize(size_t(shape.streams));
    for (int64_t stream = 0; stream < shape.streams; ++stream) clear(stream);
}

TensorView RecurrentState::inputs(int64_t layer) const {
    const RecurrentLayer& of = shape_.layers[size_t(layer)];
    if (of.heads == 0) return {};
    return view(memory_.data() + inputs_begin_[size_t(layer)], DType::f32,
                {shape_.streams, of.taps - 1, of.channels});
}

TensorView RecurrentState::matrices(int64_t layer) const {
    const RecurrentLayer& of = shape_.layers[size_t(layer)];
    if (of.heads == 0) return {};
    return view(memory_.data() + matrices_begin_[size_t(layer)], DType::f32,
                {shape_.streams, of.heads, of.d, of.d});
}

void RecurrentState::require_stream(int64_t stream) const {
    if (stream >= 0 && stream < shape_.streams) return;
    throw Error(ErrorCode::bad_argument, "recurrent state: expected one of " +
                                             std::to_string(shape_.streams) + " streams, found " +
                                             std::to_string(stream));
}

// What the streams hold once the batch is in.
std::vector<Held> RecurrentState::held_after(std::span<const int32_t> streams,
                                             std::span<const int32_t> positions) const {
    require(streams.size() == positions.size(), ErrorCode::bad_argument,
            "recurrent state: expected one stream and one position per token");
    std::vector<Held> moved = held_;
    for (size_t t = 0; t < streams.size(); ++t) {
        require_stream(streams[t]);
        int32_t& next = moved[size_t(streams[t])].next;
        if (positions[t] != next || next == INT32_MAX) {
            throw Error(ErrorCode::unsupported,
                        "recurrent state: stream " + std::to_string(streams[t]) +
                            ": expected position " + std::to_string(next) + ", found " +
                            std::to_string(positions[t]) +
                            ": it takes tokens one after the other, and none back");
        }
        ++next;
    }
    return moved;
}

void RecurrentState::place(std::span<const int32_t> streams, std::span<const int32_t> positions) {
    held_ = held_after(streams, positions);
}

void RecurrentState::require_next(std::span<const int32_t> streams,
                                  std::span<const int32_t> positions) const {
    held_after(streams, positions);
}

// Calls visit(view, bytes) for the two tensors of every layer, those of one stream.
template <class Visit>
void RecurrentState::each_part(int64_t stream, const Visit& visit) const {
    for (int64_t layer = 0; layer < shape_.n_layers(); ++layer) {
        for (const bool of_inputs : {true, false}) {
            TensorView part = of_inputs ? inputs(layer) : matrices(layer);
            if (part.empty()) continue;
            const int extent = of_inputs ? 1 : 0;  // that of the streams
            part.data += stream * part.stride[extent];
            part.n[extent] = 1;
            visit(part, size_t(part.stride[extent]));
        }
    }
}

void RecurrentState::clear(int64_t stream) {
    require_stream(stream);
    each_part(stream, [&](const TensorView& part, size_t bytes) {
        backend_.upload(part.data, std::vector<std::byte>(bytes));
    });
    held_[size_t(stream)] = {};
}

void RecurrentState::copy(int64_t from, int64_t to) {
    require_stream(from);
    require_stream(to);
    if (from == to) return;
    each_part(from, [&](const TensorView& part, size_t bytes) {
        TensorView target = part;
        target.data += (to - from) * int64_t(bytes);
        backend_.run(DequantizeArgs{.dst = target, .src = part});  // f32 to f32: as they are
    });
    held_[size_t(to)] = held_[size_t(from)];
}

// Whether positions from .. to are those of no token of the stream, or of all.
RecurrentState::Reach RecurrentState::reach(int64_t stream, int32_t from, int32_t to,
                                            const char* what) const {
    require_stream(stream);
    const Held& held = held_[size_t(stream)];
    const int32_t first = std::max(from, held.first), next = std::min(to, held.next);
    if (first >= next) return Reach::none;
    if (Held{first, next} == held) return Reach::all;
    throw Error(ErrorCode::unsupported, "recurrent state: stream " + std::to_string(stream) +
                                            " holds positions " + std::to_string(held.first) +
                                            " to " + std::to_string(held.next - 1) + " in one, " +
                                            std::to_string(first) + " to " +
                                            std::to_string(next - 1) + " alone cannot be " + what);
}

void RecurrentState::remove(int64_t stream, int32_t from, int32_t to) {
    if (reach(stream, from, to, "removed") == Reach::all) clear(stream);
}

Held RecurrentState::held_after_shift(int64_t stream, int32_t from, int32_t to,
                                      int32_t difference) const {
    const bool all = reach(stream, from, to, "shifted") == Reach::all;
    const Held& held = held_[size_t(stream)];
    if (!all) return held;
    const int64_t first = int64_t(held.first) + difference, next = int64_t(held.next) + difference;
    if (first < 0 || next > INT32_MAX) {
        throw Error(ErrorCode::bad_argument,
                    "recurrent state: shift by " + std::to_string(difference) + " moves position " +
                        std::to_string(held.first) + " to " + std::to_string(first));
    }
    return {int32_t(first), int32_t(next)};
}

void RecurrentState::shift(int64_t stream, int32_t from, int32_t to, int32_t difference) {
    held_[size_t(stream)] = held_after_shift(stream, from, to, difference);
}

void RecurrentState::require_shift(int64_t stream, int32_t from, int32_t to,
                                   int32_t difference) const {
    held_after_shift(stream, from, to, difference);
}

std::vector<std::byte> RecurrentState::contents(int64_t stream) const {
    require_stream(stream);
    std::vector<std::byte> all;
    all.reserve(size_t(shape_.bytes_per_stream()));
    each_part(stream, [&](const TensorView& part, size_t bytes) {
        std::vector<std::byte> one(bytes);
        backend_.download(one, part.data);
        all.insert(all.end(), one.begin(), one.end());
    });
    return all;
}

void RecurrentState::set_contents(int64_t stream, std::span<const std::byte> bytes,
                                  const Held& held) {
    require_stream(stream);
    require(int64_t(bytes.size()) == shape_.bytes_per_stream(), ErrorCode::bad_argument,
            "recurrent state: expected the bytes of one stream");
    require(0 <= held.first && held.first <= held.next, ErrorCode::bad_argument,
            "recurrent state: expected positions from 0 on");
    each_part(stream, [&](const TensorView& part, size_t of_part) {
        backend_.upload(part.data, bytes.first(of_part));
        bytes = bytes.subspan(of_part);
    });
    held_[size_t(stream)] = held;
}

}  // namespace rotkv
