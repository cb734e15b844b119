// Products that run as one round of work: what one call after the other makes, to the
// bit, for any number of threads; and how often threads meet.
#include "fast/backend.h"
#include "fast/packed_products.h"
#include "fast/threads.h"
#include "ref/activations.h"
#include "ref/quant.h"
#include "tests/parity.h"
#include "tests/random.h"

#include <functional>
#include <utility>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr int64_t k_in = 512, k_out = 150, k_experts = 6, k_used = 3;

// A backend with weights of several types and activations, and what calls leave there.
class Bench {
  public:
    explicit Bench(int threads) : backend_(threads) {}

    TensorView floats(std::initializer_list<int64_t> extents, uint64_t seed) {
        int64_t n = 1;
        for (const int64_t extent : extents) n *= extent;
        const std::vector<float> values = normal_vector(n, seed);
        buffers_.emplace_back(backend_, size_t(4 * n));
        buffers_.back().upload(std::as_bytes(std::span(values)));
        return buffers_.back().view(DType::f32, extents);
    }
    TensorView ids(const std::vector<int32_t>& values) {
        buffers_.emplace_back(backend_, 4 * values.size());
        buffers_.back().upload(std::as_bytes(std::span(values)));
        return buffers_.back().view(DType::i32, {1, int64_t(values.size())});
    }
    // [rows][in] of any type: q4_K's bytes are made up, since nobody packs it here.
    TensorView weight(DType type, std::initializer_list<int64_t> extents, uint64_t seed) {
        const int64_t in = extents.end()[-1];
        int64_t rows = 1;
        for (const int64_t extent : extents) rows *= extent;
        rows /= in;
        std::vector<std::byte> bytes(size_t(rows * row_bytes(type, in)));
        const std::vector<float> w = normal_vector(rows * in, seed);
        for (int64_t r = 0; r < rows; ++r) {
            std::byte* const row = bytes.data() + r * row_bytes(type, in);
            if (type != DType::q4_k) {
                ref::quantize_row(type, row, w.data() + r * in, in);
                continue;
            }
            for (int64_t i = 0; i < row_bytes(type, in); ++i)
                row[i] = std::byte((r * 7 + i * 5) & 31);
        }
        buffers_.emplace_back(backend_, bytes.size());
        buffers_.back().upload(bytes);
        return buffers_.back().view(type, extents);
    }

    void run(const Call& call) {
        backend_.run(call);
        if (at_once) backend_.synchronize();
    }
    void upload(const TensorView& to, const std::vector<float>& values) {
        backend_.upload(to.data, std::as_bytes(std::span(values)));
    }
    std::vector<float> result(const TensorView& of) { return download_f32(backend_, of); }

    bool at_once = false;

  private:
    FastBackend backend_;
    std::vector<Buffer> buffers_;
};

struct Outcome {
    std::vector<float> values;
    int64_t rounds = 0;
};

using Program = std::function<std::vector<TensorView>(Bench&)>;

Outcome outcome(const Program& program, int threads, bool at_once) {
    Bench bench(threads);
    bench.at_once = at_once;
    Outcome result;
    const int64_t before = fast::rounds();
    for (const TensorView& view : program(bench)) {
        for (const float value : bench.result(view)) result.values.push_back(value);
    }
    result.rounds = fast::rounds() - before;
    return result;
}

// Equal results whatever is joined and whoever works; `rounds` joined, `apart` one by one.
void check_rounds(const Program& program, int64_t rounds, int64_t apart) {
    const Outcome expected = outcome(program, 1, true);
    CHECK(expected.rounds == 0);
    CHECK(outcome(program, 1, false).values == expected.values);
    for (const int threads : {2, 5}) {
        INFO(threads << " threads");
        const Outcome joined = outcome(program, threads, false);
        const Outcome one_by_one = outcome(program, threads, true);
        CHECK(joined.values == expected.values);
        CHECK(one_by_one.values == expected.values);
        CHECK(joined.rounds == rounds);
        CHECK(one_by_one.rounds == apart);
    }
}

// With tiles a product has two rounds: its tokens become terms, and rows meet them.
int64_t rounds_of(DType type, int64_t tokens) {
    return fast::tiles_are_fastest(type, tokens) ? 2 : 1;
}

ActMulArgs gated(const TensorView& gate, const TensorView& up) {
    return {.dst = gate, .gate = gate, .up = up, .activation = Activation::gelu_tanh};
}

// Whether products of so many tokens wait for each other.
bool join(int64_t tokens) { return tokens <= fast::k_few_tokens || fast::has_tiles(); }

