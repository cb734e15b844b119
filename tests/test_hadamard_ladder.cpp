// Every version of the fast Hadamard transform against ref, bit by bit.
#include "fast/ladder.h"
#include "ref/kernels.h"
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

// Apart, then in place: both must be what ref makes of x.
void check_rows(const fast::HadamardVersion& version, const std::vector<float>& x, int64_t rows,
                int64_t d, const Rotation& rotation, bool inverse) {
    std::vector<float> src = x, apart(x.size()), place = x, expected(x.size());
    ref::hadamard({rows_of(expected, rows, d), rows_of(src, rows, d), rotation, inverse});
    version.run({rows_of(apart, rows, d), rows_of(src, rows, d), rotation, inverse});
    version.run({rows_of(place, rows, d), rows_of(place, rows, d), rotation, inverse});
    INFO(version.name << ": D = " << d << ", N = " << rotation.block << ", rows = " << rows
                      << (inverse ? ", back" : ", forward"));
    REQUIRE(floats_equal(apart, expected));
    REQUIRE(floats_equal(place, expected));
    REQUIRE(floats_equal(src, x));
}

}  // namespace

TEST_CASE("hadamard ladder: every version equals ref") {
    for (const fast::HadamardVersion& version : fast::k_hadamard_ladder) {
        for (int64_t n = 1; n <= 1024; n *= 2) {
            for (const int64_t d : {n, 3 * n}) {
                for (const int64_t rows : {1, 37}) {
                    const std::vector<float> x = normal_vector(rows * d, uint64_t(d + n));
                    for (const bool inverse : {false, true}) {
                        check_rows(version, x, rows, d, {Rotation::Kind::none, 0, 0, 0}, inverse);
                        check_rows(version, x, rows, d, {Rotation::Kind::sylvester, n, 0, 0},
                                   inverse);
                        check_rows(version, x, rows, d, {Rotation::Kind::signs, n, 5, 3}, inverse);
                    }
                }
            }
        }
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
