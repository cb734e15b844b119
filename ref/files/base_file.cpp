#include "ref/files/base_file.h"

#include "ref/error.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace rotkv {

static_assert(std::endian::native == std::endian::little, "base files are little endian");

static constexpr char k_magic[] = "_logits_";
static constexpr int64_t k_magic_bytes = 8;
static constexpr int64_t k_head_bytes = k_magic_bytes + 3 * 4;  // up to the tokens

BaseWriter::BaseWriter(const std::string& path, const BaseHeader& header) : file_(path) {
    const int64_t n_tokens = int64_t(header.n_chunk) * header.n_ctx;
    if (header.n_ctx < 3 || header.n_vocab < 1 || header.n_chunk < 1 ||
        int64_t(header.tokens.size()) != n_tokens) {
        throw Error(ErrorCode::bad_argument,
                    "base file " + path + ": the header contradicts itself");
    }
    bytes_left_ = header.n_chunk * header.rows_per_chunk() * header.row_bytes();
    const int32_t counts[3] = {header.n_ctx, header.n_vocab, header.n_chunk};
    file_.write(std::string(k_magic));
    file_.write(std::as_bytes(std::span(counts)));
    file_.write(std::as_bytes(std::span(header.tokens)));
    file_.flush();
}

void BaseWriter::write(std::span<const std::byte> rows) {
    file_.write(rows);
    bytes_left_ -= int64_t(rows.size());
}

void BaseWriter::finish() {
    require(bytes_left_ == 0, ErrorCode::bad_argument,
            "base file: not the number of rows that its header promises");
    file_.finish();
}

[[noreturn]] static void bad_file(const std::string& path, int64_t offset,
                                  const std::string& what) {
    throw Error(ErrorCode::bad_file, path + ": offset " + std::to_string(offset) + ": " + what);
}

// Checks in an order in which no product can overflow: every count is held against the bytes that
// are there before it is multiplied by the next.
static void check_extents(const std::string& path, const BaseHeader& header, int64_t file_bytes) {
    const auto number = [](int64_t n) { return std::to_string(n); };
    if (header.n_ctx < 3)
        bad_file(path, 8, "n_ctx " + number(header.n_ctx) + ", expected at least 3");
    if (header.n_vocab < 1)
        bad_file(path, 12, "n_vocab " + number(header.n_vocab) + ", expected at least 1");
    if (header.n_chunk < 1)
        bad_file(path, 16, "n_chunk " + number(header.n_chunk) + ", expected at least 1");
    const int64_t n_tokens = int64_t(header.n_chunk) * header.n_ctx;
    const int64_t room = file_bytes - k_head_bytes;
    if (n_tokens > room / 4) {
        bad_file(path, k_head_bytes,
                 number(n_tokens) + " tokens expected, the file ends after " + number(room / 4));
    }
    const int64_t rows = header.n_chunk * header.rows_per_chunk();
    const int64_t rest = room - 4 * n_tokens;
    if (rows > rest / header.row_bytes() || rows * header.row_bytes() != rest) {
        bad_file(path, k_head_bytes + 4 * n_tokens,
                 number(rows) + " rows of " + number(header.row_bytes()) + " bytes expected, " +
                     number(rest) + " bytes found");
    }
}

BaseReader::BaseReader(const std::string& path) : path_(path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        throw Error(ErrorCode::io, path + ": no such file, or not a regular one");
    }
    const int64_t file_bytes = int64_t(std::filesystem::file_size(path, error));
    file_.open(path, std::ios::binary);
    if (error || !file_) throw Error(ErrorCode::io, path + ": cannot be read");
    char head[k_head_bytes] = {};
    if (file_bytes < k_head_bytes) {
        bad_file(path, file_bytes,
                 "the file ends inside its header of " + std::to_string(k_head_bytes) + " bytes");
    }
    file_.read(head, k_head_bytes);
    if (std::memcmp(head, k_magic, k_magic_bytes) != 0) {
        bad_file(path, 0, "expected \"_logits_\": not a base file of log-probabilities");
    }
    std::memcpy(&header_.n_ctx, head + 8, 4);
    std::memcpy(&header_.n_vocab, head + 12, 4);
    std::memcpy(&header_.n_chunk, head + 16, 4);
    check_extents(path, header_, file_bytes);
    header_.tokens.resize(std::size_t(int64_t(header_.n_chunk) * header_.n_ctx));
    read(std::as_writable_bytes(std::span(header_.tokens)));
    for (std::size_t i = 0; i < header_.tokens.size(); ++i) {
        const int32_t token = header_.tokens[i];
        if (token >= 0 && token < header_.n_vocab) continue;
        bad_file(path, k_head_bytes + 4 * int64_t(i),
                 "token " + std::to_string(token) + ", expected 0 .. " +
                     std::to_string(header_.n_vocab - 1));
    }
}

void BaseReader::read(std::span<std::byte> rows) {
    const int64_t offset = int64_t(file_.tellg());
    file_.read(reinterpret_cast<char*>(rows.data()), std::streamsize(rows.size()));
    if (file_) return;
    bad_file(path_, offset,
             std::to_string(rows.size()) + " bytes expected, " + std::to_string(file_.gcount()) +
                 " found");
}

void BaseReader::refuse(int64_t row, const std::string& fault) const {
    const int64_t per_window = header_.rows_per_chunk();
    bad_file(path_, k_head_bytes + 4 * int64_t(header_.tokens.size()) + row * header_.row_bytes(),
             "row " + std::to_string(row) + " (token " +
                 std::to_string(header_.n_ctx / 2 + row % per_window) + " of window " +
                 std::to_string(row / per_window) + ", all from 0): " + fault);
}

}  // namespace rotkv
