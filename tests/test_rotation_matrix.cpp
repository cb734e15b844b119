// Rotations by a matrix: the constructions, what sets them apart on rows of values, and files.
#include "ref/cache_type.h"
#include "ref/error.h"
#include "ref/hadamard.h"
#include "ref/quant.h"
#include "ref/rotation.h"
#include "ref/rotation_policy.h"
#include "ref/zoo/hadamard_matrix.h"
#include "tests/catch.h"
#include "tests/random.h"
#include "tests/temporary_folder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

using namespace rotkv;
using namespace rotkv::test;

namespace {

MatrixPointer matrix_of(const std::string& words, const MatrixPlace& place) {
    return find_matrix_source(words)->at(place);
}
MatrixPointer matrix_of(const std::string& words, int64_t d) {
    return matrix_of(words, {.parts = {d}});
}

std::vector<float> times(const RotationMatrix& m, const std::vector<float>& x) {
    std::vector<float> y;
    for (int64_t i = 0; i < m.d(); ++i) {
        double sum = 0;
        for (int64_t j = 0; j < m.d(); ++j) {
            sum += double(m.values()[size_t(i * m.d() + j)]) * double(x[size_t(j)]);
        }
        y.push_back(float(sum));
    }
    return y;
}

double peak(const std::vector<float>& x) {
    double largest = 0;
    for (const float value : x) largest = std::max(largest, std::fabs(double(value)));
    return largest;
}

// |x' - x|^2 / |x|^2 of one row in a block type.
double relative_error(DType type, const std::vector<float>& x) {
    std::vector<std::byte> bytes(size_t(row_bytes(type, int64_t(x.size()))));
    std::vector<float> y(x.size());
    ref::quantize_row(type, bytes.data(), x.data(), int64_t(x.size()));
    ref::dequantize_row(type, y.data(), bytes.data(), int64_t(x.size()));
    double error = 0, square = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        error += std::pow(double(y[i]) - double(x[i]), 2);
        square += std::pow(double(x[i]), 2);
    }
    return error / square;
}

std::string refusal(const std::function<void()>& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return "no error";
}

// An .npy file of version 1.
void write_npy(const std::string& path, const std::string& shape, const std::vector<float>& values,
               const std::string& type = "<f4", const std::string& order = "False") {
    std::string header =
        "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
    header += std::string(63 - (header.size() + 10) % 64, ' ') + "\n";
    std::ofstream file(path, std::ios::binary);
    file << std::string("\x93NUMPY\x01\x00", 8) << char(header.size() % 256)
         << char(header.size() / 256) << header;
    file.write(reinterpret_cast<const char*>(values.data()),
               std::streamsize(values.size() * sizeof(float)));
}

// Matrices of signed:1, signed:2, ... one after the other.
std::vector<float> several(int64_t count, int64_t d) {
    std::vector<float> all;
    for (int64_t i = 1; i <= count; ++i) {
        const MatrixPointer one = matrix_of("signed:" + std::to_string(i), d);
        all.insert(all.end(), one->values().begin(), one->values().end());
    }
    return all;
}

}  // namespace

TEST_CASE("rotation_matrix: Sylvester's and Paley's matrices are Hadamard matrices") {
    for (const int64_t n : {1, 2, 4, 12, 20, 24, 40, 64, 80, 96, 128, 160, 192, 384}) {
        INFO(n);
        REQUIRE(zoo::has_hadamard_matrix(n));
        const std::vector<double> h = zoo::hadamard_matrix(n);
        double apart = 0;
        for (int64_t a = 0; a < n; ++a) {
            for (int64_t b = 0; b < n; ++b) {
                double sum = 0;
                for (int64_t i = 0; i < n; ++i) sum += h[size_t(i * n + a)] * h[size_t(i * n + b)];
                apart = std::max(apart, std::fabs(sum - (a == b ? 1 : 0)));
            }
        }
        CHECK(apart < 1e-12);
        for (const double entry : h) CHECK(std::fabs(std::fabs(entry) - 1 / std::sqrt(n)) < 1e-12);
    }
    for (const int64_t n : {0, 3, 28, 36, 112, 576}) CHECK(!zoo::has_hadamard_matrix(n));
}

