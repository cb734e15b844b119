#include "ref/files/model_fingerprint.h"

#include "ref/files/byte_packer.h"
#include "ref/files/fnv1a.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

namespace rotkv {

namespace {

constexpr std::size_t k_sample_bytes = 4096;  // of a tensor

// Every kind of value that metadata may have.
struct ValuePacker : BytePacker {
    using BytePacker::put;
    template <class Element>
    void put(const std::vector<Element>& elements) {
        put(uint64_t(elements.size()));
        for (const Element element : elements) put(element);
    }
    void put(const GgufArray& array) {
        put(uint32_t(array.index()));
        std::visit([this](const auto& elements) { put(elements); }, array);
    }
    void put(std::monostate) {}
};

// Key, type and value.
std::vector<std::byte> packed(const GgufEntry& entry) {
    ValuePacker packer;
    packer.put(std::string_view(entry.key));
    packer.put(uint32_t(entry.value.index()));
    std::visit([&](const auto& value) { packer.put(value); }, entry.value);
    return packer.bytes;
}

}  // namespace

uint64_t model_fingerprint(const GgufFile& model) {
    Fnv1a hash;
    for (const GgufEntry& entry : model.metadata()) {
        if (entry.key.starts_with("general.") || entry.key.starts_with("tokenizer.")) continue;
        hash.add(packed(entry));
    }
    for (const GgufTensor& tensor : model.tensors()) {
        ValuePacker packer;
        packer.put(std::string_view(tensor.name));
        packer.put(tensor.type_number);
        for (const int64_t extent : tensor.n) packer.put(extent);
        const std::size_t sample = std::min(k_sample_bytes, std::size_t(tensor.bytes));
        packer.put(model.data(tensor).first(sample));
        hash.add(packer.bytes);
    }
    return hash.sum();
}

uint64_t model_hash(const GgufFile& model) {
    Fnv1a hash;
    for (const GgufEntry& entry : model.metadata()) {
        const bool names_something =
            entry.key.starts_with("general.") || entry.key.starts_with("tokenizer.");
        if (names_something && entry.key != "general.architecture") continue;
        hash.add(packed(entry));
    }
    for (const GgufTensor& tensor : model.tensors()) {
        BytePacker packer;
        packer.put(std::string_view(tensor.name));
        packer.put(tensor.type_number);
        for (const int64_t extent : tensor.n) packer.put(extent);
        hash.add(packer.bytes);
        hash.add(model.data(tensor));
    }
    return hash.sum();
}

}  // namespace rotkv
