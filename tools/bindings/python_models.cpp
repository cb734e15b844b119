// The Python module: class Model.
#include "tools/bindings/python_cache.h"
#include "tools/bindings/python_model.h"
#include "tools/bindings/python_named.h"

#include <algorithm>

namespace rotkv::python {
namespace {

nb::object tokenize(const Model& self, const std::string& text, bool add_special,
                    bool parse_special) {
    int64_t count = 0;
    must(rotkv_tokenize(self.handle, text.data(), text.size(), add_special, parse_special, nullptr,
                        0, &count));
    const NewArray<int32_t> tokens({std::size_t(count)});
    must(rotkv_tokenize(self.handle, text.data(), text.size(), add_special, parse_special,
                        tokens.data, count, &count));
    return tokens.array;
}

nb::object ends(const Model& self) {
    int64_t count = 0;
    must(rotkv_model_ends(self.handle, nullptr, 0, &count));
    const NewArray<int32_t> tokens({std::size_t(count)});
    must(rotkv_model_ends(self.handle, tokens.data, count, &count));
    return tokens.array;
}

std::string bytes_of(const Model& self, const int32_t* tokens, std::size_t count) {
    return text_of([&](char* text, std::size_t capacity, std::size_t* length) {
        return rotkv_detokenize(self.handle, tokens, int64_t(count), text, capacity, length);
    });
}

nb::bytes detokenize(const Model& self, const Ints& tokens) {
    const std::string text = bytes_of(self, tokens.data(), tokens.size());
    return nb::bytes(text.data(), text.size());
}

nb::object logprobs(const Model& self, const Ints& tokens, const std::string& cache) {
    const NewArray<double> all({tokens.size() < 1 ? 0 : tokens.size() - 1});
    must_without_gil([&] {
        return rotkv_logprobs(self.handle, c_words(cache, "cache"), tokens.data(),
                              int64_t(tokens.size()), all.data, nullptr);
    });
    return all.array;
}

nb::dict perplexity(const Model& self, const std::string& text, const std::string& cache,
                    int64_t ctx, int64_t batch, int64_t chunks, const GivenProgress& progress) {
    const rotkv_windows windows{sizeof windows, ctx, batch, chunks};
    rotkv_perplexity_figures figures{};
    figures.size = sizeof figures;
    Progress(progress).run([&](rotkv_progress ask, void* user) {
        return rotkv_perplexity(self.handle, text.data(), text.size(), c_words(cache, "cache"),
                                &windows, ask, user, &figures);
    });
    nb::dict all;
    all["ppl"] = figures.ppl;
    all["ppl_error"] = figures.ppl_error;
    all["scored"] = figures.scored;
    all["windows"] = figures.windows;
    all["not_numbers"] = figures.not_numbers;
    return all;
}

nb::dict dict_of(const rotkv_kld_figures& figures) {
    nb::dict all;
    all["kld"] = figures.kld;
    all["kld_error"] = figures.kld_error;
    all["kld_median"] = figures.kld_median;
    all["kld_99"] = figures.kld_99;
    all["kld_max"] = figures.kld_max;
    all["same_top"] = figures.same_top;
    all["same_top_error"] = figures.same_top_error;
    all["ppl"] = figures.ppl;
    all["ppl_base"] = figures.ppl_base;
    all["bytes_per_token"] = figures.bytes_per_token;
    all["scored"] = figures.scored;
    all["not_numbers"] = figures.not_numbers;
    return all;
}

nb::dict kld(const Model& self, const std::string& text, const std::vector<std::string>& caches,
             const std::string& base, int64_t ctx, int64_t batch, int64_t chunks,
             const GivenProgress& progress) {
    const rotkv_windows windows{sizeof windows, ctx, batch, chunks};
    std::vector<const char*> words;
    for (const std::string& cache : caches) words.push_back(c_words(cache, "caches"));
    std::vector<rotkv_kld_figures> figures(caches.size() + 1);
    figures[0].size = sizeof figures[0];
    Progress(progress).run([&](rotkv_progress ask, void* user) {
        return rotkv_kld_of_caches(self.handle, text.data(), text.size(), c_words(base, "base"),
                                   words.data(), int64_t(words.size()), &windows, ask, user,
                                   figures.data());
    });
    nb::dict all;
    for (std::size_t i = 0; i < caches.size(); ++i) all[caches[i].c_str()] = dict_of(figures[i]);
    return all;
}

// {layer: {"q": [T][H][D], "k": .., "v": ..}}: batch behind batch.
struct Captured {
    nb::dict layers;

