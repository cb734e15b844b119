#include "ref/measure/evaluate.h"

#include "ref/error.h"

#include <algorithm>
#include <string>
#include <utility>

namespace rotkv {

int64_t default_batch(int64_t ctx) {
    constexpr int64_t k_most = 2048;
    return ctx > k_most ? k_most : k_most / ctx * ctx;
}

WindowPlan plan_windows(std::vector<int32_t> tokens, int64_t ctx, int64_t batch, int64_t chunks,
                        int32_t bos, const WindowShifts& shifts) {
    const int64_t n_tokens = int64_t(tokens.size());
    const int64_t length =
        WindowPlan{.tokens = {}, .ctx = ctx, .bos = bos, .shifts = shifts}.length();
    if (n_tokens / 2 < length) {
        throw Error(ErrorCode::usage, "the text has " + std::to_string(n_tokens) +
                                          " tokens, expected at least two windows of " +
                                          std::to_string(length));
    }
    return plan_recorded_windows(std::move(tokens), ctx, batch, chunks, bos, shifts);
}

int64_t groups_of(const WindowPlan& plan) {
    const int64_t at_once = plan.windows_at_once();
    return (plan.windows + at_once - 1) / at_once;
}

WindowPlan group_of(const WindowPlan& plan, int64_t index) {
    const int64_t first = index * plan.windows_at_once();
    WindowPlan group = plan;
    group.windows = std::min(plan.windows_at_once(), plan.windows - first);
    group.batch = std::min(plan.batch, group.windows * plan.ctx);
    const auto begin = plan.tokens.begin() + first * plan.length();
    group.tokens.assign(begin, begin + group.windows * plan.length());
    return group;
}

WindowPlan plan_recorded_windows(std::vector<int32_t> tokens, int64_t ctx, int64_t batch,
                                 int64_t chunks, int32_t bos, const WindowShifts& shifts) {
    const int64_t n_tokens = int64_t(tokens.size());
    if (ctx < 3 || n_tokens < ctx) {
        throw Error(ErrorCode::usage, "windows of " + std::to_string(ctx) +
                                          " tokens, expected 3 to " + std::to_string(n_tokens));
    }
    WindowPlan plan;
    plan.tokens = std::move(tokens);
    plan.ctx = ctx;
    plan.bos = bos;
    plan.shifts = shifts;
    if (plan.scored_per_window() < 1) {
        throw Error(ErrorCode::usage, "windows of " + std::to_string(ctx) +
                                          " tokens that are shifted, expected at least " +
                                          std::to_string(plan.shifts.keep + 4));
    }
    const int64_t most = n_tokens / plan.length();
    plan.windows = chunks > 0 ? std::min(chunks, most) : most;
    if (batch < 1) {
        throw Error(ErrorCode::usage,
                    "a batch of " + std::to_string(batch) + " tokens, expected at least 1");
    }
    if (batch > ctx) batch -= batch % ctx;
    plan.batch = std::min(batch, plan.windows * ctx);
    return plan;
}

namespace {

// One batch: tokens [from, to) of each of `count` windows, window by window, each in its stream.
struct Piece {
    int64_t first_window = 0, count = 0;
    int64_t from = 0, to = 0;
    int64_t moved = 0;  // tokens that shifts have dropped: positions are so much lower
    int64_t length() const { return to - from; }
};

TensorView run_piece(Model& model, KvCache& cache, const WindowPlan& plan, const Piece& piece) {
    std::vector<int32_t> tokens, streams, positions;
    for (int64_t w = 0; w < piece.count; ++w) {
        const int64_t start = (piece.first_window + w) * plan.length();
        for (int64_t p = piece.from; p < piece.to; ++p) {
            const bool replaced = p == 0 && plan.bos >= 0;
            tokens.push_back(replaced ? plan.bos : plan.tokens[std::size_t(start + p)]);
            streams.push_back(int32_t(w));
            positions.push_back(int32_t(p - piece.moved));
        }
    }
    return model.forward(cache, tokens, streams, positions);
}

// Makes room in the streams of the piece, which are full.
void shift_windows(const Model& model, KvCache& cache, const WindowPlan& plan, Piece& piece) {
    for (int64_t w = 0; w < piece.count; ++w) {
        shift_context(cache, w, plan.ctx, plan.shifts.keep,
                      [&](int64_t layer) { return model.rope(layer); });
    }
    piece.moved += plan.dropped();
}

// The part of the batch's rows that belongs to window `w` of the piece and is scored; may be empty.
ScoredRows scored_rows(const WindowPlan& plan, const Piece& piece, int64_t w,
                       const TensorView& hidden) {
    const int64_t begin = std::max(piece.from, plan.first_scored());
    const int64_t end = std::max(begin, std::min(piece.to, plan.length() - 1));
    ScoredRows rows;
    rows.window = piece.first_window + w;
    rows.first = rows.window * plan.scored_per_window() + begin - plan.first_scored();
    rows.ends_window = end == plan.length() - 1;
    rows.hidden = hidden;
    rows.hidden.data += (w * piece.length() + begin - piece.from) * hidden.stride[2];
    rows.hidden.n[2] = end - begin;
    const auto next = plan.tokens.begin() + rows.window * plan.length() + 1;
    rows.target.assign(next + begin, next + end);
    return rows;
}

// Memory for the targets and results of some rows, kept from visit to visit.
class RowBuffers {
  public:
    RowBuffers(Model& model, int64_t rows)
        : model_(model),
          target_(model.backend(), std::size_t(rows) * sizeof(int32_t)),
          top_a_(model.backend(), std::size_t(rows) * sizeof(int32_t)),
          top_b_(model.backend(), std::size_t(rows) * sizeof(int32_t)),
          kld_(model.backend(), std::size_t(rows) * sizeof(double)),
          nll_a_(model.backend(), std::size_t(rows) * sizeof(double)),
          nll_b_(model.backend(), std::size_t(rows) * sizeof(double)) {}

