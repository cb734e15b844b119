// Base files: codes by hand, round trips, and files that are broken on purpose.
#include "ref/error.h"
#include "ref/files/base_file.h"
#include "ref/measure/base_row.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>

namespace {

using namespace rotkv;
namespace fs = std::filesystem;
using namespace rotkv::test;

std::vector<std::byte> encode(const std::vector<float>& logits) {
    BaseHeader header;
    header.n_vocab = int32_t(logits.size());
    std::vector<std::byte> row(std::size_t(header.row_bytes()), std::byte{0xAB});
    encode_base_row(logits, row);
    return row;
}

std::vector<float> decode(const std::vector<std::byte>& row, std::size_t n_vocab) {
    std::vector<float> log_prob(n_vocab);
    decode_base_row(row, log_prob);
    return log_prob;
}

uint16_t code(const std::vector<std::byte>& row, std::size_t word) {
    uint16_t value = 0;
    std::memcpy(&value, row.data() + 8 + 2 * word, 2);
    return value;
}

// Two windows of 8 tokens of a vocabulary of 5: 3 scored rows each.
BaseHeader small_header() {
    BaseHeader header{8, 5, 2, {}};
    for (int32_t i = 0; i < 16; ++i) header.tokens.push_back(i % 5);
    return header;
}

std::vector<std::byte> small_rows() {
    std::vector<std::byte> rows;
    for (int r = 0; r < 6; ++r) {
        std::vector<float> logits;
        for (int v = 0; v < 5; ++v) logits.push_back(float((r * 7 + v * v) % 11));
        const std::vector<std::byte> row = encode(logits);
        rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
}

void write_small(const std::string& path) {
    BaseWriter writer(path, small_header());
    writer.write(small_rows());
    writer.finish();
}

// The code of the error that reading `bytes` as a base file ends in.
ErrorCode error_of(const TemporaryFolder& folder, const std::string& bytes) {
    const std::string path = folder.file("broken.kld");
    write_all(path, bytes);
    try {
        BaseReader reader(path);
    } catch (const Error& error) {
        const std::string what = error.what();
        CHECK(what.find(path + ": offset ") == 0);
        CHECK(what.find('\n') == std::string::npos);
        return error.code();
    }
    FAIL("a broken base file was read without an error");
    return ErrorCode::usage;
}

std::string with_number(std::string bytes, std::size_t offset, int32_t number) {
    return bytes.replace(offset, 4, reinterpret_cast<const char*>(&number), 4);
}

}  // namespace

TEST_CASE("base_file: two words: codes at both ends of the scale", "[base_file]") {
    const std::vector<std::byte> row = encode({0, std::log(3.0f)});
    CHECK(code(row, 0) == 0);
    CHECK(code(row, 1) == 65535);
    const std::vector<float> log_prob = decode(row, 2);
    CHECK(std::abs(log_prob[0] - std::log(0.25f)) < 1e-6f);
    CHECK(std::abs(log_prob[1] - std::log(0.75f)) < 1e-6f);
}

TEST_CASE("base_file: what lies 16 nats below the top is all the same", "[base_file]") {
    const std::vector<float> logits = {0, -20, -16, -8};
    const std::vector<std::byte> row = encode(logits);
    CHECK(code(row, 0) == 65535);
    CHECK(code(row, 1) == 0);
    CHECK(code(row, 2) == 0);
    CHECK((code(row, 3) == 32767 || code(row, 3) == 32768));  // 32767.5 up to rounding
    const std::vector<float> log_prob = decode(row, 4);
    const float half_step = 0.5f * 16 / 65535;
    const float log_total = std::log(1 + std::exp(-8.0f));  // the others do not count in f32
    CHECK(std::abs(log_prob[3] - (-8 - log_total)) <= 1.01f * half_step);
    CHECK(std::abs(log_prob[1] - (-16 - log_total)) < 1e-5f);
}

TEST_CASE("base_file: rows of one value, of an odd number of words, with a NaN", "[base_file]") {
    const std::vector<std::byte> flat = encode({2, 2, 2});
    CHECK(flat.size() == 8 + 2 * 4);
    for (std::size_t v = 0; v < 4; ++v) CHECK(code(flat, v) == 0);  // the last one is padding
    CHECK(std::abs(decode(flat, 3)[1] - std::log(1.0f / 3)) < 1e-6f);

    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const std::vector<float>& logits : {std::vector<float>{nan, 1, 2}, {1, nan, 2}}) {
        for (const float log_prob : decode(encode(logits), 3)) CHECK(std::isnan(log_prob));
    }
    // Ranges so small that the scale is 0, or so near to it that its inverse is infinite: codes
    // stay within 16 bits.
    CHECK(code(encode({0, 1e-41f}), 1) == 0);
    CHECK(code(encode({0, 6.5e-35f}), 1) == 65535);
}

