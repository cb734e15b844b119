#include "tools/loaded_model.h"

#include "ref/error.h"
#include "ref/files/fnv1a.h"
#include "ref/files/model_fingerprint.h"
#include "ref/rotation_words.h"
#include "tools/backends.h"
#include "tools/layer_words.h"
#include "tools/notes.h"
#include "tools/unread_cells.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace rotkv::tools {

static ModelParts parts_of(const ModelFlags& flags) {
    auto file = std::make_shared<const GgufFile>(GgufFile::open(flags.path));
    auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::from_gguf(*file));
    return {std::move(file), std::move(tokenizer), make_backend(flags.backend, flags.threads)};
}

LoadedModel::LoadedModel(const ModelFlags& flags, int64_t context)
    : parts(parts_of(flags)),
      profile(flags.profile ? std::make_unique<Profile>() : nullptr),
      model(file, *backend,
            {.context = context,
             .precision = flags.precision,
             .phi3_window = flags.phi3_window,
             .observer = profile != nullptr ? profile->observer() : Observer()}),
      tool(flags.tool) {
    keep_notices();
    say_notices(flags.tool, flags.path, notices);
}

static ModelOptions for_context(const Model& weights, int64_t context) {
    ModelOptions options = weights.options();
    options.context = context;
    return options;
}

LoadedModel::LoadedModel(ModelParts open, const Model& weights, int64_t context)
    : parts(std::move(open)), model(weights, for_context(weights, context)) {
    keep_notices();
}

void LoadedModel::keep_notices() {
    notices = tokenizer.vocab().notices;
    if (tokenizer.vocab().add_eos) {
        notices.push_back(
            fmt::format("the vocabulary ends texts with EOS {}, here none is added: a text or "
                        "prompt goes on",
                        tokenizer.eos()));
    }
    const std::vector<std::string>& of_model = model.config().notices;
    notices.insert(notices.end(), of_model.begin(), of_model.end());
}

void LoadedModel::note(const std::string& notice) {
    if (!tool.empty()) say_note(tool, notice);
    notices.push_back(notice);
}

void LoadedModel::note_length(int64_t tokens) {
    const int64_t trained = model.config().trained_context;
    if (tokens <= trained) return;
    note(fmt::format("{} tokens in a row, the model was trained on at most {}", tokens, trained));
}

void LoadedModel::note_windows(const WindowPlan& plan, int64_t asked) {
    note_length(plan.ctx);
    if (asked <= plan.windows) return;
    note(fmt::format("{} of the {} windows asked for: there are no more", plan.windows, asked));
}

void LoadedModel::note_ties(std::span<const TokenPair> pairs) {
    const int64_t tied = std::ranges::count(pairs, true, &TokenPair::tied);
    if (tied == 0) return;
    note(
        fmt::format("at {} of {} positions the base's 16 bits do not tell its most likely words "
                    "apart: 'Same top p' takes the first of them, and may count a choice that "
                    "never changed as changed",
                    tied, pairs.size()));
}

Model observed(const Model& model, const Observer& observer) {
    ModelOptions options = model.options();
    require(!options.observer, ErrorCode::usage,
            "--profile: this run looks on in another way already");
    options.observer = observer;
    return Model(model, options);
}

std::vector<int32_t> tokens_of_text(LoadedModel& loaded, std::string text) {
    const int64_t bad = count_not_utf8(text);
    if (bad > 0) {
        loaded.note(fmt::format("{} of the text's {} bytes are not UTF-8", bad, text.size()));
    }
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return loaded.tokenizer.encode_beginning(text);
}

uint64_t hash_of_windows(const WindowPlan& plan) {
    const int64_t length = plan.length();
    std::vector<int32_t> tokens(plan.tokens.begin(), plan.tokens.begin() + plan.windows * length);
    for (int64_t w = 0; plan.bos >= 0 && w < plan.windows; ++w) {
        tokens[std::size_t(w * length)] = plan.bos;
    }
    Fnv1a hash;
    hash.add(std::as_bytes(std::span(tokens)));
    return hash.sum();
}

