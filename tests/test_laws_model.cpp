// Laws of whole models, of each kind of layer, on every backend: how tokens come in batches, and
// how a cache is turned, changes nothing; what fails leaves streams as they were, or empty.
#include "tests/catch.h"
#include "tests/laws.h"
#include "tests/rotation_of.h"
#include "tests/tiny_run.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

struct Kind {
    const char* name;
    bool uneven;
    int32_t first = 0;  // position of the first token
};

// Experts, sinks and windows, latent rows and keys of all heads, states of both forms, shared
// caches and values that are keys, chunks whose border lies in the text.
const std::vector<Kind> k_kinds = {
    {"qwen2moe", false}, {"gpt-oss", false}, {"deepseek2", false},    {"deepseek2", true},
    {"qwen3next", true}, {"qwen35", false},  {"qwen35moe", true},     {"gemma4", false},
    {"gemma4", true},    {"glm4moe", false}, {"llama4", false, 8185},
};

// A model of one kind on one backend, with a cache of two streams.
struct Loaded {
    TinyModel tiny;
    TemporaryFile file;
    GgufFile gguf;
    Model model;

    Loaded(Backend& backend, const Kind& kind)
        : tiny(TinyModel::make(kind.name, kind.uneven)),
          file(tiny.name + "-law.gguf"),
          gguf(Opened::written(tiny, file.path())),
          model(gguf, backend, {.context = kind.first + 64}) {}

    KvCache cache(int64_t cells = 32, const RotationSpec& spec = RotationSpec()) {
        const KvShape shape = model.config().cache_shape(2, cells, DType::f32, DType::f32);
        return KvCache(model.backend(), shape, spec);
    }
    Floats run(KvCache& cache, const Ints& tokens, const Ints& streams, const Ints& positions) {
        return download_f32(model.backend(), model.forward(cache, tokens, streams, positions));
    }
    Floats run(KvCache& cache, const Ints& tokens, int32_t stream, int32_t first) {
        Ints positions(tokens.size());
        std::iota(positions.begin(), positions.end(), first);
        return run(cache, tokens, Ints(tokens.size(), stream), positions);
    }
};

template <class Law>
void for_each_kind(const Law& law) {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const Kind& kind : k_kinds) {
            INFO(kind.name << (kind.uneven ? ", uneven, " : ", ") << backend->name());
            Loaded loaded(*backend, kind);
            law(loaded, kind.first, backend->name() == "ref");
        }
    }
}

// Equal to the bit where every operation is that of one token, near where products are summed
// by batch.
void check_same(const Floats& found, const Floats& expected, bool exact) {
    if (exact) CHECK(floats_equal(found, expected));
    CHECK(distance(found, expected) < 1e-5);
}

// Two streams of 17 and 11 tokens, in batches that have some of each.
std::pair<Floats, Floats> run_ragged(Loaded& loaded, const Ints& a, const Ints& b, int32_t first) {
    KvCache cache = loaded.cache();
    const size_t width = size_t(loaded.tiny.width),
                 parts[][2] = {{3, 1}, {0, 4}, {7, 2}, {1, 0}, {2, 3}, {4, 1}};
    size_t of_a = 0, of_b = 0;
    Floats from_a, from_b;
    for (const auto& [more_a, more_b] : parts) {
        Ints tokens, streams, positions;
        for (size_t i = 0; i < std::max(more_a, more_b); ++i) {
            if (i < more_b) {
                tokens.push_back(b[of_b]);
                streams.push_back(1);
                positions.push_back(first + int32_t(of_b++));
            }
            if (i < more_a) {
                tokens.push_back(a[of_a]);
                streams.push_back(0);
                positions.push_back(first + int32_t(of_a++));
            }
        }
        const Floats hidden = loaded.run(cache, tokens, streams, positions);
        for (size_t t = 0; t < tokens.size(); ++t) {
            Floats& into = streams[t] == 0 ? from_a : from_b;
            const auto row = hidden.begin() + std::ptrdiff_t(t * width);
            into.insert(into.end(), row, row + std::ptrdiff_t(width));
        }
    }
    return {from_a, from_b};
}

}  // namespace

TEST_CASE("law: a model reads a text token by token, at once or beside another alike") {
    const Ints a = some_tokens(17), b(a.rbegin(), a.rbegin() + 11);
    for_each_kind([&](Loaded& loaded, int32_t first, bool exact) {
        KvCache whole = loaded.cache();
        const Floats of_a = loaded.run(whole, a, 0, first), of_b = loaded.run(whole, b, 1, first);
        CHECK(distance(of_a, loaded.tiny.forward(a, first)) < 1e-5);
        CHECK(distance(of_b, loaded.tiny.forward(b, first)) < 1e-5);
        KvCache single = loaded.cache();
        check_same(run_parts(loaded.model, single, a, 1, first), of_a, exact);
        const auto [ragged_a, ragged_b] = run_ragged(loaded, a, b, first);
        check_same(ragged_a, of_a, exact);
        check_same(ragged_b, of_b, exact);
    });
}

