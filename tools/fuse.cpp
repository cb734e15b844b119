// rotkv-fuse: V's rotation written into the weights of a model file, and the proof that it is the
// same model.
// Docs: docs/21-rotation-in-the-weights.md

#include "ref/error.h"
#include "ref/fused_rotation.h"
#include "ref/rotation_words.h"
#include "tools/backends.h"
#include "tools/beside_program.h"
#include "tools/generation.h"
#include "tools/loaded_model.h"
#include "tools/notes.h"
#include "tools/output_paths.h"
#include "tools/watch/changed_bit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace rotkv::tools {
namespace {

// Two f32 computations of one function. A model may be rougher: then it is compared with itself,
// one last bit of its first norm changed.
constexpr double k_most_apart = 1e-4, k_floors_apart = 4;

struct Flags {
    ModelFlags model;
    std::string output, rotation = "64", text, json;
    bool verify = false;
    int64_t tokens = 128;

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-o,--output", output, "the new model file; no model may be there")
            ->type_name("FILE")
            ->required();
        app.add_option("--rot-v", rotation, "the rotation: BLOCK or BLOCK:SEED")
            ->type_name("ROTATION")
            ->capture_default_str();
        app.add_flag("--verify", verify,
                     "read the new file again and compare its predictions with the old one's");
        app.add_option("-f,--file", text,
                       "text of --verify (default: demo.txt, beside this program)")
            ->type_name("FILE");
        add_whole(app, "-n,--tokens", tokens, 1, 4096, "tokens of the text that --verify compares");
        add_json_flag(app, json);
    }
};

Rotation rotation_of(const std::string& words) {
    const auto asked = parse_request(words, "--rot-v");
    if (asked && asked->mode == RotationRequest::Mode::value) return asked->value;
    throw Error(ErrorCode::usage, "--rot-v: expected BLOCK or BLOCK:SEED, found '" + words + "'");
}

/// The two files' predictions, of every word behind every token.
struct Comparison {
    int64_t tokens = 0, words = 0;
    double most = 0;   ///< max |log p_new - log p_old|
    double kld = 0;    ///< mean over tokens, of the old predictions from the new ones
    double floor = 0;  ///< `most` of the old model beside itself with one bit changed

    double limit() const { return std::max(k_most_apart, k_floors_apart * floor); }
    bool same() const { return most < limit(); }
};

using Predictions = std::vector<std::vector<double>>;  // [T][V], log p of each next word

// In an f32 cache that nothing turns.
Predictions predictions_of(Model& model, const std::vector<int32_t>& tokens) {
    const int64_t count = int64_t(tokens.size());
    const KvShape shape = model.config().cache_shape(1, count, DType::f32, DType::f32);
    KvCache cache(model.backend(), shape, RotationSpec());
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const std::vector<int32_t> streams(tokens.size(), 0);
    const ScoredRows rows{.hidden = model.forward(cache, tokens, streams, positions), .target = {}};
    Predictions all;
    const std::size_t words = std::size_t(model.config().words);
    for_each_logits(model, rows, [&](int64_t first, std::span<const float> logits) {
        for (std::size_t at = 0; at < logits.size(); at += words) {
            const std::string where =
                " behind token " + std::to_string(first + int64_t(at / words));
            all.push_back(log_softmax(logits.subspan(at, words), where));
        }
    });
    return all;
}

double most_apart(const Predictions& a, const Predictions& b) {
    double most = 0;
    for (std::size_t t = 0; t < a.size(); ++t) {
        for (std::size_t v = 0; v < a[t].size(); ++v) {
            most = std::max(most, std::fabs(a[t][v] - b[t][v]));
        }
    }
    return most;
}

Comparison compare(const Flags& flags) {
    const std::string path = text_or_demo(flags.text);
    LoadedModel before(flags.model, flags.tokens);
    std::vector<int32_t> tokens = tokens_of_text(before, read_text(path));
    tokens.resize(std::min(tokens.size(), std::size_t(flags.tokens)));
    if (tokens.empty()) throw Error(ErrorCode::usage, path + ": expected a text, found no token");
    const Predictions expected = predictions_of(before.model, tokens);
    ChangedBit change(before.model);
    change.choose(0);
    Model changed = observed(before.model, change.observer());
    Comparison found{.tokens = int64_t(tokens.size()),
                     .words = before.model.config().words,
                     .floor = most_apart(expected, predictions_of(changed, tokens))};

    ModelFlags of_new = flags.model;
    of_new.path = flags.output;
    LoadedModel after(of_new, flags.tokens);
    const Predictions turned = predictions_of(after.model, tokens);
    found.most = most_apart(expected, turned);
    for (std::size_t t = 0; t < expected.size(); ++t) {
        found.kld += divergence(expected[t], turned[t]) / double(expected.size());
    }
    return found;
}

