// The table and its instruments: names, the memory that notices, the four kinds of agreement, and
// that docs/ops.md is what the table says.
#include "ref/cases/case_of.h"
#include "ref/error.h"
#include "ref/half.h"
#include "ref/kernels.h"
#include "ref/quant.h"
#include "tests/catch.h"
#include "tests/spoiled_backend.h"
#include "tools/parity/case_files.h"
#include "tools/parity/parity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <set>
#include <sstream>

using namespace rotkv;
using namespace rotkv::tools;
using rotkv::test::SpoiledBackend;

namespace {

std::string refusal(const std::string& name) {
    try {
        make_case(name);
    } catch (const Error& error) {
        return error.what();
    }
    return "accepted";
}

template <class T>
std::span<const std::byte> bytes(const std::vector<T>& values) {
    return std::as_bytes(std::span(values));
}

}  // namespace

TEST_CASE("cases: every row can be made, has one name and stands once in the table") {
    const std::vector<std::string> names = case_names();
    std::set<std::string> once, operations;
    for (const std::string& name : names) {
        INFO(name);
        REQUIRE(once.insert(name).second);
        const std::unique_ptr<Case> one = make_case(name);
        operations.insert(one->op());
        REQUIRE(case_names(name) == std::vector<std::string>{name});
    }
    CHECK(operations.size() == case_ops().size());
    CHECK(case_names("no such case").empty());
}

TEST_CASE("cases: a name that says a default, an unknown field or the wrong order is refused") {
    CHECK(refusal("hadamard/rows=7/rot=64").find("rows: expected nothing") != std::string::npos);
    CHECK(refusal("hadamard/rot=64/D=128").find("in this order") != std::string::npos);
    CHECK(refusal("hadamard/colour=red").find("colour: expected the fields rows, D") !=
          std::string::npos);
    CHECK(refusal("hadamard/rows").find("expected key=value") != std::string::npos);
    CHECK(refusal("hadamard/rows=x").find("expected a number") != std::string::npos);
    CHECK(refusal("hadamard/rot=64:x").find("BLOCK:SEED") != std::string::npos);
    CHECK(refusal("quantize/default").find("type: expected a type") != std::string::npos);
    CHECK(refusal("quantize").find("'default'") != std::string::npos);
    CHECK(refusal("quantize/type=q9_0").find("q9_0") != std::string::npos);
    CHECK(refusal("hadamard/values=purple").find("one of normal, channels") != std::string::npos);
    CHECK(refusal("transmogrify/default").find("expected one of hadamard") != std::string::npos);
}

TEST_CASE("cases: values that no operation could run with are refused by field") {
    const auto refused = [](const std::string& name, const std::string& why) {
        INFO(name << ": " << refusal(name));
        CHECK(refusal(name).find(why) != std::string::npos);
    };
    for (const char* block : {"0", "48", "128", "0:7", "64:7:32", "064"}) {
        refused("hadamard/rot=" + std::string(block), ": rot: expected ");
        refused("kv_store/k=f16/v=f16/rot-v=" + std::string(block), ": rot-v: expected ");
        refused("kv_shift/k=f16/rot-k=" + std::string(block), ": rot-k: expected ");
        refused("attention/k=f16/v=f16/rot-k=" + std::string(block), ": rot-k: expected ");
    }
    for (const char* field : {"S=0", "C=-1", "K=0", "H=0", "D=0", "Dv=0", "T=-1", "window=-1"}) {
        const std::string key = std::string(field).substr(0, std::string(field).find('='));
        refused("attention/k=f16/v=f16/" + std::string(field), ": " + key + ": expected ");
    }
    refused("attention/k=f16/v=f16/H=3", "H: expected a multiple of 2");
    refused("attention/k=f16/v=f16/v-in-k=1/v-first=32", "Dv: expected channels inside K's 64");
    refused("kv_store/k=f16/v=f16/T=10", "T: expected a cell for each token");
    refused("rms_norm/rows=-1", "rows: expected 0 or more, found -1");
    refused("matmul/type=f32/out=0", "out: expected 1 or more");
    refused("nll/type=f32/V=0", "V: expected 1 or more");
    for (const char* n_rot : {"0", "7", "66"}) {
        refused("rope/n_rot=" + std::string(n_rot), "n_rot: expected ");
        refused("kv_shift/k=f16/n_rot=" + std::string(n_rot), "n_rot: expected ");
    }
    refused("rope/D=32", "n_rot: expected an even number up to 32, found 64");
    refused("add/rows=1000000000", "expected tensors of at most 536870912 elements");
    refused("add/rows=0/D=1000000000000", "expected tensors of at most 536870912 elements");
    refused("attention/k=f16/v=f16/S=4294967296/C=4294967296", "at most 536870912 elements");
}

