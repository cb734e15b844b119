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

    /// Throws Error(bad_file) with the place of row number `row` and what is wrong with it.
    [[noreturn]] void refuse(int64_t row, const std::string& fault) const;

  private:
    std::string path_;
    std::ifstream file_;
    BaseHeader header_;
};

}  // namespace rotkv
