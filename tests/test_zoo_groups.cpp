// Formats of groups of tokens: their bytes and errors, when a group is encoded, and who may not
// part one.
// Docs: docs/20-zoo.md
#include "ref/context_shift.h"
#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/key_bias.h"
#include "ref/zoo/zoo.h"
#include "tests/laws.h"
#include "tests/refused_call.h"
#include "tests/tiny_run.h"
#include "tests/zoo_rows.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numbers>
#include <sstream>

namespace rotkv::test {
namespace {

// As make_group_rows.py has them, [G][d].
std::vector<float> group_rows(int64_t tokens, int64_t d, int row) {
    std::vector<float> x;
    for (int64_t token = 0; token < tokens; ++token) {
        const int64_t t = row == 3 ? 0 : token;
        for (int64_t i = 0; i < d; ++i) {
            const int64_t whole =
                (t * t * 29 + i * i * 37 + t * i * 5 + i * 11 + t * 17 + 3 * row) % 509 - 254;
            const double value = double(whole) / 64 + (row == 1 && i == 1 ? 100 : 0);
            x.push_back(row == 2 ? 0.0f : float(value));
        }
    }
    return x;
}

// Keys in groups of 32, values in groups of 64: two heads of 64 channels in each stream.
struct GroupCase : CachedAttention {
    std::shared_ptr<const Format> keys = format_of("kivi_keys:2");
    std::shared_ptr<const Format> values = format_of("polar_pairs:neox-4-4-64");

    explicit GroupCase(int64_t n_streams, int64_t tokens) {
        cells = 144;
        spec = RotationSpec::of({.kind = Rotation::Kind::signs, .block = 64, .seed = 3},
                                {.kind = Rotation::Kind::sylvester, .block = 32});
        fill(n_streams, tokens, 50);
    }

    KvShape grouped_shape(int64_t recent = 63) const {
        KvShape grouped = shape();
        grouped.layers[0].type_k = CacheType(keys);
        grouped.layers[0].type_v = CacheType(values);
        grouped.f16_tokens.recent = recent;
        return grouped;
    }

    // The rows R x of so many tokens of a stream and head, from one on.
    std::vector<float> turned(Side side, int64_t stream, int64_t first, int64_t count,
                              int64_t head) const {
        const std::vector<float>& all = side == Side::k ? k : v;
        const int64_t of_stream = int64_t(streams.size()) / (streams.back() + 1);
        std::vector<float> rows;
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = ((stream * of_stream + first + t) * 2 + head) * 64;
            std::vector<float> row(all.begin() + at, all.begin() + at + 64);
            ref::hadamard_row(row.data(), row.data(), 64, spec.at(0, side), false);
            rows.insert(rows.end(), row.begin(), row.end());
        }
        return rows;
    }
};

// What lies in so many cells of one head, of rows of two heads of 64.
std::vector<float> cells_of(const std::vector<float>& all, int64_t n_cells, int64_t stream,
                            int64_t first, int64_t count, int64_t head) {
    std::vector<float> rows;
    for (int64_t c = 0; c < count; ++c) {
        const auto begin = all.begin() + ((stream * n_cells + first + c) * 2 + head) * 64;
        rows.insert(rows.end(), begin, begin + 64);
    }
    return rows;
}

constexpr int64_t k_cells = 96;

KvCache grouped_cache(Model& model, const std::string& name, int64_t recent) {
    const Placement placement{.tokens = {.first = 0, .recent = recent}};
    const CacheType type = *find_cache_type(name);
    return KvCache(model.backend(),
                   placement.in(model.config().cache_shape(1, k_cells, type, DType::f32)),
                   RotationSpec());
}

}  // namespace

TEST_CASE("zoo groups: bytes and values are numpy's") {
    std::ifstream file(ROTKV_GOLDEN_DIR "/group_rows.txt");
    REQUIRE(file.good());
    int groups = 0, values = 0;
    for (std::string line; std::getline(file, line); ++groups) {
        std::istringstream words(line);
        std::string name, hex, value_hex;
        int64_t d = 0;
        int row = 0;
        words >> name >> d >> row >> hex >> value_hex;
        CAPTURE(name, d, row);
        const auto format = format_of(name);
        const std::vector<std::byte> expected = bytes_of_hex(hex);
        CHECK(encoded(*format, group_rows(format->group(), d, row)) == expected);
        if (value_hex.empty()) continue;
        ++values;
        const std::vector<std::byte> raw = bytes_of_hex(value_hex);
        const std::vector<float> found = decoded(*format, expected, d);
        REQUIRE(raw.size() == found.size() * sizeof(float));
        for (size_t i = 0; i < found.size(); ++i) {
            const float value = zoo::number_at<float>(raw.data() + i * sizeof(float));
            CAPTURE(i, value, found[i]);
            CHECK(std::fabs(found[i] - value) <= 2e-6f);  // of values up to 5
        }
    }
    CHECK(groups == 30);
    CHECK(values == 6);
}

