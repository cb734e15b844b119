#include "tools/generation.h"

#include "ref/error.h"
#include "tools/unread_cells.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rotkv::tools {

std::vector<double> log_softmax(std::span<const float> logits, const std::string& where) {
    if (!std::ranges::all_of(logits, [](float x) { return std::isfinite(x); })) {
        throw Error(ErrorCode::bad_file, "the model's logits are not finite numbers" + where);
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(double(x) - max);
    std::vector<double> log_p(logits.size());
    for (std::size_t v = 0; v < logits.size(); ++v) {
        log_p[v] = double(logits[v]) - max - std::log(sum);
    }
    return log_p;
}

double divergence(std::span<const double> a, std::span<const double> b) {
    double sum = 0;
    for (std::size_t v = 0; v < a.size(); ++v) sum += std::exp(a[v]) * (a[v] - b[v]);
    return sum;
}

std::vector<Candidate> most_likely(std::span<const double> log_p, int64_t count) {
    std::vector<int32_t> words(log_p.size());
    std::iota(words.begin(), words.end(), 0);
    const auto end = words.begin() + std::min(count, int64_t(words.size()));
    std::partial_sort(words.begin(), end, words.end(), [&](int32_t x, int32_t y) {
        const double p_x = log_p[std::size_t(x)], p_y = log_p[std::size_t(y)];
        return p_x > p_y || (p_x == p_y && x < y);
    });
    std::vector<Candidate> candidates;
    for (auto word = words.begin(); word != end; ++word) {
        candidates.push_back({*word, std::exp(log_p[std::size_t(*word)])});
    }
    return candidates;
}

static KvCache make_continued_cache(const Model& model, const Variant& variant, int64_t cells) {
    const PlannedCache planned = plan_cache(model, variant, 1, cells, cells - 1);
    return KvCache(model.backend(), planned.shape, planned.spec);
}

Continuation::Continuation(LoadedModel& loaded, const Variant& variant, int64_t cells,
                           std::optional<int64_t> keep)
    : model_(loaded.model),
      name_(variant.name),
      cache_(make_continued_cache(loaded.model, variant, cells)),
      logits_(*loaded.backend, std::size_t(loaded.model.config().words) * sizeof(float)),
      keep_(keep) {
    if (keep_) require_shift(cache_, [this](int64_t layer) { return model_.rope(layer); });
}

void Continuation::read(std::span<const int32_t> tokens) {
    constexpr int64_t k_batch = 512;
    if (keep_ && tokens_ + int64_t(tokens.size()) > cache_.shape().cells) {
        const int64_t dropped = shift_context(cache_, 0, tokens_, *keep_,
                                              [this](int64_t layer) { return model_.rope(layer); });
        tokens_ -= dropped;
        dropped_ += dropped;
        ++shifts_;
    }
    const int32_t newest = tokens.back();
    TensorView last;  // [1][E] the last token's row of the residual stream
    while (!tokens.empty()) {
        const auto batch = tokens.first(std::min(tokens.size(), std::size_t(k_batch)));
        const std::vector<int32_t> streams(batch.size(), 0);
        std::vector<int32_t> positions(batch.size());
        std::iota(positions.begin(), positions.end(), int32_t(tokens_));
        last = model_.forward(cache_, batch, streams, positions);
        last.data += int64_t(batch.size() - 1) * last.stride[2];
        last.n[2] = 1;
        tokens_ += int64_t(batch.size());
        most_ = std::max(most_, tokens_);
        tokens = tokens.subspan(batch.size());
    }
    const int64_t words = model_.config().words;
    model_.run(LogitsArgs{.dst = logits_.view(DType::f32, {1, words}),
                          .hidden = last,
                          .weight = model_.weights().output,
                          .softcap = model_.config().final_softcap});
    std::vector<float> logits(static_cast<std::size_t>(words));
    logits_.download(std::as_writable_bytes(std::span(logits)));
    log_p_ =
        log_softmax(logits, " behind token " + std::to_string(dropped_ + tokens_ - 1) +
                                " (from 0), id " + std::to_string(newest) + ", cache " + name_);
}

void Continuation::require_quantized_reads() const {
    tools::require_quantized_reads(model_.config(), cache_.shape(), most_ - 1);
}

void Continuation::back_to(const Mark& mark) {
    mark.cache.restore(cache_);
    tokens_ = mark.tokens;
}

std::vector<int32_t> continue_text(Continuation& continuation, Sampler& sampler, int64_t count,
                                   const std::set<int32_t>& endings,
                                   const std::function<void(int32_t)>& said) {
    std::vector<int32_t> tokens;
    while (int64_t(tokens.size()) < count) {
        const int32_t token = sampler.choose(continuation.log_p());
        if (endings.contains(token)) break;
        tokens.push_back(token);
        if (said) said(token);
        if (int64_t(tokens.size()) < count) continuation.read(std::span(&token, 1));
    }
    return tokens;
}

std::string text_behind(const Tokenizer& tokenizer, int32_t before,
                        std::span<const int32_t> tokens) {
    std::vector<int32_t> all = {before};
    all.insert(all.end(), tokens.begin(), tokens.end());
    return tokenizer.decode(all).substr(tokenizer.decode(std::span(all).first(1)).size());
}

// Whether more bytes can make a UTF-8 character of these: its first byte says how many it has, and
// the second may not spell it longer than need be, a surrogate, or what lies beyond U+10FFFF.
static bool begins_character(std::string_view bytes) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
    const int first = byte(0);
    if (first < 0xC2 || first > 0xF4) return false;
    const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (bytes.size() >= length) return false;
    for (std::size_t i = 1; i < bytes.size(); ++i) {
        if ((byte(i) & 0xC0) != 0x80) return false;
    }
    if (bytes.size() == 1) return true;
    const int second = byte(1);
    if (first == 0xE0) return second >= 0xA0;
    if (first == 0xED) return second < 0xA0;
    if (first == 0xF0) return second >= 0x90;
    return first != 0xF4 || second < 0x90;
}

std::string Utf8Gate::push(std::string_view bytes) {
    held_ += bytes;
    std::size_t shown = held_.size();
    for (std::size_t last = 1; last <= std::min(std::size_t(3), held_.size()); ++last) {
        const std::size_t begin = held_.size() - last;
        if (begins_character(std::string_view(held_).substr(begin))) shown = begin;
    }
    std::string text = held_.substr(0, shown);
    held_.erase(0, shown);
    return text;
}

}  // namespace rotkv::tools
