#include "ref/file_weights.h"

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>

namespace rotkv {

std::string prefix_of(int64_t layer) { return "blk." + std::to_string(layer) + "."; }

bool FileWeights::has(const std::string& name) const { return file_.find_tensor(name) != nullptr; }

void FileWeights::require(const std::string& name) const { file_.tensor(name); }

int64_t FileWeights::rows(const std::string& name) const { return file_.tensor(name).view.n[2]; }

bool FileWeights::has_one_of(const std::string& prefix, const char* first,
                             const char* second) const {
    if (has(prefix + first)) return true;
    if (has(prefix + second)) return false;
    throw Error(ErrorCode::bad_file, file_.path() + ": expected a tensor '" + prefix + first +
                                         "' or '" + prefix + second + "', found none");
}

TensorView FileWeights::matrix(const std::string& name, int64_t out, int64_t in) {
    const GgufTensor& tensor = file_.tensor(name);
    check_extents(tensor, {1, 1, out, in});
    return import(tensor, tensor.view.data, tensor.bytes);
}

TensorView FileWeights::matrices(const std::string& name, int64_t count, int64_t out, int64_t in) {
    const GgufTensor& tensor = file_.tensor(name);
    check_extents(tensor, {1, count, out, in});
    return import(tensor, tensor.view.data, tensor.bytes);
}

TensorView FileWeights::plain(const std::string& name, int64_t rows, int64_t n) {
    const GgufTensor& tensor = file_.tensor(name);
    check_extents(tensor, {1, 1, rows, n});
    if (tensor.type == DType::f32) {
        const float* values = tensor.view.row<const float>(0);
        require_no_infinity(tensor, {values, size_t(rows * n)});
        return import(tensor, tensor.view.data, tensor.bytes);
    }
    if (tensor.type != DType::f16 && tensor.type != DType::bf16) {
        throw Error(ErrorCode::unsupported, file_.path() + ": tensor " + name +
                                                ": expected f32, f16 or bf16, found " +
                                                type_info(tensor.type).name);
    }
    std::vector<float>& values = widened_.emplace_back(static_cast<size_t>(rows * n));
    ref::dequantize_row(tensor.type, values.data(), tensor.view.data, rows * n);
    require_no_infinity(tensor, values);
    const std::span<const std::byte> bytes = std::as_bytes(std::span(values));
    const TensorView widened = import(tensor, bytes.data(), bytes.size());
    return view(widened.data, DType::f32, {rows, n});
}

TensorView FileWeights::optional_plain(const std::string& name, int64_t rows, int64_t n) {
    return has(name) ? plain(name, rows, n) : TensorView{};
}

TensorView FileWeights::optional_vector(const std::string& name, int64_t n) {
    return optional_plain(name, 1, n);
}

TensorView FileWeights::norm(const std::string& prefix, const char* name, int64_t n) {
    return *name != '\0' ? vector(prefix + name, n) : TensorView{};
}

float FileWeights::number(const std::string& name, float fallback) {
    if (!has(name)) return fallback;
    const GgufTensor& tensor = file_.tensor(name);
    check_extents(tensor, {1, 1, 1, 1});
    if (tensor.type != DType::f32) {
        throw Error(ErrorCode::unsupported, file_.path() + ": tensor " + name +
                                                ": expected f32, found " +
                                                type_info(tensor.type).name);
    }
    use(name);
    return *tensor.view.row<const float>(0);
}

void FileWeights::use_layer(int64_t index) {
    const std::string prefix = prefix_of(index);
    for (const GgufTensor& tensor : file_.tensors()) {
        if (tensor.name.starts_with(prefix)) use(tensor.name);
    }
}

void FileWeights::refuse_unused(const char* architecture) const {
    for (const GgufTensor& tensor : file_.tensors()) {
        if (used_.count(tensor.name) != 0) continue;
        throw Error(ErrorCode::unsupported, file_.path() + ": tensor " + tensor.name +
                                                " has no place in architecture '" + architecture +
                                                "' as it is known here");
    }
}

void FileWeights::check_extents(const GgufTensor& tensor,
                                std::initializer_list<int64_t> expected) const {
    if (std::equal(expected.begin(), expected.end(), tensor.view.n)) return;
    std::string text;
    const auto above_1 = std::ranges::find_if(expected, [](int64_t n) { return n != 1; });
    const auto first = std::min(above_1, expected.end() - 2);  // two extents at least
    for (auto n = first; n != expected.end(); ++n) text += "[" + std::to_string(*n) + "]";
    throw Error(ErrorCode::bad_file, file_.path() + ": tensor " + tensor.name + ": expected " +
                                         text + ", found " + describe(tensor.view));
}

// Behind a gate, a cut or a choice an infinite number gives figures like any other; one that is not
// a number shows in them, and the programs say where it began.
void FileWeights::require_no_infinity(const GgufTensor& tensor,
                                      std::span<const float> values) const {
    const auto found = std::ranges::find_if(values, [](float x) { return std::isinf(x); });
    if (found == values.end()) return;
    throw Error(ErrorCode::bad_file, file_.path() + ": tensor " + tensor.name +
                                         ": expected finite numbers, found " +
                                         (*found > 0 ? "inf" : "-inf") + " at element " +
                                         std::to_string(found - values.begin()));
}

// The tensor with `bytes` for its values.
TensorView FileWeights::import(const GgufTensor& tensor, const std::byte* data, size_t bytes) {
    used_.insert(tensor.name);
    TensorView weight = tensor.view;
    weight.data = imported_.import({data, bytes});
    if (weight.data != data) file_.release(tensor);
    return weight;
}

}  // namespace rotkv