    static int32_t show(void* self, int64_t layer, int32_t what, const float* rows, int64_t tokens,
                        int64_t heads, int64_t d) {
        constexpr const char* names[] = {"q", "k", "v"};
        const nb::gil_scoped_acquire held;
        nb::dict& layers = static_cast<Captured*>(self)->layers;
        const nb::int_ key(layer);
        if (!layers.contains(key)) layers[key] = nb::dict();
        nb::dict of_layer = nb::cast<nb::dict>(layers[key]);
        if (!of_layer.contains(names[what])) of_layer[names[what]] = nb::list();
        const NewArray<float> copy({std::size_t(tokens), std::size_t(heads), std::size_t(d)});
        std::copy_n(rows, tokens * heads * d, copy.data);
        nb::cast<nb::list>(of_layer[names[what]]).append(copy.array);
        return 0;
    }
};

nb::dict capture(const Model& self, const Ints& tokens, const std::string& cache) {
    Captured captured;
    must_without_gil([&] {
        return rotkv_capture(self.handle, c_words(cache, "cache"), tokens.data(),
                             int64_t(tokens.size()), Captured::show, &captured);
    });
    const nb::object join = nb::module_::import_("numpy").attr("concatenate");
    for (const auto& [layer, rows] : captured.layers) {
        nb::dict of_layer = nb::cast<nb::dict>(rows);
        for (const auto& [name, parts] : nb::dict(of_layer)) of_layer[name] = join(parts);
    }
    return captured.layers;
}

nb::object generate(const Model& self, const Ints& prompt, int64_t most, const std::string& cache,
                    double temperature, std::optional<uint64_t> seed,
                    const GivenProgress& progress) {
    if (seed && temperature == 0) {
        refuse("seed: expected a temperature above 0, at which words are drawn, found 0");
    }
    std::vector<int32_t> tokens(std::size_t(std::max<int64_t>(most, 0)));
    int64_t count = 0;
    Progress(progress).run([&](rotkv_progress ask, void* user) {
        return rotkv_generate(self.handle, c_words(cache, "cache"), prompt.data(),
                              int64_t(prompt.size()), most, temperature, seed.value_or(0), ask,
                              user, tokens.data(), &count);
    });
    const NewArray<int32_t> all({std::size_t(count)});
    std::copy_n(tokens.data(), count, all.data);
    return all.array;
}

// Two models of one shape have caches alike, and each cache reads with its own model's weights.
void require_own(const Model& model, const Cache& cache) {
    if (cache.model != model.number) refuse("cache: expected one that this model's cache() made");
}

nb::object next_tokens(const Model& self, Cache& cache, const Ints& tokens, const Ints& positions,
                       const Ints& behind, const std::optional<Ints>& streams, double temperature,
                       const std::optional<Doubles>& draws) {
    require_own(self, cache);
    const std::size_t count = tokens.size(), wanted = behind.size();
    const NewArray<int32_t> chosen({wanted});
    const int32_t* at = ints_of(positions, count, "positions");
    const int32_t* in = streams ? ints_of(*streams, count, "streams") : nullptr;
    if (draws && draws->size() != wanted) {
        refuse("draws: expected " + std::to_string(wanted) + " numbers, found " +
               std::to_string(draws->size()));
    }
    const double* u = draws ? draws->data() : nullptr;
    must_without_gil([&] {
        return rotkv_model_next_tokens(cache.handle, tokens.data(), in, at, int64_t(count),
                                       behind.data(), int64_t(wanted), temperature, u, chosen.data);
    });
    return chosen.array;
}

void add_text(nb::class_<Model>& model) {
    define(model, "tokenize", tokenize, nb::arg("text"), nb::arg("add_special") = true,
           nb::arg("parse_special") = false,
           "Tokens [n] i32 of a text; add_special: BOS and EOS as the vocabulary asks; "
           "parse_special: control tokens are found in the text. Source: docs/16-text.md");
    define(model, "detokenize", detokenize, nb::arg("tokens"),
           "The bytes of tokens [n]: .decode() makes a str of them where they are whole "
           "characters.");
    define(model, "generate", generate, nb::arg("prompt"), nb::arg("most"),
           nb::arg("cache") = "k=f16,v=f16", nb::arg("temperature") = 0.0,
           nb::arg("seed") = nb::none(), nb::arg("progress") = nb::none(),
           "At most `most` tokens that follow tokens [n], fewer where the text ends. "
           "temperature 0: the likeliest word; else words are drawn, `seed` (None: 0) says which. "
           "Source: docs/14-generate.md");
}

void add_figures(nb::class_<Model>& model) {
    const auto ctx = nb::arg("ctx") = 0, batch = nb::arg("batch") = 0;
    const auto chunks = nb::arg("chunks") = 0;
    const auto progress = nb::arg("progress") = nb::none();
    define(model, "logprobs", logprobs, nb::arg("tokens"), nb::arg("cache") = "k=f16,v=f16",
           "log p(token[i + 1] | token[0 .. i]) in nats, [n - 1] f64, of tokens [n] read into "
           "such a cache.");
    define(model, "perplexity", perplexity, nb::arg("text"), nb::arg("cache") = "k=f16,v=f16", ctx,
           batch, chunks, progress,
           "{ppl, ppl_error, scored, windows, not_numbers} as rotkv-perplexity measures it: "
           "windows of ctx tokens (0: 512), their second halves scored, at most `chunks` of them "
           "(0: all). progress(done, all) may return True to stop; progress=True: a bar of tqdm's. "
           "Source: "
           "docs/07-measuring.md");
    define(model, "kld", kld, nb::arg("text"), nb::arg("caches"), nb::arg("base") = "k=f32,v=f32",
           ctx, batch, chunks, progress,
           "{cache: {kld in nats, kld_error, ..., same_top 0 .. 1, ppl, ...}}: each cache's "
           "predictions against the base's, as rotkv-kld measures them.");
    define(model, "capture", capture, nb::arg("tokens"), nb::arg("cache") = "k=f32,v=f32",
           "{layer: {'q', 'k', 'v': [T][heads][D] f32}} of tokens [T]: after norm and RoPE, "
           "before any rotation.");
}

void add_batches(nb::class_<Model>& model) {
    define(
        model, "cache",
        [](const Model& self, const std::string& words, int64_t cells, int64_t streams) {
            rotkv_cache* cache = nullptr;
            must(rotkv_model_cache(self.handle, c_words(words, "words"), streams, cells, &cache));
            return Cache(cache, self.number);
        },
        nb::arg("words"), nb::arg("cells"), nb::arg("streams") = 1,
        "An empty cache for this model.");
    define(
        model, "forward",
        [](const Model& self, Cache& cache, const Ints& tokens, const Ints& positions,
           const std::optional<Ints>& streams) {
            require_own(self, cache);
            const std::size_t n = tokens.size(), width = std::size_t(self.figures().width);
            const NewArray<float> hidden({n, width});
            const rotkv_array to = array_of(hidden, n * width);
            const int32_t* at = ints_of(positions, n, "positions");
            const int32_t* in = streams ? ints_of(*streams, n, "streams") : nullptr;
            must_without_gil([&] {
                return rotkv_model_forward(cache.handle, tokens.data(), in, at, int64_t(n), &to);
            });
            return hidden.array;
        },
        nb::arg("cache"), nb::arg("tokens"), nb::arg("positions"), nb::arg("streams") = nb::none(),
        "Reads tokens [T] into a cache of this model; the residual stream [T][E] f32 after the "
        "output norm.");
    define(
        model, "next_tokens", next_tokens, nb::arg("cache"), nb::arg("tokens"),
        nb::arg("positions"), nb::arg("behind"), nb::arg("streams") = nb::none(),
        nb::arg("temperature") = 0.0, nb::arg("draws") = nb::none(),
        "Reads tokens [T] as forward() does, and chooses what comes behind those that `behind` [n] "
        "numbers, 0 .. T - 1: [n] i32. temperature 0: the likeliest word, the first of equals. "
        "Otherwise the first word v with sum_{w <= v} p_w^(1/temperature) > u sum_w "
        "p_w^(1/temperature), u in [0, 1) of draws [n] f64. Error of code 'bad file' where "
        "logits are not finite. Source: docs/31-tasks.md");
    define(
        model, "logits",
        [](const Model& self, const Floats& hidden) {
            const std::size_t words = std::size_t(self.figures().words);
            const std::size_t rows = hidden.ndim() == 2 ? hidden.shape(0) : 0;
            const NewArray<float> logits({rows, words});
            const rotkv_array from = array_of(hidden), to = array_of(logits, rows * words);
            must_without_gil([&] { return rotkv_model_logits(self.handle, &from, &to); });
            return logits.array;
        },
        nb::arg("hidden"),
        "Logits [T][V] f32 of what forward() gives, [T][E] f32; a final softcap is in them.");
}

}  // namespace

void add_models(nb::module_& module) {
    nb::class_<Model> model(module, "Model",
                            "A GGUF file with its vocabulary, its weights on a backend. Source: "
                            "docs/18-models.md");
    define(
        model, "__init__",
        [](Model* self, const std::string& path, const BackendHandle* backend,
           const std::string& precision) {
            if (backend != nullptr) {
                new (self) Model(path, *backend, precision);
            } else {
                new (self) Model(path, BackendHandle("", 0), precision);
            }
        },
        nb::arg("path"), nb::arg("backend") = nb::none(), nb::arg("precision") = "",
        "backend None: Backend(). precision: 'gemm=bf16,attention=f16' as --gemm and --attention "
        "of the programs; what is not named is f32.");
    model.def_prop_ro("n_vocab", [](const Model& self) { return self.figures().words; });
    model.def_prop_ro("width", [](const Model& self) { return self.figures().width; });
    model.def_prop_ro("n_layers", [](const Model& self) { return self.figures().layers; });
    model.def_prop_ro("bos", [](const Model& self) { return self.figures().bos; });
    model.def_prop_ro("eos", [](const Model& self) { return self.figures().eos; });
    model.def_prop_ro("ends", ends, "Tokens behind which a text is over, EOS among them.");
    define(
        model, "text",
        [](const Model& self, const std::string& key) {
            return text_of([&](char* text, std::size_t capacity, std::size_t* length) {
                return rotkv_model_text(self.handle, c_words(key, "key"), text, capacity, length);
            });
        },
        nb::arg("key"), "A text of the file's keys: 'tokenizer.chat_template'.");
    model.def_prop_ro(
        "notices",
        [](const Model& self) {
            return text_of([&](char* text, std::size_t capacity, std::size_t* length) {
                return rotkv_model_notices(self.handle, text, capacity, length);
            });
        },
        "What was assumed of the file, a line each.");
    add_text(model);
    add_figures(model);
    add_batches(model);
}

}  // namespace rotkv::python
