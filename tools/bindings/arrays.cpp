#include "tools/bindings/arrays.h"

#include <cstdint>

namespace rotkv::bindings {

// Blocks of 32 and 256 begin with an f16 or with bytes beside one; mxfp4 is bytes alone.
static int64_t alignment_of(DType type) {
    const TypeInfo& info = type_info(type);
    if (info.block_elements == 1) return info.block_bytes;
    return type == DType::mxfp4 ? 1 : 2;
}

// Bytes from the first element to behind the last one, where they can be counted.
static int64_t reach_of(const TensorView& view, const std::string& name) {
    int64_t bytes = row_bytes(view.type, view.n[3]);
    for (int axis = 0; axis < 3; ++axis) {
        const int64_t steps = view.n[axis] - 1, stride = view.stride[axis];
        if (stride > 0 && steps > (INT64_MAX - bytes) / stride) {
            refuse(name, "extents whose bytes can be counted", describe(view));
        }
        bytes += steps * stride;
    }
    return bytes;
}

TensorView view_of(const rotkv_array& array, const std::string& name) {
    const auto is_0 = [](int64_t x) { return x == 0; };
    const DType type = DType(array.type);
    type_info(type);  // throws for none
    if (std::ranges::all_of(array.n, is_0)) return {};
    const int64_t* n = array.n;
    TensorView view = rotkv::view(array.data, type, {n[0], n[1], n[2], n[3]});
    if (!std::ranges::all_of(array.stride, is_0)) {
        std::ranges::copy(array.stride, view.stride);
        if (view.stride[3] != type_info(type).block_bytes) {
            refuse(name,
                   "elements or blocks side by side: a last stride of " +
                       std::to_string(type_info(type).block_bytes),
                   std::to_string(view.stride[3]));
        }
    }
    const int64_t alignment = alignment_of(type);
    for (const int64_t stride : view.stride) {
        if (stride < 0 || stride % alignment != 0) {
            refuse(name, "strides of 0 or more, multiples of " + std::to_string(alignment),
                   std::to_string(stride));
        }
    }
    if (view.empty()) return view;
    const int64_t reach = reach_of(view, name);
    if (std::size_t(reach) > array.bytes) {
        refuse(name, std::to_string(reach) + " bytes for " + describe(view),
               std::to_string(array.bytes));
    }
    require_pointer(array.data, name.c_str());
    if (reinterpret_cast<std::uintptr_t>(array.data) % std::uintptr_t(alignment) != 0) {
        refuse(name, "data at a multiple of " + std::to_string(alignment) + " bytes", "another");
    }
    return view;
}

TensorView Arrays::place(const TensorView& view, bool written) {
    if (backend_.in_host_memory() || view.empty()) return view;
    const std::size_t bytes = std::size_t(span_bytes(view));
    copies_.push_back({view, Buffer(backend_, bytes), written});
    copies_.back().buffer.upload({view.data, bytes});
    TensorView there = view;
    there.data = copies_.back().buffer.data();
    return there;
}

TensorView Arrays::ints(std::span<const int32_t> numbers, int64_t rows) {
    const int64_t columns = rows == 0 ? 0 : int64_t(numbers.size()) / rows;
    return place(rotkv::view(numbers.data(), DType::i32, {rows, columns}), false);
}

TensorView Arrays::floats(std::span<const float> numbers, std::initializer_list<int64_t> extents) {
    return place(rotkv::view(numbers.data(), DType::f32, extents), false);
}

TensorView Arrays::out(std::span<int32_t> numbers) {
    return place(rotkv::view(numbers.data(), DType::i32, {int64_t(numbers.size())}), true);
}

TensorView Arrays::out(std::span<double> numbers) {
    return place(rotkv::view(numbers.data(), DType::f64, {int64_t(numbers.size())}), true);
}

void Arrays::finish() {
    backend_.synchronize();
    for (const Copy& copy : copies_) {
        if (copy.written) copy.buffer.download({copy.of.data, copy.buffer.bytes()});
    }
}

std::span<const int32_t> indices(const int32_t* given, int64_t count, const char* name,
                                 int64_t least, int64_t most) {
    const std::span<const int32_t> all = elements(given, count, name);
    for (const int32_t i : all) require_number(name, i, least, most);
    return all;
}

std::vector<int32_t> indices_or_zeros(const int32_t* given, int64_t count, const char* name,
                                      int64_t most) {
    if (given == nullptr && most >= 0) return std::vector<int32_t>(std::size_t(count));
    const std::span<const int32_t> all = indices(given, count, name, 0, most);
    return {all.begin(), all.end()};
}

Rotation rotation_of(const rotkv_rotation& given) {
    require_number("rotation.kind", given.kind, ROTKV_NOT_ROTATED, ROTKV_SIGNS);
    constexpr Rotation::Kind kinds[] = {Rotation::Kind::none, Rotation::Kind::sylvester,
                                        Rotation::Kind::signs};
    Rotation rotation;
    rotation.kind = kinds[given.kind];
    if (!rotation.on()) return rotation;
    rotation.block = given.block;
    if (rotation.kind != Rotation::Kind::signs) return rotation;
    require_number("rotation.first", given.first, 0, 1 << 30);
    rotation.seed = given.seed;
    rotation.first = given.first;
    return rotation;
}

rotkv_rotation rotation_of(const Rotation& rotation) {
    const int32_t kind = rotation.kind == Rotation::Kind::none        ? ROTKV_NOT_ROTATED
                         : rotation.kind == Rotation::Kind::sylvester ? ROTKV_SYLVESTER
                                                                      : ROTKV_SIGNS;
    return {kind, rotation.block, rotation.seed, rotation.first};
}

}  // namespace rotkv::bindings
