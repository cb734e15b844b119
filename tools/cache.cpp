// rotkv-cache: saved caches, ours and llama.cpp's: makes one, says what is in one, and what it
// holds beside another one or beside what is computed again from its tokens. Docs:
// docs/24-saved-caches.md

#include "ref/error.h"
#include "ref/files/cache_file.h"
#include "ref/files/model_fingerprint.h"
#include "ref/files/whole_file.h"
#include "tools/compare/cache_words.h"
#include "tools/loaded_model.h"
#include "tools/notes.h"
#include "tools/number_flags.h"
#include "tools/output_paths.h"
#include "tools/saved_report.h"
#include "tools/state_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace rotkv::tools {
namespace {

constexpr int64_t k_most_tokens = int64_t(1) << 20;
constexpr const char* k_magic = "rotkv-kv";

struct Flags {
    ModelFlags model;
    std::string file, other, text, cache, json;
    int64_t tokens = 512;
    std::optional<double> most_steps;  ///< none: 0
    bool layers = false;
};

bool is_ours(const std::string& path) {
    const std::vector<std::byte> begin = whole_file(path, 8);
    return std::string(reinterpret_cast<const char*>(begin.data()), begin.size()) == k_magic;
}

int inspect(const Flags& flags) {
    check_paths({{"FILE", flags.file}}, {{"--json", flags.json}});
    std::FILE* const out = results_beside(flags.json, "");
    write_json(flags.json, is_ours(flags.file) ? describe(read_saved_cache(flags.file), out)
                                               : describe(read_llama_state(flags.file), out));
    return k_good;
}

// The first tokens of the text in a cache of these words.
KvCache run_text(LoadedModel& loaded, const Flags& flags, int64_t count) {
    const Variant variant = parse_variant("--cache", flags.cache, {"", DType::f16, DType::f16, {}});
    const std::vector<int32_t> tokens = tokens_of_text(loaded, read_text(flags.text));
    if (int64_t(tokens.size()) < count) {
        throw Error(ErrorCode::usage, fmt::format("{}: expected at least {} tokens, found {}",
                                                  flags.text, count, tokens.size()));
    }
    const PlannedCache planned = plan_cache(loaded.model, variant, 1, count, count - 1);
    KvCache(loaded.model.backend(), planned.shape, planned.spec).require_one_kind_of_rows();
    return filled_cache(loaded.model, planned.shape, planned.spec,
                        std::span(tokens).first(size_t(count)));
}

int save(const Flags& flags) {
    check_paths({{"--model", flags.model.path}, {"--file", flags.text}},
                {{"FILE", flags.file}, {"--json", flags.json}});
    replaces({"FILE", flags.file}, k_magic, "a saved cache");
    LoadedModel loaded(flags.model, flags.tokens);
    loaded.note_length(flags.tokens);
    save_cache(run_text(loaded, flags, flags.tokens), model_fingerprint(loaded.file), flags.file);
    nlohmann::ordered_json document =
        describe(read_saved_cache(flags.file), results_beside(flags.json, ""));
    document["notices"] = loaded.notices;
    write_json(flags.json, document);
    return k_good;
}

// The same tokens in the cache that was asked for, as the file that it would be saved to.
SavedCache run_anew(LoadedModel& loaded, const Flags& flags, const SavedCache& saved) {
    const uint64_t fingerprint = model_fingerprint(loaded.file);
    if (saved.fingerprint != fingerprint) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("{}: model: expected {}, found {}", saved.path,
                                hexadecimal(fingerprint), hexadecimal(saved.fingerprint)));
    }
    if (saved.streams.size() != 1 || saved.tokens() == 0) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("{}: expected one stream with tokens, which are those of a text",
                                saved.path));
    }
    return parse_saved_cache(saved_bytes(run_text(loaded, flags, saved.tokens()), fingerprint),
                             "anew");
}

int compare_ours(const Flags& flags) {
    const bool anew = flags.other.empty();
    if (anew && (flags.model.path.empty() || flags.text.empty() || flags.cache.empty())) {
        throw Error(ErrorCode::usage,
                    "compare: expected another FILE, or -m MODEL, -f TEXT and "
                    "--cache CACHE to run the same tokens anew");
    }
    if (!anew && !(flags.model.path + flags.text + flags.cache).empty()) {
        throw Error(ErrorCode::usage, "compare: -m, -f and --cache are for one FILE, found two");
    }
    std::vector<NamedPath> inputs = {{"FILE", flags.file}};
    if (!anew) inputs.push_back({"FILE", flags.other});
    if (anew) inputs.push_back({"--model", flags.model.path}), inputs.push_back({"-f", flags.text});
    check_paths(inputs, {{"--json", flags.json}});
    const SavedCache saved = read_saved_cache(flags.file);
    std::FILE* const out = results_beside(flags.json, "");
    nlohmann::ordered_json document = describe(saved, out);
    SavedCache other;
    if (anew) {
        LoadedModel loaded(flags.model, std::clamp<int64_t>(saved.tokens(), 1, k_most_tokens));
        other = run_anew(loaded, flags, saved);
        document["notices"] = loaded.notices;
    } else {
        other = read_saved_cache(flags.other);
    }
    const SavedBeside beside = hold_beside(saved, other);
    print_beside(out, beside, flags.layers);
    document["beside"] = json_of(beside);
    write_json(flags.json, document);
    return beside.elements() > 0 && within(beside, flags.most_steps.value_or(0)) ? k_good
                                                                                 : k_failed;
}

