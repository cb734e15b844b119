#include "tools/cli.h"

#include "ref/error.h"
#include "ref/files/output_file.h"
#include "ref/measure/evaluate.h"
#include "ref/rotation_words.h"
#include "tools/backends.h"
#include "tools/model_precision.h"
#include "tools/notes.h"

#include <cfenv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <new>
#include <span>
#include <thread>

#ifndef ROTKV_VERSION
#define ROTKV_VERSION "unversioned"
#endif
#ifndef ROTKV_COMMIT
#define ROTKV_COMMIT "unknown commit"
#endif

namespace rotkv::tools {

// One of `choices`; the first is the default.
static void add_precision(CLI::App& app, const char* flag, Precision& precision, const char* what,
                          std::span<const Precision> choices) {
    app.add_option_function<std::string>(
           flag,
           [flag, choices, &precision](const std::string& name) {
               precision = parse_precision(flag, name, choices);
           },
           what)
        ->type_name("WHAT");
}

void ModelFlags::add_to(CLI::App& app) {
    tool = app.get_name();
    threads = cores_per_rank();
    app.add_option("-m,--model", path, "model, a GGUF file")->required()->type_name("FILE");
    add_whole(app, "-t,--threads", threads, 1, 1024, "threads of the CPU backends");
    app.add_option("--backend", backend,
                   "ref, fast, cuda or metal (default: ROTKV_BACKEND, or fast)")
        ->type_name("NAME");
    add_precision(app, "--gemm", precision.products,
                  "what factors of products with weights are rounded to: f32 (default: they are "
                  "not), f16 or bf16",
                  k_precisions_of_products);
    add_precision(app, "--attention", precision.attention,
                  "precision of attention: f32 (default) or f16", k_precisions_of_attention);
    app.add_flag("--phi3-window", phi3_window,
                 "phi3: use the sliding window that the file names (llama.cpp does not)");
}

void ModelFlags::add_profile_to(CLI::App& app) {
    app.add_flag("--profile", profile, "print how the time divides among the operations");
}

// "f32, f16 or q4_0"
static std::string cache_type_names() {
    std::string names;
    for (const DType type : cache_types()) {
        if (type == cache_types().back()) {
            names += " or ";
        } else if (!names.empty()) {
            names += ", ";
        }
        names += type_info(type).name;
    }
    return names;
}

CacheType parse_cache_type(const std::string& flag, const std::string& name) {
    std::optional<CacheType> type;
    try {
        type = find_cache_type(name);
    } catch (const Error& error) {  // the format is known, what stands behind its ':' is not
        throw Error(ErrorCode::usage, flag + ": " + error.what());
    }
    if (type) return *type;
    throw Error(ErrorCode::usage, flag + ": expected " + cache_type_names() +
                                      ", or a format that --help lists, found '" + name + "'");
}

// "exl3:2, exl3:3, ..."
static std::string format_names() {
    std::string names;
    for (const std::string& name : names_of_formats()) names += (names.empty() ? "" : ", ") + name;
    return names;
}

std::vector<DType> usual_cache_types() {
    std::vector<DType> types = {DType::f16};
    types.insert(types.end(), quantized_types().begin(), quantized_types().end());
    return types;
}

void CacheFlags::add_to(CLI::App& app) {
    const auto add_type = [&app](const char* name, const char* flag, const char* side,
                                 std::optional<CacheType>& type) {
        app.add_option_function<std::string>(
               name,
               [flag, &type](const std::string& text) { type = parse_cache_type(flag, text); },
               std::string("(") + flag + ") type of " + side + " in the cache (default f16)")
            ->type_name("TYPE");
    };
    const auto add_rotation = [&app](const char* name, const char* side,
                                     std::optional<RotationRequest::PerSide>& rotation) {
        app.add_option_function<std::string>(
               name,
               [name, &rotation](const std::string& text) {
                   rotation = parse_rotation_flag(name, text);
               },
               std::string("rotation of ") + side + ": " + rotation_choices())
            ->type_name("WHAT");
    };
    add_type("--cache-type-k", "-ctk", "K", asked_k);
    add_type("--cache-type-v", "-ctv", "V", asked_v);
    add_rotation("--rot-k", "K", rot_k);
    add_rotation("--rot-v", "V", rot_v);
    app.add_option_function<std::string>(
           "--rot-signs",
           [this](const std::string& text) {
               signs = parse_seed(text);
               if (signs) return;
               throw Error(
                   ErrorCode::usage,
                   "--rot-signs: expected a number from 0 to 2^64 - 1, found '" + text + "'");
           },
           "random signs before the Hadamard matrix, from this seed (default: none)")
        ->type_name("SEED");
}

RotationRequest CacheFlags::rotation() const {
    RotationRequest request = rotation_from_environment();
    if (rot_k) request.k = *rot_k;
    if (rot_v) request.v = *rot_v;
    request.signs = signs;
    require_use_of_signs("--rot-signs", request, type_k(), type_v());
    return request;
}

void WindowFlags::add_to(CLI::App& app) {
    const int64_t most = int64_t(1) << 20;
    add_whole(app, "-c,--ctx-size", asked_ctx, 3, most, "tokens per window (default 512)");
    add_whole(app, "-b,--batch-size", asked_batch, 1, most,
              "tokens at once: part of a window, or as many whole ones as fit (default 2048)");
    add_chunks_to(app, chunks, "windows at most (default: all)");
}

void WindowFlags::add_chunks_to(CLI::App& app, int64_t& chunks, const std::string& what) {
    app.add_option_function<std::string>(
           "--chunks",
           [&chunks](const std::string& text) { chunks = parse_limit("--chunks", text); }, what)
        ->type_name("N");
}

int64_t WindowFlags::batch(int64_t ctx) const { return asked_batch.value_or(default_batch(ctx)); }

std::FILE* results_beside(const std::string& json, const std::string& csv) {
    if (json == "-" && csv == "-") {
        throw Error(ErrorCode::usage, "--json - and --csv -: there is one standard output");
    }
    return json == "-" || csv == "-" ? stderr : stdout;
}

void add_json_flag(CLI::App& app, std::string& path) {
    app.add_option("--json", path, "also write the results as JSON; - is standard output")
        ->type_name("FILE");
}

namespace {

std::string one_line(std::string text) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < ' ') c = ' ';
    }
    return text;
}

