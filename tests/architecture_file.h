#pragma once
// A file that holds the keys of an architecture and no layer, and what is read of it.
// Docs: docs/18-models.md

#include "ref/architecture.h"
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "tests/tiny_model.h"

#include <map>
#include <string>
#include <vector>

namespace rotkv::test {

using Ints = std::vector<int64_t>;
using Keys = std::map<std::string, GgufValue>;

inline const GgufValue k_left_out = GgufArray(std::monostate());

// Keys of the vocabulary stand under its own name.
inline std::string whole_key(const std::string& architecture, const std::string& key) {
    return key.starts_with("tokenizer.") ? key : architecture + "." + key;
}

// Vectors that a file has beside its embeddings, by name.
using Tensors = std::map<std::string, std::vector<float>>;

// The config of a file with these keys, given without the architecture's name, and a few more.
// A value of no type leaves a key out.
inline ModelConfig config_of(const std::string& name, const Keys& keys, int64_t context = 8,
                             const Tensors& tensors = {}) {
    Keys all = {{"block_count", uint32_t(4)},         {"embedding_length", uint32_t(16)},
                {"context_length", uint32_t(64)},     {"attention.head_count", uint32_t(2)},
                {"feed_forward_length", uint32_t(8)}, {"attention.layer_norm_rms_epsilon", 1e-6f},
                {"rope.freq_base", 10000.0f}};
    for (const auto& [key, value] : keys) all[key] = value;
    GgufWriter writer;
    writer.add("general.architecture", std::string_view(name));
    for (const auto& [key, value] : all) {
        if (value != k_left_out) writer.add(whole_key(name, key), value);
    }
    const std::vector<float> embedding(16 * 4, 1.0f);
    writer.add_tensor("token_embd.weight", view(embedding.data(), DType::f32, {4, 16}));
    for (const auto& [tensor, values] : tensors) {
        writer.add_tensor(tensor, view(values.data(), DType::f32, {int64_t(values.size())}));
    }
    const TemporaryFile file("keys.gguf");
    writer.write(file.path());
    return read_config(GgufFile::open(file.path()), context);
}

// What a file with these keys is refused with.
inline std::string refusal(const std::string& name, const Keys& keys, const Tensors& tensors = {}) {
    try {
        config_of(name, keys, 8, tensors);
    } catch (const Error& error) {
        const std::string what = error.what();
        return what.substr(what.find(": ") + 2);  // after the file's name
    }
    return "accepted";
}

// Keys, and some of them otherwise.
inline Keys with(Keys keys, const Keys& more) {
    for (const auto& [key, value] : more) keys[key] = value;
    return keys;
}

// One number or letter a layer.
inline Ints of_layers(const ModelConfig& config, int64_t LayerPlan::*number) {
    Ints numbers;
    for (const LayerPlan& layer : config.plan) numbers.push_back(layer.*number);
    return numbers;
}

inline std::string ropes_of(const ModelConfig& config) {
    std::string letters;
    for (const LayerPlan& layer : config.plan) {
        letters += layer.rope == LayerRope::full ? 'f' : layer.rope == LayerRope::local ? 'l' : '-';
    }
    return letters;
}

inline Ints windows_of(const ModelConfig& config) { return of_layers(config, &LayerPlan::window); }

}  // namespace rotkv::test