    // Adds each row's likelihood. hidden [n][E] on the backend.
    void add_nll(const TensorView& hidden, std::span<const int32_t> target, NllRun& run) {
        const int64_t n = upload(target);
        const TensorView nll = nll_a_.view(DType::f64, {n}), top = top_a_.view(DType::i32, {n});
        model_.run(NllArgs{.nll = nll,
                           .top = top,
                           .hidden = hidden,
                           .weight = model_.weights().output,
                           .target = target_.view(DType::i32, {n}),
                           .softcap = model_.config().final_softcap});
        append(run.nll, contents<double>(model_.backend(), nll));
        append(run.top, contents<int32_t>(model_.backend(), top));
    }

    // Adds the comparison of each row b with a. a, b [n][E] on the backend.
    void add_pairs(const TensorView& a, const TensorView& b, std::span<const int32_t> target,
                   std::vector<TokenPair>& pairs) {
        const int64_t n = upload(target);
        const KldArgs args{.kld = kld_.view(DType::f64, {n}),
                           .nll_a = nll_a_.view(DType::f64, {n}),
                           .nll_b = nll_b_.view(DType::f64, {n}),
                           .top_a = top_a_.view(DType::i32, {n}),
                           .top_b = top_b_.view(DType::i32, {n}),
                           .hidden_a = a,
                           .hidden_b = b,
                           .weight = model_.weights().output,
                           .target = target_.view(DType::i32, {n}),
                           .softcap = model_.config().final_softcap};
        model_.run(args);
        Backend& backend = model_.backend();
        const std::vector<double> kld = contents<double>(backend, args.kld);
        const std::vector<double> nll_a = contents<double>(backend, args.nll_a);
        const std::vector<double> nll_b = contents<double>(backend, args.nll_b);
        const std::vector<int32_t> top_a = contents<int32_t>(backend, args.top_a);
        const std::vector<int32_t> top_b = contents<int32_t>(backend, args.top_b);
        for (std::size_t i = 0; i < kld.size(); ++i) {
            pairs.push_back({kld[i], nll_a[i], nll_b[i], top_a[i] == top_b[i]});
        }
    }

  private:
    template <class E>
    static void append(std::vector<E>& all, const std::vector<E>& part) {
        all.insert(all.end(), part.begin(), part.end());
    }
    int64_t upload(std::span<const int32_t> target) const {
        target_.upload(std::as_bytes(target));
        return int64_t(target.size());
    }