TEST_CASE("rotation_matrix: every construction is orthogonal, in parts that do not meet") {
    for (const char* words : {"kronecker", "signed:5", "signed:5:2", "signed:5:3", "dense:5"}) {
        for (const std::vector<int64_t>& parts :
             {std::vector<int64_t>{64}, {80}, {96}, {64, 32}, {24, 8}}) {
            INFO(words << " " << parts.size() << " parts from " << parts[0]);
            const MatrixPointer m = matrix_of(words, {.parts = parts});
            CHECK(m->departure(0) < 1e-6);
            CHECK(m->splits_at(0, parts[0]));
            CHECK(m->splits_at(0, parts[0] - 1) == false);
            CHECK(m->words() == words);
        }
    }
    CHECK(matrix_of("dense:1", 64)->hash() != matrix_of("dense:2", 64)->hash());
    CHECK(matrix_of("dense:1", 64)->hash() == matrix_of("dense:1", 64)->hash());
}

TEST_CASE(
    "rotation_matrix: in heads of a power of two, one signed round is the kernels' rotation") {
    const int64_t d = 64;
    for (const bool with_signs : {false, true}) {
        const Rotation rotation{
            .kind = with_signs ? Rotation::Kind::signs : Rotation::Kind::sylvester,
            .block = d,
            .seed = with_signs ? 9u : 0u};
        const MatrixPointer m = matrix_of(with_signs ? "signed:9" : "kronecker", d);
        const std::vector<float> x = normal_vector(d, 4);
        std::vector<float> expected = x;
        ref::hadamard_row(expected.data(), x.data(), d, rotation, false);
        const std::vector<float> y = times(*m, x);
        for (size_t i = 0; i < y.size(); ++i) {
            CHECK(std::fabs(double(y[i]) - double(expected[i])) < 1e-5);
        }
    }
}

TEST_CASE("rotation_matrix: a constant vector is Sylvester's blind spot, and signs cure it") {
    const int64_t d = 64;
    std::vector<float> x(size_t(d), 4.0f);
    const std::vector<float> noise = normal_vector(d, 3);
    for (size_t i = 0; i < x.size(); ++i) x[i] += noise[i];
    const double length = 4 * std::sqrt(double(d));
    const std::vector<float> blind = times(*matrix_of("kronecker", d), x);
    CHECK(peak(blind) > 0.95 * length);  // one channel has it all
    CHECK(relative_error(DType::q4_1, blind) > 10 * relative_error(DType::q4_1, x));
    for (const char* words : {"signed:7", "signed:7:2", "dense:7"}) {
        INFO(words);
        const std::vector<float> y = times(*matrix_of(words, d), x);
        CHECK(peak(y) < 0.55 * length);
        CHECK(relative_error(DType::q4_0, y) < 0.5 * relative_error(DType::q4_0, blind));
    }
}

// An orthogonal matrix makes normal rows of normal rows: no rotation can be better than another.
TEST_CASE(
    "rotation_matrix: on Gaussian rows dense and signed matrices leave one and the same error") {
    const int64_t d = 128, rows = 3000;
    const MatrixPointer dense = matrix_of("dense:3", d), fast = matrix_of("signed:3", d);
    double sum[2] = {}, difference_square = 0;
    for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> x = normal_vector(d, uint64_t(r) + 100);
        const double a = relative_error(DType::q4_0, times(*dense, x));
        const double b = relative_error(DType::q4_0, times(*fast, x));
        sum[0] += a;
        sum[1] += b;
        difference_square += (a - b) * (a - b);
    }
    const double mean[] = {sum[0] / double(rows), sum[1] / double(rows)};
    CHECK(std::fabs(mean[0] - 7.38e-3) < 0.15e-3);  // of normal rows in blocks of 32
    CHECK(std::fabs(mean[1] - 7.38e-3) < 0.15e-3);
    const double error = std::sqrt(difference_square) / double(rows);
    CHECK(std::fabs(mean[0] - mean[1]) < 4 * error);
    CHECK(error < 0.05e-3);
}

