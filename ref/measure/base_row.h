#pragma once
// One scored position as a base file holds it: log-probabilities in 16 bits each, and what another
// run's logits are worth beside them. Where the rows lie in the file: ref/files/base_file.h.
// Docs: docs/07-measuring.md

#include "ref/measure/metrics.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rotkv {

/// log sum_v exp(x_v) as llama-perplexity computes it: exponentials of x - max in f32, their sum in
/// f64 in index order.
struct LogSum {
    float max = 0;      ///< the largest logit
    float log_sum = 0;  ///< float(log sum expf(x - max))
    int64_t top = 0;    ///< where the largest logit is, the first of equals
};
LogSum log_sum(std::span<const float> logits);

/// Negative log-likelihood of `target` under logits whose LogSum is `sum`.
inline double nll_of(std::span<const float> logits, const LogSum& sum, int32_t target) {
    return double(sum.max) + double(sum.log_sum) - double(logits[std::size_t(target)]);
}

/// One row of a base file from its logits (after softcap), in f32; returns their LogSum.
/// Math:   min = max(min, max - 16), scale = (max - min) / 65535,
///         code = rint((1 / scale) (x - min)) for x > min, else 0 (scale 0: all 0),
///         min_log_prob = (min - max) - log_sum.
/// Shapes: logits [n_vocab], row BaseHeader::row_bytes() bytes.
/// Exact:  equal logits give equal bytes.
LogSum encode_base_row(std::span<const float> logits, std::span<std::byte> row);

/// The row's log-probabilities, [n_vocab] f32.
void decode_base_row(std::span<const std::byte> row, std::span<float> log_prob);

/// What shows that a row holds no probabilities, in words; empty for one that an encoder can have
/// written. A row with a NaN for scale or minimum is one of logits that were no numbers: no fault.
/// Math:   scale finite and >= 0. A stored log-probability is off by at most h = scale / 2 + 1e-5,
///         where 1e-5 is f32's rounding of values below 40, but for words at code 0 of a row that
///         was cut, which were less likely than stored. With sum the probabilities stored, and
///         least those above code 0 (all, if nothing was cut): least exp(-h) <= 1 <= sum exp(h).
std::string fault_of_base_row(std::span<const std::byte> row, int64_t n_vocab);

/// Compares this run's logits (b) with the base row (a) of the same position.
/// Math:   kld = sum p_a (log p_a - log p_b) over the words with log p_a > -16, which is where the
///         16-bit codes end; p_a does not quite sum to 1, so a kld slightly below 0 is possible.
///         Of words equally likely in the row the first is its top, and `tied` says that there were
///         several: which of them was the likeliest is lost.
TokenPair compare_with_base_row(std::span<const std::byte> row, std::span<const float> logits,
                                int32_t target);

}  // namespace rotkv