TEST_CASE("zoo law: kivi's keys lose (range / (2^b - 1))^2 / 12 of each channel") {
    // All values but the least and the greatest, which are levels themselves: 2 / G of them.
    for (const auto& [name, bits, tokens] :
         {std::tuple{"kivi_keys:4", 4, 32}, {"kivi_keys:8", 8, 32}, {"kivi_keys:4-128", 4, 128}}) {
        CAPTURE(name);
        const auto format = format_of(name);
        const int64_t d = 64;
        double expected = 0, found = 0, loud = 0;
        for (uint64_t seed = 0; seed < 20; ++seed) {
            std::vector<float> x = normal_vector(tokens * d, seed);
            for (int64_t t = 0; t < tokens; ++t) x[size_t(t * d + 5)] += 50;  // a loud channel
            const std::vector<float> y = through(*format, x);
            for (int64_t c = 0; c < d; ++c) {
                float least = INFINITY, greatest = -INFINITY;
                for (int64_t t = 0; t < tokens; ++t) {
                    const float value = x[size_t(t * d + c)];
                    const double error = double(y[size_t(t * d + c)]) - double(value);
                    least = std::min(least, value), greatest = std::max(greatest, value);
                    (c == 5 ? loud : found) += error * error;
                }
                if (c == 5) continue;
                const double step = double(greatest - least) / ((1 << bits) - 1);
                expected += step * step / 12 * double(tokens - 2);
            }
        }
        CHECK(std::fabs(found / expected - 1) < 0.05);
        // A channel's offset costs the others nothing, and itself what f16 makes of its minimum.
        if (bits == 4) CHECK(loud < 1.5 * found / double(d - 1));
    }
}

TEST_CASE("zoo law: pairs of RoPE lose a step of their radius, and the radius times one of angle") {
    // |e|^2 = s_r^2 / 12 + r^2 s_a^2 / 12, steps of the pair's own ranges, which RoPE makes wide in
    // the fast pairs and leaves narrow in the slow ones.
    const int64_t d = 64, tokens = 128;
    RopeConfig rope;
    rope.n_rot = d;
    rope.base = 1e4;
    for (const RopePairs kind : {RopePairs::norm, RopePairs::neox}) {
        const auto format =
            format_of(kind == RopePairs::norm ? "polar_pairs:norm" : "polar_pairs:neox");
        double expected = 0, found = 0;
        for (uint64_t seed = 0; seed < 8; ++seed) {
            const std::vector<float> mean = normal_vector(d, seed + 90);
            std::vector<float> x = normal_vector(tokens * d, seed);
            std::vector<int32_t> positions;
            for (int32_t t = 0; t < tokens; ++t) positions.push_back(t);
            const std::vector<float> table = rope_table(rope, positions);
            for (int64_t t = 0; t < tokens; ++t) {
                float* const row = &x[size_t(t * d)];
                for (int64_t i = 0; i < d; ++i) row[i] = 4 * mean[size_t(i)] + 0.3f * row[i];
                ref::rope_row(row, row, d, &table[size_t(t * d)], d, kind);
            }
            for (int64_t p = 0; p < d / 2; ++p) {
                const int64_t a = kind == RopePairs::norm ? 2 * p : p;
                const int64_t b = kind == RopePairs::norm ? a + 1 : p + d / 2;
                double r_low = INFINITY, r_high = 0, a_low = INFINITY, a_high = 0, squares = 0;
                for (int64_t t = 0; t < tokens; ++t) {
                    const double x0 = x[size_t(t * d + a)], x1 = x[size_t(t * d + b)];
                    const double r = std::hypot(x0, x1);
                    double angle = std::atan2(x1, x0);
                    if (angle < 0) angle += 2 * std::numbers::pi;
                    r_low = std::min(r_low, r), r_high = std::max(r_high, r);
                    a_low = std::min(a_low, angle), a_high = std::max(a_high, angle);
                    squares += r * r;
                }
                const double radius = (r_high - r_low) / 16, turn = (a_high - a_low) / 16;
                expected += double(tokens) * radius * radius / 12 + squares * turn * turn / 12;
            }
            const std::vector<float> y = through(*format, x);
            for (size_t i = 0; i < x.size(); ++i) {
                found += std::pow(double(y[i]) - double(x[i]), 2);
            }
        }
        CHECK(std::fabs(found / expected - 1) < 0.05);
    }
}

