// rotkv-bench-ops: single operations against memory. Cases are those of the table's grammar
// (ref/case.h), in sizes that fill a cache or overflow it; each is validated against the reference
// before it is timed, and a memcpy of as many bytes runs between its iterations.
#include "ref/error.h"
#include "tools/backends.h"
#include "tools/cli.h"
#include "tools/parity.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace rotkv::tools {
namespace {

// 65536 rows of 64 floats are 16 MB, read and written: beyond the caches of most processors.
constexpr const char* k_timed[] = {
    "hadamard/rows=65536/rot=64",
    "hadamard/rows=32768/D=128/rot=128",
    "hadamard/rows=16384/D=256/rot=256",
    "hadamard/rows=8192/D=512/rot=512",
    "hadamard/rows=65536/rot=64:1",
    "hadamard/rows=512/rot=64",
    "quantize/type=f16/rows=65536",
    "quantize/type=bf16/rows=65536",
    "quantize/type=q8_0/rows=65536",
    "quantize/type=q5_1/rows=65536",
    "quantize/type=q5_0/rows=65536",
    "quantize/type=q4_1/rows=65536",
    "quantize/type=q4_0/rows=65536",
    "quantize/type=iq4_nl/rows=65536",
    "dequantize/type=f16/rows=65536/D=64/values=normal",
    "dequantize/type=q8_0/rows=65536/D=64/values=normal",
    "dequantize/type=q5_1/rows=65536/D=64/values=normal",
    "dequantize/type=q4_0/rows=65536/D=64/values=normal",
    "dequantize/type=iq4_nl/rows=65536/D=64/values=normal",
    "rope/T=4096/H=9/pairs=neox",
    "kv_store/k=f16/v=f16/T=8192/C=8192/K=3",
    "kv_store/k=f16/v=f16/T=8192/C=8192/K=3/rot-k=64/rot-v=64",
    "kv_store/k=q8_0/v=q8_0/T=8192/C=8192/K=3",
    "kv_store/k=q8_0/v=q8_0/T=8192/C=8192/K=3/rot-k=64/rot-v=64",
    "kv_store/k=q4_0/v=q4_0/T=8192/C=8192/K=3/rot-k=64/rot-v=64",
    "kv_store/k=iq4_nl/v=iq4_nl/T=8192/C=8192/K=3/rot-k=64/rot-v=64",
    "attention/k=f16/v=f16/T=1/C=8192/H=9/K=3/rot-k=64/rot-v=64",
    "attention/k=q8_0/v=q8_0/T=1/C=8192/H=9/K=3/rot-k=64/rot-v=64",
    "attention/k=q4_0/v=q4_0/T=1/C=8192/H=9/K=3/rot-k=64/rot-v=64",
    "attention/k=f16/v=f16/T=64/C=2048/H=9/K=3/rot-k=64/rot-v=64/sees=all",
    "attention/k=q8_0/v=q8_0/T=64/C=2048/H=9/K=3/rot-k=64/rot-v=64/sees=all",
    "attention/k=q4_0/v=q4_0/T=64/C=2048/H=9/K=3/rot-k=64/rot-v=64/sees=all",
    "matmul/type=f32/T=1/in=1536/out=4096",
    "matmul/type=q8_0/T=1/in=1536/out=4096",
    "matmul/type=q4_1/T=1/in=1536/out=4096",
    "matmul/type=q4_K/T=1/in=1536/out=4096",
    "matmul/type=q4_1/T=512/in=576/out=1536",
    "nll/type=q8_0/T=64/V=16384/E=576",
};

struct Flags {
    std::string pattern, backend, format = "console", json;
    int threads = 0, repetitions = 5;
    double seconds = 0.2;
    std::vector<std::string> cases;
};

double seconds_of(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The measure: as many bytes, half of them read and half written, by as many threads.
class Copy {
  public:
    explicit Copy(double bytes, int threads)
        : from_(size_t(bytes / 2) + 64, 1), to_(from_.size(), 0), threads_(threads) {}

    void run() {
        const size_t part = (from_.size() / size_t(threads_) + 63) / 64 * 64;
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int i = 0; i < threads_; ++i) {
            const size_t first = std::min(size_t(i) * part, from_.size());
            std::memcpy(to_.data() + first, from_.data() + first,
                        std::min(part, from_.size() - first));
        }
        benchmark::DoNotOptimize(to_.data());
    }

  private:
    std::vector<unsigned char> from_, to_;
    int threads_;
};

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + int64_t(values.size() / 2), values.end());
    return values[values.size() / 2];
}