TEST_CASE("base_file: a row compared with logits, by hand", "[base_file]") {
    // p_a = 1/4, 3/4 and p_b = 1/2, 1/2
    const std::vector<std::byte> row = encode({0, std::log(3.0f)});
    const TokenPair pair = compare_with_base_row(row, std::vector<float>{5, 5}, 1);
    CHECK(std::abs(pair.kld - (0.25 * std::log(0.5) + 0.75 * std::log(1.5))) < 1e-6);
    CHECK(std::abs(pair.nll_a + std::log(0.75)) < 1e-6);
    CHECK(std::abs(pair.nll_b + std::log(0.5)) < 1e-6);
    CHECK(!pair.same_top);  // of equals the first

    const TokenPair same = compare_with_base_row(row, std::vector<float>{-1, 3}, 0);
    CHECK(same.same_top);
    const std::vector<std::byte> even = encode({1, 1});  // in the file too the first of equals
    CHECK(compare_with_base_row(even, std::vector<float>{2, 1}, 0).same_top);
    CHECK(!compare_with_base_row(even, std::vector<float>{1, 2}, 0).same_top);
}

TEST_CASE("base_file: words that share the top of a row", "[base_file]") {
    const auto tied = [](const std::vector<float>& logits) {
        return compare_with_base_row(encode(logits), logits, 0).tied;
    };
    CHECK(tied({1, 3, 0, 3}));
    CHECK(tied({0, 3.0f - 0.00001f, 3}));  // half a step of 3 / 65535 is 0.00002
    CHECK(tied({3, 0, 3.0f - 0.00001f}));
    CHECK_FALSE(tied({0, 3.0f - 0.0001f, 3}));
    CHECK_FALSE(tied({1, 1, 3}));  // equal, but not at the top
    CHECK_FALSE(tied({1, 3, 1}));
    CHECK_FALSE(tied({3, 1, 1}));
    CHECK(tied({5, 5}));
    CHECK(tied({0, 1e-9f}));  // other codes, but no other log-probability
    CHECK_FALSE(tied({5}));
    CHECK_FALSE(tied({0, std::nanf(""), 3}));
}

namespace {

// The fault of a row once a float of it (0: scale, 1: minimum) is another one.
std::string fault_with(std::vector<std::byte> row, std::size_t place, float number, int64_t words) {
    std::memcpy(row.data() + 4 * place, &number, 4);
    return fault_of_base_row(row, words);
}

float float_of(const std::vector<std::byte>& row, std::size_t place) {
    float number = 0;
    std::memcpy(&number, row.data() + 4 * place, 4);
    return number;
}

std::vector<float> random_logits(std::size_t words, float spread, float middle, int seed) {
    std::mt19937 generator{unsigned(seed)};
    std::normal_distribution<float> normal;
    std::vector<float> logits(words);
    for (float& x : logits) x = middle + spread * normal(generator);
    return logits;
}

}  // namespace

TEST_CASE("base_file: no row that is written is refused", "[base_file]") {
    const float infinite = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    for (const std::size_t words : {1u, 2u, 3u, 100u, 40001u}) {
        for (const float spread : {0.0f, 1e-39f, 1e-6f, 0.01f, 1.0f, 4.0f, 30.0f, 1e4f, 1e7f}) {
            for (const float middle : {0.0f, -7.0f, 1e5f}) {
                std::vector<float> logits = random_logits(words, spread, middle, int(words));
                INFO(words << " words, spread " << spread << ", middle " << middle);
                CHECK(fault_of_base_row(encode(logits), int64_t(words)) == "");
                logits[words / 2] = -infinite;
                CHECK(fault_of_base_row(encode(logits), int64_t(words)) == "");
                for (const float none : {nan, infinite}) {  // no numbers, and written as such
                    logits[words / 2] = none;
                    CHECK(fault_of_base_row(encode(logits), int64_t(words)) == "");
                }
            }
        }
    }
    // All words at the end of what their codes can be off: half a step below, and half above.
    for (const float part : {0.49f, 0.51f}) {
        std::vector<float> logits(5000, part * 15 / 65535);
        logits[0] = 0;
        logits[1] = 15;
        for (std::size_t v = 2; v < logits.size(); ++v) logits[v] += float(v) * 15 / 65535;
        CHECK(fault_of_base_row(encode(logits), 5000) == "");
    }
}

