#include "ref/files/model_fingerprint.h"

#include "ref/files/byte_packer.h"
#include "ref/files/fnv1a.h"

#include <algorithm>
#include <limits>
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

// FNV-1a of the metadata that `counts`, then of every tensor: what it is, and its first bytes.
uint64_t hash_of(const GgufFile& model, bool (*counts)(std::string_view key),
                 std::size_t most_bytes) {
    Fnv1a hash;
    for (const GgufEntry& entry : model.metadata()) {
        if (counts(entry.key)) hash.add(packed(entry));
    }
    for (const GgufTensor& tensor : model.tensors()) {
        BytePacker packer;
        packer.put(std::string_view(tensor.name));
        packer.put(tensor.type_number);
        for (const int64_t extent : tensor.n) packer.put(extent);
        hash.add(packer.bytes);
        hash.add(model.data(tensor).first(std::min(most_bytes, std::size_t(tensor.bytes))));
    }
    return hash.sum();
}

bool decides(std::string_view key) {
    return !key.starts_with("general.") && !key.starts_with("tokenizer.");
}

bool decides_or_is_architecture(std::string_view key) {
    return decides(key) || key == "general.architecture";
}

}  // namespace

uint64_t model_fingerprint(const GgufFile& model) {
    return hash_of(model, decides, k_sample_bytes);
}

uint64_t model_hash(const GgufFile& model) {
    return hash_of(model, decides_or_is_architecture, std::numeric_limits<std::size_t>::max());
}

}  // namespace rotkv