void require_same_everywhere(const LoadedModel& loaded, const WindowPlan& plan) {
    if (ranks().size == 1) return;
    const uint64_t mine = model_hash(loaded.file) ^ hash_of_windows(plan);
    const uint64_t of_first = uint64_t(from_first(int64_t(mine)));
    if (of_first == mine) return;
    throw Error(ErrorCode::bad_file,
                loaded.file.path() + ": expected the first process's model and text, found others");
}

KvCache make_cache(const Model& model, const WindowPlan& plan, const CacheType& type_k,
                   const CacheType& type_v, const RotationRequest& rotation,
                   const Placement& placement) {
    const KvShape shape =
        placement.in(model.config().cache_shape(plan.windows_at_once(), plan.ctx, type_k, type_v));
    require_quantized_reads(model.config(), shape, last_scored(plan));
    return KvCache(model.backend(), shape, decide_rotation(rotation, shape));
}

std::string describe_windows(const WindowPlan& plan) {
    return fmt::format(
        "{} windows of {} tokens, {} at once, {}{}", plan.windows, plan.ctx, plan.windows_at_once(),
        plan.bos < 0 ? "without BOS" : fmt::format("each beginning with BOS {}", plan.bos),
        plan.shifts.times > 0 ? ", each " + describe_shifts(plan) : "");
}

std::string describe_shifts(const WindowPlan& plan) {
    const std::string kept =
        plan.shifts.keep > 0 ? fmt::format(" behind the first {}", plan.shifts.keep) : "";
    return fmt::format(
        "shifted {} time{}: of {} tokens the oldest {}{} are dropped, and {} more are read; scored "
        "is what is read behind a shift",
        plan.shifts.times, plan.shifts.times == 1 ? "" : "s", plan.ctx, plan.dropped(), kept,
        plan.dropped());
}

nlohmann::ordered_json shifts_of(const WindowPlan& plan) {
    if (plan.shifts.times == 0) return nullptr;
    return {{"times", plan.shifts.times},
            {"kept", plan.shifts.keep},
            {"dropped", plan.dropped()},
            {"tokens_per_window", plan.length()}};
}

nlohmann::ordered_json bos_of(const WindowPlan& plan) {
    return plan.bos < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(plan.bos);
}

std::string describe_side(const KvShape& shape, const RotationSpec& spec, Side side) {
    std::vector<std::pair<std::string, std::vector<int64_t>>> ways;  // in words, and the layers
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        if (layer.kv_heads == 0) continue;
        const std::string words =
            fmt::format("{} {}: rotation {}", letter(side),
                        layer.type(side).words(side == Side::k ? layer.d_k : layer.d_v),
                        describe(spec, l, side));
        auto way = std::ranges::find(ways, words, [](const auto& known) { return known.first; });
        if (way == ways.end()) way = ways.insert(way, {words, {}});
        way->second.push_back(l);
    }
    std::string lines;
    for (const auto& [words, layers] : ways) {
        lines += words;
        if (ways.size() > 1) lines += ", in " + words_of_layers(layers);
        lines += "\n";
    }
    return lines;
}

std::string describe_cache(const KvCache& cache) {
    const KvShape& shape = cache.shape();
    return describe_side(shape, cache.spec(), Side::k) +
           describe_side(shape, cache.spec(), Side::v) + words_of_bytes(shape) + "\n";
}

// "q8_0", or every type that some layer has.
static std::string types_of(const KvShape& shape, Side side) {
    std::string types;
    for (const KvLayer& layer : shape.layers) {
        const std::string name = layer.type(side).name();
        if (layer.kv_heads == 0 || types.find(name) != std::string::npos) continue;
        types += (types.empty() ? "" : "+") + name;
    }
    return types;
}

nlohmann::ordered_json json_of(const KvShape& shape) {
    nlohmann::ordered_json json = {
        {"k", types_of(shape, Side::k)},
        {"v", types_of(shape, Side::v)},
        {"bytes_per_token", shape.bytes_per_token()},
        {"bits_per_value", bits_per_value(shape)},
        {"state_bytes_per_stream", shape.recurrent().bytes_per_stream()}};
    if (const F16Tokens& tokens = shape.f16_tokens; tokens.any()) {
        json["f16_tokens"] = {{"first", tokens.first},
                              {"recent", tokens.recent},
                              {"bytes_per_stream", shape.f16_bytes_per_stream()}};
    }
    return json;
}

}  // namespace rotkv::tools
