// rotkv-gguf: what is in a model file, what its cache would cost, and what two files differ in.
// Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "ref/quant.h"
#include "ref/rotation_words.h"
#include "ref/text/tokenizer.h"
#include "tools/cli.h"
#include "tools/loaded_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <type_traits>

namespace rotkv::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
    std::string path, json;
    std::vector<std::string> diff;
    bool check = false;
    CacheFlags cache;

    void add_to(CLI::App& app) {
        app.add_option("file", path, "the GGUF file")->type_name("FILE");
        app.add_flag("--check", check, "read every weight and everything a model needs");
        app.add_option("--diff", diff, "compare two files; exit code 1 if they differ")
            ->expected(2)
            ->type_name("A B");
        cache.add_to(app);
        add_json_flag(app, json);
    }
};

// Names come from the file: nothing of them may reach a terminal as a command.
std::string printable(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7F) c = '?';
    }
    return result;
}

std::string shape_of(const GgufTensor& tensor) {
    std::string text;
    for (int i = 0; i < tensor.n_dims; ++i) {
        text += (i == 0 ? "" : " x ") + std::to_string(tensor.n[i]);
    }
    return text;
}

struct TypeTotal {
    int64_t tensors = 0;
    uint64_t bytes = 0;
};

std::map<std::string, TypeTotal> totals_by_type(const GgufFile& file) {
    std::map<std::string, TypeTotal> totals;
    for (const GgufTensor& tensor : file.tensors()) {
        TypeTotal& total = totals[type_info(tensor.type).name];
        ++total.tensors;
        total.bytes += tensor.bytes;
    }
    return totals;
}

// What a token takes in a cache; nothing where a head size rules the types out.
std::optional<int64_t> bytes_per_token(const KvShape& shape) {
    for (const KvLayer& layer : shape.layers) {
        const bool whole_blocks = layer.d_k % type_info(layer.type_k).block_elements == 0 &&
                                  layer.d_v % type_info(layer.type_v).block_elements == 0;
        if (!whole_blocks) return std::nullopt;
    }
    return shape.bytes_per_token();
}

// The model's numbers, or why this file gives none (a vocabulary, an unknown architecture).
struct MaybeConfig {
    std::optional<ModelConfig> config;
    std::string reason;
};

MaybeConfig config_of(const GgufFile& file) {
    try {
        return {read_config(file, 1), ""};
    } catch (const Error& error) {
        return {std::nullopt, error.what()};
    }
}

void print_tensors(std::FILE* out, const GgufFile& file) {
    if (file.tensors().empty()) {
        fmt::print(out, "\nno tensors\n");
        return;
    }
    std::size_t widest = 4;
    for (const GgufTensor& tensor : file.tensors()) {
        widest = std::max(widest, tensor.name.size());
    }
    fmt::print(out, "\ntensors\n  {:<{}}  {:<6}  {:>18}  {:>12}  {:>12}\n", "name", widest, "type",
               "shape", "bytes", "offset");
    for (const GgufTensor& tensor : file.tensors()) {
        fmt::print(out, "  {:<{}}  {:<6}  {:>18}  {:>12}  {:>12}\n", printable(tensor.name), widest,
                   type_info(tensor.type).name, shape_of(tensor), tensor.bytes, tensor.offset);
    }
    fmt::print(out, "\nby type\n");
    for (const auto& [name, total] : totals_by_type(file)) {
        fmt::print(out, "  {:<6}  {:>5} tensors  {:>14} bytes\n", name, total.tensors, total.bytes);
    }
}

// "30 layers, 3 KV heads of 64 (K) and 64 (V)", once for each kind of layer.
std::string words_of_layers(const KvShape& shape) {
    std::string words;
    for (std::size_t first = 0; first < shape.layers.size();) {
        const KvLayer& layer = shape.layers[first];
        std::size_t end = first;
        while (end < shape.layers.size() && shape.layers[end] == layer) ++end;
        words +=
            fmt::format("{}{} layers, {} KV heads of {} (K) and {} (V)", words.empty() ? "" : "; ",
                        end - first, layer.kv_heads, layer.d_k, layer.d_v);
        first = end;
    }
    return words;
}