TEST_CASE("rotation_matrix: words that go wrong are told what was expected") {
    CHECK(find_matrix_source("64") == nullptr);
    CHECK(find_matrix_source("dense2:1") == nullptr);
    for (const char* words : {"dense", "dense:", "dense:x", "dense:1:2", "signed", "signed:1:0",
                              "signed:1:4", "signed:1:2:3", "kronecker:1", "file:"}) {
        INFO(words);
        CHECK(refusal([&] { find_matrix_source(words); }).find("expected") == 0);
    }
    CHECK(refusal([] { matrix_of("kronecker", 112); }) ==
          "expected heads of 2^k, 12 2^k or 20 2^k channels, found 112");
}

TEST_CASE("rotation_matrix: a file gives each layer and head its own, or all the same") {
    const TemporaryFolder folder;
    const std::string path = folder.file("m.npy"), words = "file:" + path;
    const int64_t d = 16;
    write_npy(path, "(3, 2, 16, 16)", several(6, d));
    const auto place = [&](int64_t layer) {
        return MatrixPlace{.layer = layer, .layers = 3, .kv_heads = 2, .parts = {d}};
    };
    const MatrixPointer second = matrix_of(words, place(1));
    CHECK(second->heads() == 2);
    CHECK(second->part(0, d).hash() == second->hash());
    CHECK(std::ranges::equal(second->values().first(size_t(d * d)),
                             matrix_of("signed:3", d)->values()));
    CHECK(refusal([&] { matrix_of(words, {.layers = 4, .kv_heads = 2, .parts = {d}}); }) ==
          "expected matrices of 4 layers, found 3");
    CHECK(refusal([&] { matrix_of(words, {.layers = 3, .kv_heads = 4, .parts = {d}}); }) ==
          "expected matrices of 4 KV heads for layer 0, found 2");
    CHECK(refusal([&] { matrix_of(words, {.layers = 3, .kv_heads = 2, .parts = {32}}); }) ==
          "expected matrices of 32 channels for layer 0, found 16");

    write_npy(path, "(3, 16, 16)", several(3, d));
    CHECK(matrix_of(words, place(2))->heads() == 1);
    CHECK(matrix_of(words, place(2))->hash() == matrix_of("signed:3", d)->hash());
    write_npy(path, "(16, 16)", several(1, d));
    CHECK(matrix_of(words, place(2))->hash() == matrix_of("signed:1", d)->hash());
}

