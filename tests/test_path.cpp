// The whole path as a case: the mistaken engine without a mistake is the reference, and bounds let
// another engine's cache differ by what `steps` allows, and by no more.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/cases/stored_rows.h"
#include "ref/kernels.h"
#include "ref/random.h"
#include "ref/rope_table.h"
#include "tests/catch.h"
#include "tools/parity/parity.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace rotkv;
using namespace rotkv::tools;

namespace {

std::vector<std::byte> bytes_of(const std::vector<float>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

}  // namespace

TEST_CASE("path: an engine without a mistake agrees, whatever the case") {
    for (const std::string& name : case_names()) {
        const std::unique_ptr<Case> one = make_case(name);
        const bool path = one->op() == "path";
        if (!path && name.find("attention/k=q8_0/v=q8_0/T=37") != 0 && one->op() != "hadamard")
            continue;
        const std::unique_ptr<Backend> ref = make_ref_backend();
        if (!one->for_other_engines() || !one->reference_supports(*ref).yes) continue;
        const Expected expected = expected_results(*one);
        const std::vector<float> found =
            one->with_mistake(expected.tensors[0].name, expected.tensors, Mistake::none);
        if (found.empty() || expected.tensors[0].type != DType::f32) continue;
        const Verdict verdict = judge(*one, expected, 0, bytes_of(found), !path);
        INFO(name << ": " << verdict.report());
        CHECK(verdict.ok);
    }
}

TEST_CASE("path: no case is content with nothing, or with the opposite") {
    for (const std::string& name : case_names("path/")) {
        const std::unique_ptr<Case> one = make_case(name);
        const std::unique_ptr<Backend> ref = make_ref_backend();
        if (!one->for_other_engines() || !one->reference_supports(*ref).yes) continue;
        INFO(name);
        const Expected expected = expected_results(*one);
        std::vector<float> answer = floats_of(expected.results[0]);
        for (float& x : answer) x = -x;
        CHECK(!judge(*one, expected, 0, bytes_of(answer), true).ok);
        std::fill(answer.begin(), answer.end(), 0.0f);
        CHECK(!judge(*one, expected, 0, bytes_of(answer), true).ok);
    }
}

namespace {

// Numbers a little off: what another order of the butterflies makes of the same row.
std::vector<float> nudged(std::span<const float> x, float by) {
    std::vector<float> result(x.begin(), x.end());
    Random random(3);
    for (float& one : result) one *= 1 + by * float(random.below(3) - 1);
    return result;
}

float largest_off(std::span<const float> a, std::span<const float> b) {
    float most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(a[i] - b[i]));
    return most;
}

void check_within(std::span<const float> theirs, std::span<const float> ours,
                  std::span<const float> reach) {
    size_t outside = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
        outside += std::fabs(theirs[i] - ours[i]) > reach[i];
    }
    CHECK(outside == 0);
}

}  // namespace

TEST_CASE("path: codes that ties decide are within reach, all others are not moved") {
    const int64_t d = 64, rows = 40;
    for (const DType type : quantized_types()) {
        INFO(type_info(type).name);
        StoredRows ours = stored_rows(tie_values(type, rows, d, 5), d, type, {});
        std::fill(ours.error.begin(), ours.error.end(), 1e-6f);
        const std::vector<float> values = ours.values(), reach = ours.reach();
        const StoredRows theirs = stored_rows(nudged(ours.unrounded, 2e-7f), d, type, {});
        check_within(theirs.values(), values, reach);
        // A refit scale may move with each of a block's codes, and here nearly all lie on ties.
        const float share = type_info(type).codes.fitted ? 0.02f : 0.3f;
        CHECK(largest_off(theirs.values(), values) >
              share * *std::max_element(reach.begin(), reach.end()));

        const StoredRows usual = stored_rows(case_values("normal", rows, d, 5), d, type, {});
        const std::vector<float> little = usual.reach();
        const float half_step = largest_off(usual.values(), usual.unrounded);
        const auto moved =
            std::count_if(little.begin(), little.end(), [&](float r) { return r > half_step; });
        CHECK(moved < int64_t(little.size()) / 20);
    }
}

TEST_CASE("path: after a shift another engine's keys are within reach") {
    const int64_t d = 64, rows = 40;
    const Rotation rotation{Rotation::Kind::sylvester, 64};
    RopeConfig config;
    config.n_rot = d;
    const int32_t difference[] = {-8};
    const ShiftOfKeys shift{rope_shift_table(config, difference),
                            std::vector<int32_t>(size_t(rows), 0), 1, d, RopePairs::norm};
    for (const DType type : cache_types()) {
        INFO(type_info(type).name);
        const std::vector<float> x = case_values("normal", rows, d, 9);
        const StoredRows ours = stored_rows(x, d, type, rotation);
        const StoredRows theirs = stored_rows(nudged(x, 2e-7f), d, type, rotation);
        check_within(theirs.values(), ours.values(), ours.reach());
        const StoredRows after = moved_rows(ours, rotation, shift);
        check_within(moved_rows(theirs, rotation, shift).values(), after.values(), after.reach());
        // That is not because it allows everything.
        const std::vector<float> keys = ours.values(), reach = after.reach();
        const std::vector<float> still =
            mistaken_shift(keys, d, type, rotation, shift, Mistake::shift_rotated);
        int64_t outside = 0;
        const std::vector<float> right = after.values();
        for (size_t i = 0; i < right.size(); ++i) {
            outside += std::fabs(still[i] - right[i]) > reach[i];
        }
        CHECK(outside > int64_t(right.size()) / 2);
    }
}
