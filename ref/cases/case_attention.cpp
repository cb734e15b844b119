// Cases of attention: a cache that is filled in no order, with holes, and queries over it.
#include "ref/cases/case_cells.h"
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/cases/head_scores.h"
#include "ref/cases/stored_rows.h"
#include "ref/hadamard.h"
#include "ref/quant.h"

#include <cmath>
#include <numeric>

namespace rotkv {

namespace {

constexpr int64_t k_most_sampled =
    128;  // rows whose scores f16's bound looks at: the small cases' all

// Positions from .. to, distances near .. far, each without its end; an end of 0 is none.
CellBounds read_bounds(Fields& f) {
    CellBounds bounds;
    const auto read = [&](const char* from, const char* to, Range& range) {
        range.from = f.number(from, 0, 0);
        const int64_t end = f.number(to, 0, 0);
        if (end > 0) range.to = end;
    };
    read("from", "to", bounds.position);
    read("near", "far", bounds.distance);
    return bounds;
}

class AttentionCase : public CallCase {
  public:
    explicit AttentionCase(Fields& f)
        : type_k(f.type("k")),
          type_v(f.type("v")),
          tokens(f.number("T", 3, 0)),
          streams(f.number("S", 1, 1)),
          cells(f.number("C", 40, 1)),
          heads(f.number("H", 4, 1)),
          kv_heads(f.number("K", 2, 1)),
          d_k(f.number("D", 64, 1)),
          v_in_k(f.flag("v-in-k")),
          v_first(v_in_k ? f.number("v-first", 0, 0) : 0),
          d_v(f.number("Dv", d_k, 1)),
          k_rotation(f.rotation("rot-k", d_k)),
          v_rotation(f.rotation("rot-v", d_v)),
          window(f.number("window", 0, 0)),
          chunked(f.flag("chunked")),
          softcap(f.real("softcap", 0)),
          sinks(f.real("sinks", 0)),
          loud(f.real("loud", 1)),
          dense(is_dense(f)),
          sees(f.word("sees", "past", {"past", "last", "all", "nothing"})),
          precision(f.precision({"f32", "f16"})),
          bounds(read_bounds(f)),
          lse(f.flag("lse")),
          kind(f.word("values", "channels", k_cell_kinds)) {
        read_layout(f, false);
        if (kind != "channels" && v_in_k) f.refuse("values", "channels where V is K", kind);
        const std::string refusal = kind_refusal(kind, type_k, k_rotation.on());
        if (!refusal.empty()) f.refuse("values", refusal, kind);
        if (is_spoilt(kind) && used() < 8) {
            f.refuse("C", "8 cells or more in use", std::to_string(used()));
        }
        if (heads % kv_heads != 0) {
            f.refuse("H", "a multiple of " + std::to_string(kv_heads), std::to_string(heads));
        }
        if (!v_in_k) return;
        v_rotation.first = v_first;
        if (v_first > d_k - d_v) {
            f.refuse("Dv", "channels inside K's " + std::to_string(d_k), std::to_string(d_v));
        }
    }
    Agreement agreement() const override {
        return precision == Precision::f16 ? Agreement::nmse : Agreement::rounding;
    }
    std::vector<CaseTensor> tensors() const override;
    void fill(std::vector<CaseTensor>& tensors) const override;
    Work work() const override {  // as if every query saw every cell in use; no window, no bounds
        Work work;
        const double rows = double(streams * used() * kv_heads);
        work.bytes =
            rows * double(row_bytes(type_k, d_k)) + 4.0 * double(tokens * heads * (d_k + d_v));
        if (!v_in_k) work.bytes += rows * double(row_bytes(type_v, d_v));
        if (lse) work.bytes += 4.0 * double(tokens * heads);
        double pairs = double(tokens * used());
        if (sees == "last") {
            pairs = 0;
            for (int64_t t = 0; t < tokens; ++t) pairs += double(last_position(t) + 1);
        }
        work.flops = 2.0 * pairs * double(heads * (d_k + d_v));
        return work;
    }
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override;
    std::vector<float> with_mistake(const std::string& name, std::span<const CaseTensor> filled,
                                    Mistake mistake) const override;

    NotFinite not_finite(const std::string& name) const override {
        return is_spoilt(kind) && name == "dst" ? NotFinite::any : NotFinite::same_kind;
    }
    std::vector<std::pair<std::string, double>> constants() const override {
        return {{"scale", double(scale())}};
    }