// Gate and up, columns of one buffer, and their act_mul.
Program gated_products(int64_t tokens, DType of_gate, DType of_up) {
    return [=](Bench& bench) {
        const TensorView x = bench.floats({tokens, k_in}, 1);
        const TensorView y = bench.floats({tokens, 2 * k_out}, 2);
        const TensorView w = bench.weight(of_gate, {k_out, k_in}, 3);
        const TensorView u = bench.weight(of_up, {k_out, k_in}, 4);
        const TensorView gate = columns(y, 0, k_out), up = columns(y, k_out, k_out);
        bench.run(MatmulArgs{.dst = gate, .weight = w, .src = x});
        bench.run(MatmulArgs{.dst = up, .weight = u, .src = x});
        bench.run(gated(gate, up));
        return std::vector<TensorView>{gate};
    };
}

// Products of one layer with SmolLM2's extents.
Program layer(int64_t tokens) {
    return [tokens](Bench& bench) {
        const int64_t width = 576, keys = 192, hidden = 1536;
        uint64_t seed = 9;
        const auto of = [&](int64_t out, int64_t in) {
            return bench.weight(DType::q4_1, {out, in}, ++seed);
        };
        const TensorView q = of(width, width), k = of(keys, width), v = of(keys, width);
        const TensorView o = of(width, width), gate = of(hidden, width), up = of(hidden, width);
        const TensorView down = of(width, hidden), norm = bench.floats({width}, 1);
        const TensorView residual = bench.floats({tokens, width}, 2),
                         x = bench.floats({tokens, width}, 3);
        const TensorView qkv = bench.floats({tokens, width + 2 * keys}, 4);
        const TensorView y = bench.floats({tokens, width}, 5),
                         h = bench.floats({tokens, 2 * hidden}, 6);
        const TensorView both[] = {columns(h, 0, hidden), columns(h, hidden, hidden)};
        const RmsNormArgs normed{.dst = x, .src = residual, .weight = norm, .epsilon = 1e-5f};
        bench.run(normed);
        bench.run(MatmulArgs{.dst = columns(qkv, 0, width), .weight = q, .src = x});
        bench.run(MatmulArgs{.dst = columns(qkv, width, keys), .weight = k, .src = x});
        bench.run(MatmulArgs{.dst = columns(qkv, width + keys, keys), .weight = v, .src = x});
        bench.run(MatmulArgs{.dst = y, .weight = o, .src = columns(qkv, 0, width)});
        bench.run(AddArgs{.dst = residual, .a = residual, .b = y});
        bench.run(normed);
        bench.run(MatmulArgs{.dst = both[0], .weight = gate, .src = x});
        bench.run(MatmulArgs{.dst = both[1], .weight = up, .src = x});
        bench.run(gated(both[0], both[1]));
        bench.run(MatmulArgs{.dst = y, .weight = down, .src = both[0]});
        bench.run(AddArgs{.dst = residual, .a = residual, .b = y});
        return std::vector<TensorView>{residual};
    };
}

}  // namespace

TEST_CASE("joined: q, k and v are one round, whatever the types of their weights") {
    const Program program = [](Bench& bench) {
        const TensorView x = bench.floats({1, k_in}, 1), y = bench.floats({1, 3 * k_out}, 2);
        const DType types[] = {DType::q4_k, DType::q8_0, DType::f16};
        for (int64_t i = 0; i < 3; ++i) {
            const TensorView w = bench.weight(types[i], {k_out, k_in}, uint64_t(3 + i));
            bench.run(MatmulArgs{.dst = columns(y, i * k_out, k_out), .weight = w, .src = x});
        }
        return std::vector<TensorView>{y};
    };
    // Weights are uploaded in between, and nothing waits for that: an upload ends a round.
    check_rounds(program, 3, 3);
    const Program after = [](Bench& bench) {
        const TensorView x = bench.floats({1, k_in}, 1), y = bench.floats({1, 3 * k_out}, 2);
        const TensorView q = bench.weight(DType::q4_k, {k_out, k_in}, 3);
        const TensorView k = bench.weight(DType::q8_0, {k_out, k_in}, 4);
        const TensorView v = bench.weight(DType::f16, {k_out, k_in}, 5);
        int64_t first = 0;
        for (const TensorView& w : {q, k, v}) {
            bench.run(MatmulArgs{.dst = columns(y, first, k_out), .weight = w, .src = x});
            first += k_out;
        }
        return std::vector<TensorView>{y};
    };
    check_rounds(after, 1, 3);
}

