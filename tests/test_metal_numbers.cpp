// What Metal has not or says little of, as kernels and the emulation have it: f64 by integers, and
// matrices of a simdgroup.
#include "ref/experts.h"
#include "tests/catch.h"
#include "tests/metal_bench.h"
#include "tests/random.h"

#include <bit>
#include <cmath>
#include <limits>

using namespace rotkv;
using test::Bench;

namespace {

constexpr int k_pairs = 256;

// Numbers at which something happens, and any bits; of every third pair b is near a or -a.
std::vector<double> f64_numbers(uint64_t seed) {
    using limits = std::numeric_limits<double>;
    const double edges[] = {0.0,
                            -0.0,
                            1,
                            -1,
                            2,
                            3,
                            -20,
                            700,
                            0x1p-1022,
                            -0x1p-1022,
                            limits::infinity(),
                            -limits::infinity(),
                            limits::quiet_NaN(),
                            limits::denorm_min(),
                            -limits::denorm_min(),
                            limits::max()};
    Random random(seed);
    const auto bits = [&] { return uint64_t(random.below(int64_t(1) << 62)) << 2; };
    std::vector<double> x(2 * k_pairs);
    for (size_t i = 0; i < x.size(); ++i) {
        const uint64_t any = bits() ^ uint64_t(random.below(4)), other = x.size() / 2;
        const uint64_t near_one = (any & 0x800FFFFFFFFFFFFF) | uint64_t(1013 + any % 21) << 52;
        x[i] = std::bit_cast<double>(i % 4 == 0 ? any : near_one);
        if (i % 4 == 1) x[i] = edges[random.below(16)];
        if (i % 8 == 6) x[i] = double(float(x[i]));
        if (i < other || i % 3 != 0) continue;
        const uint64_t same = std::bit_cast<uint64_t>(x[i - other]);
        x[i] = std::bit_cast<double>(same ^ (any & 0x8000000000000007));
    }
    return x;
}

double f64_of(uint32_t which, double a, double b) {
    switch (which) {
        case 0:
            return a + b;
        case 1:
            return a - b;
        case 2:
            return a * b;
        case 3:
            return a / b;
        case 4:
            return std::sqrt(std::fabs(a));
        case 5:
            return double(float(a));
        case 6:
            return std::floor(a) + 0.0;
        case 7:
            return ref::exp_of_negative(-std::fabs(a));
        case 8:
            return ref::log_of_one_plus(a);
        case 9:
            return ref::gated(Gating::sigmoid, a);
        default:
            return ref::gated(Gating::sqrt_softplus, a);
    }
}

// Is the function asked about this number?
bool is_asked(uint32_t which, double a) {
    if (which == 6) return std::fabs(a) < 0x1p30;
    return which != 8 || (a >= 0 && a <= 1);
}

}  // namespace

TEST_CASE("metal: f64 by integers is the machine's, to the bit") {
    int64_t asked = 0, wrong = 0;
    for (uint32_t which = 0; which < 11; ++which) {
        for (uint64_t seed = 0; seed < 40; ++seed) {
            Bench bench("f64_operations");
            bench.dispatch.set_bytes(&which, 4, 2);
            const std::vector<double> x = f64_numbers(seed);
            std::copy(x.begin(), x.end(), static_cast<double*>(bench.x->contents()));
            bench.run(k_pairs);
            const double* const y = static_cast<const double*>(bench.y->contents());
            for (size_t i = 0; i < k_pairs; ++i) {
                if (!is_asked(which, x[i])) continue;
                const double right = f64_of(which, x[i], x[i + k_pairs]);
                const bool same = std::isnan(right) ? std::isnan(y[i])
                                                    : std::bit_cast<uint64_t>(right) ==
                                                          std::bit_cast<uint64_t>(y[i]);
                ++asked;
                if (same || ++wrong > 5) continue;
                UNSCOPED_INFO("operation " << which << " of " << x[i] << ", " << x[i + k_pairs]
                                           << ": " << y[i] << ", expected " << right);
            }
        }
    }
    CHECK(asked > 80000);
    CHECK(wrong == 0);
}

TEST_CASE("metal: a simdgroup's matrices are multiplied, factors as f16") {
    Bench bench("matrices");
    const auto number = [](int i) { return float(i * 7 % 23 - 11); };  // sums of them are exact
    for (int i = 0; i < 192; ++i) Bench::data(bench.x)[i] = number(i);
    Bench::data(bench.x)[0] = 2049;  // f16 has 2048 and 2050
    bench.run(32);
    for (int row = 0; row < 8; ++row) {
        for (int column = 0; column < 8; ++column) {
            float sum = number(128 + row * 8 + column);
            for (int k = 0; k < 8; ++k) {
                const float a = row + k == 0 ? 2048.0f : number(row * 8 + k);
                sum += a * number(64 + column * 8 + k);
            }
            INFO(row << ", " << column);
            CHECK(Bench::data(bench.y)[row * 8 + column] == 3 * sum);
        }
    }
}