  protected:
    Call exact_call(const Views& v) const override { return in_f32<AttentionArgs>(call(v)); }
    Call call(const Views& v) const override {
        TensorView values = v["v_cache"];
        if (v_in_k) {
            values = v["k_cache"];
            values.n[3] = d_v;
            if (values.data != nullptr) values.data += block_offset(type_k, v_first);
        }
        return AttentionArgs{.dst = v["dst"],
                             .lse = v["lse"],
                             .q = v["q"],
                             .k_cache = v["k_cache"],
                             .v_cache = values,
                             .position = v["position"],
                             .used = v["used"],
                             .q_stream = v["q_stream"],
                             .q_position = v["q_position"],
                             .sinks = v["sinks"],
                             .scale = scale(),
                             .softcap = float(softcap),
                             .window = window,
                             .chunked = chunked,
                             .bounds = bounds,
                             .k_rotation = k_rotation,
                             .v_rotation = v_rotation,
                             .precision = precision};
    }

  private:
    float scale() const { return float(loud / std::sqrt(double(d_k))); }
    int64_t used() const { return dense ? cells : cells - cells / 8; }
    int64_t newest_seen() const { return used() - (is_spoilt(kind) ? 2 : 1); }
    int64_t last_position(int64_t t) const {  // sees=last: the stream's last tokens, in order
        return std::max<int64_t>(newest_seen() - (tokens - 1 - t) / streams, -1);
    }
    std::vector<int32_t> positions() const;
    void fill_cache(CaseTensor& cache, const Rotation& rotation, uint64_t seed, bool is_v) const;

    // Decoded once, for all queries; of several streams one after the other.
    RowsOfAttention rows_of(std::span<const CaseTensor> filled) const;
    std::span<const float> cached_row(const std::vector<float>& cache, int64_t t, int64_t cell,
                                      int64_t h) const;
    HeadScores scores(const RowsOfAttention& x, int64_t t, int64_t h) const;
    std::vector<double> bound_of_head(const RowsOfAttention& x, int64_t t, int64_t h,
                                      const HeadScores& scores) const;
    double f16_bound(const RowsOfAttention& x, bool of_lse, std::span<const float> expected) const;

