#pragma once
// In which precision a model computes, as flags and words ask for it.
// Docs: tools/README.md

#include "ref/model.h"

#include <span>
#include <string>

namespace rotkv::tools {

/// What products with weights, and attention, may be rounded to; the first is the default.
inline constexpr Precision k_precisions_of_products[] = {Precision::f32, Precision::f16,
                                                         Precision::bf16};
inline constexpr Precision k_precisions_of_attention[] = {Precision::f32, Precision::f16};

/// One of `choices` by name. Throws Error(usage) that begins with `flag`.
Precision parse_precision(const std::string& flag, const std::string& name,
                          std::span<const Precision> choices);

/// "gemm=bf16,attention=f16", each as the programs' flag of that name, at most once; what is not
/// named is f32. Throws Error(usage) that begins with `origin`.
ModelPrecision parse_model_precision(const std::string& origin, const std::string& words);

}  // namespace rotkv::tools
