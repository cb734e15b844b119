// A full stream forgets its older half: which tokens go, where the rest comes to lie, and windows
// of a text that go on like this.
#include "ref/context_shift.h"
#include "ref/files/cache_file.h"
#include "ref/forwarding_backend.h"
#include "ref/measure/evaluate.h"
#include "tests/refused_call.h"
#include "tests/rotation_of.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace rotkv::test {
namespace {

RopeConfig turning(int64_t) {
    RopeConfig config;
    config.n_rot = 32;
    return config;
}

KvCache small_cache(Backend& backend, int64_t streams, int64_t cells) {
    const KvLayer layer{.kv_heads = 1, .d_k = 32, .d_v = 32, .type_k = DType::f32};
    return KvCache(backend, {.streams = streams, .cells = cells, .layers = {layer}},
                   RotationSpec());
}

// Positions 0 .. n - 1 of a stream.
void fill(KvCache& cache, int32_t stream, int64_t n) {
    std::vector<int32_t> positions(static_cast<std::size_t>(n));
    std::iota(positions.begin(), positions.end(), 0);
    cache.place(std::vector<int32_t>(positions.size(), stream), positions);
}

std::vector<int32_t> positions_of(const KvCache& cache) {
    return {cache.host_positions().begin(), cache.host_positions().end()};
}

TEST_CASE("context shift: the older half goes, what is kept stays, the rest moves up") {
    CHECK(dropped_by_shift(16, 0) == 8);
    CHECK(dropped_by_shift(16, 1) == 7);  // 15 / 2
    CHECK(dropped_by_shift(16, 14) == 1);
    CHECK(dropped_by_shift(16, 15) == 0);
    CHECK(dropped_by_shift(16, 40) == 0);
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache = small_cache(*ref, 2, 8);
    fill(cache, 0, 8);
    fill(cache, 1, 8);
    CHECK(shift_context(cache, 1, 8, 1, turning) == 3);
    CHECK(positions_of(cache) ==
          std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 0, -1, -1, -1, 1, 2, 3, 4});
    CHECK(shift_context(cache, 0, 8, 0, turning) == 4);
    CHECK(positions_of(cache) ==
          std::vector<int32_t>{-1, -1, -1, -1, 0, 1, 2, 3, 0, -1, -1, -1, 1, 2, 3, 4});
    CHECK(shift_context(cache, 0, 4, 2, turning) == 1);  // of a stream that is not full
    CHECK(positions_of(cache)[6] == -1);
    CHECK(positions_of(cache)[7] == 2);
}

TEST_CASE("context shift: what cannot be is refused, and every token is where it was") {
    class Without : public ForwardingBackend {
      public:
        Without() : ForwardingBackend(make_ref_backend()) {}

      protected:
        Support answer(const Call& call) const override {
            if (std::holds_alternative<KvShiftArgs>(call)) return {false, "not here"};
            return ForwardingBackend::answer(call);
        }
    };
    Without backend;
    KvCache cache = small_cache(backend, 1, 8);
    CHECK(refusal([&] { require_shift(cache, turning); }, ErrorCode::unsupported) ==
          "ref: kv_shift: not here");
    fill(cache, 0, 8);
    const std::vector<int32_t> before = positions_of(cache);
    CHECK(refusal([&] { shift_context(cache, 0, 8, 0, turning); }, ErrorCode::unsupported) ==
          "ref: kv_shift: not here");
    CHECK(positions_of(cache) == before);
    for (const int64_t keep : {-1, 7, 8, 9}) {
        CHECK(refusal([&] { shift_context(cache, 0, 8, keep, turning); }, ErrorCode::bad_argument)
                  .find("two tokens behind those that stay") != std::string::npos);
    }
    CHECK(positions_of(cache) == before);
    require_shift(cache, [](int64_t) { return RopeConfig(); });  // nothing turns, nothing is asked
}

// The rows that a plan with shifts scores, [windows * scored][E], token by token.
std::vector<float> one_by_one(Opened& opened, Model& model, const WindowPlan& plan) {
    std::vector<float> all;
    for (int64_t w = 0; w < plan.windows; ++w) {
        KvCache cache = opened.cache(model);
        int32_t position = 0;
        for (int64_t i = 0; i < plan.length(); ++i, ++position) {
            if (position == plan.ctx) {
                const int32_t keep = int32_t(plan.shifts.keep), d = (position - keep) / 2;
                cache.remove(0, keep, keep + d);
                cache.shift(0, keep + d, position, -d, [&](int64_t l) { return model.rope(l); });
                position -= d;
            }
            const int32_t text = plan.tokens[std::size_t(w * plan.length() + i)];
            const std::vector<int32_t> token = {i == 0 && plan.bos >= 0 ? plan.bos : text};
            const std::vector<float> row = run(model, cache, token, position);
            const bool scored = i >= plan.ctx && i + 1 < plan.length();
            if (scored) all.insert(all.end(), row.begin(), row.end());
        }
    }
    return all;
}