void print_cache(std::FILE* out, const Flags& flags, const ModelConfig& config) {
    const DType type_k = flags.cache.type_k(), type_v = flags.cache.type_v();
    const KvShape shape = config.cache_shape(1, 1, type_k, type_v);
    fmt::print(out, "\ncache: {}\n", words_of_layers(shape));
    fmt::print(out, "  K = V   bits per value  bytes per token\n");
    for (const DType type : cache_types()) {
        const TypeInfo& info = type_info(type);
        const double bits = 8.0 * double(info.block_bytes) / double(info.block_elements);
        const std::optional<int64_t> bytes = bytes_per_token(config.cache_shape(1, 1, type, type));
        fmt::print(out, "  {:<6}  {:>14.1f}  {:>15}\n", info.name, bits,
                   bytes ? std::to_string(*bytes) : "-");
    }
    const RotationSpec spec = decide_rotation(flags.cache.rotation(), shape);
    const std::optional<int64_t> bytes = bytes_per_token(shape);
    fmt::print(out, "\n{}{}", describe_side(shape, spec, Side::k),
               describe_side(shape, spec, Side::v));
    fmt::print(out, "together {}\n",
               bytes ? fmt::format("{} bytes per token", *bytes)
                     : "impossible: the head is not whole blocks of 32");
}

Json json_of_value(const GgufValue& value) {
    return std::visit(
        [&](const auto& v) -> Json {
            using V = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<V, GgufArray>) {
                return describe(value);
            } else {
                return v;
            }
        },
        value);
}

Json json_of_file(const GgufFile& file) {
    Json json;
    json["file"] = file.path();
    json["version"] = file.version();
    json["bytes"] = file.file_bytes();
    json["alignment"] = file.alignment();
    json["data_offset"] = file.data_offset();
    json["metadata"] = Json::object();
    for (const GgufEntry& entry : file.metadata())
        json["metadata"][entry.key] = json_of_value(entry.value);
    json["tensors"] = Json::array();
    for (const GgufTensor& tensor : file.tensors()) {
        json["tensors"].push_back(
            {{"name", tensor.name},
             {"type", type_info(tensor.type).name},
             {"shape", std::vector<int64_t>(tensor.n, tensor.n + tensor.n_dims)},
             {"bytes", tensor.bytes},
             {"offset", tensor.offset}});
    }
    return json;
}

Json json_of_cache(const Flags& flags, const ModelConfig& config) {
    Json json;
    for (const DType type : cache_types()) {
        const std::optional<int64_t> bytes = bytes_per_token(config.cache_shape(1, 1, type, type));
        json["bytes_per_token"][type_info(type).name] = bytes ? Json(*bytes) : Json();
    }
    json["rotation"] = json_of(
        decide_rotation(flags.cache.rotation(),
                        config.cache_shape(1, 1, flags.cache.type_k(), flags.cache.type_v())));
    return json;
}

int show(const Flags& flags) {
    const GgufFile file = GgufFile::open(flags.path);
    const MaybeConfig model = config_of(file);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    fmt::print(out, "{}: GGUF version {}, {} bytes, alignment {}, data at {}\n", flags.path,
               file.version(), file.file_bytes(), file.alignment(), file.data_offset());
    fmt::print(out, "\nmetadata, {} entries\n", file.metadata().size());
    for (const GgufEntry& entry : file.metadata()) {
        fmt::print(out, "  {} = {}\n", printable(entry.key), describe(entry.value));
    }
    print_tensors(out, file);
    Json json = json_of_file(file);
    if (model.config) {
        print_cache(out, flags, *model.config);
        json["cache"] = json_of_cache(flags, *model.config);
    } else {
        fmt::print(out, "\nno cache figures: {}\n", printable(model.reason));
    }
    write_json(flags.json, json);
    return k_good;
}

// Every weight must be a number: a NaN or infinity in a scale spoils all it touches.
int64_t check_weights(const GgufFile& file) {
    int64_t values = 0;
    for (const GgufTensor& tensor : file.tensors()) {
        const int64_t n = tensor.n[0], rows = tensor.view.rows();
        ref::check_dequantize_row(tensor.type, n);
        std::vector<float> row(static_cast<std::size_t>(n));
        for (int64_t r = 0; r < rows; ++r) {
            ref::dequantize_row(tensor.type, row.data(),
                                tensor.view.data + r * row_bytes(tensor.type, n), n);
            for (int64_t i = 0; i < n; ++i) {
                if (std::isfinite(row[std::size_t(i)])) continue;
                throw Error(
                    ErrorCode::bad_file,
                    fmt::format("{}: tensor {}: row {}, column {}: expected a number, found {}",
                                file.path(), tensor.name, r, i, row[std::size_t(i)]));
            }
        }
        values += n * rows;
    }
    return values;
}

// "ok", or why this program cannot judge; broken bytes are still an error.
std::string verdict(const std::function<void()>& check) {
    try {
        check();
        return "ok";
    } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        return "not checked: " + printable(error.what());
    }
}