TEST_CASE("law: a model answers from a turned cache as from a plain one, in each kind of layer") {
    const Ints tokens = some_tokens(17);
    for_each_kind([&](Loaded& loaded, int32_t first, bool) {
        KvCache unturned = loaded.cache();
        const Floats expected = loaded.run(unturned, tokens, 0, first);
        const std::vector<LayerPlan>& plan = loaded.model.config().plan;
        int64_t all = 8;  // or the largest power of two that divides every row
        for (const LayerPlan& layer : plan) {
            while (layer.d_k % all != 0 || layer.d_v % all != 0) all /= 2;
        }
        CHECK(all > 1);
        // Both sides alike: V may be a view of K.
        for (const Rotation& rotation : {Rotation{Rotation::Kind::sylvester, all, 0, 0},
                                         Rotation{Rotation::Kind::signs, all, 5, 0}}) {
            KvCache turned = loaded.cache(32, RotationSpec::of(rotation, rotation));
            CHECK(distance(loaded.run(turned, tokens, 0, first), expected) < 1e-5);
            for (size_t l = 0; l < plan.size(); ++l) {
                if (plan[l].kv_heads == 0) continue;
                const auto rows = [&](const KvCache& cache) {
                    return download(loaded.model.backend(), cache.k(int64_t(l)));
                };
                CHECK(rows(turned) != rows(unturned));
            }
        }
    });
}

TEST_CASE("law: a batch that finds no room leaves each stream as it was") {
    const Ints tokens = some_tokens(9);
    for_each_kind([&](Loaded& loaded, int32_t first, bool) {
        KvCache cache = loaded.cache(8), all = loaded.cache();
        const Floats expected = loaded.run(all, tokens, 0, first);
        const auto part = [&](int64_t begin, int64_t end) {
            return Ints(tokens.begin() + begin, tokens.begin() + end);
        };
        loaded.run(cache, part(0, 5), 0, first);
        loaded.run(cache, part(0, 2), 1, first);
        CHECK_THROWS_WITH(loaded.run(cache, part(5, 9), 0, first + 5), containing("is full"));
        const Floats next = loaded.run(cache, part(5, 8), 0, first + 5);
        const int64_t width = loaded.tiny.width;
        CHECK(distance(next, Floats(expected.begin() + 5 * width, expected.begin() + 8 * width)) <
              1e-5);
        const Floats beside = loaded.run(cache, part(2, 4), 1, first + 2);
        CHECK(distance(beside, Floats(expected.begin() + 2 * width, expected.begin() + 4 * width)) <
              1e-5);
    });
}

TEST_CASE("law: a batch that fails on its way empties the streams whose state has moved on") {
    const Ints tokens = some_tokens(9);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Loaded loaded(*backend, {"qwen35", false});
        int64_t attentions = 0;
        const Observer fail = [&](int64_t, const Call& call, Backend& on) {
            attentions += std::holds_alternative<AttentionArgs>(call);
            require(!std::holds_alternative<AttentionArgs>(call), ErrorCode::unsupported, "no");
            on.run(call);
        };
        Model failing(loaded.model, {.context = 64, .observer = fail});
        KvCache cache = loaded.cache();
        const Floats expected = loaded.run(cache, tokens, 0, 0);
        cache.clear();
        loaded.run(cache, {tokens[0], tokens[1]}, 0, 0);
        loaded.run(cache, {tokens[0], tokens[1]}, 1, 0);
        CHECK_THROWS_WITH(failing.forward(cache, Ints{tokens[2]}, Ints{0}, Ints{2}),
                          containing("no"));
        INFO(backend->name());
        CHECK(attentions == 1);  // after three layers of states
        CHECK(cache.state()->held()[0] == Held());
        CHECK(cache.state()->held()[1] == Held{0, 2});
        CHECK(cache.host_positions()[0] == -1);
        CHECK(distance(loaded.run(cache, tokens, 0, 0), expected) < 1e-5);
        const Floats beside = loaded.run(cache, Ints(tokens.begin() + 2, tokens.end()), 1, 2);
        CHECK(distance(beside, Floats(expected.begin() + 2 * loaded.tiny.width, expected.end())) <
              1e-5);
    }
}
