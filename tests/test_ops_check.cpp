// Each operation's arguments, spoiled one by one: whatever does not fit is named.
#include "ref/ops.h"
#include "tests/catch.h"
#include "tests/refused_call.h"

#include <cmath>
#include <string>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// What check() says of arguments that were right until `spoil` came.
template <class Args, class Spoil>
std::string spoiled(Args args, const Spoil& spoil) {
    CHECK_NOTHROW(check(args));
    spoil(args);
    return refusal([&] { check(args); }, ErrorCode::bad_argument);
}

}  // namespace

TEST_CASE("ops_check: kv_store takes a cell for each token, and V beside K") {
    const KvStoreArgs good{.k_cache = f32({2, 3, 2, 8}),
                           .v_cache = f32({2, 3, 2, 4}),
                           .k = f32({5, 2, 8}),
                           .v = f32({5, 2, 4}),
                           .stream = i32({5}),
                           .cell = i32({5})};
    using Args = KvStoreArgs;
    const Rotation wide{Rotation::Kind::sylvester, 16, 0, 0};
    const Rotation before{Rotation::Kind::signs, 4, 1, -4};
    CHECK(spoiled(good, [](Args& a) { a.cell = i32({4}); }) ==
          "kv_store: expected cell [1][1][1][5], found i32 [1][1][1][4]");
    CHECK(spoiled(good, [](Args& a) { a.stream = i32({6}); }).find("stream [1][1][1][5]") !=
          std::string::npos);
    CHECK(spoiled(good, [](Args& a) {
              a.k_cache = f32({2, 3, 1, 8});
          }).find("k_cache") != std::string::npos);
    CHECK(spoiled(good, [](Args& a) {
              a.v_cache = f32({1, 3, 2, 4});
          }).find("v_cache [2][3][2]") != std::string::npos);
    CHECK(spoiled(good, [](Args& a) { a.v = {}; }).find("both there or both empty") !=
          std::string::npos);
    CHECK(spoiled(good, [](Args& a) { a.v_cache.stride[1] = 0; }).find("v_cache without strides") !=
          std::string::npos);
    CHECK(spoiled(good, [&](Args& a) { a.k_rotation = wide; }) ==
          "kv_store: expected k_rotation block a power of two that divides 8, found 16");
    CHECK(spoiled(good, [&](Args& a) { a.v_rotation = before; }).find("v_rotation") !=
          std::string::npos);
}

TEST_CASE("ops_check: a table has no gaps, a row for each cell, and no output repeats itself") {
    const KvShiftArgs shift{
        .k_cache = f32({2, 3, 1, 8}), .table = f32({4, 4, 2}), .row = i32({2, 3})};
    CHECK(spoiled(shift, [](KvShiftArgs& a) {
              a.row = i32({2, 4});
          }).find("expected row") != std::string::npos);
    CHECK(spoiled(shift, [](KvShiftArgs& a) {
              a.table.stride[2] = 16;
          }).find("table rows without gaps") != std::string::npos);
    const RopeArgs rope{
        .dst = f32({3, 2, 8}), .src = f32({3, 2, 8}), .table = f32({4, 4, 2}), .row = i32({3})};
    CHECK(spoiled(rope, [](RopeArgs& a) { a.table.n[2] = 5; }).find("at most D = 8") !=
          std::string::npos);
    const Rotation none_of_96{Rotation::Kind::sylvester, 64, 0, 0};
    const HadamardArgs rows{.dst = f32({2, 3, 2, 96}), .src = f32({2, 3, 2, 96})};
    CHECK(spoiled(rows, [&](HadamardArgs& a) { a.rotation = none_of_96; }).find("divides 96") !=
          std::string::npos);
    for (int i = 0; i < 3; ++i) {
        const auto repeat = [&](HadamardArgs& a) { a.dst.stride[i] = 0; };
        CHECK(spoiled(rows, repeat).find("dst without strides of 0") != std::string::npos);
    }
}

TEST_CASE("ops_check: heads that turn share out the matrices, which are square") {
    const TurnArgs good{.dst = f32({5, 4, 8}), .src = f32({5, 4, 8}), .matrix = f32({2, 8, 8})};
    CHECK(spoiled(good, [](TurnArgs& a) {
              a.matrix = f32({3, 8, 8});
          }) == "turn: expected heads that are a multiple of the matrices, found 4 and 3");
    CHECK(spoiled(good, [](TurnArgs& a) {
              a.matrix = f32({2, 8, 9});
          }) == "turn: expected matrix [1][any][8][8], found f32 [1][2][8][9]");
    CHECK(spoiled(good, [](TurnArgs& a) {
              a.dst = f32({5, 2, 8});
          }).find("expected dst") != std::string::npos);
    CHECK(spoiled(good, [](TurnArgs& a) { a.dst.stride[1] = 0; }).find("without strides") !=
          std::string::npos);
}

TEST_CASE("ops_check: the two sides of kld are of one shape, and so are its results") {
    const KldArgs good{.kld = f64({3}),
                       .nll_a = f64({3}),
                       .nll_b = f64({3}),
                       .top_a = i32({3}),
                       .top_b = i32({3}),
                       .hidden_a = f32({3, 8}),
                       .hidden_b = f32({3, 8}),
                       .weight = f32({4, 8}),
                       .target = i32({3})};
    using Args = KldArgs;
    CHECK(spoiled(good, [](Args& a) {
              a.hidden_b = f32({2, 8});
          }) == "kld: expected hidden_b [1][1][3][8], found f32 [1][1][2][8]");
    for (TensorView KldArgs::*out : {&Args::kld, &Args::nll_a, &Args::nll_b}) {
        CHECK(spoiled(good, [&](Args& a) { a.*out = f64({2}); }).find("[1][1][1][3]") !=
              std::string::npos);
        CHECK(spoiled(good, [&](Args& a) { a.*out = f32({3}); }).find("of type f64") !=
              std::string::npos);
    }
    for (TensorView KldArgs::*indices : {&Args::top_a, &Args::top_b, &Args::target}) {
        CHECK(spoiled(good, [&](Args& a) { a.*indices = i32({4}); }).find("[1][1][1][3]") !=
              std::string::npos);
    }
    CHECK(spoiled(good, [](Args& a) { a.softcap = NAN; }).find("softcap") != std::string::npos);
}
