// rotkv.h: what a cache costs a model's predictions.
#include "tools/bindings/open_model.h"

using namespace rotkv;
using namespace rotkv::bindings;

rotkv_status rotkv_logprobs(rotkv_model* model, const char* cache_words, const int32_t* tokens,
                            int64_t count, double* logprob, int32_t* top) {
    return at_border([&] {
        OpenModel& open = *needed(model, "model").open;
        const tools::Variant variant = cache_of_words(cache_words);
        const std::span<const int32_t> ids = tokens_of(open, tokens, count, 2);
        const int64_t scored = count - 1;
        const std::span<double> to = elements(logprob, scored, "logprob");
        const Turn turn(*open.open);
        std::vector<int32_t> tops(std::size_t(scored), 0);
        Reading reading(open, variant, count, count - 2);
        reading.read(ids, [&](const TensorView& hidden, int64_t first) {
            const int64_t rows = std::min(hidden.n[2], scored - first);
            if (rows <= 0) return;
            Arrays arrays(turn.backend());
            TensorView scored_rows = hidden;
            scored_rows.n[2] = rows;
            const std::size_t from = std::size_t(first), n = std::size_t(rows);
            reading.model().run(NllArgs{.nll = arrays.out(to.subspan(from, n)),
                                        .top = arrays.out(std::span(tops).subspan(from, n)),
                                        .hidden = scored_rows,
                                        .weight = reading.model().weights().output,
                                        .target = arrays.ints(ids.subspan(from + 1, n)),
                                        .softcap = reading.model().config().final_softcap});
            arrays.finish();
        });
        for (double& x : to) x = -x;
        if (top != nullptr) std::ranges::copy(tops, top);
    });
}

rotkv_status rotkv_model_logits(rotkv_model* model, const rotkv_array* hidden,
                                const rotkv_array* logits) {
    return at_border([&] {
        OpenModel& open = *needed(model, "model").open;
        const ModelConfig& config = open.model.config();
        const TensorView from = view_of(needed(hidden, "hidden"), "hidden");
        const TensorView to = view_of(needed(logits, "logits"), "logits");
        const auto require_packed = [&](const char* name, const TensorView& found, int64_t width) {
            if (found == rotkv::view(found.data, DType::f32, {from.n[2], width})) return;
            refuse(name,
                   "packed f32 [" + std::to_string(from.n[2]) + "][" + std::to_string(width) + "]",
                   describe(found));
        };
        require_packed("hidden", from, config.width);
        require_packed("logits", to, config.words);
        const Turn turn(*open.open);
        constexpr int64_t most = 64;  // rows that a backend takes at once
        for (int64_t first = 0; first < from.n[2]; first += most) {
            const int64_t rows = std::min(most, from.n[2] - first);
            const auto part = [&](const TensorView& all, int64_t width) {
                return rotkv::view(all.data + first * all.stride[2], DType::f32, {rows, width});
            };
            const TensorView x = part(from, config.width), y = part(to, config.words);
            const Buffer in(turn.backend(), std::size_t(span_bytes(x)));
            const Buffer out(turn.backend(), std::size_t(span_bytes(y)));
            in.upload({x.data, in.bytes()});
            open.model.run(LogitsArgs{.dst = out.view(DType::f32, {rows, config.words}),
                                      .hidden = in.view(DType::f32, {rows, config.width}),
                                      .weight = open.model.weights().output,
                                      .softcap = config.final_softcap});
            out.download({y.data, out.bytes()});
        }
    });
}

