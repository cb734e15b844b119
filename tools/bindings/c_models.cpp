// rotkv.h: models, their vocabularies, text from them, what their layers see.
#include "ref/files/model_fingerprint.h"
#include "tools/bindings/open_model.h"
#include "tools/model_precision.h"
#include "tools/sampling.h"
#include "tools/watch/capture.h"

using namespace rotkv;
using namespace rotkv::bindings;

static OpenModel& open_of(rotkv_model* model) { return *needed(model, "model").open; }

rotkv_status rotkv_model_open(rotkv_backend* backend, const char* path, rotkv_model** model) {
    return rotkv_model_open_in(backend, path, "", model);
}

rotkv_status rotkv_model_open_in(rotkv_backend* backend, const char* path, const char* precision,
                                 rotkv_model** model) {
    return at_border([&] {
        needed(model, "model") = nullptr;
        const std::string file = text_at(path, "path");
        const ModelPrecision asked =
            tools::parse_model_precision("precision", text_at(precision, "precision"));
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        *model = new rotkv_model{std::make_shared<OpenModel>(open, file, asked)};
    });
}

void rotkv_model_close(rotkv_model* model) {
    if (model == nullptr) return;
    const std::shared_ptr<OpenBackend> open = model->open->open;
    in_turn(open, [&] { delete model; });
}

rotkv_status rotkv_model_describe(rotkv_model* model, rotkv_model_figures* figures) {
    return at_border([&] {
        const OpenModel& open = open_of(model);
        const ModelConfig& config = open.model.config();
        give_struct(figures,
                    {.size = 0,
                     .words = config.words,
                     .width = config.width,
                     .layers = config.layers,
                     .trained_context = config.trained_context,
                     .bos = open.tokenizer.bos(),
                     .eos = open.tokenizer.eos()},
                    "figures");
    });
}

rotkv_status rotkv_model_notices(rotkv_model* model, char* text, size_t capacity, size_t* length) {
    return at_border([&] {
        const OpenModel& open = open_of(model);
        std::string lines;
        for (const auto* of : {&open.tokenizer.vocab().notices, &open.model.config().notices}) {
            for (const std::string& notice : *of) lines += notice + "\n";
        }
        give_text(lines, text, capacity, length);
    });
}

rotkv_status rotkv_model_ends(rotkv_model* model, int32_t* tokens, int64_t capacity,
                              int64_t* count) {
    return at_border([&] {
        const std::set<int32_t>& ends = open_of(model).tokenizer.vocab().ends;
        const std::vector<int32_t> all(ends.begin(), ends.end());
        give_list(std::span<const int32_t>(all), tokens, capacity, count, "tokens");
    });
}

rotkv_status rotkv_model_text(rotkv_model* model, const char* key, char* text, size_t capacity,
                              size_t* length) {
    return at_border([&] {
        const std::string name = text_at(key, "key");
        give_text(std::string(open_of(model).file.get_string(name)), text, capacity, length);
    });
}

rotkv_status rotkv_tokenize(rotkv_model* model, const char* text, size_t bytes, int32_t add_special,
                            int32_t parse_special, int32_t* tokens, int64_t capacity,
                            int64_t* count) {
    return at_border([&] {
        const OpenModel& open = open_of(model);
        const std::string_view all = text_of(text, bytes);
        const std::vector<int32_t> ids =
            open.tokenizer.encode(all, add_special != 0, parse_special != 0);
        give_list(std::span<const int32_t>(ids), tokens, capacity, count, "tokens");
    });
}

rotkv_status rotkv_detokenize(rotkv_model* model, const int32_t* tokens, int64_t count, char* text,
                              size_t capacity, size_t* length) {
    return at_border([&] {
        const OpenModel& open = open_of(model);
        give_text(open.tokenizer.decode(tokens_of(open, tokens, count, 0)), text, capacity, length);
    });
}

