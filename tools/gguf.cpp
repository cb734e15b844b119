// rotkv-gguf: what is in a model file, what its cache would cost, and what two files differ in.
// Docs: docs/06-gguf.md

#include "ref/error.h"
#include "ref/model.h"
#include "ref/rotation_words.h"
#include "tools/cli.h"
#include "tools/gguf_check.h"
#include "tools/gguf_diff.h"
#include "tools/gguf_layers.h"
#include "tools/gguf_words.h"
#include "tools/layer_words.h"
#include "tools/loaded_model.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

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
        app.add_flag(
            "--check", check,
            "read every weight and everything a model needs; exit code 1 unless all is ok");
        app.add_option("--diff", diff, "compare two files; exit code 1 if they differ")
            ->expected(2)
            ->type_name("A B");
        cache.add_to(app);
        add_json_flag(app, json);
    }
};

struct TypeTotal {
    int64_t tensors = 0;
    uint64_t bytes = 0;
    bool known = true;  // the bytes; else they are at most so many
};

// Bytes of a type that is not readable here are bounded by what follows in the file.
bool knows_bytes(const GgufTensor& tensor) { return tensor.readable || tensor.empty(); }

std::string bytes_words(uint64_t bytes, bool known) {
    return fmt::format("{}{}", known ? "" : "at most ", bytes);
}

std::map<std::string, TypeTotal> totals_by_type(const GgufFile& file) {
    std::map<std::string, TypeTotal> totals;
    for (const GgufTensor& tensor : file.tensors()) {
        TypeTotal& total = totals[type_words(tensor)];
        ++total.tensors;
        total.bytes += tensor.bytes;
        total.known = total.known && knows_bytes(tensor);
    }
    return totals;
}

void print_tensors(std::FILE* out, const GgufFile& file) {
    if (file.tensors().empty()) {
        fmt::print(out, "\nno tensors\n");
        return;
    }
    std::size_t widest = 4, widest_type = 6;
    for (const GgufTensor& tensor : file.tensors()) {
        widest = std::max(widest, tensor.name.size());
        widest_type = std::max(widest_type, type_words(tensor).size());
    }
    fmt::print(out, "\ntensors\n  {:<{}}  {:<{}}  {:>18}  {:>12}  {:>12}\n", "name", widest, "type",
               widest_type, "shape", "bytes", "offset");
    for (const GgufTensor& tensor : file.tensors()) {
        fmt::print(out, "  {:<{}}  {:<{}}  {:>18}  {:>12}  {:>12}\n", printable(tensor.name),
                   widest, type_words(tensor), widest_type, shape_words(tensor),
                   bytes_words(tensor.bytes, knows_bytes(tensor)), tensor.offset);
    }
    fmt::print(out, "\nby type\n");
    for (const auto& [name, total] : totals_by_type(file)) {
        fmt::print(out, "  {:<{}}  {:>5} tensors  {:>14} bytes\n", name, widest_type, total.tensors,
                   bytes_words(total.bytes, total.known));
    }
}

// What -ctk, -ctv and --rot-* make of a model's cache.
struct AskedCache {
    KvShape shape;
    RotationSpec spec;

    AskedCache(const CacheFlags& flags, const ModelConfig& config)
        : shape(config.cache_shape(1, 1, flags.type_k(), flags.type_v())),
          spec(decide_rotation(flags.rotation(), shape)) {}
};

// The zoo, with the bits that this model's heads come to, all metadata included.
void print_formats(std::FILE* out, const ModelConfig& config) {
    fmt::print(out,
               "\nformats without kernels, over f32 cells\n"
               "  K = V                 bits per value  bytes per token\n");
    for (const std::string& name : names_of_formats()) {
        const CacheType type = *find_cache_type(name);
        const KvShape shape = config.cache_shape(1, 1, type, type);
        const bool fits = row_bytes_of(shape).has_value();
        fmt::print(out, "  {:<20}  {:>14}  {:>15}\n", name,
                   fits ? fmt::format("{:.3f}", bits_per_value(shape)) : "-",
                   fits ? std::to_string(shape.bytes_per_token()) : "-");
    }
}

