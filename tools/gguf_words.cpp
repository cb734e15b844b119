#include "tools/gguf_words.h"

#include <fmt/format.h>

#include <cstdio>

namespace rotkv::tools {

std::string printable(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7F) c = '?';
    }
    return result;
}

std::string type_words(const GgufTensor& tensor) {
    return describe_type(tensor) + (tensor.readable ? "" : ", not readable here");
}

std::string shape_words(const GgufTensor& tensor) {
    if (tensor.n_dims == 0) return "one element";
    std::string text;
    for (int i = 0; i < tensor.n_dims; ++i) {
        text += (i == 0 ? "" : " x ") + std::to_string(tensor.n[i]);
    }
    return text;
}

void print_notices(const std::string& path, const std::vector<std::string>& notices) {
    for (const std::string& notice : notices) {
        fmt::print(stderr, "rotkv-gguf: note: {}: {}\n", path, printable(notice));
    }
}

}  // namespace rotkv::tools
