#include "ref/zoo/hadamard_matrix.h"

#include <bit>
#include <cmath>

namespace rotkv::zoo {

namespace {

// m of n = m 2^k, or 0.
int64_t paley_size(int64_t n) {
    for (const int64_t m : {1, 12, 20}) {
        const int64_t rest = n / m;
        if (n % m == 0 && rest > 0 && (rest & (rest - 1)) == 0) return m;
    }
    return 0;
}

// chi: 1 for squares mod q, -1 for others, 0 for 0; x in -q + 1 .. q - 1.
int quadratic_character(int64_t x, int64_t q) {
    x = (x + q) % q;
    if (x == 0) return 0;
    for (int64_t root = 1; root < q; ++root) {
        if (root * root % q == x) return 1;
    }
    return -1;
}

// Entry (i, j) of Paley's matrix of size m, 1 or -1.
int paley(int64_t i, int64_t j, int64_t m) {
    if (i == j) return 1;
    if (i == 0) return 1;
    if (j == 0) return -1;
    return quadratic_character(i - j, m - 1);
}

}  // namespace

bool has_hadamard_matrix(int64_t n) { return n > 0 && paley_size(n) > 0; }

std::vector<double> hadamard_matrix(int64_t n) {
    const int64_t m = paley_size(n), r = n / m;
    const double scale = 1.0 / std::sqrt(double(n));
    std::vector<double> h;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const bool odd = std::popcount(uint64_t(i % r) & uint64_t(j % r)) % 2 == 1;
            h.push_back(paley(i / r, j / r, m) * (odd ? -scale : scale));
        }
    }
    return h;
}

}  // namespace rotkv::zoo