    Model& model_;
    Buffer target_, top_a_, top_b_, kld_, nll_a_, nll_b_;
};

// Rows `first` .. `first + count` of hidden states on the host, in the backend's memory.
TensorView upload_rows(const Buffer& buffer, std::span<const float> hidden, int64_t first,
                       int64_t count, int64_t width) {
    buffer.upload(
        std::as_bytes(hidden.subspan(std::size_t(first * width), std::size_t(count * width))));
    return buffer.view(DType::f32, {count, width});
}

}  // namespace

void for_each_scored(Model& model, KvCache& cache, const WindowPlan& plan,
                     const std::function<void(const ScoredRows&)>& visit) {
    const int64_t group = std::min(plan.windows_at_once(), plan.windows);
    const int64_t step = std::min(plan.batch, plan.ctx);
    require(cache.shape().streams >= group && cache.shape().cells >= plan.ctx,
            ErrorCode::bad_argument,
            "evaluate: the cache needs a stream per window at once and a cell per token");
    for (int64_t first = 0; first < plan.windows; first += group) {
        cache.clear();
        Piece piece;
        piece.first_window = first;
        piece.count = std::min(group, plan.windows - first);
        for (piece.from = 0; piece.from < plan.length(); piece.from = piece.to) {
            if (piece.from == plan.ctx + piece.moved) shift_windows(model, cache, plan, piece);
            piece.to = std::min(piece.from + step, plan.ctx + piece.moved);
            const TensorView hidden = run_piece(model, cache, plan, piece);
            for (int64_t w = 0; w < piece.count; ++w) {
                const ScoredRows rows = scored_rows(plan, piece, w, hidden);
                if (!rows.target.empty()) visit(rows);
            }
        }
    }
}

void for_each_logits(Model& model, const ScoredRows& rows,
                     const std::function<void(int64_t, std::span<const float>)>& visit) {
    const int64_t n_rows = rows.hidden.n[2], n_words = model.weights().output.n[2];
    const int64_t most = std::min(n_rows, k_max_logit_rows);
    const Buffer buffer(model.backend(), std::size_t(most * n_words) * sizeof(float));
    std::vector<float> logits(std::size_t(most * n_words));
    for (int64_t first = 0; first < n_rows; first += most) {
        const int64_t count = std::min(most, n_rows - first);
        TensorView hidden = rows.hidden;
        hidden.data += first * rows.hidden.stride[2];
        hidden.n[2] = count;
        model.run(LogitsArgs{.dst = buffer.view(DType::f32, {count, n_words}),
                             .hidden = hidden,
                             .weight = model.weights().output,
                             .softcap = model.config().final_softcap});
        const std::span<float> slice = std::span(logits).first(std::size_t(count * n_words));
        buffer.download(std::as_writable_bytes(slice));
        visit(first, slice);
    }
}

NllRun run_nll(Model& model, KvCache& cache, const WindowPlan& plan,
               const std::function<void(const NllRun&)>& progress) {
    RowBuffers buffers(model, plan.scored_per_window());
    NllRun run;
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        buffers.add_nll(rows.hidden, rows.target, run);
        if (rows.ends_window && progress) progress(run);
    });
    return run;
}

std::vector<float> run_hidden(Model& model, KvCache& cache, const WindowPlan& plan) {
    const int64_t width = model.config().width;
    std::vector<float> all(std::size_t(plan.windows * plan.scored_per_window() * width));
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        for (int64_t t = 0; t < rows.hidden.n[2]; ++t) {
            float* dst = all.data() + (rows.first + t) * width;
            model.backend().download(std::as_writable_bytes(std::span(dst, std::size_t(width))),
                                     rows.hidden.row<std::byte>(t));
        }
    });
    return all;
}

std::vector<int32_t> targets_of(const WindowPlan& plan) {
    std::vector<int32_t> targets;
    for (int64_t window = 0; window < plan.windows; ++window) {
        const auto next = plan.tokens.begin() + window * plan.length() + plan.first_scored() + 1;
        targets.insert(targets.end(), next, next + plan.scored_per_window());
    }
    return targets;
}

std::vector<TokenPair> run_kld(Model& model, KvCache& cache, const WindowPlan& plan,
                               std::span<const float> base_hidden) {
    const int64_t width = model.config().width;
    require(int64_t(base_hidden.size()) == plan.windows * plan.scored_per_window() * width,
            ErrorCode::bad_argument, "evaluate: the base run has another number of rows");
    RowBuffers buffers(model, plan.scored_per_window());
    const Buffer base(model.backend(),
                      std::size_t(plan.scored_per_window() * width) * sizeof(float));
    std::vector<TokenPair> pairs;
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        const TensorView a = upload_rows(base, base_hidden, rows.first, rows.hidden.n[2], width);
        buffers.add_pairs(a, rows.hidden, rows.target, pairs);
    });
    return pairs;
}

std::vector<TokenPair> compare_hidden(Model& model, std::span<const float> a,
                                      std::span<const float> b, std::span<const int32_t> target) {
    constexpr int64_t k_rows_at_once = 512;  // enough for one walk over the vocabulary to pay
    const int64_t width = model.config().width, rows = int64_t(target.size());
    const int64_t most = std::min(rows, k_rows_at_once);
    const Buffer hidden_a(model.backend(), std::size_t(most * width) * sizeof(float));
    const Buffer hidden_b(model.backend(), std::size_t(most * width) * sizeof(float));
    RowBuffers buffers(model, most);
    std::vector<TokenPair> pairs;
    for (int64_t first = 0; first < rows; first += most) {
        const int64_t n = std::min(most, rows - first);
        buffers.add_pairs(upload_rows(hidden_a, a, first, n, width),
                          upload_rows(hidden_b, b, first, n, width),
                          target.subspan(std::size_t(first), std::size_t(n)), pairs);
    }
    return pairs;
}

}  // namespace rotkv
