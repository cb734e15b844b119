// Writing a GGUF file: the inverse of ref/files/gguf_parse.cpp.
// Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/files/output_file.h"
#include "ref/rows.h"

#include <type_traits>

namespace rotkv {
namespace {

constexpr uint32_t k_version = 3;
constexpr uint64_t k_alignment = 32;

/// Zero bytes from `offset` to the next multiple of the alignment.
uint64_t padding(uint64_t offset) { return (k_alignment - offset % k_alignment) % k_alignment; }

template <class Number>
requires std::is_arithmetic_v<Number>
void append(std::string& out, Number number) {
    out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void append(std::string& out, bool value) { append(out, uint8_t(value)); }

void append(std::string& out, std::string_view text) {
    append(out, uint64_t(text.size()));
    out += text;
}

void append(std::string&, std::monostate) {}  // no array at all

template <class T>
void append(std::string& out, const std::vector<T>& elements) {
    append(out, uint64_t(elements.size()));
    for (const auto& element : elements) append(out, element);
}

void append(std::string& out, const GgufArray& array) {
    append(out, uint32_t(array.index()));
    std::visit([&](const auto& elements) { append(out, elements); }, array);
}

uint64_t data_bytes(const TensorView& tensor) {
    return uint64_t(tensor.rows() * row_bytes(tensor.type, tensor.n[3]));
}

void append_extents(std::string& out, const TensorView& tensor) {
    int n_dims = 4;
    while (n_dims > 1 && tensor.n[4 - n_dims] == 1) --n_dims;
    append(out, uint32_t(n_dims));
    for (int i = 3; i >= 4 - n_dims; --i) append(out, uint64_t(tensor.n[i]));
}

void write_data(OutputFile& out, const TensorView& tensor) {
    const size_t bytes = size_t(row_bytes(tensor.type, tensor.n[3]));
    for_each_row(tensor, [&](int64_t i0, int64_t i1, int64_t i2) {
        out.write({tensor.row<const std::byte>(i0, i1, i2), bytes});
    });
    out.write(std::string(padding(data_bytes(tensor)), '\0'));
}

[[noreturn]] void bad_argument(const std::string& message) {
    throw Error(ErrorCode::bad_argument, message);
}

}  // namespace

void GgufWriter::add(const std::string& key, const GgufValue& value) {
    const GgufArray* array = std::get_if<GgufArray>(&value);
    if (array != nullptr && array->index() == size_t(GgufType::array)) {
        bad_argument("metadata key " + in_quotes(key) + ": arrays of arrays are not supported");
    }
    if (key == "general.alignment") bad_argument("the alignment of a written file is always 32");
    if (key.empty()) bad_argument("a metadata key must not be empty");
    if (!keys_.insert(key).second) bad_argument("metadata key " + in_quotes(key) + " occurs twice");

    append(metadata_, key);
    append(metadata_, uint32_t(value.index()));
    std::visit([&](const auto& v) { append(metadata_, v); }, value);
}

void GgufWriter::add_tensor(const std::string& name, const TensorView& tensor) {
    const TypeInfo& info = type_info(tensor.type);
    if (!info.weight || tensor.empty() || tensor.n[3] % info.block_elements != 0) {
        bad_argument("tensor " + in_quotes(name) +
                     ": expected whole blocks of a weight type, found " + describe(tensor));
    }
    if (name.empty()) bad_argument("the name of a tensor must not be empty");
    if (!names_.insert(name).second) bad_argument("tensor " + in_quotes(name) + " occurs twice");

    tensors_.push_back({name, tensor});
}

std::string GgufWriter::head() const {
    std::string out = "GGUF";
    append(out, k_version);
    append(out, uint64_t(tensors_.size()));
    append(out, uint64_t(keys_.size()));
    out += metadata_;
    uint64_t offset = 0;
    for (const Tensor& tensor : tensors_) {
        append(out, tensor.name);
        append_extents(out, tensor.view);
        append(out, uint32_t(tensor.view.type));
        append(out, offset);
        offset += data_bytes(tensor.view);
        offset += padding(offset);
    }
    return out + std::string(padding(out.size()), '\0');
}

void GgufWriter::write(const std::string& path) const {
    OutputFile out(path);
    out.write(head());
    for (const Tensor& tensor : tensors_) write_data(out, tensor.view);
    out.finish();
}

}  // namespace rotkv