TEST_CASE("zoo groups: rows stay as they are until the last of their group is there") {
    const GroupCase c(2, 100);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const size_t per_call : {0, 1, 7}) {
            CAPTURE(backend->name(), per_call);
            KvCache cache(*backend, c.grouped_shape(), c.spec);
            c.store(*backend, cache, per_call);
            for (const Side side : {Side::k, Side::v}) {
                const Format& format = side == Side::k ? *c.keys : *c.values;
                const int64_t tokens = format.group(), bytes = format.row_bytes(64);
                const std::vector<float> all =
                    download_f32(*backend, side == Side::k ? cache.k(0) : cache.v(0));
                for (int64_t i = 0; i < 2 * 2 * ((100 + tokens - 1) / tokens); ++i) {
                    const int64_t stream = i / 2 % 2, head = i % 2, first = i / 4 * tokens;
                    const int64_t count = std::min(tokens, 100 - first);
                    CAPTURE(stream, head, first);
                    std::vector<float> rows = c.turned(side, stream, first, count, head);
                    const auto found = cells_of(all, c.cells, stream, first, count, head);
                    if (count == tokens) {
                        const std::vector<std::byte> codes = encoded(format, rows);
                        for (int64_t t = 0; t < tokens; ++t) {  // a share in each cell
                            const std::byte* share =
                                cache.format_rows(0, side).codes_of(stream, first + t, head);
                            REQUIRE(std::equal(share, share + bytes, &codes[size_t(t * bytes)]));
                        }
                        rows = through(format, rows);
                    }
                    REQUIRE(floats_equal(found, rows));
                }
            }
        }
    }
}

TEST_CASE("zoo groups: a batch reads what single tokens would, wherever groups end") {
    const std::vector<int32_t> text = some_tokens(80);
    for (const char* name : {"llama", "gpt-oss", "gemma3"}) {
        Opened opened(TinyModel::make(name));
        for (const std::unique_ptr<Backend>& backend : all_backends()) {
            CAPTURE(name, backend->name());
            Model model(opened.gguf, *backend, {.context = 128});
            KvCache whole = grouped_cache(model, "kivi_keys:2", 31);
            KvCache tokens = grouped_cache(model, "kivi_keys:2", 31);
            KvCache f16 = grouped_cache(model, "f16", 0);
            const std::vector<float> expected = run_parts(model, tokens, text, 1);
            const std::vector<float> found = run_parts(model, whole, text, 80);
            const std::vector<float> exact = run_parts(model, f16, text, 80);
            const size_t width = found.size() / text.size();
            double apart = 0, lost_before = 0, lost_after = 0, size = 0;
            for (size_t i = 0; i < found.size(); ++i) {
                apart = std::max(apart, std::fabs(double(found[i]) - double(expected[i])));
                double& lost = i < 31 * width ? lost_before : lost_after;
                lost = std::max(lost, std::fabs(double(found[i]) - double(exact[i])));
                size = std::max(size, std::fabs(double(exact[i])));
            }
            // Sums of one token and of many round apart, and a code at a border then falls the
            // other way.
            CHECK(apart < 1e-3 * size);
            // The query at 31 is the first that reads a key of the group that its own token fills.
            CHECK(lost_before < 1e-3 * size);
            CHECK(lost_after > 1e-2 * size);
        }
    }
}

TEST_CASE("zoo groups: a shift encodes whole groups again, and turns what is left") {
    const GroupCase c(1, 100);
    RopeConfig rope;
    rope.n_rot = 64;
    rope.base = 100;
    const int32_t differences[] = {-64};
    const std::vector<float> table = rope_shift_table(rope, differences);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        CAPTURE(backend->name());
        KvCache cache(*backend, c.grouped_shape(), c.spec);
        c.store(*backend, cache);
        const std::vector<float> before = download_f32(*backend, cache.k(0));
        cache.remove(0, 0, 64);
        cache.shift(0, 64, 1000, -64, [&](int64_t) { return rope; });
        const std::vector<float> after = download_f32(*backend, cache.k(0));
        for (const int64_t first : {64, 96}) {
            const int64_t count = first == 64 ? 32 : 4;
            std::vector<float> rows = cells_of(before, c.cells, 0, first, count, 1);
            for (int64_t t = 0; t < count; ++t) {
                float* const row = &rows[size_t(t * 64)];
                ref::hadamard_row(row, row, 64, c.spec.at(0, Side::k), true);
                ref::rope_row(row, row, 64, table.data(), 64, rope.pairs);
                ref::hadamard_row(row, row, 64, c.spec.at(0, Side::k), false);
            }
            if (count == 32) rows = through(*c.keys, rows);
            CHECK(floats_equal(cells_of(after, c.cells, 0, first, count, 1), rows));
        }
        // The next token would get the first cell that is free, not the one behind its group.
        const std::vector<int32_t> stream = {0}, position = {36};
        CHECK(refusal([&] { cache.place(stream, position); }, ErrorCode::unsupported)
                  .find("found position 36 for cell 0") != std::string::npos);
    }
}