TEST_CASE("cases: a value has one spelling") {
    CHECK(refusal("merge/spread=0") == "accepted");
    CHECK(refusal("merge/spread=0.5") == "accepted");
    for (const char* name :
         {"merge/spread=2", "merge/spread=2.0", "merge/spread=4.0", "merge/spread=nan",
          "merge/spread=x", "merge/spread=", "act_mul/spread=1", "attention/k=f16/v=f16/loud=1",
          "attention/k=f16/v=f16/softcap=0", "hadamard/rows=07", "hadamard/rows=08",
          "quantize/type=Q8_0"}) {
        INFO(name);
        CHECK(refusal(name) != "accepted");
    }
}

TEST_CASE("cases: the memory of a cell notices what a backend must not do") {
    struct Row {
        const char* name;
        std::function<void(const HadamardArgs&)> spoil;  ///< after a right result
        const char* expected;
    };
    int calls = 0;
    const auto floats = [](const TensorView& view, int64_t row) { return view.row<float>(row); };
    const Row rows[] = {
        {"hadamard/rot=64", [](const HadamardArgs&) {}, ""},
        {"hadamard/rot=64", [&](const HadamardArgs& a) { floats(a.dst, 3)[5] *= 1 + 0x1p-20f; },
         "1 of 448 elements"},
        {"hadamard/rot=64", [&](const HadamardArgs& a) { floats(a.dst, 0)[-1] = 0; },
         "dst: byte -4 from its beginning was written"},
        {"hadamard/rot=64", [&](const HadamardArgs& a) { floats(a.dst, 6)[64] = 0; },
         "outside every row"},
        {"hadamard/D=192/rot=64/layout=padded",
         [&](const HadamardArgs& a) { floats(a.dst, 2)[192] = 0; }, "outside every row"},
        {"hadamard/D=192/rot=64/layout=skewed",
         [&](const HadamardArgs& a) { floats(a.dst, 6)[192] = 0; }, "outside every row"},
        {"hadamard/rot=64", [&](const HadamardArgs& a) { floats(a.src, 1)[0] += 1; },
         "src: an input was changed"},
        {"hadamard/rot=64",
         [&](const HadamardArgs& a) { floats(a.dst, 0)[0] += float(++calls) * 1e-3f; },
         "a second run gave other bits"},
        {"hadamard/rot=64",
         [](const HadamardArgs&) { throw Error(ErrorCode::io, "the device is on fire"); },
         "the device is on fire"},
    };
    for (const Row& row : rows) {
        const std::unique_ptr<Case> one = make_case(row.name);
        const Expected expected = expected_results(*one);
        SpoiledBackend backend(row.spoil);
        const CaseResult cell = run_on(*one, expected, backend);
        INFO(row.name << ", expected '" << row.expected << "' in: " << cell.text);
        CHECK((cell.outcome == Outcome::ok) == std::string(row.expected).empty());
        CHECK(cell.text.find(row.expected) != std::string::npos);
        if (cell.outcome == Outcome::fail) {
            CHECK(cell.text.find("--case '" + std::string(row.name) + "'") != std::string::npos);
        }
    }
}

TEST_CASE("cases: a backend that ran nothing has proved nothing, and neither has ref alone") {
    std::vector<Column> on;
    for (const char* name : {"ref", "fast, 1 thread", "cuda"}) on.push_back({name, nullptr, ""});
    const CaseResult ok, refused{Outcome::unsupported, "", 0}, none{Outcome::no_device, "", 0};
    using Names = std::vector<std::string>;
    const auto idle = [&](const std::vector<std::vector<CaseResult>>& rows) {
        Tally tally(on);
        for (const std::vector<CaseResult>& row : rows) tally.add("hadamard", row);
        return tally.without_proof();
    };
    CHECK(idle({{ok, ok, none}}) == Names{});
    CHECK(idle({{ok, refused, none}, {ok, ok, none}}) == Names{});
    CHECK(idle({{ok, ok, refused}}) == Names{"cuda"});
    CHECK(idle({{ok, refused, none}}) == Names{"fast, 1 thread", "any backend but ref"});
    CHECK(idle({{ok, none, none}}) == Names{"any backend but ref"});
}

