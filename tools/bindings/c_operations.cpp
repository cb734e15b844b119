// rotkv.h: operations on rows, and likelihoods.
#include "tools/bindings/arrays.h"
#include "tools/bindings/rope.h"

#include <cmath>
#include <limits>

using namespace rotkv;
using namespace rotkv::bindings;

// One call of a backend on arrays that `make_call` lays out.
static rotkv_status run(rotkv_backend* backend, const std::function<Call(Arrays&)>& make_call) {
    return at_border([&] {
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        Arrays arrays(turn.backend());
        turn.backend().run(make_call(arrays));
        arrays.finish();
    });
}

rotkv_status rotkv_hadamard(rotkv_backend* backend, const rotkv_rotation* rotation, int32_t inverse,
                            const rotkv_array* dst, const rotkv_array* src) {
    return run(backend, [&](Arrays& arrays) {
        return HadamardArgs{.dst = arrays.out(needed(dst, "dst"), "dst"),
                            .src = arrays.in(needed(src, "src"), "src"),
                            .rotation = rotation_of(needed(rotation, "rotation")),
                            .inverse = inverse != 0};
    });
}

rotkv_status rotkv_quantize(rotkv_backend* backend, const rotkv_array* dst,
                            const rotkv_array* src) {
    return run(backend, [&](Arrays& arrays) {
        return QuantizeArgs{.dst = arrays.out(needed(dst, "dst"), "dst"),
                            .src = arrays.in(needed(src, "src"), "src")};
    });
}

rotkv_status rotkv_dequantize(rotkv_backend* backend, const rotkv_array* dst,
                              const rotkv_array* src) {
    return run(backend, [&](Arrays& arrays) {
        return DequantizeArgs{.dst = arrays.out(needed(dst, "dst"), "dst"),
                              .src = arrays.in(needed(src, "src"), "src")};
    });
}

rotkv_status rotkv_rope(rotkv_backend* backend, const rotkv_rope_config* config,
                        const rotkv_array* dst, const rotkv_array* src, const int32_t* positions,
                        size_t n_positions) {
    std::vector<float> table;
    std::vector<int32_t> row;
    return run(backend, [&](Arrays& arrays) {
        const RopeConfig rope = rope_of(config);
        const int64_t tokens = int64_t(std::min<size_t>(n_positions, INT64_MAX / 8));
        const TensorView x = arrays.in(needed(src, "src"), "src");
        const TensorView y = arrays.out(needed(dst, "dst"), "dst");
        if (tokens != x.n[1]) {
            refuse("positions", std::to_string(x.n[1]), std::to_string(tokens));
        }
        table = rope_table(rope, indices(positions, tokens, "positions", 0, INT32_MAX));
        row.resize(std::size_t(tokens));
        for (std::size_t t = 0; t < row.size(); ++t) row[t] = int32_t(t);
        return RopeArgs{.dst = y,
                        .src = x,
                        .table = arrays.floats(table, {tokens, rope.n_rot / 2, 2}),
                        .row = arrays.ints(row),
                        .pairs = rope.pairs};
    });
}

rotkv_status rotkv_nll(rotkv_backend* backend, const rotkv_array* hidden, const rotkv_array* weight,
                       float softcap, const int32_t* target, double* nll, int32_t* top) {
    std::vector<int32_t> tops;
    return run(backend, [&](Arrays& arrays) {
        const TensorView x = arrays.in(needed(hidden, "hidden"), "hidden");
        const TensorView w = arrays.in(needed(weight, "weight"), "weight");
        const int64_t rows = x.n[2];
        if (top == nullptr) tops.resize(std::size_t(rows));
        return NllArgs{.nll = arrays.out(elements(nll, rows, "nll")),
                       .top = arrays.out(elements(top == nullptr ? tops.data() : top, rows, "top")),
                       .hidden = x,
                       .weight = w,
                       .target = arrays.ints(indices(target, rows, "target", 0, w.n[2] - 1)),
                       .softcap = softcap};
    });
}

rotkv_status rotkv_kld(rotkv_backend* backend, const rotkv_array* hidden_a,
                       const rotkv_array* hidden_b, const rotkv_array* weight, float softcap,
                       double* kld) {
    std::vector<int32_t> words, targets;
    std::vector<double> likelihoods;
    return run(backend, [&](Arrays& arrays) {
        const TensorView a = arrays.in(needed(hidden_a, "hidden_a"), "hidden_a");
        const TensorView b = arrays.in(needed(hidden_b, "hidden_b"), "hidden_b");
        const TensorView w = arrays.in(needed(weight, "weight"), "weight");
        const std::size_t rows = std::size_t(a.n[2]);
        require_number("weight's words", w.n[2], 1, INT32_MAX);
        words.resize(2 * rows);
        targets.resize(rows);
        likelihoods.resize(2 * rows);
        return KldArgs{.kld = arrays.out(elements(kld, a.n[2], "kld")),
                       .nll_a = arrays.out(std::span(likelihoods).first(rows)),
                       .nll_b = arrays.out(std::span(likelihoods).last(rows)),
                       .top_a = arrays.out(std::span(words).first(rows)),
                       .top_b = arrays.out(std::span(words).last(rows)),
                       .hidden_a = a,
                       .hidden_b = b,
                       .weight = w,
                       .target = arrays.ints(targets),
                       .softcap = softcap};
    });
}

namespace {

// Rows of logits as the caller has them.
struct Logits {
    const float* data;
    int64_t rows, words;

    Logits(const float* given, int64_t n_rows, int64_t n_words, const char* name)
        : data(given), rows(n_rows), words(n_words) {
        require_number("words", words, 1, INT32_MAX);
        require_number("rows", rows, 0, (int64_t(1) << 50) / words);
        elements(data, rows * words, name);
    }

    std::span<const float> row(int64_t r) const { return {data + r * words, std::size_t(words)}; }

    // log sum_v exp(x_v); NaN where a logit is no number.
    double log_sum(int64_t r) const {
        const auto number = [](float x) { return std::isfinite(x); };
        if (!std::ranges::all_of(row(r), number)) return std::numeric_limits<double>::quiet_NaN();
        const double max = std::ranges::max(row(r));
        double sum = 0;
        for (const float x : row(r)) sum += std::exp(double(x) - max);
        return max + std::log(sum);
    }
};

}  // namespace

rotkv_status rotkv_nll_of_logits(const float* logits, int64_t rows, int64_t words,
                                 const int32_t* target, double* nll) {
    return at_border([&] {
        const Logits x(logits, rows, words, "logits");
        const std::span<const int32_t> targets = indices(target, rows, "target", 0, words - 1);
        const std::span<double> y = elements(nll, rows, "nll");
        for (int64_t r = 0; r < rows; ++r) {
            const std::size_t word = std::size_t(targets[std::size_t(r)]);
            y[std::size_t(r)] = x.log_sum(r) - double(x.row(r)[word]);
        }
    });
}

rotkv_status rotkv_kld_of_logits(const float* a, const float* b, int64_t rows, int64_t words,
                                 double* kld) {
    return at_border([&] {
        const Logits p(a, rows, words, "a"), q(b, rows, words, "b");
        const std::span<double> y = elements(kld, rows, "kld");
        for (int64_t r = 0; r < rows; ++r) {
            const double log_p = p.log_sum(r), log_q = q.log_sum(r);
            double sum = 0;
            for (std::size_t v = 0; v < std::size_t(words); ++v) {
                const double of_p = double(p.row(r)[v]) - log_p;
                sum += std::exp(of_p) * (of_p - (double(q.row(r)[v]) - log_q));
            }
            y[std::size_t(r)] = sum;
        }
    });
}
