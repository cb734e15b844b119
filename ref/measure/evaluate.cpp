#include "ref/measure/evaluate.h"

#include "ref/error.h"

#include <algorithm>
#include <string>
#include <utility>

namespace rotkv {

WindowPlan plan_windows(std::vector<int32_t> tokens, int64_t ctx, int64_t batch, int64_t chunks,
                        int32_t bos) {
    const int64_t n_tokens = int64_t(tokens.size());
    if (n_tokens / 2 < ctx) {
        throw Error(ErrorCode::usage, "the text has " + std::to_string(n_tokens) +
                                          " tokens, expected at least two windows of " +
                                          std::to_string(ctx));
    }
    return plan_recorded_windows(std::move(tokens), ctx, batch, chunks, bos);
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
    const auto begin = plan.tokens.begin() + first * plan.ctx;
    group.tokens.assign(begin, begin + group.windows * plan.ctx);
    return group;
}

WindowPlan plan_recorded_windows(std::vector<int32_t> tokens, int64_t ctx, int64_t batch,
                                 int64_t chunks, int32_t bos) {
    const int64_t n_tokens = int64_t(tokens.size());
    if (ctx < 3 || n_tokens < ctx) {
        throw Error(ErrorCode::usage, "windows of " + std::to_string(ctx) +
                                          " tokens, expected 3 to " + std::to_string(n_tokens));
    }
    WindowPlan plan;
    plan.tokens = std::move(tokens);
    plan.ctx = ctx;
    plan.bos = bos;
    plan.windows = chunks > 0 ? std::min(chunks, n_tokens / ctx) : n_tokens / ctx;
    plan.batch = std::min(batch, plan.windows * ctx);
    if (batch < 1 || (batch > ctx && batch % ctx != 0)) {
        throw Error(ErrorCode::usage, "a batch of " + std::to_string(batch) +
                                          " tokens, expected less than a window of " +
                                          std::to_string(ctx) + " or a multiple of it");
    }
    return plan;
}

namespace {

// One batch: tokens [from, to) of each of `count` windows, window by window, each in its stream.
struct Piece {
    int64_t first_window = 0, count = 0;
    int64_t from = 0, to = 0;
    int64_t length() const { return to - from; }
};

TensorView run_piece(Model& model, KvCache& cache, const WindowPlan& plan, const Piece& piece) {
    std::vector<int32_t> tokens, streams, positions;
    for (int64_t w = 0; w < piece.count; ++w) {
        const int64_t start = (piece.first_window + w) * plan.ctx;
        for (int64_t p = piece.from; p < piece.to; ++p) {
            const bool replaced = p == 0 && plan.bos >= 0;
            tokens.push_back(replaced ? plan.bos : plan.tokens[std::size_t(start + p)]);
            streams.push_back(int32_t(w));
            positions.push_back(int32_t(p));
        }
    }
    return model.forward(cache, tokens, streams, positions);
}

// The part of the batch's rows that belongs to window `w` of the piece and is scored; may be empty.
ScoredRows scored_rows(const WindowPlan& plan, const Piece& piece, int64_t w,
                       const TensorView& hidden) {
    const int64_t begin = std::max(piece.from, plan.first_scored());
    const int64_t end = std::max(begin, std::min(piece.to, plan.ctx - 1));
    ScoredRows rows;
    rows.window = piece.first_window + w;
    rows.first = rows.window * plan.scored_per_window() + begin - plan.first_scored();
    rows.ends_window = end == plan.ctx - 1;
    rows.hidden = hidden;
    rows.hidden.data += (w * piece.length() + begin - piece.from) * hidden.stride[2];
    rows.hidden.n[2] = end - begin;
    const auto next = plan.tokens.begin() + rows.window * plan.ctx + 1;
    rows.target.assign(next + begin, next + end);
    return rows;
}

// Memory for the targets and results of one ScoredRows, kept from visit to visit.
class RowBuffers {
  public:
    RowBuffers(Backend& backend, const WindowPlan& plan)
        : target_(backend, bytes(plan, sizeof(int32_t))),
          top_a_(backend, bytes(plan, sizeof(int32_t))),
          top_b_(backend, bytes(plan, sizeof(int32_t))),
          kld_(backend, bytes(plan, sizeof(double))),
          nll_a_(backend, bytes(plan, sizeof(double))),
          nll_b_(backend, bytes(plan, sizeof(double))) {}

