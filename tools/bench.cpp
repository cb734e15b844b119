// rotkv-bench: tokens per second, each rate beside what the machine could do at best. Tests, flags
// and names are llama-bench's:
//   pp512            512 tokens of a prompt, in batches
//   tg128            128 tokens, one at a time
//   pp512 @ d2048    the same with 2048 tokens in the cache already
// The repetitions go round over all rows, 1 2 3, 2 3 1, ..., so that whatever else the machine does
// falls on all of them alike.
// Docs: docs/performance.md

#include "ref/error.h"
#include "tools/bench_report.h"
#include "tools/cache_mark.h"
#include "tools/layer_words.h"
#include "tools/loaded_model.h"
#include "tools/rotation_of_both.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-bench";
constexpr int64_t k_most_tokens = int64_t(1) << 20;

std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> parts(1);
    for (const char c : list) {
        if (c == ',') {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

int64_t parse_count(const std::string& text, const char* flag) {
    return parse_whole(flag, text, 0, k_most_tokens);
}

// "q8_0", of the flag's list.
CacheType parse_type_of(const std::string& text, const char* flag) {
    return parse_cache_type(flag, text);
}

AskedRotation parse_asked(const std::string& text, const char* flag) {
    return parse_asked_rotation(flag, text);
}

struct Flags {
    ModelFlags model;
    std::vector<int64_t> prompts{512}, generations{128}, depths{0};
    std::vector<CacheType> types_k{DType::f16}, types_v{DType::f16};
    std::vector<AskedRotation> rotations;  ///< empty: what the environment says
    int64_t batch = 512, repetitions = 5;
    std::string format = "md", json;
    bool quiet = false;

    void add_to(CLI::App& app);

    int64_t longest() const {
        const int64_t test = std::max(*std::max_element(prompts.begin(), prompts.end()),
                                      *std::max_element(generations.begin(), generations.end()));
        return *std::max_element(depths.begin(), depths.end()) + test;
    }
};

void Flags::add_to(CLI::App& app) {
    // A flag whose values are parted by commas: each makes rows of its own.
    const auto add_list = [&app](const char* names, const char* flag, auto& values, auto parse,
                                 const char* what, const char* type) {
        app.add_option_function<std::string>(
               names,
               [flag, &values, parse](const std::string& list) {
                   values.clear();
                   for (const std::string& text : split(list)) values.push_back(parse(text, flag));
               },
               what)
            ->type_name(type);
    };
    model.add_to(app);
    model.add_profile_to(app);
    add_list("-p,--n-prompt", "-p", prompts, parse_count,
             "tokens of the prompt tests; 0: none (512)", "N,...");
    add_list("-n,--n-gen", "-n", generations, parse_count,
             "tokens of the generation tests; 0: none (128)", "N,...");
    add_list("-d,--n-depth", "-d", depths, parse_count, "tokens in the cache before a test (0)",
             "N,...");
    add_list("--cache-type-k", "-ctk", types_k, parse_type_of,
             "(-ctk) types of K in the cache (f16)", "TYPE,...");
    add_list("--cache-type-v", "-ctv", types_v, parse_type_of,
             "(-ctv) types of V in the cache (f16)", "TYPE,...");
    const std::string what =
        fmt::format("rotation of K and V: {} (auto)", rotation_choices_of_both());
    add_list("--rot", "--rot", rotations, parse_asked, what.c_str(), "WHAT,...");
    add_whole(app, "-b,--batch-size", batch, 1, k_most_tokens,
              "tokens of a prompt at once, llama.cpp's -ub");
    add_whole(app, "-r,--repetitions", repetitions, 1, 10000, "how often each test is timed");
    app.add_option("-o,--output", format, "format on standard output: md, csv or json")
        ->capture_default_str()
        ->check(CLI::IsMember({"md", "csv", "json"}))
        ->type_name("FORMAT");
    app.add_flag("--quiet", quiet, "no progress on standard error");
    add_json_flag(app, json);
}

// A model that is fed tokens that nobody chose: what they are makes no difference to the time.
class RandomText {
  public:
    explicit RandomText(Model& model)
        : model_(model),
          logits_(model.backend(), std::size_t(model.config().words) * sizeof(float)) {}

    /// Appends `count` tokens from position `first` on, `batch` at a time.
    void feed(KvCache& cache, int64_t first, int64_t count, int64_t batch) {
        for (int64_t done = 0; done < count; done += batch) {
            const int64_t n = std::min(batch, count - done);
            std::vector<int32_t> tokens, positions;
            for (int64_t t = 0; t < n; ++t) {
                tokens.push_back(int32_t(int64_t(random_()) % model_.config().words));
                positions.push_back(int32_t(first + done + t));
            }
            const std::vector<int32_t> streams(std::size_t(n), 0);
            last_ = model_.forward(cache, tokens, streams, positions);
            last_.data += (n - 1) * last_.stride[2];
            last_.n[2] = 1;
        }
    }

    /// The logits of the last token, as whoever samples the next one needs them.
    void logits() {
        model_.run(LogitsArgs{.dst = logits_.view(DType::f32, {1, model_.config().words}),
                              .hidden = last_,
                              .weight = model_.weights().output,
                              .softcap = model_.config().final_softcap});
        model_.backend().synchronize();
    }

  private:
    Model& model_;
    Buffer logits_;
    TensorView last_;  ///< [1][E] the last token's place in the residual stream
    std::mt19937 random_{1};
};

// All rows of a run and the caches they need, filled to their depths.
class Bench {
  public:
    explicit Bench(const Flags& flags);
    BenchRun run();

  private:
    void add_rows(const CacheType& type_k, const CacheType& type_v, const AskedRotation& asked,
                  int64_t depth);
    void add_row(const BenchRow& row, const std::shared_ptr<KvCache>& cache);
    PassCost work_of(const BenchRow& row, const KvShape& shape) const;
    void run_test(const BenchRow& row, KvCache& cache);
    void print_profiles();
    void say(const std::string& line) const {
        if (!flags_.quiet) fmt::print(stderr, "{}: {}\n", k_tool, line);
    }

    const Flags& flags_;
    LoadedModel loaded_;
    RandomText text_;
    BenchRun result_;
    std::vector<std::shared_ptr<KvCache>> caches_;  ///< [rows]
    std::vector<CacheMark> marks_;                  ///< [rows]: filled to the depth
};

Bench::Bench(const Flags& flags)
    : flags_(flags), loaded_(flags.model, flags.longest()), text_(loaded_.model) {
    result_.model = flags.model.path;
    result_.notices = loaded_.notices;
    result_.file_bytes = int64_t(loaded_.file.file_bytes());
    result_.backend = loaded_.backend->name();
    result_.device = loaded_.backend->description();
    result_.precision = loaded_.model.options().precision;
    result_.threads = flags.model.threads;
    result_.batch = flags.batch;
    std::vector<AskedRotation> rotations = flags.rotations;
    if (rotations.empty()) rotations.push_back({"auto", rotation_from_environment()});
    say(fmt::format("{} on {} ({})", result_.model, result_.backend, result_.device));
    for (const CacheType& type_k : flags.types_k) {
        for (const CacheType& type_v : flags.types_v) {
            for (const AskedRotation& asked : rotations) {
                for (const int64_t depth : flags.depths) add_rows(type_k, type_v, asked, depth);
            }
        }
    }
}

// The tests of one cache, which is filled to its depth once; each test takes back what it added.
void Bench::add_rows(const CacheType& type_k, const CacheType& type_v, const AskedRotation& asked,
                     int64_t depth) {
    const int64_t room =
        flags_.longest() - *std::max_element(flags_.depths.begin(), flags_.depths.end());
    const KvShape shape = loaded_.model.config().cache_shape(1, depth + room, type_k, type_v);
    BenchRow row;
    row.type_k = type_k;
    row.type_v = type_v;
    row.bits_per_value = bits_per_value(shape);
    if (const std::string bits = words_of_bits(shape); !bits.empty()) {
        say(fmt::format("{} and {}{}: kept on the host, whose work is in the times, over f32 cells",
                        type_k.name(), type_v.name(), bits));
    }
    row.rot = asked.text;
    row.spec = decide_rotation(asked.request, shape);
    row.rotated = rotated_sides(row.spec, shape);
    row.depth = depth;
    const auto cache = std::make_shared<KvCache>(*loaded_.backend, shape, row.spec);
    if (depth > 0) {
        say(fmt::format("filling a cache of {}, {} with {} tokens", type_k.name(), type_v.name(),
                        depth));
    }
    text_.feed(*cache, 0, depth, flags_.batch);
    for (const int64_t tokens : flags_.prompts) {
        row.prompt = tokens;
        if (tokens > 0) add_row(row, cache);
    }
    row.prompt = 0;
    for (const int64_t tokens : flags_.generations) {
        row.generated = tokens;
        if (tokens > 0) add_row(row, cache);
    }
}

void Bench::add_row(const BenchRow& row, const std::shared_ptr<KvCache>& cache) {
    result_.rows.push_back(row);
    result_.rows.back().work = work_of(row, cache->shape());
    caches_.push_back(cache);
    marks_.emplace_back(*cache);
}

// A prompt goes in batches and needs the logits after its last token, generation after each.
PassCost Bench::work_of(const BenchRow& row, const KvShape& shape) const {
    const int64_t step = row.prompt > 0 ? flags_.batch : 1;
    PassCost work;
    for (int64_t done = 0; done < row.tokens(); done += step) {
        const int64_t n = std::min(step, row.tokens() - done);
        const bool with_logits = row.prompt == 0 || done + n == row.tokens();
        work += cost_of_pass(loaded_.file, loaded_.model, shape, row.depth + done, n, with_logits);
    }
    return work;
}

void Bench::run_test(const BenchRow& row, KvCache& cache) {
    if (row.prompt > 0) {
        text_.feed(cache, row.depth, row.prompt, flags_.batch);
        text_.logits();
    }
    for (int64_t token = 0; token < row.generated; ++token) {
        text_.feed(cache, row.depth + token, 1, 1);
        text_.logits();
    }
}

// Each row once more, for the times of its operations.
void Bench::print_profiles() {
    if (loaded_.profile == nullptr) return;
    for (size_t i = 0; i < result_.rows.size(); ++i) {
        const BenchRow& row = result_.rows[i];
        loaded_.profile->clear();
        const auto start = std::chrono::steady_clock::now();
        run_test(row, *caches_[i]);
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        marks_[i].restore(*caches_[i]);
        fmt::print(stderr, "{}, {} and {}:\n{}", row.test(), row.type_k.name(), row.type_v.name(),
                   loaded_.profile->table(seconds));
    }
}

BenchRun Bench::run() {
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) {
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    // Each round begins one row later: what runs first finds the processor's caches cold.
    const std::size_t n_rows = result_.rows.size();
    const auto round = [&](int64_t first, bool counts) {
        for (std::size_t step = 0; step < n_rows; ++step) {
            const std::size_t i = (std::size_t(first) + step) % n_rows;
            const Clock::time_point start = Clock::now();
            run_test(result_.rows[i], *caches_[i]);
            if (counts) result_.rows[i].seconds.push_back(since(start));
            marks_[i].restore(*caches_[i]);
        }
    };
    const Clock::time_point start = Clock::now();
    round(0, false);
    say(fmt::format("{} rows, {} rounds of about {:.1f} s after one to warm up", n_rows,
                    flags_.repetitions, since(start)));
    result_.resident_bytes = peak_resident_bytes();
    Machine machine(
        *loaded_.backend, flags_.model.threads,
        cost_of_pass(loaded_.file, loaded_.model, caches_[0]->shape(), 0, 1, true).bytes);
    for (int64_t done = 0; done < flags_.repetitions; ++done) {
        machine.measure();
        round(done, true);
    }
    machine.measure();
    print_profiles();
    result_.best = machine.best();
    result_.buffer_bytes = machine.buffer_bytes();
    return result_;
}

int run_bench(const Flags& flags) {
    if (flags.longest() == *std::max_element(flags.depths.begin(), flags.depths.end())) {
        throw Error(ErrorCode::usage, "-p and -n: nothing to measure");
    }
    check_paths({{"-m", flags.model.path}}, {{"--json", flags.json}});
    const BenchRun run = Bench(flags).run();
    write_json(flags.json, json_of(run));
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    if (flags.format == "md") fmt::print(out, "{}", markdown(run));
    if (flags.format == "csv") fmt::print(out, "{}", csv(run));
    if (flags.format == "json" && flags.json != "-") write_json("-", json_of(run));
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-bench -m model.gguf\n"
    "  rotkv-bench -m model.gguf -d 0,2048 -ctk q8_0 -ctv q8_0 --rot auto,off\n"
    "  rotkv-bench -m model.gguf -p 0 -n 64 -d 512,1024,2048,4096 -o csv > depth.csv\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app(
        "Tokens per second of prompts and of generation, for lists of cache types, rotations and "
        "depths, beside what the machine can do at best.",
        "rotkv-bench");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_bench(flags); });
}
