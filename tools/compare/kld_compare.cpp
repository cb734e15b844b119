#include "tools/compare/kld_compare.h"

#include "ref/files/base_file.h"
#include "ref/measure/base_row.h"
#include "ref/measure/evaluate.h"

#include <algorithm>

namespace rotkv::tools {

namespace {

constexpr int64_t k_rows_at_once = 512;  // enough for one walk over the vocabulary to pay

// Rows `first` .. `first + count` of hidden states, in the backend's memory.
TensorView upload_rows(const Buffer& buffer, std::span<const float> hidden, int64_t first,
                       int64_t count, int64_t width) {
    buffer.upload(
        std::as_bytes(hidden.subspan(std::size_t(first * width), std::size_t(count * width))));
    return buffer.view(DType::f32, {count, width});
}

template <class E>
std::vector<E> fetch(const Buffer& buffer, int64_t count) {
    std::vector<E> values(static_cast<std::size_t>(count));
    buffer.download(std::as_writable_bytes(std::span(values)));
    return values;
}

}  // namespace

std::vector<TokenPair> compare_hidden(Model& model, std::span<const float> a,
                                      std::span<const float> b, std::span<const int32_t> target) {
    Backend& backend = model.backend();
    const int64_t width = model.config().width, rows = int64_t(target.size());
    const int64_t most = std::min(rows, k_rows_at_once);
    const auto room = [&](int64_t bytes) { return Buffer(backend, std::size_t(most * bytes)); };
    const Buffer hidden_a = room(width * 4), hidden_b = room(width * 4), targets = room(4);
    const Buffer kld = room(8), nll_a = room(8), nll_b = room(8), top_a = room(4), top_b = room(4);
    std::vector<TokenPair> pairs;
    for (int64_t first = 0; first < rows; first += most) {
        const int64_t n = std::min(most, rows - first);
        targets.upload(std::as_bytes(target.subspan(std::size_t(first), std::size_t(n))));
        model.run(KldArgs{.kld = kld.view(DType::f64, {n}),
                          .nll_a = nll_a.view(DType::f64, {n}),
                          .nll_b = nll_b.view(DType::f64, {n}),
                          .top_a = top_a.view(DType::i32, {n}),
                          .top_b = top_b.view(DType::i32, {n}),
                          .hidden_a = upload_rows(hidden_a, a, first, n, width),
                          .hidden_b = upload_rows(hidden_b, b, first, n, width),
                          .weight = model.weights().output,
                          .target = targets.view(DType::i32, {n}),
                          .softcap = model.config().final_softcap});
        const auto klds = fetch<double>(kld, n);
        const auto nlls_a = fetch<double>(nll_a, n), nlls_b = fetch<double>(nll_b, n);
        const auto tops_a = fetch<int32_t>(top_a, n), tops_b = fetch<int32_t>(top_b, n);
        for (std::size_t i = 0; i < klds.size(); ++i) {
            pairs.push_back({klds[i], nlls_a[i], nlls_b[i], tops_a[i] == tops_b[i]});
        }
    }
    return pairs;
}

std::vector<std::vector<TokenPair>> compare_with_rounded(
    Model& model, std::span<const float> a, const std::vector<std::span<const float>>& others,
    std::span<const int32_t> target, int64_t per_window) {
    const int64_t width = model.config().width, rows = int64_t(target.size());
    const std::size_t words = std::size_t(model.config().words);
    const std::size_t row_bytes =
        std::size_t(BaseHeader{.n_vocab = int32_t(words), .tokens = {}}.row_bytes());
    const Buffer buffer(model.backend(), std::size_t(k_max_logit_rows * width) * sizeof(float));
    std::vector<std::byte> encoded(std::size_t(k_max_logit_rows) * row_bytes);
    std::vector<std::vector<TokenPair>> pairs(others.size());
    for (int64_t first = 0, n = 0; first < rows; first += n) {
        // Slices as for_each_logits cuts a window, so that the same products are computed.
        n = std::min(k_max_logit_rows, per_window - first % per_window);
        // Calls visit(row of the slice, its logits).
        const auto each_row = [&](std::span<const float> hidden, const auto& visit) {
            ScoredRows slice;
            slice.hidden = upload_rows(buffer, hidden, first, n, width);
            for_each_logits(model, slice, [&](int64_t, std::span<const float> logits) {
                for (std::size_t i = 0; i < std::size_t(n); ++i) {
                    visit(i, logits.subspan(i * words, words));
                }
            });
        };
        const auto base_row = [&](std::size_t i) {
            return std::span(encoded).subspan(i * row_bytes, row_bytes);
        };
        each_row(a, [&](std::size_t i, std::span<const float> logits) {
            encode_base_row(logits, base_row(i));
        });
        for (std::size_t other = 0; other < others.size(); ++other) {
            each_row(others[other], [&](std::size_t i, std::span<const float> logits) {
                pairs[other].push_back(
                    compare_with_base_row(base_row(i), logits, target[std::size_t(first) + i]));
            });
        }
    }
    return pairs;
}

}  // namespace rotkv::tools