rotkv_status rotkv_model_cache(rotkv_model* model, const char* cache_words, int64_t streams,
                               int64_t cells, rotkv_cache** cache) {
    return at_border([&] {
        needed(cache, "cache") = nullptr;
        const std::shared_ptr<OpenModel> of = needed(model, "model").open;
        const tools::Variant variant = cache_of_words(cache_words);
        require_number("streams", streams, 1, 1 << 16);
        const Turn turn(*of->open);
        Model run = of->for_context(cells);
        const tools::PlannedCache planned =
            tools::plan_cache(run, variant, streams, cells, cells - 1);
        require_number("bytes of a cache", planned.shape.bytes_per_token() * streams, 0,
                       (int64_t(1) << 40) / cells);
        *cache = new rotkv_cache{
            of->open, of, std::move(run), KvCache(turn.backend(), planned.shape, planned.spec), {}};
    });
}

rotkv_status rotkv_generate(rotkv_model* model, const char* cache_words, const int32_t* prompt,
                            int64_t n_prompt, int64_t most, double temperature, uint64_t seed,
                            rotkv_progress progress, void* user, int32_t* tokens, int64_t* count) {
    return at_border([&] {
        OpenModel& open = open_of(model);
        const tools::Variant variant = cache_of_words(cache_words);
        std::span<const int32_t> next = tokens_of(open, prompt, n_prompt, 1);
        require_number("most", most, 0, 1 << 24);
        if (!(temperature >= 0)) refuse("temperature", "0 or more", std::to_string(temperature));
        const std::span<int32_t> room = elements(tokens, most, "tokens");
        needed(count, "count") = 0;
        const Turn turn(*open.open);
        Reading reading(open, variant, n_prompt + most, n_prompt + most - 2);
        tools::Sampler sampler(temperature, seed);
        const std::size_t words = std::size_t(open.model.config().words);
        const Buffer memory(turn.backend(), words * sizeof(float));
        std::vector<float> logits(words);
        for (std::size_t n = 0; n < room.size(); ++n) {
            TensorView last;
            reading.read(next, [&](const TensorView& hidden, int64_t) {
                last = hidden;
                last.data += (hidden.n[2] - 1) * hidden.stride[2];
                last.n[2] = 1;
            });
            reading.model().run(LogitsArgs{.dst = memory.view(DType::f32, {1, int64_t(words)}),
                                           .hidden = last,
                                           .weight = reading.model().weights().output,
                                           .softcap = reading.model().config().final_softcap});
            memory.download(std::as_writable_bytes(std::span(logits)));
            const int32_t token = sampler.choose(std::span<const float>(logits));
            if (open.tokenizer.vocab().ends.contains(token)) break;
            room[n] = token;
            *count = int64_t(n) + 1;
            next = room.subspan(n, 1);
            Progress{progress, user}(*count, most);
        }
        if (most > 0) reading.require_quantized_reads();
    });
}

rotkv_status rotkv_capture(rotkv_model* model, const char* cache_words, const int32_t* tokens,
                           int64_t count, rotkv_visitor visit, void* user) {
    return at_border([&] {
        OpenModel& open = open_of(model);
        const tools::Variant variant = cache_of_words(cache_words);
        const std::span<const int32_t> ids = tokens_of(open, tokens, count, 1);
        needed(visit, "visit");
        const Turn turn(*open.open);
        std::vector<float> packed;
        const auto show = [&](const tools::CapturedRows& captured) {
            const TensorView& rows = captured.rows;
            packed.clear();
            for (int64_t t = 0; t < rows.n[1]; ++t) {
                for (int64_t h = 0; h < rows.n[2]; ++h) {
                    const float* row = rows.row<const float>(t, h);
                    packed.insert(packed.end(), row, row + rows.n[3]);
                }
            }
            if (visit(user, captured.layer, int32_t(captured.what), packed.data(), rows.n[1],
                      rows.n[2], rows.n[3]) != 0) {
                throw Cancelled();
            }
        };
        Reading reading(open, variant, count, count - 1, tools::capture(show));
        reading.read(ids, [](const TensorView&, int64_t) {});
    });
}
