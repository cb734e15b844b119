#include "tools/gguf_words.h"

namespace rotkv::tools {

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

}  // namespace rotkv::tools