void time_case(benchmark::State& state, const std::string& name, Backend& backend, int threads) {
    const std::unique_ptr<Case> one = make_case(name);
    const Support support = one->supports(backend);
    if (!support.yes) return state.SkipWithError(("unsupported: " + support.reason).c_str());
    const Expected expected = expected_results(*one);
    const Cell cell = run_cell(*one, expected, backend);
    if (cell.outcome != Outcome::ok) return state.SkipWithError(cell.text.c_str());

    const Placement placement(backend, expected.tensors, one->layout());
    const Case::Work work = one->work();
    Copy copy(work.bytes, threads);
    std::vector<double> times, copies;
    for (auto _ : state) {
        copies.push_back(seconds_of([&] { copy.run(); }));
        times.push_back(seconds_of([&] {
            one->run(backend, placement.views());
            backend.synchronize();
        }));
        state.SetIterationTime(times.back());
    }
    const double time = median(times);
    state.counters["GB/s"] = work.bytes / time * 1e-9;
    state.counters["x_memcpy"] = median(copies) / time;
    if (work.flops > 0) state.counters["GFLOP/s"] = work.flops / time * 1e-9;
}

std::vector<std::string> names_of(const Flags& flags) {
    if (!flags.cases.empty()) return flags.cases;
    std::vector<std::string> names;
    for (const char* name : k_timed) {
        if (std::strstr(name, flags.pattern.c_str()) != nullptr) names.push_back(name);
    }
    if (names.empty()) {
        throw Error(ErrorCode::usage, "--case '" + flags.pattern + "' is part of no timed case");
    }
    return names;
}

int run(const Flags& flags) {
    const int threads = flags.threads > 0 ? flags.threads : omp_get_num_procs();
    const std::unique_ptr<Backend> backend = make_backend(flags.backend, threads);
    for (const std::string& name : names_of(flags)) {
        make_case(name);  // a name that is none is wrong usage, before anything is timed
        benchmark::RegisterBenchmark(
            name.c_str(),
            [&, name](benchmark::State& state) { time_case(state, name, *backend, threads); })
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond)
            ->MinTime(flags.seconds)
            ->Repetitions(flags.repetitions)
            ->ReportAggregatesOnly(flags.repetitions > 1);
    }
    std::vector<std::string> words = {"rotkv-bench-ops", "--benchmark_format=" + flags.format};
    if (!flags.json.empty()) {
        words.push_back("--benchmark_out=" + flags.json);
        words.push_back("--benchmark_out_format=json");
    }
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    int argc = int(argv.size());
    benchmark::Initialize(&argc, argv.data());
    benchmark::AddCustomContext("backend", backend->name() + ", " + backend->description());
    return benchmark::RunSpecifiedBenchmarks() > 0 ? k_good : k_failed;
}

constexpr const char* k_examples =
    "  rotkv-bench-ops\n"
    "  rotkv-bench-ops --case hadamard -t 1\n"
    "  rotkv-bench-ops quantize/type=q4_0/rows=1000/D=128 --repetitions 1\n"
    "  rotkv-bench-ops --format csv > ops.csv\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app(
        "Times single operations, each beside a memcpy of as many bytes (x_memcpy: 1 is as fast as "
        "memory). What does not agree with the reference is not timed.",
        "rotkv-bench-ops");
    Flags flags;
    app.add_option("CASE", flags.cases, "cases to time instead of the built-in list");
    app.add_option("--case", flags.pattern, "only those of the list whose name contains this");
    app.add_option("--backend", flags.backend, "ref, fast, ...");
    app.add_option("-t,--threads", flags.threads, "threads, as many as processors by default")
        ->check(CLI::Range(1, 1024));
    app.add_option("-r,--repetitions", flags.repetitions, "how often each is measured")
        ->check(CLI::Range(1, 1000));
    app.add_option("--seconds", flags.seconds, "how long one repetition runs at least")
        ->check(CLI::Range(0.001, 60.0));
    app.add_option("--format", flags.format, "console, csv or json")
        ->check(CLI::IsMember({"console", "csv", "json"}));
    add_json_flag(app, flags.json);
    return run_tool(app, argc, argv, k_examples, [&]() { return run(flags); });
}