TEST_CASE("agreement: exact means bytes, and one NaN is as good as another") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> a = {1, nan, 0.0f, 4}, same = {1, -nan, 0.0f, 4};
    CHECK(compare_exact(DType::f32, bytes(a), bytes(same)).ok);
    const std::vector<float> b = {std::nextafter(1.0f, 2.0f), nan, -0.0f, nan};
    const Verdict verdict = compare_exact(DType::f32, bytes(a), bytes(b));
    CHECK(verdict.wrong == 3);
    CHECK(verdict.first[0].ulps == 1);
    CHECK(verdict.first[1].index == 2);
    CHECK(verdict.report().find("NaN") != std::string::npos);
    std::vector<std::byte> block(34), other(34);
    other[1] = std::byte(0x80);  // the scale -0 instead of 0: the same values, other bytes
    CHECK(!compare_exact(DType::q8_0, block, other).ok);
    CHECK(ulps_between(-0x1p-149f, 0x1p-149f) == 2);
}

TEST_CASE("agreement: rounding asks each element for its own bound, nmse all of them for one") {
    const std::vector<float> a = {1, 100, INFINITY}, b = {1.001f, 100.5f, INFINITY};
    const std::vector<double> wide = {0.002, 1, 0}, narrow = {0.0005, 1, 0};
    CHECK(compare_rounding(DType::f32, bytes(a), bytes(b), wide).ok);
    CHECK(compare_rounding(DType::f32, bytes(a), bytes(b), wide).worst ==
          Approx(0.5).epsilon(0.01));
    CHECK(compare_rounding(DType::f32, bytes(a), bytes(b), narrow).wrong == 1);
    const std::vector<float> c = {1, NAN, INFINITY};
    CHECK(compare_rounding(DType::f32, bytes(a), bytes(c), wide).wrong == 1);
    const std::vector<float> x = {3, 4}, y = {3, 4.05f};
    CHECK(compare_nmse(bytes(x), bytes(y), 1.1e-4).ok);
    CHECK(!compare_nmse(bytes(x), bytes(y), 0.9e-4).ok);
    const std::vector<float> z = {3, NAN}, w = {3, -INFINITY};
    CHECK(!compare_nmse(bytes(x), bytes(z), 1e9).ok);
    CHECK(!compare_nmse(bytes(x), bytes(w), 1e9).ok);
    CHECK(!compare_nmse(bytes(w), bytes(x), 1e9).ok);
    CHECK(compare_nmse(bytes(w), bytes(w), 0).ok);
}

TEST_CASE("agreement: what is not finite is so in both, of one kind or, where asked, of any") {
    const std::vector<float> nan = {1, NAN, 2}, inf = {1, INFINITY, 2}, none = {1, 3, 2},
                             more = {NAN, NAN, 2};
    const std::vector<double> bound = {1, 1, 1};
    const auto both = [&](const std::vector<float>& a, const std::vector<float>& b,
                          NotFinite which) {
        const bool ok = compare_rounding(DType::f32, bytes(a), bytes(b), bound, which).ok;
        CHECK(compare_nmse(bytes(a), bytes(b), 1, which).ok == ok);
        return ok;
    };
    for (const NotFinite which : {NotFinite::same_kind, NotFinite::any}) {
        CHECK(both(nan, nan, which));
        CHECK(both(inf, inf, which));
        CHECK(both(nan, inf, which) == (which == NotFinite::any));
        CHECK(both(inf, nan, which) == (which == NotFinite::any));
        CHECK(!both(nan, none, which));
        CHECK(!both(none, nan, which));
        CHECK(!both(nan, more, which));
        CHECK(!both(more, nan, which));
    }
}

TEST_CASE("cases: some outputs of attention over spoilt cells are finite, and a leak is found") {
    for (const char* const kind : {"nan", "inf"}) {
        const std::unique_ptr<Case> one = make_case(
            "attention/k=f16/v=f16/T=12/C=80/D=128/rot-v=64/fill=dense/sees=last/values=" +
            std::string(kind));
        const Expected expected = expected_results(*one);
        std::vector<float> y = floats_of(expected.results[0]);
        const auto finite = [](float x) { return std::isfinite(x); };
        const int64_t all = int64_t(y.size()), n = std::count_if(y.begin(), y.end(), finite);
        CHECK((n > all / 3 && n < all * 2 / 3));
        *std::find_if(y.begin(), y.end(), finite) = NAN;
        CHECK(!judge(*one, expected, 0, bytes(y), false).ok);
        y = floats_of(expected.results[0]);
        *std::find_if_not(y.begin(), y.end(), finite) = 0;
        CHECK(!judge(*one, expected, 0, bytes(y), false).ok);
    }
}

