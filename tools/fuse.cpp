// rotkv-fuse: V's rotation written into the weights of a model file, and the proof that it is the
// same model.
// Docs: docs/21-rotation-in-the-weights.md

#include "ref/fused_rotation.h"
#include "tools/backends.h"
#include "tools/beside_program.h"
#include "tools/fuse_run.h"
#include "tools/output_paths.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

namespace rotkv::tools {
namespace {

struct Flags {
    ModelFlags model;
    FuseOptions options;
    std::string text, json;

    void add_to(CLI::App& app) {
        model.add_to(app);
        options.add_to(app);
        app.add_option("-f,--file", text,
                       "text of --verify (default: demo.txt, beside this program)")
            ->needs("--verify")
            ->type_name("FILE");
        for (const char* name : {"--gemm", "--attention"}) app.get_option(name)->needs("--verify");
        add_json_flag(app, json);
    }
};

void print_result(std::FILE* out, const Flags& flags, const FuseRun& written) {
    const bool row = written.key == k_fused_latent_key;
    fmt::print(out, "{} -> {}\n", flags.model.path, flags.options.output);
    fmt::print(out, "{}: rotated in the weights, {} ({})\n", row ? "latent rows" : "V",
               flags.options.rotation, written.key);
    fmt::print(out, "{} tensors written as f32: {:.1f} MiB, were {:.1f} MiB\n", written.tensors,
               double(written.bytes_after) / 1048576, double(written.bytes_before) / 1048576);
    fmt::print(out, "{}\n",
               row ? "llama.cpp does not rotate latent rows: it runs the file as it is."
                   : "llama.cpp does not know the key and rotates a quantized V once more, which "
                     "turns it back (H H = 1):\nrun it there with LLAMA_ATTN_ROT_DISABLE=1, which "
                     "leaves K as it is too.");
}

void print_comparison(std::FILE* out, const Comparison& found) {
    fmt::print(out,
               "verified over {} tokens x {} words, f32 caches: max |delta log p| {:.2g}, mean "
               "KLD {:.2g}\n(expected < {:.2g}; one last bit of the first norm makes {:.2g})\n",
               found.tokens, found.words, found.most, found.kld, found.limit(), found.floor);
}

int run_program(const Flags& flags) {
    static_cast<void>(flags.options.rotation_of_words());
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}},
                {{"-o", flags.options.output}, {"--json", flags.json}});
    const auto open = [&](const std::string& path, int64_t context) {
        ModelFlags model = flags.model;
        model.path = path;
        return std::make_unique<LoadedModel>(model, context);
    };
    static_cast<void>(make_backend(flags.model.backend, flags.model.threads));  // is there one?
    std::optional<std::string> text;
    if (flags.options.verify) text = read_text(text_or_demo(flags.text));
    const FuseRun run =
        run_fuse(flags.model.path, flags.options, flags.model.phi3_window, text, open, {});
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    print_result(out, flags, run);
    if (run.found) print_comparison(out, *run.found);
    write_json(flags.json, json_of(flags.model.path, flags.options, run));
    require_same_predictions(flags.model.path, flags.options, run);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-fuse -m model.gguf -o model.rotated-v.gguf --verify\n"
    "  rotkv-fuse -m model.gguf -o model.signs.gguf --rot-v 64:7\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app(
        "Writes V's rotation into the weights of a model: its cache then holds rotated values, "
        "and\n"
        "nothing rotates them while it runs. What changes is written as f32.",
        "rotkv-fuse");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_program(flags); });
}