TEST_CASE("context shift: windows in pieces, and side by side, are shifted as token by token") {
    for (const char* name : {"smollm3", "gemma3", "cohere2"}) {  // not all layers turn, or alike
        Opened opened(TinyModel::make(name));
        Model model(opened.gguf, *opened.ref, {.context = 12});
        for (const int64_t keep : {0, 1, 4}) {
            const int32_t bos = keep == 1 ? 7 : -1;
            const auto plan_of = [&](int64_t batch) {
                return plan_windows(some_tokens(80), 12, batch, 2, bos, {.times = 3, .keep = keep});
            };
            const int64_t dropped = (12 - keep) / 2;
            CHECK(plan_of(12).length() == 12 + 3 * dropped);
            const std::vector<float> expected = one_by_one(opened, model, plan_of(12));
            REQUIRE(int64_t(expected.size()) == 2 * (3 * dropped - 1) * model.config().width);
            for (const int64_t batch : {12, 1, 5, 8, 24}) {
                const WindowPlan plan = plan_of(batch);
                const KvShape shape =
                    model.config().cache_shape(plan.windows_at_once(), 12, DType::f32, DType::f32);
                KvCache cache(*opened.ref, shape, RotationSpec());
                INFO(name << " keep " << keep << " batch " << batch);
                CHECK(run_hidden(model, cache, plan) == expected);
            }
        }
    }
}

TEST_CASE("context shift: scored is what is read behind the first shift, against the next token") {
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 12});
    const std::vector<int32_t> tokens = some_tokens(80);
    const WindowPlan plan = plan_windows(tokens, 12, 12, -1, -1, {.times = 2});
    CHECK(plan.windows == 3);  // 80 / (12 + 2 * 6)
    KvCache cache = opened.cache(model);
    std::vector<int32_t> expected, found;
    for (int64_t w = 0; w < 3; ++w) {
        for (int64_t i = 12; i < 23; ++i) expected.push_back(tokens[std::size_t(24 * w + i + 1)]);
    }
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        CHECK(rows.first == int64_t(found.size()));
        CHECK(rows.hidden.n[2] == int64_t(rows.target.size()));
        found.insert(found.end(), rows.target.begin(), rows.target.end());
        CHECK(rows.ends_window == (found.size() % 11 == 0));
    });
    CHECK(found == expected);
    CHECK(targets_of(plan) == expected);
    const WindowPlan second = group_of(plan, 1);
    CHECK(second.tokens == std::vector<int32_t>(tokens.begin() + 24, tokens.begin() + 48));
    CHECK(second.shifts.times == 2);

    CHECK(refusal([&] { plan_windows(tokens, 12, 12, -1, -1, {.times = 5}); }, ErrorCode::usage) ==
          "the text has 80 tokens, expected at least two windows of 42");
    CHECK(refusal([&] { plan_windows(tokens, 4, 4, -1, 1, {.times = 1, .keep = 1}); },
                  ErrorCode::usage) == "windows of 4 tokens that are shifted, expected at least 5");
    CHECK(plan_windows(tokens, 5, 5, -1, 1, {.times = 1, .keep = 1}).scored_per_window() == 1);
}

TEST_CASE("context shift: a cache that was shifted is saved and goes on elsewhere") {
    Opened opened(TinyModel::make("smollm3"));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    const std::vector<int32_t> tokens = some_tokens(32);
    const TemporaryFolder folder;
    KvCache cache = opened.cache(model, spec_of("k=16 v=8"));
    run(model, cache, std::span(tokens).first(20), 0);
    shift_context(cache, 0, 20, 3, [&](int64_t layer) { return model.rope(layer); });
    save_cache(cache, 1, folder.file("shifted.rkv"));
    KvCache loaded = opened.cache(model, spec_of("k=16 v=8"));
    load_cache(loaded, 1, folder.file("shifted.rkv"));
    CHECK(positions_of(loaded) == positions_of(cache));
    const auto next = std::span(tokens).last(12);
    CHECK(run(model, loaded, next, 12) == run(model, cache, next, 12));
}

}  // namespace
}  // namespace rotkv::test
