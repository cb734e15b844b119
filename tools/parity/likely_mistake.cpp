#include "tools/parity/likely_mistake.h"

#include "ref/cases/mistake.h"
#include "ref/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

namespace rotkv::tools {

namespace {

constexpr double k_near = 0.1;  // of the distance between the right result and the found one

double distance(std::span<const double> a, std::span<const double> b) {
    double squares = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double off = a[i] - b[i];
        if (std::isfinite(off)) {
            squares += off * off;
        } else if (std::isfinite(a[i]) || std::isfinite(b[i])) {
            return INFINITY;
        }
    }
    return std::sqrt(squares);
}

std::vector<double> in_f64(std::span<const float> x) { return {x.begin(), x.end()}; }

std::vector<int64_t> both(std::span<const int64_t> a, std::span<const int64_t> b) {
    std::vector<int64_t> result;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
    return result;
}

}  // namespace

void LikelyMistakes::add(const Case& one, const Expected& expected, size_t tensor,
                         std::span<const std::byte> found) {
    const std::span<const MistakeInfo> known = mistakes();
    explained_.resize(known.size());
    const CaseTensor& output = expected.tensors[tensor];
    const std::vector<double> right = numbers_of(output.type, expected.results[tensor]);
    const std::vector<double> theirs = numbers_of(output.type, found);
    const double off = distance(theirs, right);
    for (size_t f = 0; f < known.size(); ++f) {
        const std::vector<double> mistaken =
            in_f64(one.with_mistake(output.name, expected.tensors, known[f].mistake));
        if (mistaken.size() != theirs.size() || !std::isfinite(off)) continue;
        if (distance(mistaken, theirs) > k_near * off) continue;
        explained_[f].push_back(results_);
    }
    ++results_;
}

std::vector<std::string> LikelyMistakes::sentences() const {
    const std::span<const MistakeInfo> known = mistakes();
    std::vector<std::string> said;
    std::vector<int64_t> left(static_cast<size_t>(results_));
    for (size_t i = 0; i < left.size(); ++i) left[i] = int64_t(i);
    while (!explained_.empty()) {
        std::vector<int64_t> most;
        for (const std::vector<int64_t>& one : explained_) {
            if (both(one, left).size() > most.size()) most = both(one, left);
        }
        if (most.empty()) break;
        std::string mistakes;
        for (size_t f = 0; f < known.size(); ++f) {
            if (both(explained_[f], left) != most) continue;
            mistakes += fmt::format("{}{} [{}]", mistakes.empty() ? "" : ", or ", known[f].sentence,
                                    known[f].name);
        }
        said.push_back(fmt::format("likely: {}: {} of the {} results that fail are what that gives",
                                   mistakes, most.size(), results_));
        std::vector<int64_t> rest;
        std::set_difference(left.begin(), left.end(), most.begin(), most.end(),
                            std::back_inserter(rest));
        left = rest;
    }
    return said;
}

namespace {

struct Row {
    int64_t caught = 0, within = 0, nothing = 0;
    std::string first;
};

void hold(const Case& one, const Expected& expected, const MistakeInfo& info, Row& row) {
    const std::vector<float> mistaken = one.with_mistake("dst", expected.tensors, info.mistake);
    const std::vector<float> none = one.with_mistake("dst", expected.tensors, Mistake::none);
    if (mistaken == none) return void(++row.nothing);
    std::vector<std::byte> bytes(mistaken.size() * sizeof(float));
    std::memcpy(bytes.data(), mistaken.data(), bytes.size());
    if (judge(one, expected, 0, bytes, true).ok) return void(++row.within);
    if (row.caught++ == 0) row.first = one.name();
}

}  // namespace

std::string mistake_table(std::span<const std::string> names) {
    std::vector<Row> rows(mistakes().size());
    for (const std::string& name : names) {
        const std::unique_ptr<Case> one = make_case(name);
        if (one->op() != "path") {
            throw Error(ErrorCode::usage, "mistakes: expected cases of path, found " + name);
        }
        if (!one->for_other_engines()) continue;
        const Expected expected = expected_results(*one);
        for (size_t f = 0; f < rows.size(); ++f) hold(*one, expected, mistakes()[f], rows[f]);
    }
    std::string text =
        "| mistake | | caught by | within the bound of | changes nothing in | first case that "
        "catches it |\n"
        "|---|---|---|---|---|---|\n";
    for (size_t f = 0; f < rows.size(); ++f) {
        const Row& row = rows[f];
        text += fmt::format("| {} | {} | {} | {} | {} | {} |\n", mistakes()[f].name,
                            mistakes()[f].sentence, row.caught, row.within, row.nothing,
                            row.first.empty() ? "none" : "`" + row.first + "`");
    }
    return text;
}

}  // namespace rotkv::tools
