// Rotation matrices that are constructed, and the words that ask for any.
#include "ref/zoo/matrices.h"

#include "ref/error.h"
#include "ref/rotation.h"
#include "ref/zoo/hadamard_matrix.h"
#include "ref/zoo/random_matrix.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

namespace rotkv::zoo {

namespace {

// One matrix a size, made when it is first asked for.
class Constructed final : public MatrixSource {
  public:
    using Make = std::function<std::vector<double>(int64_t n)>;  // [n][n]

    Constructed(const std::string& words, Make make)
        : MatrixSource(words), make_(std::move(make)) {}

    MatrixPointer at(const MatrixPlace& place) const override {
        const std::scoped_lock lock(mutex_);
        MatrixPointer& matrix = known_[place.parts];
        if (matrix) return matrix;
        const int64_t d = place.d();
        std::vector<float> values(size_t(d * d), 0.0f);
        int64_t first = 0;
        for (const int64_t n : place.parts) {
            const std::vector<double> part = make_(n);
            for (int64_t i = 0; i < n * n; ++i) {
                values[size_t((first + i / n) * d + first + i % n)] = float(part[size_t(i)]);
            }
            first += n;
        }
        return matrix = std::make_shared<const RotationMatrix>(words(), 1, d, std::move(values));
    }

  private:
    Make make_;
    mutable std::mutex mutex_;
    mutable std::map<std::vector<int64_t>, MatrixPointer> known_;  // by parts
};

std::vector<double> hadamard_or_throw(int64_t n) {
    if (has_hadamard_matrix(n)) return hadamard_matrix(n);
    throw Error(ErrorCode::usage,
                "expected heads of 2^k, 12 2^k or 20 2^k channels, found " + std::to_string(n));
}

std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t n) {
    std::vector<double> c(size_t(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < n; ++k) {
            for (int64_t j = 0; j < n; ++j) {
                c[size_t(i * n + j)] += a[size_t(i * n + k)] * b[size_t(k * n + j)];
            }
        }
    }
    return c;
}

std::vector<double> signed_rounds(int64_t n, uint64_t seed, int64_t rounds) {
    const std::vector<double> h = hadamard_or_throw(n);
    std::vector<double> m;
    for (int64_t round = 0; round < rounds; ++round) {
        std::vector<double> hs = h;
        for (int64_t i = 0; i < n * n; ++i) {
            hs[size_t(i)] *= double(rotation_sign(seed, round * n + i % n));
        }
        m = round == 0 ? hs : product(hs, m, n);
    }
    return m;
}

}  // namespace

std::shared_ptr<const MatrixSource> kronecker_source(const std::string& words) {
    return std::make_shared<const Constructed>(words, hadamard_or_throw);
}

std::shared_ptr<const MatrixSource> signed_source(const std::string& words, uint64_t seed,
                                                  int64_t rounds) {
    return std::make_shared<const Constructed>(
        words, [=](int64_t n) { return signed_rounds(n, seed, rounds); });
}

std::shared_ptr<const MatrixSource> dense_source(const std::string& words, uint64_t seed) {
    return std::make_shared<const Constructed>(
        words, [=](int64_t n) { return orthogonal_matrix(n, seed); });
}

}  // namespace rotkv::zoo

namespace rotkv {

// The numbers behind "signed:", separated by ':'; nothing where one of them is none.
static std::optional<std::vector<uint64_t>> numbers_of(const std::string& text) {
    std::vector<uint64_t> numbers;
    for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(':', begin), text.size());
        uint64_t number = 0;
        const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, number);
        if (error != std::errc() || stop != text.data() + end) return std::nullopt;
        numbers.push_back(number);
        begin = end + 1;
    }
    return numbers;
}

std::shared_ptr<const MatrixSource> find_matrix_source(const std::string& text) {
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string kind = text.substr(0, colon);
    const std::string rest = colon < text.size() ? text.substr(colon + 1) : "";
    const auto wrong = [&](const char* expected) {
        return Error(ErrorCode::usage,
                     std::string("expected ") + expected + ", found '" + text + "'");
    };
    if (kind == "kronecker") {
        if (colon < text.size()) throw wrong("nothing behind kronecker");
        return zoo::kronecker_source(text);
    }
    if (kind == "file") {
        if (rest.empty()) throw wrong("file:PATH.npy");
        return zoo::file_source(text, rest);
    }
    if (kind != "signed" && kind != "dense") return nullptr;
    const auto numbers = numbers_of(rest);
    if (kind == "dense") {
        if (!numbers || numbers->size() != 1) throw wrong("dense:SEED");
        return zoo::dense_source(text, (*numbers)[0]);
    }
    const uint64_t rounds = numbers && numbers->size() == 2 ? (*numbers)[1] : 1;
    if (!numbers || numbers->size() > 2 || rounds < 1 || rounds > 3) {
        throw wrong("signed:SEED or signed:SEED:ROUNDS, 1 to 3 rounds");
    }
    return zoo::signed_source(text, (*numbers)[0], int64_t(rounds));
}

}  // namespace rotkv