// Tokens become terms once for all products that read them.
TEST_CASE("joined: products of some tokens, of the same ones or of others") {
    for (const int64_t tokens : {8, 16}) {
        INFO(tokens << " tokens");
        const int64_t of_codes = rounds_of(DType::q4_1, tokens);
        const int64_t of_terms = rounds_of(DType::q4_k, tokens);
        const int64_t apart = 2 * of_codes + of_terms;
        // Those that go by tiles together, and those by strips.
        const int64_t together = of_codes == of_terms ? of_codes : of_codes + of_terms;
        const Program program = [tokens](Bench& bench) {
            const TensorView x = bench.floats({tokens, k_in}, 1);
            const TensorView z = bench.floats({tokens, k_in}, 2);
            const TensorView y = bench.floats({tokens, 3 * k_out}, 3);
            const TensorView w[] = {bench.weight(DType::q4_1, {k_out, k_in}, 4),
                                    bench.weight(DType::q8_0, {k_out, k_in}, 5),
                                    bench.weight(DType::q4_k, {k_out, k_in}, 6)};
            for (int64_t i = 0; i < 3; ++i) {
                bench.run(MatmulArgs{
                    .dst = columns(y, i * k_out, k_out), .weight = w[i], .src = i == 1 ? z : x});
            }
            return std::vector<TensorView>{y};
        };
        check_rounds(program, join(tokens) ? together : apart, apart);
        // Columns that are read begin among those that are written, or end behind them.
        const std::pair<int64_t, int64_t> overlaps[] = {{0, k_out - 1}, {200, 0}};
        for (const auto& [to, from] : overlaps) {
            INFO("written from " << to << " on, read from " << from << " on");
            const Program chain = [=](Bench& bench) {
                const TensorView x = bench.floats({tokens, k_in}, 1);
                const TensorView y = bench.floats({tokens, 2 * k_in}, 2);
                const TensorView w = bench.weight(DType::q4_1, {k_out, k_in}, 3);
                const TensorView last = columns(y, 2 * k_in - k_out, k_out);
                bench.run(MatmulArgs{.dst = columns(y, to, k_out), .weight = w, .src = x});
                bench.run(MatmulArgs{.dst = last, .weight = w, .src = columns(y, from, k_in)});
                return std::vector<TensorView>{y};
            };
            check_rounds(chain, 2 * of_codes, 2 * of_codes);
        }
    }
}

// Rows that begin at the same places and are not the same: their terms lie otherwise.
TEST_CASE("joined: products of whole rows and of their first half") {
    constexpr int64_t tokens = 33;
    const int64_t each = rounds_of(DType::q8_0, tokens);
    check_rounds(
        [](Bench& bench) {
            const TensorView x = bench.floats({tokens, k_in}, 1);
            const TensorView y = bench.floats({tokens, 2 * k_out}, 2);
            const TensorView w = bench.weight(DType::q8_0, {k_out, k_in}, 3);
            const TensorView u = bench.weight(DType::q4_k, {k_out, k_in / 2}, 4);
            bench.run(MatmulArgs{.dst = columns(y, 0, k_out), .weight = w, .src = x});
            bench.run(MatmulArgs{
                .dst = columns(y, k_out, k_out), .weight = u, .src = columns(x, 0, k_in / 2)});
            return std::vector<TensorView>{y};
        },
        fast::has_tiles() ? each : 2 * each, 2 * each);
}

TEST_CASE("joined: act_mul of several tokens does not join their products") {
    for (const int64_t tokens : {2, 8, 16, 40}) {
        INFO(tokens << " tokens");
        const int64_t each = rounds_of(DType::q4_1, tokens);
        check_rounds(gated_products(tokens, DType::q4_1, DType::q4_1),
                     join(tokens) ? each : 2 * each, 2 * each);
    }
}

TEST_CASE("joined: gate, up and their act_mul are one round") {
    check_rounds(gated_products(1, DType::q4_0, DType::q4_1), 1, 2);
}

TEST_CASE("joined: so are those of the chosen experts, with biases or without") {
    for (const bool biased : {false, true}) {
        INFO((biased ? "with biases" : "without"));
        check_rounds(
            [&](Bench& bench) {
                const TensorView x = bench.floats({1, 1, k_in}, 1), id = bench.ids({4, 0, 5});
                const TensorView y = bench.floats({1, k_used, 2 * k_out}, 2);
                const TensorView w = bench.weight(DType::q4_0, {k_experts, k_out, k_in}, 3);
                const TensorView u = bench.weight(DType::q8_0, {k_experts, k_out, k_in}, 4);
                const TensorView bias = bench.floats({k_experts, k_out}, 5);
                const TensorView gate = columns(y, 0, k_out), up = columns(y, k_out, k_out);
                TensorView each = x;  // the same for every expert
                each.n[2] = k_used;
                each.stride[2] = 0;
                ExpertMatmulArgs call{.dst = gate, .weight = w, .src = each, .id = id};
                if (biased) call.bias = bias;
                bench.run(call);
                call.dst = up;
                call.weight = u;
                bench.run(call);
                bench.run(gated(gate, up));
                return std::vector<TensorView>{gate};
            },
            1, 2);
    }
}