TEST_CASE("agreement: the bound of rounded products holds for factors rounded to f16 and bf16") {
    for (const char* type : {"f16", "bf16"}) {
        const std::unique_ptr<Case> one =
            make_case("matmul/type=q4_0/T=113/in=576/out=300/precision=" + std::string(type));
        const Expected expected = expected_results(*one);
        std::vector<float> y = test::product_in(parse_type(type), expected.tensors);
        const Verdict verdict = judge(*one, expected, 0, bytes(y), false);
        INFO(type << ": " << verdict.words);
        CHECK(verdict.ok);
        CHECK(verdict.worst > 0.05);  // a sixth at most is expected
        for (float& value : y) value *= 1.01f;
        CHECK(!judge(*one, expected, 0, bytes(y), false).ok);
    }
}

TEST_CASE("agreement: the bound of f16 precision holds for operands rounded to f16") {
    // Attention over one case with q, k, v and p rounded to f16, everything else in f64.
    for (const char* const values : {"", "/values=tiny"}) {
        const std::unique_ptr<Case> one = make_case(
            "attention/k=f32/v=f32/T=37/C=113/D=128/rot-k=128/rot-v=64/precision=f16/lse=1" +
            std::string(values));
        const Expected expected = expected_results(*one);
        std::vector<float> found[2];  // dst and lse, -inf for queries that see nothing among them
        found[0] = test::attention_in_f16(expected.tensors, 128, found[1]);
        for (size_t i = 0; i < 2; ++i) {
            const Verdict verdict = judge(*one, expected, i, bytes(found[i]), false);
            INFO(one->name() << ": " << expected.tensors[i].name << ": " << verdict.words);
            CHECK((verdict.ok && verdict.worst > 1e-3));  // what nothing misses proves nothing
            for (float& value : found[i]) value *= 1.01f;
            CHECK(!judge(*one, expected, i, bytes(found[i]), false).ok);
        }
    }
}

TEST_CASE("agreement: steps forgives a tie and nothing else") {
    // One block of each type with a value on a tie; a code moved there passes, elsewhere not.
    for (const DType type : quantized_types()) {
        const CodeInfo& codes_of_type = type_info(type).codes;
        if (codes_of_type.levels != nullptr) continue;
        std::vector<float> x(32, 0.25f);
        x[0] = float(codes_of_type.cut ? -codes_of_type.steps : codes_of_type.steps);
        x[1] = 0;
        x[7] = 3.5f;
        const std::vector<float> none(32, 0.0f);
        std::vector<float> moved = x;
        moved[7] = 3.4f;  // rounds to 3, as another engine may have it
        const auto codes = [&](const std::vector<float>& values) {
            std::vector<std::byte> result(size_t(row_bytes(type, 32)));
            ref::quantize_row(type, result.data(), values.data(), 32);
            return result;
        };
        INFO(type_info(type).name);
        REQUIRE(codes(moved) != codes(x));
        const Verdict tie = compare_steps(type, 32, codes(x), codes(moved), x, none);
        CHECK(tie.ok);
        CHECK(tie.words == "1 codes one step off at a tie");
        moved[7] = 2.4f;  // two steps
        CHECK(!compare_steps(type, 32, codes(x), codes(moved), x, none).ok);
        moved = x;
        moved[9] = 1.25f;  // one step, far from a tie
        CHECK(!compare_steps(type, 32, codes(x), codes(moved), x, none).ok);
        std::vector<std::byte> scaled = codes(x);
        scaled[0] = std::byte(uint8_t(scaled[0]) + 1);
        CHECK(compare_steps(type, 32, codes(x), scaled, x, none).words == "1 scales one f16 off");
        scaled[0] = std::byte(uint8_t(scaled[0]) + 1);
        CHECK(!compare_steps(type, 32, codes(x), scaled, x, none).ok);
    }
}

