// Every version of the fast Hadamard transform against ref, bit by bit.
#include "fast/ladder.h"
#include "ref/kernels.h"
#include "ref/quant.h"
#include "tests/catch.h"
#include "tests/parity.h"
#include "tests/random.h"

using namespace rotkv;
using rotkv::test::floats_equal;
using rotkv::test::normal_vector;

namespace {

TensorView rows_of(std::vector<float>& x, int64_t rows, int64_t d) {
    return view(x.data(), DType::f32, {rows, d});
}

// Rows as they are stored.
struct StoredRows {
    DType type;
    int64_t rows, d;
    std::vector<std::byte> bytes;

    TensorView view() { return rotkv::view(bytes.data(), type, {rows, d}); }
};

StoredRows stored(DType type, const std::vector<float>& x, int64_t d) {
    StoredRows rows{type, int64_t(x.size()) / d, d, {}};
    rows.bytes.resize(x.size() * size_t(type_info(type).block_bytes));
    ref::quantize_row(type, rows.bytes.data(), x.data(), int64_t(x.size()));
    return rows;
}

// Apart, then in place: both must be what ref makes of x.
void check_rows(const fast::HadamardVersion& version, const StoredRows& x, const Rotation& rotation,
                bool inverse) {
    StoredRows src = x, apart = x, place = x, expected = x;
    ref::hadamard({expected.view(), src.view(), rotation, inverse});
    apart.bytes.assign(x.bytes.size(), std::byte(0xFF));
    version.run({apart.view(), src.view(), rotation, inverse});
    version.run({place.view(), place.view(), rotation, inverse});
    INFO(version.name << ", " << type_info(x.type).name << ": D = " << x.d
                      << ", N = " << rotation.block << ", rows = " << x.rows
                      << (inverse ? ", back" : ", forward"));
    REQUIRE(apart.bytes == expected.bytes);
    REQUIRE(place.bytes == expected.bytes);
    REQUIRE(src.bytes == x.bytes);
}

// All sizes, with and without signs, one row and many.
void check_version(const fast::HadamardVersion& version, DType type) {
    for (int64_t n = 1; n <= 1024; n *= 2) {
        for (const int64_t d : {n, 3 * n}) {
            for (const int64_t rows : {1, 37}) {
                const StoredRows x = stored(type, normal_vector(rows * d, uint64_t(d + n)), d);
                for (const bool inverse : {false, true}) {
                    check_rows(version, x, {Rotation::Kind::none, 0, 0, 0}, inverse);
                    check_rows(version, x, {Rotation::Kind::sylvester, n, 0, 0}, inverse);
                    check_rows(version, x, {Rotation::Kind::signs, n, 5, 3}, inverse);
                }
            }
        }
    }
}

}  // namespace

TEST_CASE("hadamard ladder: every version equals ref") {
    for (const fast::HadamardVersion& version : fast::k_hadamard_ladder) {
        for (const DType type : {DType::f32, DType::f16, DType::bf16}) check_version(version, type);
    }
}

TEST_CASE("hadamard ladder: results too large for the caches") {
    // More than 32 MiB in aligned memory: here the last version writes past the caches.
    const std::unique_ptr<Backend> memory = tools::make_backend("fast", 0);
    constexpr int64_t d = 512, rows = (int64_t(32) << 20) / (d * int64_t(sizeof(float))) + 3;
    const std::vector<float> some = normal_vector(8191, 11);
    std::vector<float> x(size_t(rows * d)), expected(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = some[i % some.size()];
    const Buffer src = test::upload(*memory, x), dst(*memory, src.bytes());
    const TensorView from = src.view(DType::f32, {rows, d}), to = dst.view(DType::f32, {rows, d});
    for (const fast::HadamardVersion& version : fast::k_hadamard_ladder) {
        for (const Rotation::Kind kind : {Rotation::Kind::sylvester, Rotation::Kind::signs}) {
            for (const int64_t n : {int64_t(64), d}) {
                const Rotation rotation{kind, n, 5, 0};
                ref::hadamard({rows_of(expected, rows, d), from, rotation, true});
                test::fill(*memory, to, std::byte(0xFF));
                version.run({to, from, rotation, true});
                INFO(version.name << ": N = " << n);
                REQUIRE(floats_equal(test::download_f32(*memory, to), expected));
            }
        }
    }
}