int check(const Flags& flags) {
    const GgufFile file = GgufFile::open(flags.path);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    Json json = {{"file", flags.path}, {"tensors", file.tensors().size()}};
    const auto report = [&](const char* what, const std::string& result) {
        fmt::print(out, "{}: {}\n", what, result);
        json[what] = result;
    };
    report("format", "ok");
    const int64_t values = check_weights(file);
    report("weights", fmt::format("ok, {} finite values", values));
    if (file.find("tokenizer.ggml.model") != nullptr) {
        report("tokenizer", verdict([&]() { Tokenizer::from_gguf(file); }));
    }
    if (!file.tensors().empty()) {
        const std::unique_ptr<Backend> backend = make_ref_backend();
        report("model", verdict([&]() { Model(file, *backend, {.context = 1}); }));
    }
    fmt::print(out, "ok\n");
    write_json(flags.json, json);
    return k_good;
}

struct Differences {
    std::vector<std::string> lines;
    void add(const std::string& what, const std::string& a, const std::string& b) {
        lines.push_back(fmt::format("{}: {} | {}", printable(what), a, b));
    }
};

void diff_metadata(const GgufFile& a, const GgufFile& b, Differences& found) {
    for (const GgufEntry& entry : a.metadata()) {
        const GgufValue* other = b.find(entry.key);
        if (other == nullptr) {
            found.add(entry.key, describe(entry.value), "absent");
        } else if (!(*other == entry.value)) {
            const std::string mine = describe(entry.value), theirs = describe(*other);
            found.add(entry.key, mine, mine == theirs ? theirs + ", other contents" : theirs);
        }
    }
    for (const GgufEntry& entry : b.metadata()) {
        if (a.find(entry.key) == nullptr) found.add(entry.key, "absent", describe(entry.value));
    }
}

std::string describe_tensor(const GgufTensor& tensor) {
    return fmt::format("{} {}", type_info(tensor.type).name, shape_of(tensor));
}

void diff_tensors(const GgufFile& a, const GgufFile& b, Differences& found) {
    for (const GgufTensor& tensor : a.tensors()) {
        const GgufTensor* other = b.find_tensor(tensor.name);
        if (other == nullptr) {
            found.add(tensor.name, describe_tensor(tensor), "absent");
            continue;
        }
        const std::string mine = describe_tensor(tensor), theirs = describe_tensor(*other);
        if (mine != theirs) {
            found.add(tensor.name, mine, theirs);
            continue;
        }
        int64_t differing = 0;
        for (uint64_t i = 0; i < tensor.bytes; ++i) {
            differing += tensor.view.data[i] != other->view.data[i] ? 1 : 0;
        }
        if (differing == 0) continue;
        found.add(tensor.name, mine, fmt::format("{} of {} bytes differ", differing, tensor.bytes));
    }
    for (const GgufTensor& tensor : b.tensors()) {
        if (a.find_tensor(tensor.name) == nullptr) {
            found.add(tensor.name, "absent", describe_tensor(tensor));
        }
    }
}

int diff(const Flags& flags) {
    const GgufFile a = GgufFile::open(flags.diff[0]), b = GgufFile::open(flags.diff[1]);
    Differences found;
    diff_metadata(a, b, found);
    diff_tensors(a, b, found);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    for (const std::string& line : found.lines) fmt::print(out, "{}\n", line);
    if (found.lines.empty()) fmt::print(out, "no difference\n");
    write_json(flags.json, {{"a", a.path()}, {"b", b.path()}, {"differences", found.lines}});
    return found.lines.empty() ? k_good : k_failed;
}

int run_gguf(const Flags& flags) {
    if (flags.path.empty() == flags.diff.empty()) {
        throw Error(ErrorCode::usage, "expected one FILE, or --diff A B");
    }
    if (flags.check && !flags.diff.empty()) {
        throw Error(ErrorCode::usage, "--check and --diff: expected one of them");
    }
    if ((flags.check || !flags.diff.empty()) && flags.cache.asked_any()) {
        throw Error(ErrorCode::usage,
                    "--check and --diff look at no cache: expected no -ctk, -ctv or --rot-*");
    }
    std::vector<NamedPath> inputs{{"FILE", flags.path}};
    for (const std::string& path : flags.diff) inputs.push_back({"--diff", path});
    check_paths(inputs, {{"--json", flags.json}});
    if (!flags.diff.empty()) return diff(flags);
    return flags.check ? check(flags) : show(flags);
}

constexpr const char* k_examples =
    "  rotkv-gguf model.gguf\n"
    "  rotkv-gguf model.gguf -ctk q8_0 -ctv q4_0\n"
    "  rotkv-gguf --check model.gguf\n"
    "  rotkv-gguf --diff before.gguf after.gguf\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("What is in a GGUF file, what its cache costs, and whether it is sound.",
                 "rotkv-gguf");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_gguf(flags); });
}