    DType type_k, type_v;
    int64_t tokens, streams, cells, heads, kv_heads, d_k;
    bool v_in_k;
    int64_t v_first, d_v;
    Rotation k_rotation, v_rotation;
    int64_t window;
    bool chunked;
    double softcap;
    double sinks;  ///< how far apart they lie; 0: none
    double loud;   ///< the scale of the scores, times sqrt(D)
    bool dense;
    std::string sees;  ///< last: the queries are the last tokens of their streams
    Precision precision;
    CellBounds bounds;
    bool lse;
    std::string kind;
};

std::vector<CaseTensor> AttentionCase::tensors() const {
    std::vector<CaseTensor> all = {out("dst", DType::f32, {tokens, heads, d_v})};
    if (lse) all.push_back(out("lse", DType::f32, {tokens, heads}));
    all.push_back(in("q", DType::f32, {tokens, heads, d_k}));
    all.push_back(in("k_cache", type_k, {streams, cells, kv_heads, d_k}));
    if (!v_in_k) all.push_back(in("v_cache", type_v, {streams, cells, kv_heads, d_v}));
    all.push_back(in("position", DType::i32, {streams, cells}));
    all.push_back(in("used", DType::i32, {streams}));
    all.push_back(in("q_stream", DType::i32, {tokens}));
    all.push_back(in("q_position", DType::i32, {tokens}));
    if (sinks != 0) {
        all.push_back(in("sinks", DType::f32, {heads}));
        all.back().rigid = true;
    }
    return all;
}

// [S][C]: every position below used() once, in no order, but for holes in every seventh cell;
// dense: cell c holds position c. What no query sees lies in the last cell in use.
std::vector<int32_t> AttentionCase::positions() const {
    std::vector<int32_t> all(size_t(streams * cells), -1);
    for (int64_t s = 0; s < streams; ++s) {
        std::vector<int32_t> order = permutation(used(), seed() + uint64_t(s));
        const bool unseen = is_spoilt(kind);
        if (unseen)
            std::iter_swap(std::find(order.begin(), order.end(), used() - 1), order.end() - 1);
        for (int64_t c = 0; c < used(); ++c) {
            const bool hole = c % 7 == 5 && !(unseen && c == used() - 1);
            const int32_t any = hole ? -1 : order[size_t(c)];
            all[size_t(s * cells + c)] = dense ? int32_t(c) : any;
        }
    }
    return all;
}

// What lies in empty cells must not matter, not even as 0 * NaN: all bits set.
void AttentionCase::fill_cache(CaseTensor& cache, const Rotation& rotation, uint64_t seed,
                               bool is_v) const {
    const int64_t d = cache.extents.back();
    // Loud channels make some probabilities so small that f16 takes them for 0.
    const char* const numbers = kind == "channels" ? "channels" : "normal";
    std::vector<float> x = case_values(numbers, cache.rows(), d, seed);
    for (size_t first = 0; first < x.size(); first += size_t(d)) {
        ref::hadamard_row(x.data() + first, x.data() + first, d, rotation, false);
    }
    const std::vector<int32_t> position = positions();
    const int64_t late = newest_seen() - tokens / streams / 2;
    change_cells(kind, cache.type, is_v, {used() / 4, late, used() - 1}, position, kv_heads, x);
    cache.set(x);
    const size_t bytes = size_t(kv_heads * cache.bytes_of_row());
    for (size_t cell = 0; cell < position.size(); ++cell) {
        if (position[cell] < 0) {
            std::fill_n(cache.bytes.begin() + int64_t(cell * bytes), bytes, std::byte(0xFF));
        }
    }
}

void AttentionCase::fill(std::vector<CaseTensor>& tensors) const {
    std::vector<int32_t> q_stream, q_position;
    for (int64_t t = 0; t < tokens; ++t) {
        q_stream.push_back(int32_t(t % streams));
        const int64_t last = newest_seen();
        const int64_t past = t == 0        ? last
                             : t % 11 == 4 ? -1
                             : t % 5 == 2  ? 0
                                           : last * (t % 97) / 97;
        q_position.push_back(int32_t(sees == "past"   ? past
                                     : sees == "last" ? last_position(t)
                                     : sees == "all"  ? last
                                                      : -1));
    }
    std::vector<float> q = case_values("normal", tokens * heads, d_k, seed() + 3);
    change_queries(kind, heads, heads / kv_heads, d_k, q);
    named(tensors, "q").set(q);
    fill_cache(named(tensors, "k_cache"), k_rotation, seed(), false);
    if (!v_in_k) fill_cache(named(tensors, "v_cache"), v_rotation, seed() + 1, true);
    named(tensors, "position").set(positions());
    named(tensors, "used").set(std::vector<int32_t>(size_t(streams), int32_t(used())));
    named(tensors, "q_stream").set(q_stream);
    named(tensors, "q_position").set(q_position);
    if (sinks == 0) return;
    std::vector<float> sink = case_values("normal", 1, heads, seed() + 4);
    for (float& one : sink) one *= float(sinks);
    named(tensors, "sinks").set(sink);
}

RowsOfAttention AttentionCase::rows_of(std::span<const CaseTensor> filled) const {
    const std::vector<float> k = named(filled, "k_cache").values();
    return {.rule = std::get<AttentionArgs>(call(Views({}, {}))),
            .heads = heads,
            .kv_heads = kv_heads,
            .d_k = d_k,
            .d_v = d_v,
            .q = named(filled, "q").values(),
            .k = k,
            .v = v_in_k ? channels_of(k, d_k, v_first, d_v) : named(filled, "v_cache").values(),
            .position = named(filled, "position").indices(),
            .q_position = named(filled, "q_position").indices(),
            .sinks = sinks != 0 ? named(filled, "sinks").values() : std::vector<float>{}};
}

std::span<const float> AttentionCase::cached_row(const std::vector<float>& cache, int64_t t,
                                                 int64_t cell, int64_t h) const {
    const size_t d = cache.size() / size_t(streams * cells * kv_heads);
    const int64_t r = (t % streams * cells + cell) * kv_heads + h / (heads / kv_heads);
    return std::span(cache).subspan(size_t(r) * d, d);
}

HeadScores AttentionCase::scores(const RowsOfAttention& x, int64_t t, int64_t h) const {
    std::vector<float> q(x.q.begin() + (t * heads + h) * d_k,
                         x.q.begin() + (t * heads + h + 1) * d_k);
    ref::hadamard_row(q.data(), q.data(), d_k, k_rotation, false);
    const int32_t at = x.q_position[size_t(t)];
    const int64_t stream = t % streams;
    const double factor = double(scale());
    HeadScores result;
    result.sink = sinks != 0 ? double(x.sinks[size_t(h)]) : -INFINITY;
    for (int64_t c = 0; c < used(); ++c) {
        const int32_t p = x.position[size_t(stream * cells + c)];
        if (!x.rule.takes_part(p, at)) continue;
        const std::span<const float> k = cached_row(x.k, t, c, h);
        double score = 0, magnitude = 0, energy = 0;
        for (size_t j = 0; j < k.size(); ++j) {
            const double product = factor * double(q[j]) * double(k[j]);
            score += product;
            magnitude += std::fabs(product);
            energy += product * product;
        }
        if (softcap > 0) score = softcap * std::tanh(score / softcap);
        result.of_cell.emplace_back(c, score);
        if (!std::isfinite(magnitude)) continue;
        result.magnitude = std::max(result.magnitude, magnitude);
        result.energy = std::max(result.energy, energy);
    }
    return result;
}

// Rounding, for one head of one token. A score is off by u (walk(D) + 6) S (the sum, the scale,
// tanh), which moves numerator and denominator of a probability by as much, relatively; exp and
// the sum over C cells add their own:
//   |error of o~_j| <= u (c1 + c2 S) sum_c p_c |v_cj|,  c1 = 2 walk(C) + 12,  c2 = 2 (walk(D) + 6)
// and may be 2^-126 where that is all there is.
// The rotation back mixes a block: (1 / sqrt(N)) times the sum of its errors, and its own rounding.
std::vector<double> AttentionCase::bound_of_head(const RowsOfAttention& x, int64_t t, int64_t h,
                                                 const HeadScores& s) const {
    const double top = s.largest(), sum = s.denominator();
    std::vector<float> weighted(size_t(d_v), 0.0f);  // sum_c p_c |v_c|
    for (const auto& [c, score] : s.of_cell) {
        const std::span<const float> v = cached_row(x.v, t, c, h);
        const float p = sum == 0 ? 0.0f : float(std::exp(score - top) / sum);
        for (int64_t j = 0; j < d_v; ++j) {
            weighted[size_t(j)] += p * std::fabs(v[size_t(j)]);
        }
    }
    const double c1 = 2 * walk(cells) + 12, c2 = 2 * (walk(d_k) + 6);
    const double each = k_unit * (c1 + c2 * s.magnitude);
    std::vector<double> bound = hadamard_bound(weighted, v_rotation);
    const int64_t n = v_rotation.on() ? v_rotation.block : 1;
    for (int64_t j = 0; j < d_v; ++j) {
        const auto block = weighted.begin() + j / n * n;
        const double mixed = std::accumulate(block, block + n, 0.0) / std::sqrt(double(n));
        bound[size_t(j)] += each * mixed + k_least;
    }
    return bound;
}

double AttentionCase::f16_bound(const RowsOfAttention& x, bool of_lse,
                                std::span<const float> expected) const {
    F16Error error;
    const int64_t step = 1 + tokens * heads / k_most_sampled;  // fewer rows: a lower bound
    for (int64_t i = 0; i < tokens * heads; i += step) {
        error.add(scores(x, i / heads, i % heads));
    }
    return of_lse ? error.lse_bound(expected) : error.bound(expected);
}

std::vector<double> AttentionCase::bound(const std::string& name,
                                         std::span<const CaseTensor> filled,
                                         std::span<const float> expected) const {
    const bool of_lse = name == "lse";
    const RowsOfAttention x = rows_of(filled);
    if (precision == Precision::f16) return {f16_bound(x, of_lse, expected)};
    std::vector<double> all;
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t h = 0; h < heads; ++h) {
            const HeadScores of_head = scores(x, t, h);
            if (of_lse) {
                all.push_back(lse_bound(of_head, cells, d_k, expected[size_t(t * heads + h)]));
                continue;
            }
            const std::vector<double> one = bound_of_head(x, t, h, of_head);
            all.insert(all.end(), one.begin(), one.end());
        }
    }
    return all;
}

// Of one stream: which mistake it was shows there as well as in several.
std::vector<float> AttentionCase::with_mistake(const std::string& name,
                                               std::span<const CaseTensor> filled,
                                               Mistake mistake) const {
    if (streams > 1 || name != "dst" || is_spoilt(kind)) return {};
    return mistaken_attention(rows_of(filled), mistake);
}

}  // namespace

std::span<const CaseOp> attention_case_ops() {
    static const CaseOp ops[] = {
        {"attention",
         "rounding: u (c1 + c2 S) sum p |v|, S = max scale sum |q k|, c1 = 2 walk(C) + 12, "
         "c2 = 2 (walk(D) + 6), mixed by the rotation back; lse: u (c1 / 2 + (c2 / 2 + 2) S + "
         "4 |lse|); precision=f16: nmse 16 (2/3 2^-24 (e^2 + 1) + 2^-48 / 3 n / Z^2 / mean "
         "square), "
         "e^2 = max sum (scale q k)^2, n cells seen, Z = sum exp(s - max), of lse "
         "16 2/3 2^-24 (e^2 + 1) over its mean square",
         "the same", make<AttentionCase>},
    };
    return ops;
}

}  // namespace rotkv