/// What became of the file's tensors.
struct Written {
    std::string key;
    int64_t tensors = 0;
    uint64_t bytes_before = 0, bytes_after = 0;  ///< of those
};

Written write_fused(const Flags& flags, const Rotation& rotation) {
    const GgufFile file = GgufFile::open(flags.model.path);
    const std::unique_ptr<Backend> host = make_backend("ref", 1);  // reads weights where they lie
    const Model model(file, *host, {.context = 1, .phi3_window = flags.model.phi3_window});
    const std::vector<FusedTensor> fused = fuse_rotation(model, rotation);
    Written written{.key = fused_rotation_key(model.config()), .tensors = int64_t(fused.size())};
    std::map<std::string, const FusedTensor*> in_place_of;
    for (const FusedTensor& tensor : fused) in_place_of[tensor.name] = &tensor;

    GgufWriter writer;
    for (const GgufEntry& entry : file.metadata()) {
        if (entry.key != "general.alignment") writer.add(entry.key, entry.value);
    }
    writer.add(written.key, std::string_view(rotation_name(rotation)));
    for (const GgufTensor& tensor : file.tensors()) {
        const auto found = in_place_of.find(tensor.name);
        writer.add_tensor(tensor.name,
                          found == in_place_of.end() ? tensor.view : found->second->view);
        if (found == in_place_of.end()) continue;
        written.bytes_before += tensor.bytes;
        written.bytes_after += uint64_t(found->second->values.size()) * sizeof(float);
    }
    writer.write(flags.output);
    return written;
}

void print_result(std::FILE* out, const Flags& flags, const Written& written) {
    const bool row = written.key == k_fused_latent_key;
    fmt::print(out, "{} -> {}\n", flags.model.path, flags.output);
    fmt::print(out, "{}: rotated in the weights, {} ({})\n", row ? "latent rows" : "V",
               flags.rotation, written.key);
    fmt::print(out, "{} tensors written as f32: {:.1f} MiB, were {:.1f} MiB\n", written.tensors,
               double(written.bytes_after) / 1048576, double(written.bytes_before) / 1048576);
    fmt::print(out, "{}\n",
               row ? "llama.cpp does not rotate latent rows: it runs the file as it is."
                   : "llama.cpp does not know the key and rotates a quantized V once more, which "
                     "turns it back (H H = 1):\nrun it there with LLAMA_ATTN_ROT_DISABLE=1, which "
                     "leaves K as it is too.");
}

int run_fuse(const Flags& flags) {
    const Rotation rotation = rotation_of(flags.rotation);
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}},
                {{"-o", flags.output}, {"--json", flags.json}});
    if (flags.output == "-") throw Error(ErrorCode::usage, "-o: expected a file, found '-'");
    const Written written = write_fused(flags, rotation);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    print_result(out, flags, written);
    nlohmann::ordered_json json = {{"model", flags.model.path},
                                   {"output", flags.output},
                                   {"key", written.key},
                                   {"rotation", rotation_name(rotation)},
                                   {"tensors", written.tensors},
                                   {"bytes_before", written.bytes_before},
                                   {"bytes_after", written.bytes_after}};
    Comparison found;
    if (flags.verify) {
        found = compare(flags);
        fmt::print(out,
                   "verified over {} tokens x {} words, f32 caches: max |delta log p| {:.2g}, mean "
                   "KLD {:.2g}\n(expected < {:.2g}; one last bit of the first norm makes {:.2g})\n",
                   found.tokens, found.words, found.most, found.kld, found.limit(), found.floor);
        json["verified"] = {{"tokens", found.tokens},
                            {"words", found.words},
                            {"max_delta_log_p", found.most},
                            {"kld", found.kld},
                            {"one_bit_delta_log_p", found.floor},
                            {"same", found.same()}};
    }
    write_json(flags.json, json);
    if (!flags.verify || found.same()) return k_good;
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: expected the predictions of {}, found log p that differ by {:.2g}",
                            flags.output, flags.model.path, found.most));
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
    return run_tool(app, argc, argv, k_examples, [&]() { return run_fuse(flags); });
}