TEST_CASE("agreement: steps of iq4_nl and of plain types") {
    std::vector<float> x(32, 1.0f);
    x[0] = -127;
    x[7] = 63.0f;  // between the levels 53 and 69 the tie is 61
    const auto codes = [](DType type, const std::vector<float>& values) {
        std::vector<std::byte> result(size_t(row_bytes(type, int64_t(values.size()))));
        ref::quantize_row(type, result.data(), values.data(), int64_t(values.size()));
        return result;
    };
    const std::vector<float> none(32, 0.0f);
    std::vector<float> low = x;
    low[7] = 60.9f;
    CHECK(!compare_steps(DType::iq4_nl, 32, codes(DType::iq4_nl, x), codes(DType::iq4_nl, low), x,
                         none)
               .ok);
    x[7] = 61.0f;
    const Verdict tie = compare_steps(DType::iq4_nl, 32, codes(DType::iq4_nl, x),
                                      codes(DType::iq4_nl, low), x, none);
    INFO(tie.report());
    CHECK(tie.ok);

    const std::vector<float> y = {1.0f + 0x1p-11f, 2.0f}, off = {1.0f + 0x1.1p-11f, 2.0f};
    const std::vector<float> error = {0x1p-14f, 0x1p-20f}, small = {0, 0};
    CHECK(compare_steps(DType::f16, 2, codes(DType::f16, y), codes(DType::f16, off), y, error).ok);
    CHECK(!compare_steps(DType::f16, 2, codes(DType::f16, y), codes(DType::f16, off), y, small).ok);
}

TEST_CASE("agreement: what f32 cannot hold and what ggml leaves undefined is not asked") {
    const std::vector<float> one = {1}, inf = {INFINITY}, nan = {NAN};
    const std::vector<double> any = {INFINITY};
    const Rotation rotation{Rotation::Kind::sylvester, 64};
    CHECK(compare_rounding(DType::f32, bytes(one), bytes(inf), any).ok);
    CHECK(compare_rounding(DType::f32, bytes(one), bytes(nan), any).ok);
    CHECK(!compare_rounding(DType::f32, bytes(inf), bytes(one), any).ok);
    CHECK(std::isinf(hadamard_bound(std::vector<float>(64, 1e37f), rotation)[0]));
    CHECK(hadamard_bound(std::vector<float>(64, INFINITY), rotation)[0] == INFINITY);
    CHECK(hadamard_bound(std::vector<float>(64, 0.0f), rotation)[0] == 128 * 0x1p-126);

    for (const DType type : quantized_types()) {
        INFO(type_info(type).name);
        const auto stored = [&](const std::vector<float>& values) {
            std::vector<std::byte> result(size_t(row_bytes(type, 32)));
            ref::quantize_row(type, result.data(), values.data(), 32);
            return result;
        };
        const std::vector<float> none(32, 0.0f);
        for (const float size : {1e-41f, 1.0f}) {
            std::vector<float> x(32, 0.3f * size);
            x[3] = size;
            const std::vector<std::byte> right = stored(x);
            std::vector<std::byte> codes = right, scale = right;
            codes.back() ^= std::byte(0x03);
            scale[1] ^= std::byte(0x3C);
            CHECK(compare_steps(type, 32, right, codes, x, none).ok == (size < 1));
            CHECK(!compare_steps(type, 32, right, scale, x, none).ok);
        }
    }
}

TEST_CASE("agreement: a wrong result is shown by place, and how it lies to the right one") {
    const std::vector<float> a = {1, 2, 3, 4, 5, 6}, b = {1, 2, 3, 4, -5, 6},
                             twice = {2, 4, 6, 8, 10, 12};
    const std::vector<int64_t> extents = {3, 2};
    Verdict verdict = compare_exact(DType::f32, bytes(a), bytes(b));
    CHECK(verdict.report(extents).find("          4 [2][0] ") != std::string::npos);
    CHECK(verdict.summary() == "1 of 6 elements");
    verdict.likeness = likeness(DType::f32, bytes(a), bytes(b));
    CHECK(verdict.report().find("1 of 6 elements, cos 0.4505, norm x 1\n") == 0);
    CHECK(likeness(DType::f32, bytes(a), bytes(twice)) == "cos 1, norm x 2");
    CHECK(likeness(DType::f32, bytes(a), bytes(std::vector<float>(6, NAN))).empty());
    CHECK(likeness(DType::i32, bytes(a), bytes(b)).empty());
}

TEST_CASE("docs/ops.md is what rotkv-cases page prints") {
    std::ifstream file("docs/ops.md", std::ios::binary);
    const std::string page{std::istreambuf_iterator<char>(file), {}};
    INFO("write it again: rotkv-cases page > docs/ops.md");
    CHECK((page == support_page()));
}