TEST_CASE("base_file: a row that is no probabilities is refused", "[base_file]") {
    const float infinite = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    for (const float spread : {0.5f, 20.0f}) {  // a row with all of its words, and one that was cut
        INFO("spread " << spread);
        const std::vector<std::byte> row = encode(random_logits(501, spread, 0, 3));
        const float scale = float_of(row, 0), min = float_of(row, 1);
        CHECK(fault_with(row, 0, scale, 501) == "");
        CHECK(fault_with(row, 0, nan, 501) == "");  // a hole that is said
        CHECK(fault_with(row, 1, nan, 501) == "");
        for (const float other : {-scale, 0.0f, scale * 2, scale / 2, infinite, -infinite}) {
            CHECK(fault_with(row, 0, other, 501) != "");
        }
        for (const float other : {min + 5, min - 5, min + 0.001f, -min, 0.0f, infinite}) {
            CHECK(fault_with(row, 1, other, 501) != "");
        }
        for (int bit = 16; bit < 32; ++bit) {  // from 2^-3 of a minimum of 16 and more on
            uint32_t bits = 0;
            std::memcpy(&bits, &min, 4);
            bits ^= 1u << bit;
            float flipped = 0;
            std::memcpy(&flipped, &bits, 4);
            INFO("bit " << bit);
            if (!std::isnan(flipped)) CHECK(fault_with(row, 1, flipped, 501) != "");
        }
        std::vector<std::byte> hole(row.size());
        CHECK(fault_of_base_row(hole, 501).find("sum 501, expected 1") != std::string::npos);
        std::copy_n(row.begin(), 8, hole.begin());  // the codes alone
        CHECK(fault_of_base_row(hole, 501) != "");
        std::vector<std::byte> full = row;
        std::fill(full.begin() + 8, full.begin() + 8 + 2 * 501, std::byte{0xFF});
        CHECK(fault_of_base_row(full, 501) != "");
    }
}

TEST_CASE("base_file: words below the floor of 16 nats do not count", "[base_file]") {
    // Word 1 has log p = -16 for a and is far less likely for b: with it, kld would be 0.011.
    const std::vector<std::byte> row = encode({0, -30});
    const TokenPair pair = compare_with_base_row(row, std::vector<float>{0, -1e5f}, 1);
    CHECK(std::abs(pair.kld) < 1e-5);
    CHECK(std::abs(pair.nll_a - 16) < 1e-5);  // as a target it counts, with the floor's probability
    CHECK(std::abs(pair.nll_b - 1e5) < 1e-5);
}

TEST_CASE("base_file: a base file is read as it was written, and equal logits make equal files",
          "[base_file]") {
    const TemporaryFolder folder;
    write_small(folder.file("a.kld"));
    write_small(folder.file("b.kld"));
    const std::string bytes = read_all(folder.file("a.kld"));
    CHECK(bytes.size() == 20 + 16 * 4 + 6 * (8 + 2 * 6));
    CHECK(bytes == read_all(folder.file("b.kld")));
    CHECK(folder.n_files() == 2);

    BaseReader reader(folder.file("a.kld"));
    const BaseHeader& header = reader.header();
    CHECK((header.n_ctx == 8 && header.n_vocab == 5 && header.n_chunk == 2));
    CHECK(header.rows_per_chunk() == 3);
    CHECK(header.tokens == small_header().tokens);
    std::vector<std::byte> rows(6 * std::size_t(header.row_bytes()));
    reader.read(std::span(rows).first(40));  // any number of bytes at a time
    reader.read(std::span(rows).subspan(40));
    CHECK(rows == small_rows());
    CHECK_THROWS_AS(reader.read(std::span(rows).first(1)), Error);
}

TEST_CASE("base_file: a base file that was not finished leaves nothing behind", "[base_file]") {
    const TemporaryFolder folder;
    {
        BaseWriter writer(folder.file("a.kld"), small_header());
        writer.write(std::span<const std::byte>(small_rows()).first(20));
        CHECK_THROWS_AS(writer.finish(), Error);
    }
    {
        BaseWriter writer(folder.file("a.kld"), small_header());
        writer.write(small_rows());
        writer.write(std::span<const std::byte>(small_rows()).first(20));  // a row too many
        CHECK_THROWS_AS(writer.finish(), Error);
    }
    CHECK(fs::is_empty(folder.path));
    BaseHeader header = small_header();
    header.tokens.pop_back();
    CHECK_THROWS_AS(BaseWriter(folder.file("a.kld"), header), Error);
    CHECK(fs::is_empty(folder.path));
    CHECK_THROWS_AS(BaseWriter(folder.file("no/such/folder.kld"), small_header()), Error);
}

TEST_CASE("base_file: a full disk is found out with the header", "[base_file]") {
    if (!fs::exists("/dev/full")) return rotkv::test::skip("no /dev/full here");
    try {
        BaseWriter writer("/dev/full", small_header());
        FAIL("writing to a full disk went well");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::io);
        CHECK(std::string(error.what()).find("/dev/full") != std::string::npos);
    }
    CHECK(fs::exists("/dev/full"));
}