TEST_CASE("joined: what needs another's result, or overwrites what it reads, waits for it") {
    const auto chain = [](int64_t kind) {
        return [kind](Bench& bench) {
            const TensorView x = bench.floats({1, k_in}, 1), y = bench.floats({1, k_in}, 2);
            const TensorView z = bench.floats({1, k_in}, 3);
            const TensorView w = bench.weight(DType::q8_0, {k_in, k_in}, 4);
            const TensorView u = bench.weight(DType::q4_1, {k_in, k_in}, 5);
            bench.run(MatmulArgs{.dst = y, .weight = w, .src = x});
            if (kind == 0) bench.run(MatmulArgs{.dst = z, .weight = u, .src = y});
            if (kind == 1) bench.run(MatmulArgs{.dst = x, .weight = u, .src = z});
            if (kind == 2) bench.run(MatmulArgs{.dst = y, .weight = u, .src = z});
            if (kind == 3) bench.run(AddArgs{.dst = x, .a = y, .b = z});
            if (kind == 4) bench.upload(x, normal_vector(k_in, 9));
            if (kind == 5) bench.run(ActMulArgs{.dst = y, .gate = y, .up = z});
            return std::vector<TensorView>{x, y, z};
        };
    };
    for (int64_t kind = 0; kind < 6; ++kind) {
        INFO("kind " << kind);
        const int64_t products = kind < 3 ? 2 : 1;
        check_rounds(chain(kind), products, products);
    }
}

TEST_CASE("joined: act_mul of two products in another place, or of others, is one of its own") {
    for (int64_t kind = 0; kind < 3; ++kind) {
        INFO("kind " << kind);
        check_rounds(
            [kind](Bench& bench) {
                const TensorView x = bench.floats({1, k_in}, 1), a = bench.floats({1, k_out}, 2);
                const TensorView b = bench.floats({1, k_out}, 3), c = bench.floats({1, k_out}, 4);
                const TensorView w = bench.weight(DType::q4_0, {k_out, k_in}, 5);
                const TensorView u = bench.weight(DType::q4_0, {k_out, k_in}, 6);
                bench.run(MatmulArgs{.dst = a, .weight = w, .src = x});
                bench.run(MatmulArgs{.dst = b, .weight = u, .src = x});
                ActMulArgs act{.dst = a, .gate = a, .up = b};
                if (kind == 0) act.dst = c;
                if (kind == 1) act = {.dst = b, .gate = b, .up = a};
                if (kind == 2) act.up = c;
                bench.run(act);
                return std::vector<TensorView>{a, b, c};
            },
            1, 2);
    }
}

TEST_CASE("joined: nothing is joined to gate, up and act_mul") {
    check_rounds(
        [](Bench& bench) {
            const TensorView x = bench.floats({1, k_in}, 1), a = bench.floats({1, k_out}, 2);
            const TensorView b = bench.floats({1, k_out}, 3), c = bench.floats({1, k_out}, 4);
            const TensorView w = bench.weight(DType::q4_0, {k_out, k_in}, 5);
            bench.run(MatmulArgs{.dst = a, .weight = w, .src = x});
            bench.run(MatmulArgs{.dst = b, .weight = w, .src = x});
            bench.run(gated(a, b));
            bench.run(MatmulArgs{.dst = c, .weight = w, .src = x});
            return std::vector<TensorView>{a, b, c};
        },
        2, 3);
}

TEST_CASE("joined: a layer with SmolLM2's extents has four rounds of products, not seven") {
    for (const int64_t tokens : {1, 4, 8, 16}) {
        INFO(tokens << " tokens");
        const int64_t each = rounds_of(DType::q4_1, tokens);
        const int64_t of_act = tokens == 16 ? 1 : 0;  // act_mul, where there is enough of it
        check_rounds(layer(tokens), (join(tokens) ? 4 : 7) * each + of_act, 7 * each + of_act);
    }
}

TEST_CASE("joined: one token's attention over many cells is one round, over few cells none") {
    FastBackend backend(2);
    const auto rounds_over = [&](int64_t cells) {
        CachedAttention attention;
        attention.type_k = attention.type_v = DType::q8_0;
        attention.cells = cells;
        attention.fill(1, cells, 7);
        KvCache cache(backend, attention.shape(), attention.spec);
        attention.store(backend, cache);
        attention.q_streams = {0};  // the last token asks
        attention.q_positions = {int32_t(cells - 1)};
        attention.q.resize(size_t(attention.heads * attention.d_k));
        const int64_t before = fast::rounds();
        attention.attend(backend, cache);
        return fast::rounds() - before;
    };
    CHECK(rounds_over(600) == 1);
    CHECK(rounds_over(20) == 0);
}
