#pragma once
// The files that llama-perplexity --kl-divergence-base writes and reads: the log-probabilities of a
// base model on a text, in 16 bits each. Little endian:
//   char[8]  "_logits_"
//   int32    n_ctx, n_vocab, n_chunk
//   int32    tokens[n_chunk * n_ctx]        the original tokens (no BOS put in)
//   then per chunk, per scored position (n_ctx - 1 - n_ctx / 2 of them), one row:
//     float  scale, min_log_prob            log p = scale * code + min_log_prob
//     uint16 code[n_vocab], padded with a zero to an even count
// Docs: docs/07-measuring.md

#include "ref/files/output_file.h"
#include "ref/measure/metrics.h"

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

struct BaseHeader {
    int32_t n_ctx = 0, n_vocab = 0, n_chunk = 0;
    std::vector<int32_t> tokens;  ///< [n_chunk * n_ctx]

    int64_t rows_per_chunk() const { return n_ctx - 1 - n_ctx / 2; }
    int64_t row_bytes() const { return 8 + 2 * (int64_t(n_vocab) + n_vocab % 2); }
};

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

/// Compares this run's logits (b) with the base row (a) of the same position.
/// Math:   kld = sum p_a (log p_a - log p_b) over the words with log p_a > -16, which is where the
///         16-bit codes end; p_a does not quite sum to 1, so a kld slightly below 0 is possible.
TokenPair compare_with_base_row(std::span<const std::byte> row, std::span<const float> logits,
                                int32_t target);

/// Writes a base file, which appears under its name when finish() is called (see OutputFile).
class BaseWriter {
  public:
    /// Writes the header at once. Throws Error(io), Error(bad_argument) for a bad header.
    BaseWriter(const std::string& path, const BaseHeader& header);

    /// Appends encoded rows, in text order. Throws Error(io).
    void write(std::span<const std::byte> rows);

    /// Throws Error(bad_argument) unless exactly the rows were written that the header promises.
    void finish();

  private:
    OutputFile file_;
    int64_t bytes_left_ = 0;
};

/// Reads a base file row by row; the size of the file is checked against its header first.
class BaseReader {
  public:
    /// Throws Error(io), or Error(bad_file) with offset, expected and found.
    explicit BaseReader(const std::string& path);

    const BaseHeader& header() const { return header_; }

    /// Fills `rows` with the next encoded rows, as many as fit. Throws Error(bad_file) at the end.
    void read(std::span<std::byte> rows);

  private:
    std::string path_;
    std::ifstream file_;
    BaseHeader header_;
};

}  // namespace rotkv
