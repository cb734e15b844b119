#include "ref/zoo/codebook.h"

#include "ref/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <numbers>
#include <tuple>

namespace rotkv::zoo {

uint32_t Codebook::code(double x) const {
    uint32_t code = 0;
    for (const double border : borders) code += x > border;
    return code;
}

namespace {

// Nodes and weights of Gauss-Legendre on [-1, 1]: roots of P_16 by Newton's method.
struct Legendre {
    static constexpr int k_points = 16;
    std::array<double, k_points> node{}, weight{};

    Legendre() {
        for (int i = 0; i < k_points; ++i) {
            double x = std::cos(std::numbers::pi * (i + 0.75) / (k_points + 0.5)), slope = 1;
            for (int step = 0; step < 100; ++step) {
                double before = 1, p = x;  // P_0, P_1
                for (int k = 2; k <= k_points; ++k) {
                    const double next = ((2 * k - 1) * x * p - (k - 1) * before) / k;
                    before = p;
                    p = next;
                }
                slope = k_points * (x * p - before) / (x * x - 1);
                const double move = p / slope;
                x -= move;
                if (std::fabs(move) < 1e-15) break;
            }
            node[size_t(i)] = x;
            weight[size_t(i)] = 2 / ((1 - x * x) * slope * slope);
        }
    }
};

// The integrals of f, x f and x^2 f.
struct Moments {
    double mass = 0, first = 0, second = 0;
};

Moments integrate(const std::function<double(double)>& f, double from, double to, double smooth) {
    static const Legendre rule;
    Moments sum;
    const int64_t pieces = std::max<int64_t>(1, int64_t(std::ceil((to - from) / smooth)));
    const double half = (to - from) / double(pieces) / 2;
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const double middle = from + half * double(2 * piece + 1);
        for (size_t i = 0; i < rule.node.size(); ++i) {
            const double x = middle + half * rule.node[i];
            const double mass = half * rule.weight[i] * f(x);
            sum.mass += mass;
            sum.first += x * mass;
            sum.second += x * x * mass;
        }
    }
    return sum;
}

std::vector<double> borders_of(const std::vector<double>& levels) {
    std::vector<double> borders;
    for (size_t i = 0; i + 1 < levels.size(); ++i) {
        borders.push_back((levels[i] + levels[i + 1]) / 2);
    }
    return borders;
}

// A codebook is asked for by what it is for, two numbers, and solved the first time.
const Codebook& remembered(int kind, int64_t n, int64_t levels,
                           const std::function<Codebook()>& solve) {
    static std::mutex mutex;
    static std::map<std::tuple<int, int64_t, int64_t>, Codebook> known;
    const std::scoped_lock lock(mutex);
    const auto key = std::make_tuple(kind, n, levels);
    const auto found = known.find(key);
    return found != known.end() ? found->second : known.emplace(key, solve()).first->second;
}

}  // namespace

// One step of Lloyd's iteration: borders half-way between the levels, the levels the means of their
// cells. How far a level moved at most.
static double lloyd_step(Codebook& book, const std::function<double(double)>& density, double from,
                         double to, double smooth) {
    book.borders = borders_of(book.levels);
    book.distortion = 0;
    double moved = 0, mass = 0;
    for (size_t i = 0; i < book.levels.size(); ++i) {
        const double begin = i == 0 ? from : book.borders[i - 1];
        const double end = i + 1 == book.levels.size() ? to : book.borders[i];
        const Moments cell = integrate(density, begin, end, smooth);
        if (cell.mass <= 0) continue;  // far out, where nothing is: neighbours pull it in
        const double mean = cell.first / cell.mass;
        moved = std::max(moved, std::fabs(mean - book.levels[i]));
        book.levels[i] = mean;
        book.distortion += cell.second - mean * cell.first;
        mass += cell.mass;
    }
    book.distortion /= mass;
    return moved;
}

Codebook solve_codebook(const std::function<double(double)>& density, double from, double to,
                        double smooth, int64_t levels) {
    require(levels >= 1 && from < to && smooth > 0, ErrorCode::bad_argument,
            "codebook: expected one level or more, and a range");
    Codebook book;
    for (int64_t i = 0; i < levels; ++i) {
        book.levels.push_back(from + (to - from) * (double(i) + 0.5) / double(levels));
    }
    constexpr int k_most = 100000;
    for (int step = 0; step < k_most; ++step) {
        if (lloyd_step(book, density, from, to, smooth) <= 1e-12 * (to - from)) break;
    }
    book.borders = borders_of(book.levels);
    return book;
}

// Odd symmetry to the last bit, so that x and -x have levels of one magnitude.
static Codebook symmetric(Codebook book) {
    const size_t n = book.levels.size();
    for (size_t i = 0; i < n / 2; ++i) {
        const double magnitude = (book.levels[n - 1 - i] - book.levels[i]) / 2;
        book.levels[i] = -magnitude;
        book.levels[n - 1 - i] = magnitude;
    }
    if (n % 2 == 1) book.levels[n / 2] = 0;
    book.borders = borders_of(book.levels);
    return book;
}

// Ten standard deviations: what lies beyond weighs less than 1e-22.
static constexpr double k_far = 10;

// Of t sqrt(n), t a coordinate of a random direction in n dimensions; 0 from sqrt(n) on.
static std::function<double(double)> sphere_density(int64_t n) {
    return [n](double t) {
        const double inside = 1 - t * t / double(n);
        return inside <= 0 ? 0 : std::pow(inside, double(n - 3) / 2);
    };
}

static double sphere_end(int64_t n) {
    require(n >= 3, ErrorCode::bad_argument, "codebook: expected a sphere of 3 dimensions or more");
    return std::min(k_far, std::sqrt(double(n)));
}

const Codebook& sphere_codebook(int64_t n, int64_t levels) {
    const double end = sphere_end(n);
    return remembered(0, n, levels, [&]() {
        return symmetric(solve_codebook(sphere_density(n), -end, end, 1, levels));
    });
}

// Where the normal distribution has p of its mass below: Newton's method on its integral.
static double normal_quantile(double p) {
    double x = 0;
    for (int step = 0; step < 100; ++step) {
        const double below = std::erfc(-x / std::numbers::sqrt2) / 2;
        const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
        const double move = (below - p) / density;
        x -= std::clamp(move, -1.0, 1.0);
        if (std::fabs(move) < 1e-15) break;
    }
    return x;
}

const Codebook& stopped_codebook(int64_t n, int64_t levels, int64_t steps) {
    const double end = sphere_end(n);
    return remembered(int(3 + steps), n, levels, [&]() {
        Codebook book;
        for (int64_t i = 0; i < levels; ++i) {
            book.levels.push_back(normal_quantile((double(i) + 0.5) / double(levels)));
        }
        for (int64_t step = 0; step < steps; ++step) {
            lloyd_step(book, sphere_density(n), -end, end, 1);
        }
        return symmetric(book);
    });
}

const Codebook& normal_codebook(int64_t levels) {
    return remembered(1, 0, levels, [&]() {
        const auto density = [](double t) { return std::exp(-t * t / 2); };
        return symmetric(solve_codebook(density, -k_far, k_far, 1, levels));
    });
}

const Codebook& angle_codebook(int64_t k, int64_t levels) {
    require(k >= 1, ErrorCode::bad_argument, "codebook: expected lengths of one dimension or more");
    return remembered(2, k, levels, [&]() {
        const auto density = [k](double x) { return std::pow(std::sin(2 * x), double(k - 1)); };
        return solve_codebook(density, 0, std::numbers::pi / 2, 0.2, levels);
    });
}

}  // namespace rotkv::zoo
