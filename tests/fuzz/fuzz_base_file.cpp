// Any bytes as a file of base log-probabilities: header and all rows are read, or refused with an
// Error.
#include "ref/error.h"
#include "ref/files/base_file.h"
#include "ref/measure/base_row.h"
#include "tests/fuzz/temporary_path.h"

#include <stdexcept>

using namespace rotkv;

namespace {

void read_all(const std::string& path) {
    BaseReader reader(path);
    const BaseHeader& header = reader.header();
    std::vector<std::byte> row(size_t(header.row_bytes()));
    std::vector<float> log_prob(size_t(header.n_vocab), 0.0f);
    const std::vector<float> logits(log_prob.size(), 0.0f);
    for (int64_t left = header.n_chunk * header.rows_per_chunk(); left > 0; --left) {
        reader.read(row);
        fault_of_base_row(row, header.n_vocab);
        decode_base_row(row, log_prob);
        compare_with_base_row(row, logits, header.tokens.back());
    }
    try {
        reader.read(row);
    } catch (const Error&) {
        return;
    }
    throw std::logic_error("a row was read behind the last one");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const test::TemporaryPath file;
    file.write({data, size});
    try {
        read_all(file.path);
    } catch (const Error&) {
    }
    return 0;
}