TEST_CASE("rotation_matrix: a file that is not what it should be is refused by layer and head") {
    const TemporaryFolder folder;
    const std::string path = folder.file("m.npy");
    const auto found = [&]() {
        const std::string what = refusal([&] { find_matrix_source("file:" + path); });
        return what.starts_with(path + ": expected ") ? what.substr(path.size() + 11) : what;
    };
    CHECK(found() == path + ": cannot be read");
    std::vector<float> values = several(6, 16);
    values[size_t(3 * 256 + 5 * 16 + 5)] *= 1.5f;
    write_npy(path, "(3, 2, 16, 16)", values);
    CHECK(found().find("orthogonal matrices, layer 1, head 1: max |M^T M - 1| up to 1e-05, found "
                       "0.") == 0);
    values[size_t(3 * 256 + 5 * 16 + 5)] = NAN;
    write_npy(path, "(3, 2, 16, 16)", values);
    CHECK(found().find("layer 1, head 1") != std::string::npos);
    values = several(1, 16);
    write_npy(path, "(16, 16)", values, "<i4");
    CHECK(found() == "numbers of type <f4 or <f8");
    write_npy(path, "(16, 16)", values, "<f4", "True");
    CHECK(found() == "numbers in C order, not Fortran's");
    write_npy(path, "(8, 32)", values);
    CHECK(found() == "square matrices");
    for (const char* shape : {"(256,)", "()", "(1, 1, 1, 16, 16)", "(-16, -16)", "(16 16", "16"}) {
        write_npy(path, shape, values);
        CHECK(found().find("a shape of [L][K][D][D]") == 0);
    }
    for (const char* shape : {"(1, 4294967296, 4294967296)", "(2, 16, 16)", "(8, 8)"}) {
        write_npy(path, shape, values);
        INFO(shape);
        CHECK(found() == "as many numbers as its shape says");
    }
    std::ofstream(path, std::ios::binary) << "\x93NUM";
    CHECK(found().find("an .npy file") == 0);
    std::ofstream(path, std::ios::binary) << std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12);
    CHECK(found() == "a header, found the end of the file");
}

TEST_CASE("rotation_policy: matrices are asked for by word, of a latent row in two parts") {
    const auto asked = [](const std::string& words) {
        return RotationRequest::PerSide{.mode = RotationRequest::Mode::matrix,
                                        .origin = "--rot",
                                        .matrix = find_matrix_source(words)};
    };
    const KvLayer layer{
        .kv_heads = 2, .d_k = 80, .d_v = 96, .type_k = DType::f16, .type_v = DType::f16};
    KvLayer reads = layer;
    reads.source = 0;
    KvLayer latent{.kv_heads = 1,
                   .d_k = 96,
                   .d_v = 64,
                   .type_k = DType::q4_0,
                   .type_v = DType::q4_0,
                   .v_in_k = true};
    const KvShape shape{.streams = 1, .cells = 8, .layers = {layer, reads}};
    const KvShape row{.streams = 1, .cells = 8, .layers = {latent}};
    const RotationSpec spec = decide_rotation(RotationRequest::both(asked("kronecker")), shape);
    CHECK(!spec.at(0, Side::k).on());
    CHECK(spec.turns(1, Side::v));
    CHECK(spec.matrix(0, Side::k)->hash() == matrix_of("kronecker", 80)->hash());
    CHECK(spec.matrix(1, Side::v)->hash() == matrix_of("kronecker", 96)->hash());
    CHECK(spec.reason(0, Side::k) == "--rot");
    CHECK(spec != RotationSpec());
    CHECK(spec == decide_rotation(RotationRequest::both(asked("kronecker")), shape));
    CHECK(spec != decide_rotation(RotationRequest::both(asked("signed:1")), shape));

    const RotationSpec of_row = decide_rotation({.k = asked("dense:3"), .v = {}}, row);
    const MatrixPointer k = of_row.matrix(0, Side::k);
    CHECK(k->hash() == matrix_of("dense:3", {.parts = {64, 32}})->hash());
    CHECK(of_row.matrix(0, Side::v)->hash() == k->part(0, 64).hash());
    CHECK(decide_rotation(RotationRequest::both(asked("dense:3")), row) == of_row);
    CHECK(refusal([&] {
              decide_rotation({.k = asked("dense:3"), .v = asked("dense:4")}, row);
          }).find("takes K's rotation, dense:3 (--rot)") != std::string::npos);
    CHECK(refusal([&] {
              decide_rotation({.k = {}, .v = asked("dense:4")}, row);
          }).find("takes K's rotation, none") != std::string::npos);

    const TemporaryFolder folder;
    const std::string path = folder.file("m.npy");
    write_npy(path, "(96, 96)", several(1, 96));
    CHECK(refusal([&] {
              decide_rotation({.k = asked("file:" + path), .v = {}}, row);
          }).find("V is K's channels 0 to 63 in this model, file:") != std::string::npos);
}