TEST_CASE("base_file: broken base files", "[base_file]") {
    const TemporaryFolder folder;
    write_small(folder.file("good.kld"));
    const std::string good = read_all(folder.file("good.kld"));
    const int32_t most = std::numeric_limits<int32_t>::max();

    CHECK(error_of(folder, "") == ErrorCode::bad_file);
    CHECK(error_of(folder, good.substr(0, 19)) == ErrorCode::bad_file);
    CHECK(error_of(folder, good.substr(0, 50)) == ErrorCode::bad_file);
    CHECK(error_of(folder, good.substr(0, good.size() - 1)) == ErrorCode::bad_file);
    CHECK(error_of(folder, good + "x") == ErrorCode::bad_file);
    CHECK(error_of(folder, "GGUF" + good.substr(4)) == ErrorCode::bad_file);
    for (const int32_t number : {most, 0, -1, -most - 1}) {
        CHECK(error_of(folder, with_number(good, 8, number)) == ErrorCode::bad_file);
        CHECK(error_of(folder, with_number(good, 12, number)) == ErrorCode::bad_file);
        CHECK(error_of(folder, with_number(good, 16, number)) == ErrorCode::bad_file);
    }
    CHECK(error_of(folder, with_number(with_number(good, 8, most), 16, most)) ==
          ErrorCode::bad_file);
    // One window of two tokens scores nothing, so that not a row is missing.
    CHECK(error_of(folder, with_number(with_number(good.substr(0, 28), 8, 2), 16, 1)) ==
          ErrorCode::bad_file);
    CHECK(error_of(folder, with_number(good, 20, 5)) == ErrorCode::bad_file);   // a token
    CHECK(error_of(folder, with_number(good, 24, -1)) == ErrorCode::bad_file);  // another

    CHECK_THROWS_AS(BaseReader(folder.file("missing.kld")), Error);
    CHECK_THROWS_AS(BaseReader(folder.path.string()), Error);
}

TEST_CASE("base_file: each row that llama.cpp wrote is taken", "[base_file]") {
    const std::string data = rotkv::test::data_dir();
    if (data.empty()) return rotkv::test::skip("ROTKV_DATA is not set");
    for (const char* folder : {"golden", "golden2"}) {
        const fs::path place = fs::path(data) / folder;
        if (!fs::exists(place)) return rotkv::test::skip(place.string() + " is not there");
        int64_t rows = 0;
        for (const fs::directory_entry& entry : fs::directory_iterator(place)) {
            if (entry.path().extension() != ".kld") continue;
            BaseReader reader(entry.path().string());
            const BaseHeader& header = reader.header();
            std::vector<std::byte> row(std::size_t(header.row_bytes()));
            for (int64_t r = 0; r < header.n_chunk * header.rows_per_chunk(); ++r, ++rows) {
                reader.read(row);
                INFO(entry.path().filename().string() << ", row " << r);
                CHECK(fault_of_base_row(row, header.n_vocab) == "");
            }
        }
        CHECK(rows > 1000);
    }
}

TEST_CASE("base_file: base files that llama.cpp wrote", "[base_file]") {
    const std::string data = rotkv::test::data_dir();
    if (data.empty()) return rotkv::test::skip("ROTKV_DATA is not set");
    int64_t files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(data) / "golden")) {
        if (entry.path().extension() != ".kld") continue;
        ++files;
        INFO(entry.path().filename().string());
        BaseReader reader(entry.path().string());
        const BaseHeader& header = reader.header();
        CHECK((header.n_ctx == 256 && header.n_chunk == 2));
        std::vector<std::byte> row(std::size_t(header.row_bytes()));
        std::vector<std::byte> again(row.size());
        std::vector<float> log_prob(static_cast<std::size_t>(header.n_vocab));
        double largest_sum_error = 0;
        int64_t farthest_code = 0;
        for (int64_t r = 0; r < header.n_chunk * header.rows_per_chunk(); ++r) {
            reader.read(row);
            decode_base_row(row, log_prob);
            double sum = 0;
            for (const float x : log_prob) sum += std::exp(double(x));
            largest_sum_error = std::max(largest_sum_error, std::abs(sum - 1));
            encode_base_row(log_prob, again);
            for (std::size_t v = 0; v < log_prob.size(); ++v) {
                const int64_t difference = int64_t(code(row, v)) - code(again, v);
                farthest_code = std::max(farthest_code, std::abs(difference));
            }
        }
        CHECK(largest_sum_error < 2e-4);  // a code is off by at most half a step of 16 / 65535
        CHECK(farthest_code <= 1);        // what was written once is written alike again
    }
    CHECK(files == 30);
}