void print_cache(std::FILE* out, const ModelConfig& config, const AskedCache& asked) {
    fmt::print(out, "\ncache\n  K = V   bits per value  bytes per token\n");
    for (const DType type : cache_types()) {
        const TypeInfo& info = type_info(type);
        const double bits = 8.0 * double(info.block_bytes) / double(info.block_elements);
        const std::optional<int64_t> bytes = row_bytes_of(config.cache_shape(1, 1, type, type));
        fmt::print(out, "  {:<6}  {:>14.1f}  {:>15}\n", info.name, bits,
                   bytes ? std::to_string(*bytes) : "-");
    }
    print_formats(out, config);
    print_kept(out, config, asked.shape, asked.spec);
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
    json["parts"] = file.n_parts();
    json["metadata"] = Json::object();
    for (const GgufEntry& entry : file.metadata())
        json["metadata"][entry.key] = json_of_value(entry.value);
    json["tensors"] = Json::array();
    for (const GgufTensor& tensor : file.tensors()) {
        json["tensors"].push_back(
            {{"name", tensor.name},
             {"type", describe_type(tensor)},
             {"readable", tensor.readable},
             {"shape", std::vector<int64_t>(tensor.n, tensor.n + tensor.n_dims)},
             {knows_bytes(tensor) ? "bytes" : "bytes_at_most", tensor.bytes},
             {"offset", tensor.offset}});
    }
    return json;
}

Json json_of_cache(const ModelConfig& config, const AskedCache& asked) {
    Json json;
    for (const DType type : cache_types()) {
        const std::optional<int64_t> bytes = row_bytes_of(config.cache_shape(1, 1, type, type));
        json["bytes_per_token"][type_info(type).name] = bytes ? Json(*bytes) : Json();
    }
    for (const std::string& name : names_of_formats()) {
        const CacheType type = *find_cache_type(name);
        const std::optional<int64_t> bytes = row_bytes_of(config.cache_shape(1, 1, type, type));
        json["bytes_per_token_of_formats"][name] = bytes ? Json(*bytes) : Json();
    }
    json["state_bytes_per_stream"] = asked.shape.recurrent().bytes_per_stream();
    json["rotation"] = json_of(asked.spec);
    return json;
}

int show(const Flags& flags) {
    const GgufFile file = GgufFile::open(flags.path, GgufParts::taken);
    const MaybeConfig model = config_of(file);
    const std::vector<std::string> notices = notices_of(file, model);
    std::optional<AskedCache> asked;  // what cannot be is refused before anything is printed
    if (model.config) asked.emplace(flags.cache, *model.config);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    fmt::print(out, "{}: GGUF version {}, {} bytes, alignment {}, data at {}\n", flags.path,
               file.version(), file.file_bytes(), file.alignment(), file.data_offset());
    if (file.n_parts() > 1) {
        fmt::print(out, "one of {} parts of a split model\n", file.n_parts());
    }
    fmt::print(out, "\nmetadata, {} entries\n", file.metadata().size());
    for (const GgufEntry& entry : file.metadata()) {
        fmt::print(out, "  {} = {}\n", printable(entry.key), describe(entry.value));
    }
    print_tensors(out, file);
    Json json = json_of_file(file);
    if (model.config) {
        print_blocks(out, file, *model.config);
        print_cache(out, *model.config, *asked);
        json.update(json_of_layers(file, *model.config, asked->shape, asked->spec));
        json["cache"] = json_of_cache(*model.config, *asked);
    } else {
        fmt::print(out, "\nno cache figures: {}\n", printable(model.reason));
    }
    json["notices"] = notices;
    say_notices("rotkv-gguf", flags.path, notices);
    write_json(flags.json, json);
    return k_good;
}

int check(const Flags& flags) {
    const GgufFile file = GgufFile::open(flags.path, GgufParts::taken);
    const CheckResult result = check_gguf(file, flags.json == "-" ? stderr : stdout);
    write_json(flags.json, result.json);
    return result.ok ? k_good : k_failed;
}

int diff(const Flags& flags) {
    const GgufFile a = GgufFile::open(flags.diff[0], GgufParts::taken);
    const GgufFile b = GgufFile::open(flags.diff[1], GgufParts::taken);
    const std::vector<std::string> lines = differences(a, b);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    for (const std::string& line : lines) fmt::print(out, "{}\n", line);
    if (lines.empty()) fmt::print(out, "no difference\n");
    write_json(flags.json, {{"a", a.path()}, {"b", b.path()}, {"differences", lines}});
    return lines.empty() ? k_good : k_failed;
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