namespace {

// A text, cut as rotkv-perplexity cuts it.
WindowPlan plan_of(const OpenModel& open, const char* text, std::size_t bytes,
                   const rotkv_windows* given) {
    rotkv_windows windows{};
    if (given != nullptr) windows = known_part(given, "windows");
    require_number("windows.ctx", windows.ctx, 0, 1 << 24);
    require_number("windows.batch", windows.batch, 0, 1 << 24);
    require_number("windows.chunks", windows.chunks, 0, INT64_MAX);
    const int64_t ctx = windows.ctx == 0 ? 512 : windows.ctx;
    std::string_view words = text_of(text, bytes);
    if (words.ends_with('\n')) words.remove_suffix(1);
    return plan_windows(open.tokenizer.encode_beginning(words), ctx,
                        windows.batch == 0 ? default_batch(ctx) : windows.batch, windows.chunks,
                        open.tokenizer.adds_bos() ? open.tokenizer.bos() : -1);
}

// The caches of a comparison, the base first, and what was measured of each.
struct Compared {
    std::vector<tools::Variant> variants;
    std::vector<std::vector<TokenPair>> pairs;
    std::vector<int64_t> bytes_per_token;
};

rotkv_kld_figures figures_of(std::span<const TokenPair> pairs, int64_t bytes_per_token) {
    const KldSummary all = summarize(pairs);
    return {.size = 0,
            .kld = all.kld.value,
            .kld_error = all.kld.error,
            .kld_median = all.kld_median,
            .kld_99 = all.kld_99,
            .kld_max = all.kld_max,
            .same_top = all.same_top.value,
            .same_top_error = all.same_top.error,
            .ppl = all.ppl_b.value,
            .ppl_base = all.ppl_a.value,
            .bytes_per_token = double(bytes_per_token),
            .scored = int64_t(pairs.size()),
            .not_numbers = all.not_numbers};
}

// One group of windows: the base's hidden states, and every other cache beside them. A cache has
// memory only while it runs.
void compare_group(Model& model, const WindowPlan& group, Compared& compared) {
    std::vector<float> base;
    for (std::size_t i = 0; i < compared.variants.size(); ++i) {
        KvCache cache = tools::make_cache(model, group, compared.variants[i]);
        compared.bytes_per_token[i] = cache.shape().bytes_per_token();
        if (i == 0) {
            base = run_hidden(model, cache, group);
            continue;
        }
        const std::vector<TokenPair> pairs = run_kld(model, cache, group, base);
        compared.pairs[i].insert(compared.pairs[i].end(), pairs.begin(), pairs.end());
    }
}

}  // namespace

rotkv_status rotkv_perplexity(rotkv_model* model, const char* text, size_t bytes,
                              const char* cache_words, const rotkv_windows* windows,
                              rotkv_progress progress, void* user,
                              rotkv_perplexity_figures* figures) {
    return at_border([&] {
        OpenModel& open = *needed(model, "model").open;
        known_part(figures, "figures");
        const tools::Variant variant = cache_of_words(cache_words);
        const WindowPlan plan = plan_of(open, text, bytes, windows);
        const Turn turn(*open.open);
        Model run = open.for_context(plan.ctx);
        KvCache cache = tools::make_cache(run, plan, variant);
        std::vector<double> nll;
        for (int64_t group = 0; group < groups_of(plan); ++group) {
            const NllRun part = run_nll(run, cache, group_of(plan, group), {});
            nll.insert(nll.end(), part.nll.begin(), part.nll.end());
            Progress{progress, user}(group + 1, groups_of(plan));
        }
        const Mean ppl = perplexity(nll);
        give_struct(figures,
                    {.size = 0,
                     .ppl = ppl.value,
                     .ppl_error = ppl.error,
                     .scored = int64_t(nll.size()),
                     .windows = plan.windows,
                     .not_numbers = count_not_numbers(nll)},
                    "figures");
    });
}

rotkv_status rotkv_kld_of_caches(rotkv_model* model, const char* text, size_t bytes,
                                 const char* base_words, const char* const* cache_words,
                                 int64_t n_caches, const rotkv_windows* windows,
                                 rotkv_progress progress, void* user, rotkv_kld_figures* figures) {
    return at_border([&] {
        OpenModel& open = *needed(model, "model").open;
        require_number("n_caches", n_caches, 1, 1 << 16);
        const std::size_t step = known_part(figures, "figures").size;
        Compared compared;
        compared.variants.push_back(
            cache_of_words(base_words == nullptr ? "k=f32,v=f32" : base_words, DType::f32));
        for (const char* words : elements(cache_words, n_caches, "cache_words")) {
            compared.variants.push_back(tools::parse_variant("cache", text_at(words, "cache_words"),
                                                             compared.variants.front()));
        }
        compared.pairs.resize(compared.variants.size());
        compared.bytes_per_token.resize(compared.variants.size());
        const WindowPlan plan = plan_of(open, text, bytes, windows);
        const Turn turn(*open.open);
        Model run = open.for_context(plan.ctx);
        for (int64_t group = 0; group < groups_of(plan); ++group) {
            compare_group(run, group_of(plan, group), compared);
            Progress{progress, user}(group + 1, groups_of(plan));
        }
        for (std::size_t i = 1; i < compared.variants.size(); ++i) {
            auto* at = reinterpret_cast<char*>(figures) + (i - 1) * step;
            rotkv_kld_figures known = figures_of(compared.pairs[i], compared.bytes_per_token[i]);
            known.size = step;
            std::memcpy(at, &known, step);
        }
    });
}
