#include "ref/types.h"

#include "ref/error.h"
#include "ref/quant.h"

#include <limits>
#include <vector>

namespace rotkv {
namespace {

constexpr CodeInfo k_iq4_nl_codes = {
    .last = 15, .steps = 127, .cut = true, .levels = k_iq4_levels, .fitted = true};

// Names as ggml prints them. The byte counts of the blocks are derived in ref/quant.h.
constexpr TypeInfo k_types[] = {
    // type, name, elements and bytes of a block, cache, weight, codes
    {DType::f32, "f32", 1, 4, true, true},
    {DType::f16, "f16", 1, 2, true, true},
    {DType::bf16, "bf16", 1, 2, true, true},
    {DType::q8_0, "q8_0", 32, 34, true, true, {.first = -127, .last = 127, .steps = 127}},
    {DType::q5_1, "q5_1", 32, 24, true, true, {.last = 31, .steps = 31, .minimum = true}},
    {DType::q5_0, "q5_0", 32, 22, true, true, {.last = 31, .steps = 16, .cut = true}},
    {DType::q4_1, "q4_1", 32, 20, true, true, {.last = 15, .steps = 15, .minimum = true}},
    {DType::q4_0, "q4_0", 32, 18, true, true, {.last = 15, .steps = 8, .cut = true}},
    {DType::iq4_nl, "iq4_nl", 32, 18, true, true, k_iq4_nl_codes},
    {DType::q2_k, "q2_K", 256, 84, false, true},
    {DType::q3_k, "q3_K", 256, 110, false, true},
    {DType::q4_k, "q4_K", 256, 144, false, true},
    {DType::q5_k, "q5_K", 256, 176, false, true},
    {DType::q6_k, "q6_K", 256, 210, false, true},
    {DType::iq4_xs, "iq4_xs", 256, 136, false, true},
    {DType::mxfp4, "mxfp4", 32, 17, false, true},
    {DType::i32, "i32", 1, 4, false, false},
    {DType::f64, "f64", 1, 8, false, false},
};

std::vector<DType> types_where(bool (*wanted)(const TypeInfo&)) {
    std::vector<DType> types;
    for (const TypeInfo& info : k_types) {
        if (wanted(info)) types.push_back(info.type);
    }
    return types;
}

std::string lower_case(std::string text) {
    for (char& c : text) {
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    }
    return text;
}

// Extents come from files too, so a product that does not fit is an error and not a wrong number.
int64_t checked_product(int64_t a, int64_t b) {
    if (b != 0 && a > std::numeric_limits<int64_t>::max() / b) {
        throw Error(ErrorCode::bad_argument, "a size of " + std::to_string(a) + " * " +
                                                 std::to_string(b) + " does not fit in 63 bits");
    }
    return a * b;
}

}  // namespace

const TypeInfo& type_info(DType type) {
    for (const TypeInfo& info : k_types) {
        if (info.type == type) return info;
    }
    throw Error(ErrorCode::bad_argument,
                "type number " + std::to_string(int32_t(type)) + " is not one that rotkv knows");
}

std::span<const DType> cache_types() {
    static const std::vector<DType> types =
        types_where([](const TypeInfo& info) { return info.cache; });
    return types;
}

std::span<const DType> quantized_types() {
    static const std::vector<DType> types =
        types_where([](const TypeInfo& info) { return info.cache && info.block_elements > 1; });
    return types;
}

std::span<const DType> weight_types() {
    static const std::vector<DType> types =
        types_where([](const TypeInfo& info) { return info.weight; });
    return types;
}

DType parse_type(const std::string& name) {
    std::string known;
    for (const TypeInfo& info : k_types) {
        if (lower_case(info.name) == lower_case(name)) return info.type;
        known += std::string(" ") + info.name;
    }
    throw Error(ErrorCode::bad_argument, "unknown type '" + name + "', expected one of:" + known);
}

int64_t row_bytes(DType type, int64_t n) {
    const TypeInfo& info = type_info(type);
    if (n < 0 || n % info.block_elements != 0) {
        throw Error(ErrorCode::bad_argument, std::string("a row of ") + info.name + " needs n % " +
                                                 std::to_string(info.block_elements) +
                                                 " = 0, found n = " + std::to_string(n));
    }
    return checked_product(n / info.block_elements, info.block_bytes);
}

int64_t block_offset(DType type, int64_t element) {
    const TypeInfo& info = type_info(type);
    if (element < 0 || element % info.block_elements != 0) {
        throw Error(ErrorCode::bad_argument, std::string("a block of ") + info.name +
                                                 " begins at multiples of " +
                                                 std::to_string(info.block_elements) +
                                                 ", found element " + std::to_string(element));
    }
    return checked_product(element / info.block_elements, info.block_bytes);
}

const char* precision_name(Precision precision) {
    return precision == Precision::f32 ? "f32" : precision == Precision::f16 ? "f16" : "bf16";
}

TensorView view(void* data, DType type, std::initializer_list<int64_t> extents) {
    const int64_t given = int64_t(extents.size());
    if (given < 1 || given > 4) {
        throw Error(ErrorCode::bad_argument,
                    "a view needs one to four extents, found " + std::to_string(given));
    }
    TensorView tensor{static_cast<std::byte*>(data), type, {1, 1, 1, 1}, {0, 0, 0, 0}};
    int64_t axis = 4 - given, elements = 1;
    for (int64_t extent : extents) {
        if (extent < 0) {
            throw Error(ErrorCode::bad_argument,
                        "a view's extents must not be negative, found " + std::to_string(extent));
        }
        elements = checked_product(elements, extent);
        tensor.n[axis++] = extent;
    }
    tensor.stride[3] = type_info(type).block_bytes;
    int64_t step = row_bytes(type, tensor.n[3]);
    for (axis = 2; axis >= 0; --axis) {
        tensor.stride[axis] = step;
        step = checked_product(step, tensor.n[axis]);
    }
    return tensor;
}

TensorView view(const void* data, DType type, std::initializer_list<int64_t> extents) {
    return view(const_cast<void*>(data), type, extents);
}

int64_t span_bytes(const TensorView& tensor) {
    if (tensor.empty()) return 0;
    int64_t bytes = row_bytes(tensor.type, tensor.n[3]);
    for (int axis = 0; axis < 3; ++axis) bytes += (tensor.n[axis] - 1) * tensor.stride[axis];
    return bytes;
}

std::string describe(const TensorView& tensor) {
    std::string text = std::string(type_info(tensor.type).name) + " ";
    for (int64_t n : tensor.n) text.append("[").append(std::to_string(n)).append("]");
    return text;
}

}  // namespace rotkv