int report(const std::string& tool, const std::string& message, int code) {
    std::fflush(stdout);
    std::fprintf(error_stream(), "%s: error: %s%s\n", tool.c_str(), rank_prefix().c_str(),
                 one_line(message).c_str());
    end_all_ranks(code);
    return code;
}

// Results that never arrived are a failure, whoever closed or filled the other end.
void check_standard_output() {
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
    throw Error(ErrorCode::io, "standard output cannot be written");
}

void parse(CLI::App& app, int argc, char** argv) {
    Rewritten line = rewrite_llama_spellings(app, std::vector<std::string>(argv + 1, argv + argc));
    app.parse(line.arguments);
    if (line.ignored.empty()) return;
    std::string names;
    for (const std::string& name : line.ignored) names += (names.empty() ? "" : ", ") + name;
    say_note(app.get_name(), "without a meaning here, ignored: " + names);
}

// CLI11 leaves its parser by an exception also when nothing is wrong: for --help, --version and
// --list-backends.
int parse_and_run(CLI::App& app, int argc, char** argv, const std::function<int()>& body) {
    bool list = false;
    app.add_flag_callback(
        "--list-backends",
        [&list]() {
            list = true;
            throw CLI::Success();
        },
        "print what this build can compute on, and exit");
    try {
        parse(app, argc, argv);
    } catch (const CLI::CallForHelp&) {
        std::fputs(app.help().c_str(), stdout);
        return k_good;
    } catch (const CLI::CallForVersion& version) {
        std::printf("%s\n", version.what());
        return k_good;
    } catch (const CLI::Success&) {
        if (list) std::fputs(list_backends().c_str(), stdout);
        return k_good;
    }
    return body();
}

}  // namespace

std::string version_of_build() { return ROTKV_VERSION " (" ROTKV_COMMIT ")"; }

int run_tool(CLI::App& app, int argc, char** argv, const std::string& examples,
             const std::function<int()>& body, RunAs program) {
    // Whoever started us may have left the processor flushing denormal numbers to zero; the exact
    // operations need them.
    std::fesetenv(FE_DFL_ENV);
    const std::string tool = app.get_name();
    app.footer("Cache types: " + cache_type_names() + "\nRotations: " + rotation_choices() +
               "\nFormats without kernels: " + format_names() + "\n\nExamples:\n" + examples);
    app.set_version_flag("--version", tool + " " + version_of_build());
    try {
        join_ranks(program);
        note_on_environment(tool);
        remove_partial_files_on_signals();
        const int code = parse_and_run(app, argc, argv, body);
        check_standard_output();
        leave_ranks();
        return code;
    } catch (const CLI::ParseError& error) {
        return report(tool, std::string(error.what()) + " (--help lists the flags)", k_wrong_usage);
    } catch (const Error& error) {
        return report(tool, error.what(),
                      error.code() == ErrorCode::usage ? k_wrong_usage : k_failed);
    } catch (const std::bad_alloc&) {
        return report(tool, "out of memory", k_failed);
    } catch (const std::exception& error) {
        return report(tool, error.what(), k_failed);
    }
}

void write_json(const std::string& path, const nlohmann::ordered_json& document) {
    if (path.empty()) return;
    using Json = nlohmann::ordered_json;
    const std::string text = document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    OutputFile file(path);
    file.write(text);
    file.finish();
}

std::string read_text(const std::string& path) {
    constexpr std::size_t k_most = std::size_t(1) << 30;  // an endless device is no text
    std::ifstream file(path, std::ios::binary);
    if (!file || std::filesystem::is_directory(path)) {
        throw Error(ErrorCode::io, path + ": no such file, or it cannot be read");
    }
    std::string text, block(1 << 16, '\0');
    while (file.read(block.data(), std::streamsize(block.size())), file.gcount() > 0) {
        text.append(block, 0, std::size_t(file.gcount()));
        if (text.size() > k_most) throw Error(ErrorCode::io, path + ": more than 1 GiB of text");
        if (text.starts_with("GGUF")) {
            throw Error(ErrorCode::bad_file, path + ": is a GGUF file, expected a text");
        }
    }
    return text;
}

}  // namespace rotkv::tools