    NllArgs nll_args(const Model& model, const ScoredRows& rows) const {
        const int64_t n = upload_targets(rows);
        return {.nll = nll_a_.view(DType::f64, {n}),
                .top = top_a_.view(DType::i32, {n}),
                .hidden = rows.hidden,
                .weight = model.weights().output,
                .target = target_.view(DType::i32, {n}),
                .softcap = model.config().final_softcap};
    }

    KldArgs kld_args(const Model& model, const ScoredRows& rows, const TensorView& base) const {
        const int64_t n = upload_targets(rows);
        return {.kld = kld_.view(DType::f64, {n}),
                .nll_a = nll_a_.view(DType::f64, {n}),
                .nll_b = nll_b_.view(DType::f64, {n}),
                .top_a = top_a_.view(DType::i32, {n}),
                .top_b = top_b_.view(DType::i32, {n}),
                .hidden_a = base,
                .hidden_b = rows.hidden,
                .weight = model.weights().output,
                .target = target_.view(DType::i32, {n}),
                .softcap = model.config().final_softcap};
    }

  private:
    static std::size_t bytes(const WindowPlan& plan, std::size_t element) {
        return std::size_t(plan.scored_per_window()) * element;
    }
    int64_t upload_targets(const ScoredRows& rows) const {
        target_.upload(std::as_bytes(std::span(rows.target)));
        return int64_t(rows.target.size());
    }

    Buffer target_, top_a_, top_b_, kld_, nll_a_, nll_b_;
};

// The contents of a one-dimensional view of backend memory.
template <class E>
std::vector<E> fetch(Backend& backend, const TensorView& tensor) {
    std::vector<E> values(std::size_t(tensor.n[3]));
    backend.download(std::as_writable_bytes(std::span(values)), tensor.data);
    return values;
}

template <class E>
void append(std::vector<E>& all, const std::vector<E>& part) {
    all.insert(all.end(), part.begin(), part.end());
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
        for (piece.from = 0; piece.from < plan.ctx; piece.from = piece.to) {
            piece.to = std::min(piece.from + step, plan.ctx);
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
    Backend& backend = model.backend();
    const RowBuffers buffers(backend, plan);
    NllRun run;
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        const NllArgs args = buffers.nll_args(model, rows);
        model.run(args);
        append(run.nll, fetch<double>(backend, args.nll));
        append(run.top, fetch<int32_t>(backend, args.top));
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

std::vector<TokenPair> run_kld(Model& model, KvCache& cache, const WindowPlan& plan,
                               std::span<const float> base_hidden) {
    Backend& backend = model.backend();
    const int64_t width = model.config().width;
    require(int64_t(base_hidden.size()) == plan.windows * plan.scored_per_window() * width,
            ErrorCode::bad_argument, "evaluate: the base run has another number of rows");
    const RowBuffers buffers(backend, plan);
    const Buffer base(backend, std::size_t(plan.scored_per_window() * width) * sizeof(float));
    std::vector<TokenPair> pairs;
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        const int64_t n = rows.hidden.n[2];
        base.upload(std::as_bytes(
            base_hidden.subspan(std::size_t(rows.first * width), std::size_t(n * width))));
        const KldArgs args = buffers.kld_args(model, rows, base.view(DType::f32, {n, width}));
        model.run(args);
        const std::vector<double> kld = fetch<double>(backend, args.kld);
        const std::vector<double> nll_a = fetch<double>(backend, args.nll_a);
        const std::vector<double> nll_b = fetch<double>(backend, args.nll_b);
        const std::vector<int32_t> top_a = fetch<int32_t>(backend, args.top_a);
        const std::vector<int32_t> top_b = fetch<int32_t>(backend, args.top_b);
        for (std::size_t i = 0; i < kld.size(); ++i) {
            pairs.push_back({kld[i], nll_a[i], nll_b[i], top_a[i] == top_b[i]});
        }
    });
    return pairs;
}

}  // namespace rotkv
