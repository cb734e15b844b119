#include "tools/model_precision.h"

#include "ref/error.h"

#include <algorithm>

namespace rotkv::tools {

Precision parse_precision(const std::string& flag, const std::string& name,
                          std::span<const Precision> choices) {
    std::string known;
    for (const Precision choice : choices) {
        if (name == precision_name(choice)) return choice;
        known += (known.empty() ? "" : ", ") + std::string(precision_name(choice));
    }
    throw Error(ErrorCode::usage, flag + ": expected one of " + known + ", found '" + name + "'");
}

ModelPrecision parse_model_precision(const std::string& origin, const std::string& words) {
    ModelPrecision precision;
    bool gemm = false, attention = false;
    for (std::size_t begin = 0; begin < words.size();) {
        const std::size_t end = std::min(words.find(',', begin), words.size());
        const std::string field = words.substr(begin, end - begin);
        if (field.starts_with("gemm=") && !gemm) {
            precision.products =
                parse_precision(origin + ": gemm", field.substr(5), k_precisions_of_products);
            gemm = true;
        } else if (field.starts_with("attention=") && !attention) {
            precision.attention = parse_precision(origin + ": attention", field.substr(10),
                                                  k_precisions_of_attention);
            attention = true;
        } else {
            throw Error(ErrorCode::usage,
                        origin + ": expected gemm=WHAT,attention=WHAT, found '" + words + "'");
        }
        begin = end + 1;
    }
    return precision;
}

}  // namespace rotkv::tools
