#include "tools/fuse_run.h"

#include "ref/error.h"
#include "ref/fused_rotation.h"
#include "ref/rotation_words.h"
#include "tools/backends.h"
#include "tools/generation.h"
#include "tools/output_paths.h"
#include "tools/watch/changed_bit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

namespace rotkv::tools {

void FuseOptions::add_to(CLI::App& app) {
    app.add_option("-o,--output", output, "the new model file; no model may be there")
        ->required()
        ->type_name("FILE");
    app.add_option("--rot-v", rotation, "the rotation: BLOCK or BLOCK:SEED")
        ->type_name("ROTATION")
        ->capture_default_str();
    auto* verifies =
        app.add_flag("--verify", verify,
                     "read the new file again and compare its predictions with the old one's");
    add_whole(app, "-n,--tokens", tokens, 2, 4096, "tokens of the text that --verify compares")
        ->needs(verifies);
}

Rotation FuseOptions::rotation_of_words() const {
    const auto asked = parse_request(rotation, "--rot-v");
    if (asked && asked->mode == RotationRequest::Mode::value) return asked->value;
    throw Error(ErrorCode::usage,
                "--rot-v: expected BLOCK or BLOCK:SEED, found '" + rotation + "'");
}

// Two f32 computations of one function. A model may be rougher: then it is compared with itself,
// one last bit of its first norm changed.
double Comparison::limit() const {
    constexpr double k_most_apart = 1e-4, k_floors_apart = 4;
    return std::max(k_most_apart, k_floors_apart * floor);
}

namespace {

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

Comparison compare(const std::string& path, const FuseOptions& options, const std::string& text,
                   const ModelOpener& open, const std::function<void()>& step) {
    const std::unique_ptr<LoadedModel> before = open(path, options.tokens);
    std::vector<int32_t> tokens = tokens_of_text(*before, text);
    tokens.resize(std::min(tokens.size(), std::size_t(options.tokens)));
    if (tokens.size() < 2) {  // the first attends to itself alone
        throw Error(ErrorCode::usage, "--verify: expected a text of two tokens or more, found " +
                                          std::to_string(tokens.size()));
    }
    const Predictions expected = predictions_of(before->model, tokens);
    step();
    ChangedBit change(before->model);
    change.choose(0);
    Model changed = observed(before->model, change.observer());
    Comparison found{.tokens = int64_t(tokens.size()),
                     .words = before->model.config().words,
                     .floor = most_apart(expected, predictions_of(changed, tokens))};
    step();
    const std::unique_ptr<LoadedModel> after = open(options.output, options.tokens);
    const Predictions turned = predictions_of(after->model, tokens);
    found.most = most_apart(expected, turned);
    for (std::size_t t = 0; t < expected.size(); ++t) {
        found.kld += divergence(expected[t], turned[t]) / double(expected.size());
    }
    step();
    return found;
}

// `step` comes before anything is written.
FuseRun write_fused(const std::string& path, const FuseOptions& options, bool phi3_window,
                    const std::function<void()>& step) {
    const Rotation rotation = options.rotation_of_words();
    const GgufFile file = GgufFile::open(path);
    const std::unique_ptr<Backend> host = make_backend("ref", 1);  // reads weights where they lie
    const Model model(file, *host, {.context = 1, .phi3_window = phi3_window});
    const std::vector<FusedTensor> fused = fuse_rotation(model, rotation);
    step();
    FuseRun written;
    written.key = fused_rotation_key(model.config());
    written.rotation = rotation_name(rotation);
    written.tensors = int64_t(fused.size());
    std::map<std::string, const FusedTensor*> in_place_of;
    for (const FusedTensor& tensor : fused) in_place_of[tensor.name] = &tensor;

    GgufWriter writer;
    for (const GgufEntry& entry : file.metadata()) {
        if (entry.key != "general.alignment") writer.add(entry.key, entry.value);
    }
    writer.add(written.key, std::string_view(written.rotation));
    for (const GgufTensor& tensor : file.tensors()) {
        const auto found = in_place_of.find(tensor.name);
        writer.add_tensor(tensor.name,
                          found == in_place_of.end() ? tensor.view : found->second->view);
        if (found == in_place_of.end()) continue;
        written.bytes_before += tensor.bytes;
        written.bytes_after += uint64_t(found->second->values.size()) * sizeof(float);
    }
    writer.write(options.output);
    return written;
}

}  // namespace

FuseRun run_fuse(const std::string& path, const FuseOptions& options, bool phi3_window,
                 const std::optional<std::string>& text, const ModelOpener& open,
                 const RunWatch& watch) {
    if (options.output == "-") throw Error(ErrorCode::usage, "-o: expected a file, found '-'");
    int64_t done = 0;
    const auto step = [&] { watch.say_step(++done, text ? 4 : 1); };
    FuseRun run = write_fused(path, options, phi3_window, step);
    if (text) run.found = compare(path, options, *text, open, step);
    return run;
}

nlohmann::ordered_json json_of(const std::string& path, const FuseOptions& options,
                               const FuseRun& run) {
    nlohmann::ordered_json json = {{"model", path},
                                   {"output", options.output},
                                   {"key", run.key},
                                   {"rotation", run.rotation},
                                   {"tensors", run.tensors},
                                   {"bytes_before", run.bytes_before},
                                   {"bytes_after", run.bytes_after}};
    if (!run.found) return json;
    json["verified"] = {{"tokens", run.found->tokens},
                        {"words", run.found->words},
                        {"max_delta_log_p", run.found->most},
                        {"kld", run.found->kld},
                        {"one_bit_delta_log_p", run.found->floor},
                        {"same", run.found->same()}};
    return json;
}

void require_same_predictions(const std::string& path, const FuseOptions& options,
                              const FuseRun& run) {
    if (!run.found || run.found->same()) return;
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: expected the predictions of {}, found log p that differ by {:.2g}",
                            options.output, path, run.found->most));
}

}  // namespace rotkv::tools
