// rotkv-search: the knapsack against every possible choice, the model of damage on figures that can
// be added by hand, the verdicts, and a model in which one layer's damage is planted.
#include "ref/rotation_policy.h"
#include "tests/catch.h"
#include "tests/random.h"
#include "tests/refused_call.h"
#include "tests/tiny_run.h"
#include "tools/compare/paired.h"
#include "tools/search_choice.h"
#include "tools/search_knapsack.h"
#include "tools/search_run.h"

#include <cmath>
#include <limits>

namespace rotkv::test {
namespace {

using namespace rotkv::tools;

constexpr double k_nan = std::numeric_limits<double>::quiet_NaN();

using Places = std::vector<std::vector<KnapsackChoice>>;

struct Sums {
    int64_t bytes = 0;
    double damage = 0;
};

Sums sums_of(const Places& places, const std::vector<size_t>& chosen) {
    Sums sums;
    for (size_t i = 0; i < places.size(); ++i) {
        sums.bytes += places[i][chosen[i]].bytes;
        sums.damage += places[i][chosen[i]].damage;
    }
    return sums;
}

// The least damage of all choices that fit, by looking at each; infinite where none does.
double least_of_all(const Places& places, int64_t budget, size_t place = 0, Sums so_far = {}) {
    if (so_far.bytes > budget) return std::numeric_limits<double>::infinity();
    if (place == places.size()) return so_far.damage;
    double least = std::numeric_limits<double>::infinity();
    for (const KnapsackChoice& choice : places[place]) {
        least = std::min(
            least, least_of_all(places, budget, place + 1,
                                {so_far.bytes + choice.bytes, so_far.damage + choice.damage}));
    }
    return least;
}

TEST_CASE("search: the knapsack finds what looking at every choice finds") {
    Random random(26);
    int64_t infeasible = 0, in_between = 0;
    for (int64_t trial = 0; trial < 300; ++trial) {
        const int64_t unit = trial % 2 == 0 ? 1 : 18;
        Places places(size_t(1 + random.below(5)));
        for (std::vector<KnapsackChoice>& choices : places) {
            choices.resize(size_t(1 + random.below(4)));
            for (KnapsackChoice& choice : choices) {
                choice.bytes = unit * int64_t(random.below(12));
                choice.damage = double(random.below(1000)) / 64;  // sums are exact
            }
        }
        const int64_t budget = int64_t(random.below(uint64_t(40 * unit)));
        const double least = least_of_all(places, budget);
        const auto chosen = solve_knapsack(places, budget);
        CAPTURE(trial, budget);
        REQUIRE(chosen.has_value() == std::isfinite(least));
        infeasible += !chosen;
        if (!chosen) continue;
        const Sums sums = sums_of(places, *chosen);
        CHECK(sums.bytes <= budget);
        CHECK(sums.damage == least);
        in_between += sums.bytes < budget && sums.damage > 0;
    }
    CHECK(infeasible > 20);
    CHECK(in_between > 100);
}

TEST_CASE("search: of equal damages the knapsack takes the fewest bytes, and bounds are bounds") {
    const Places equal = {{{8, 1}, {4, 1}}, {{6, 2}, {2, 2}}};
    CHECK(solve_knapsack(equal, 1000) == std::vector<size_t>{1, 1});
    CHECK(solve_knapsack(equal, 6) == std::vector<size_t>{1, 1});
    CHECK(!solve_knapsack(equal, 5));
    CHECK(!solve_knapsack(equal, -1));
    const Places free = {{{0, 3}, {0, 1}}};
    CHECK(solve_knapsack(free, 0) == std::vector<size_t>{1});
    for (const Places& wrong : {Places{{}}, Places{{{-1, 0}}}, Places{{{1, k_nan}}}}) {
        CHECK_THROWS_AS(solve_knapsack(wrong, 9), Error);
    }
}

AskedRotation asked(const std::string& text) { return parse_asked_rotation("--rot", text); }

// Three types, two rotations, four layers in four groups; K's damage sits in layer 1, V's is even.
DamageModel planted() {
    DamageModel model{{DType::q8_0, DType::q5_0, DType::q4_0},
                      {asked("off"), asked("auto")},
                      {{0}, {1}, {2}, {4}},
                      {}};
    SideModel k, v;
    k.kld = {{{0.01, 0.03}, {0.1, 0.3}, {0.3, 0.5}}, {{0.02, 0.02}, {0.1, 0.1}, {0.2, 0.2}}};
    v.kld = {{{0.001, 0.001}, {0.01, 0.01}, {0.02, 0.02}},
             {{0.002, 0.002}, {0.02, 0.02}, {0.04, 0.04}}};
    k.share = {0.05, 0.85, 0.05, 0.05};
    v.share = {0.25, 0.25, 0.25, 0.25};
    k.bytes = v.bytes = std::vector<std::vector<int64_t>>(4, {34, 22, 18});
    model.sides = {k, v};
    return model;
}

Mix pair_of(size_t rot_k, size_t rot_v, size_t k, size_t v) {
    return {{rot_k, rot_v}, {std::vector<size_t>(4, k), std::vector<size_t>(4, v)}};
}

TEST_CASE("search: a pair costs what its sides cost, a mix what its groups share of them") {
    const DamageModel model = planted();
    const Mean pair = predicted_kld(model, pair_of(0, 1, 2, 0));
    CHECK(pair.value == Approx(0.4 + 0.002));
    CHECK(pair.error == Approx(0.1));  // windows 0.302 and 0.502
    Mix mix = pair_of(1, 0, 2, 2);
    mix.type[0][1] = 0;
    CHECK(!mix.is_pair());
    CHECK(predicted_kld(model, mix).value == Approx(0.15 * 0.2 + 0.85 * 0.02 + 0.02));
    CHECK(bytes_of(model, mix) == 8 * 18 + 16);
    CHECK(fewest_bytes(model) == 8 * 18);
}

TEST_CASE("search: the best mix spends its bytes on the layer that needs them") {
    const DamageModel model = planted();
    // Room for one q8_0 in place of a q4_0, or four q5_0.
    const std::optional<Mix> mix = best_mix(model, 8 * 18 + 16);
    REQUIRE(mix.has_value());
    CHECK(mix->rotation == std::vector<size_t>{1, 0});  // the better one of each side
    CHECK(mix->type[0] == std::vector<size_t>{2, 0, 2, 2});
    CHECK(mix->type[1] == std::vector<size_t>{2, 2, 2, 2});
    CHECK(best_mix(model, 8 * 18) == pair_of(1, 0, 2, 2));
    CHECK(best_mix(model, 10000)->is_pair());
    CHECK(!best_mix(model, 8 * 18 - 1));
    const std::vector<Mix> pairs = best_pairs(model, 4 * (22 + 18), 3);
    REQUIRE(pairs.size() == 3);
    CHECK(pairs[0] == pair_of(1, 0, 1, 2));
    CHECK(pairs[1] == pair_of(1, 1, 1, 2));
    CHECK(best_pairs(model, 8 * 18 - 1, 3).empty());
}

TEST_CASE("search: a rotation that changes nothing of a pair is no pair of its own") {
    DamageModel model = planted();
    model.sides[0].kld[1] = model.sides[0].kld[0];
    const std::vector<Mix> pairs = best_pairs(model, 8 * 18, 9);
    CHECK(pairs == std::vector<Mix>{pair_of(0, 0, 2, 2), pair_of(0, 1, 2, 2)});
}

TEST_CASE("search: what is not a number is never chosen") {
    DamageModel model = planted();
    model.sides[0].kld[0][0] = model.sides[0].kld[1][0] = {};  // K in q8_0 cannot be
    model.sides[1].kld[0][2] = {k_nan, 0.1};
    for (const Mix& mix : {*best_mix(model, 10000), best_pairs(model, 10000, 1)[0]}) {
        CHECK(mix.type[0] == std::vector<size_t>(4, 1));
        CHECK(mix.type[1] == std::vector<size_t>(4, 0));
    }
    CHECK(best_mix(model, 8 * 18)->rotation == std::vector<size_t>{1, 1});
    CHECK(shares_of({1, 3}) == std::vector<double>{0.25, 0.75});
    CHECK(shares_of({0, 0}) == std::vector<double>{0.5, 0.5});
    CHECK(refusal(
              [] {
                  shares_of({1, k_nan});
              },
              ErrorCode::bad_file) == "the damage of some layers alone is not a number");
}

TEST_CASE("search: one position that flips does not make a group's share") {
    const auto pairs = [](const std::vector<double>& klds) {
        std::vector<TokenPair> all(klds.size());
        for (size_t i = 0; i < klds.size(); ++i) all[i].kld = klds[i];
        return all;
    };
    CHECK(typical_kld(pairs({0.04, 0.04, 0.04})) == Approx(0.04));
    CHECK(typical_kld(pairs({0.01, 0.09, -1e-9, 0})) == Approx(0.01));
    // A position of 4 nats among a hundred of 0.01: the mean is 0.05, the typical KLD not three
    // times 0.01.
    std::vector<double> flips(100, 0.01);
    flips.back() = 4;
    CHECK(mean_of(flips).value > 0.049);
    CHECK(typical_kld(pairs(flips)) == Approx(0.119 * 0.119));
    CHECK(std::isnan(typical_kld(pairs({0.1, k_nan}))));
}

TEST_CASE("search: shares are measured where damage is large and still adds up") {
    DamageModel model = planted();
    SideModel& side = model.sides[0];
    CHECK(probe_of(side).type == 1);  // q4_0's 0.2 is no longer below 0.2
    CHECK(probe_of(side).rotation == 1);
    side.kld[1][2] = {0.19, 0.19};
    CHECK(probe_of(side).type == 2);
    for (auto& of_rotation : side.kld) {
        for (auto& windows : of_rotation) {
            for (double& kld : windows) kld += 10;
        }
    }
    CHECK(probe_of(side).type == 0);
    side.kld = {{{}, {k_nan}, {}}};
    CHECK(refusal([&] { probe_of(side); }, ErrorCode::bad_file) ==
          "no type of the list gives a number for one of the sides");
}

TEST_CASE("search: groups are neighbours, and no layer without rows of its own is in one") {
    KvShape shape{.layers = std::vector<KvLayer>(7, KvLayer{.kv_heads = 1, .d_k = 32, .d_v = 32})};
    shape.layers[3].source = 2;
    shape.layers[5].kv_heads = 0;
    using Groups = std::vector<std::vector<int64_t>>;
    CHECK(layer_groups(shape, 2) == Groups{{0, 1}, {2, 4, 6}});
    CHECK(layer_groups(shape, 99) == Groups{{0}, {1}, {2}, {4}, {6}});
}

// The cell of a variant on four layers and a reader, as a model of such heads would have it.
SweepPoint point_of(const Variant& variant) {
    const KvLayer layer{
        .kv_heads = 1, .d_k = 64, .d_v = 64, .type_k = variant.type_k, .type_v = variant.type_v};
    KvShape shape{.cells = 8, .layers = std::vector<KvLayer>(5, layer)};
    shape.layers[3].source = 2;
    SweepPoint point;
    point.variant = variant;
    point.shape = variant.placement.in(shape);
    point.spec = decide_rotation(variant.rotation, point.shape);
    return point;
}

TEST_CASE("search: the words of a mix are those that every program reads") {
    const DamageModel model = planted();
    Mix mix = pair_of(1, 0, 2, 1);
    mix.type[0] = {2, 0, 2, 1};
    mix.type[1] = {1, 1, 1, 0};
    const Variant variant = variant_of(model, mix);
    CHECK(variant.name == "k=q4_0,v=q5_0,rot-k=auto,rot-v=off,k:1=q8_0,k:4=q5_0,v:4=q8_0");
    const Variant read = parse_variant("--variant", variant.name, Variant{});
    CHECK(is_same(point_of(variant), point_of(read)));
    CHECK(point_of(read).shape.layers[1].type_k == CacheType(DType::q8_0));
    CHECK(point_of(read).shape.layers[4].type_v == CacheType(DType::q8_0));
    CHECK(variant_of(model, pair_of(1, 1, 0, 2)).name == "k=q8_0,v=q4_0,rot=auto");
    mix.type[0] = {0, 0, 2, 2};
    CHECK(variant_of(model, mix).name.starts_with("k=q8_0,"));  // of as many layers the first type
}

Finalist finalist_of(const Mix& mix, const std::vector<double>& kld) {
    const DamageModel model = planted();
    return {mix, point_of(variant_of(model, mix)), bytes_of(model, mix), {}, kld};
}

Mix some_mix() {
    Mix mix = pair_of(1, 1, 2, 2);
    mix.type[0][1] = 0;
    return mix;
}

TEST_CASE("search: a mix is offered only where it is better by more than its error") {
    const Mix small = pair_of(1, 1, 2, 2), large = pair_of(1, 1, 1, 2);
    std::vector<Finalist> all = {finalist_of(small, {0.30, 0.20, 0.25, 0.25}),
                                 finalist_of(large, {0.10, 0.12, 0.11, 0.11}),
                                 finalist_of(some_mix(), {0.20, 0.11, 0.15, 0.16})};
    const Nominated nominated{{0}, 2};
    // The larger pair does not fit; the mix is better by 0.095 +- 0.0050 of the small one.
    const Answer found = judge(all, nominated, 8 * 18 + 16 - 1);
    CHECK(found.pair == 0u);
    CHECK(found.mix == 2u);
    CHECK(found.difference.value == Approx(-0.095));
    CHECK(found.mix_is_better);
    CHECK(found.choice() == 2u);
    // Another budget's pair, smaller than this one's, may be the best that fits.
    CHECK(judge(all, {{0}, 2}, 8 * 18 + 16).pair == 1u);
    CHECK(!judge(all, {{0}, 2}, 8 * 18 + 16).mix_is_better);
    CHECK(judge(all, {{0}, 2}, 8 * 18 + 16).choice() == 1u);
    // As much better on the average, but not in every window.
    all[2].kld = {0.45, -0.10, 0.02, 0.25};
    const Answer doubtful = judge(all, nominated, 8 * 18 + 16 - 1);
    CHECK(doubtful.difference.value == Approx(-0.095));
    CHECK(!doubtful.mix_is_better);
    CHECK(doubtful.choice() == 0u);
    CHECK(!judge(all, {{0}, {}}, 1000).mix);
}

TEST_CASE("search: a finalist that is not a number loses") {
    std::vector<Finalist> all = {finalist_of(pair_of(1, 1, 2, 2), {k_nan, 0.1}),
                                 finalist_of(some_mix(), {0.2, 0.3})};
    CHECK(judge(all, {{0}, 1}, 1000).choice() == 1u);
    all[1].kld[0] = k_nan;
    CHECK(!judge(all, {{0}, 1}, 1000).choice());
    all[0].kld = {0.1, 0.2};
    CHECK(judge(all, {{0}, 1}, 1000).choice() == 0u);
}

TEST_CASE("search: two pairs and a mix are nominated, each cache once") {
    const DamageModel model = planted();
    std::vector<Finalist> finalists;
    const std::vector<Nominated> all =
        nominate(model, {{"a", 8 * 18}, {"b", 8 * 18 + 16}, {"c", 8 * 18}}, point_of, finalists);
    CHECK(all[0].pairs == all[2].pairs);
    CHECK(all[0].pairs.size() == 2);
    CHECK(!all[0].mix);
    REQUIRE(all[1].mix.has_value());
    CHECK(!finalists[*all[1].mix].is_pair());
    CHECK(finalists.size() == 5);
    CHECK(refusal(
              [&] {
                  nominate(model, {{"3 bits", 9}}, point_of, finalists);
              },
              ErrorCode::usage) == "3 bits: no cache fits that is a number");
}

TEST_CASE("search: llama.cpp's line is there exactly where llama.cpp can do it") {
    const auto line = [](const Mix& mix) { return llama_line(finalist_of(mix, {})); };
    CHECK(line(pair_of(1, 1, 0, 2)).flags == "-fa on -ctk q8_0 -ctv q4_0");
    CHECK(line(pair_of(0, 0, 0, 2)).flags ==
          "LLAMA_ATTN_ROT_DISABLE=1, -fa on -ctk q8_0 -ctv q4_0");
    CHECK(line(pair_of(1, 0, 0, 2)).flags.empty());
    CHECK(line(some_mix()).why == "llama.cpp keeps all layers in the same two types");
    Finalist zoo = finalist_of(pair_of(1, 1, 0, 2), {});
    zoo.point.variant.type_k = *find_cache_type("polar");
    CHECK(llama_line(zoo).why == "llama.cpp has no type polar");
}

TEST_CASE("search: windows of a plan are its windows") {
    WindowPlan plan{.tokens = {}, .ctx = 4, .batch = 8, .windows = 5};
    for (int32_t t = 0; t < 23; ++t) plan.tokens.push_back(t);
    const WindowPlan part = windows_of(plan, 1, 3);
    CHECK(part.windows == 3);
    CHECK(part.tokens.front() == 4);
    CHECK(part.tokens.size() == 12);
    CHECK(part.batch == 8);
    CHECK(windows_of(plan, 4, 1).batch == 4);
}

// A model in which only layer 2 attends to any effect: what others keep cannot matter.
TinyModel silent_but_layer_2() {
    TinyModel tiny = TinyModel::make("llama");
    for (const int64_t layer : {0, 1, 3}) {
        for (float& w : tiny.weights.at(blk(layer, "attn_output.weight"))) w = 0;
    }
    return tiny;
}

TEST_CASE("search: a planted layer is found, and its mix is better when it is run") {
    Opened opened(silent_but_layer_2());
    Model model(opened.gguf, *opened.ref, {.context = 64});
    const WindowPlan plan = plan_windows(some_tokens(8 * 24), 24, 24, 8, -1);
    SearchProgress progress(true);
    ExactBeside sides(model, windows_of(plan, 0, 2), progress);
    ExactBeside held_out(model, windows_of(plan, 2, 6), progress);
    const SearchSpace space{
        {*find_cache_type("fp8_e4m3"), *find_cache_type("tqmse2")}, {asked("off")}, 16};
    DamageModel damage = empty_damage(model, space);
    std::vector<std::string> lines;
    measure_damage(damage, sides, sides, progress, lines);
    CHECK(lines.empty());
    for (const SideModel& side : damage.sides) {
        CHECK(side.share == std::vector<double>{0, 0, 1, 0});
        CHECK(mean_of(side.kld[0][0]).value < mean_of(side.kld[0][1]).value);
    }
    // Both sides of one layer can be fine, or one side of two.
    const int64_t room = 2 * (damage.sides[0].bytes[0][0] - damage.sides[0].bytes[0][1]);
    const int64_t budget = fewest_bytes(damage) + room;
    std::vector<Finalist> finalists;
    const auto make = [&](const Variant& variant) { return held_out.point(variant); };
    const std::vector<Nominated> nominated = nominate(damage, {{"", budget}}, make, finalists);
    REQUIRE(nominated[0].mix.has_value());
    CHECK(finalists[*nominated[0].mix].point.variant.name ==
          "k=tqmse2,v=tqmse2,rot=off,k:2=fp8_e4m3,v:2=fp8_e4m3");
    for (Finalist& finalist : finalists) finalist.kld = held_out.measure(finalist.point);
    const Answer answer = judge(finalists, nominated[0], budget);
    CHECK(answer.mix_is_better);
    // With only that layer heard, the mix is the fine cache: what was predicted is what it costs.
    CHECK(finalists[*answer.mix].predicted.value ==
          Approx(mean_of(finalists[*answer.mix].kld).value).epsilon(0.5));
    CHECK(progress.windows() == 2 + 4 * 2 + 8 * 2 + 6 + int64_t(finalists.size()) * 6);
}

}  // namespace
}  // namespace rotkv::test