TEST_CASE("zoo groups: the last tokens of a group that is not full may go and come again") {
    const GroupCase c(1, 100);
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache straight(*ref, c.grouped_shape(), c.spec), again(*ref, c.grouped_shape(), c.spec);
    c.store(*ref, straight);
    GroupCase part = c;
    part.streams.resize(90), part.positions.resize(90);
    part.store(*ref, again);
    // 64 .. 89 are in the second group of values, and in the third of keys, which is not full.
    again.remove(0, 70, 200);
    const std::vector<int32_t> rest(c.positions.begin() + 70, c.positions.end());
    const KvBatch batch = again.place(std::vector<int32_t>(30, 0), rest);
    c.store_rows(*ref, again, batch, 70, 30);
    const auto kept = [&](const TensorView& cells) {
        std::vector<float> all = download_f32(*ref, cells);
        all.resize(100 * 2 * 64);
        return all;
    };
    CHECK(floats_equal(kept(straight.k(0)), kept(again.k(0))));
    CHECK(floats_equal(kept(straight.v(0)), kept(again.v(0))));
}

TEST_CASE("zoo groups: what would part a group is refused by name") {
    const GroupCase c(1, 100);
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CHECK(refusal([&] { KvCache(*ref, c.grouped_shape(62), c.spec); }, ErrorCode::unsupported) ==
          "cache V of type polar_pairs:neox-4-4-64: keeps 64 tokens together, and needs recent=63 "
          "or more to read those of a group that is not full; found recent=62");
    KvCache cache(*ref, c.grouped_shape(), c.spec);
    const std::vector<int32_t> one = {0}, five = {5};
    CHECK(refusal([&] { cache.place(one, five); }, ErrorCode::unsupported) ==
          "cache: a type keeps 32 tokens together, which come in order from a multiple of 32 on; "
          "found position 5 for cell 0");
    c.store(*ref, cache);
    const std::vector<int32_t> before(cache.host_positions().begin(), cache.host_positions().end());
    const auto no_rope = [](int64_t) { return RopeConfig{}; };
    const std::string parted =
        "cache: a type keeps 32 tokens together, those from position 0 on cannot be parted";
    CHECK(refusal([&] { cache.remove(0, 3, 7); }, ErrorCode::unsupported) == parted);
    CHECK(refusal([&] { cache.remove(0, 20, 200); }, ErrorCode::unsupported) == parted);
    // The first of a group that is not full.
    CHECK(refusal([&] { cache.remove(0, 96, 98); }, ErrorCode::unsupported) ==
          "cache: a type keeps 32 tokens together, those from position 96 on cannot be parted");
    // Two groups of keys, half a group of values.
    CHECK(refusal([&] { cache.remove(0, 0, 32); }, ErrorCode::unsupported) ==
          "cache: a type keeps 64 tokens together, those from position 0 on cannot be parted");
    CHECK(refusal([&] { cache.shift(0, 0, 200, 5, no_rope); }, ErrorCode::unsupported) ==
          "cache: a type keeps 32 tokens together, those from position 0 on cannot move by 5");
    CHECK(refusal([&] { cache.shift(0, 80, 200, 64, no_rope); }, ErrorCode::unsupported)
              .find("from position 64 on cannot be parted") != std::string::npos);
    CHECK(std::ranges::equal(before, cache.host_positions()));
    cache.remove(0, 0, 200);
    c.store(*ref, cache);
}

TEST_CASE("zoo groups: each key of a group is kept without the bias of its own position") {
    TinyModel tiny = TinyModel::make("qwen2");
    for (int64_t l = 0; l < TinyModel::layers; ++l) {
        for (float& value : tiny.weights.at(blk(l, "attn_k.bias"))) value *= 40;
    }
    Opened opened(tiny);
    Model model(opened.gguf, *opened.ref, {.context = 128});
    const Placement placement{.tokens = {.first = 0, .recent = 31}};
    const std::vector<int32_t> text = some_tokens(64);
    const auto keys = [&](const CacheType& type, bool without) {
        KvShape shape = placement.in(model.config().cache_shape(1, k_cells, type, DType::f32));
        if (without) shape = without_key_bias(model, shape, RotationSpec());
        KvCache cache(*opened.ref, shape, RotationSpec());
        run_parts(model, cache, text, 64);
        std::vector<float> all = download_f32(*opened.ref, cache.k(0));
        all.resize(all.size() / size_t(k_cells) * 64);
        return all;
    };
    const std::vector<float> exact = keys(DType::f32, false);
    const auto error = [&](bool without) {
        const std::vector<float> kept = keys(*find_cache_type("kivi_keys:4"), without);
        double sum = 0;
        for (size_t i = 0; i < kept.size(); ++i) {
            sum += std::pow(double(kept[i]) - double(exact[i]), 2);
        }
        return sum;
    };
    CHECK(error(true) < error(false) / 20);
}

}  // namespace rotkv::test
