#pragma once
// Products with weights for some tokens: what a batch of many texts, one token each, asks for.
// Docs: docs/08-backends.md

#include "cuda/kernels.h"

namespace rotkv::cuda {

/// Beyond so many tokens, tensor cores are worth it that the weight is expanded.
inline constexpr int64_t k_few_tokens = 64;

/// Does few_products() take it? 2 to k_few_tokens tokens whose rows are whole fours and begin on 16
/// bytes, and weights where fetched.cuh reads them; more than k_matvec_tokens in f32 precision
/// alone.
bool few_takes(const MatmulArgs& args);

/// Products of one src, which few_takes, as matvec() takes them; without a norm before them.
void few_products(const JoinedProducts& calls, Stream stream);

}  // namespace rotkv::cuda