int compare_llama(const Flags& flags) {
    if (flags.model.path.empty() || !(flags.other + flags.text + flags.cache).empty()) {
        throw Error(ErrorCode::usage,
                    flags.file + ": of llama.cpp: compare expects -m MODEL alone beside it");
    }
    if (flags.most_steps) {
        throw Error(ErrorCode::usage, flags.file + ": of llama.cpp: --most-steps is for ours");
    }
    check_paths({{"FILE", flags.file}, {"--model", flags.model.path}}, {{"--json", flags.json}});
    const LlamaState state = read_llama_state(flags.file);
    std::FILE* const out = results_beside(flags.json, "");
    nlohmann::ordered_json document = describe(state, out);
    LoadedModel loaded(flags.model, std::max<int64_t>(tokens_needed(state), 1));
    const std::string architecture(loaded.file.get_string("general.architecture"));
    if (!state.architecture.empty() && state.architecture != architecture) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("{}: expected the model's architecture {}, found {}", state.path,
                                architecture, printable(state.architecture)));
    }
    const StateBeside beside = hold_beside(loaded.model, state);
    print_beside(out, beside, flags.layers);
    document["beside"] = json_of(beside);
    document["notices"] = loaded.notices;
    write_json(flags.json, document);
    return beside.explained() && (beside.as_policy() || beside.never_rotated()) ? k_good : k_failed;
}

int compare(const Flags& flags) {
    return is_ours(flags.file) ? compare_ours(flags) : compare_llama(flags);
}

constexpr const char* k_examples =
    "  rotkv-cache save a.rkv -m model.gguf -f text.txt -n 256 --cache k=q8_0,v=q4_0\n"
    "  rotkv-cache inspect a.rkv\n"
    "  rotkv-cache compare a.rkv b.rkv                  (which elements are stored otherwise?)\n"
    "  rotkv-cache compare a.rkv -m model.gguf -f text.txt --cache k=q8_0,v=q4_0\n"
    "  rotkv-cache compare state.bin -m model.gguf      (llama.cpp's: which rotation is it?)\n";

void add_run_flags(CLI::App& command, Flags& flags) {
    flags.model.add_to(command);
    command.add_option("-f,--file", flags.text, "the text")->type_name("TEXT");
    command
        .add_option("--cache", flags.cache,
                    "k=TYPE,v=TYPE,rot=WHAT,rot-k=WHAT,rot-v=WHAT,signs=SEED,ends=TYPE:N,"
                    "k:LAYERS=TYPE,v:LAYERS=TYPE,kbias=on; a side that is not named is f16")
        ->type_name("CACHE");
}

void add_save(CLI::App& app, Flags& flags) {
    CLI::App& command = *app.add_subcommand("save", "run a text's first tokens, save their cache");
    command.add_option("FILE", flags.file, "the file to write")->required();
    add_run_flags(command, flags);
    command.get_option("--file")->required();
    command.get_option("--cache")->required();
    add_whole(command, "-n,--tokens", flags.tokens, 1, k_most_tokens,
              "tokens, with a BOS that the vocabulary adds");
    add_json_flag(command, flags.json);
}

void add_inspect(CLI::App& app, Flags& flags) {
    CLI::App& command = *app.add_subcommand("inspect", "print what a file says");
    command.add_option("FILE", flags.file, "a saved cache, ours or llama.cpp's")->required();
    add_json_flag(command, flags.json);
}

void add_compare(CLI::App& app, Flags& flags) {
    CLI::App& command = *app.add_subcommand(
        "compare", "hold a saved cache beside another one, or beside its tokens run again");
    command
        .add_option("FILE", flags.file,
                    "ours, or of llama_state_seq_save_file or llama_state_save_file")
        ->required();
    command.add_option("OTHER", flags.other, "another one of ours");
    add_run_flags(command, flags);
    CLI::Option* const model = command.get_option("--model")->required(false);
    for (const char* name : {"--gemm", "--attention", "--phi3-window", "--backend", "--threads"}) {
        command.get_option(name)->needs(model);
    }
    command
        .add_option_function<std::string>(
            "--most-steps",
            [&flags](const std::string& text) {
                flags.most_steps = parse_real("--most-steps", text, 0, 1e30);
            },
            "of ours: exit with 1 if an element differs by more")
        ->default_str("0")
        ->type_name("STEPS");
    command.add_flag("--layers", flags.layers,
                     "a line for each layer and side, of ours for each head");
    add_json_flag(command, flags.json);
}

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Saved caches, ours and llama.cpp's: what they hold, and beside what they should.",
                 "rotkv-cache");
    Flags flags;
    app.require_subcommand(0, 1);
    add_save(app, flags);
    add_inspect(app, flags);
    add_compare(app, flags);
    flags.model.tool = "rotkv-cache";
    return run_tool(app, argc, argv, k_examples, [&]() {
        if (app.got_subcommand("save")) return save(flags);
        if (app.got_subcommand("inspect")) return inspect(flags);
        if (app.got_subcommand("compare")) return compare(flags);
        throw rotkv::Error(rotkv::ErrorCode::usage, "expected save, inspect or compare");
    });
}
