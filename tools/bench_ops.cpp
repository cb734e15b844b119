// rotkv-bench-ops: single operations against memory. Cases are those of the table's grammar
// (ref/cases/case.h), in sizes that fill a cache or overflow it; each is validated against the
// reference before it is timed, and a copy of as many bytes runs between its iterations.
//
// A call takes a device as long as a wait for it. So a device's iteration is many calls, which its
// backend launches together when it is waited for (cuda/recorder.h), over so many copies of the
// tensors that none is in a cache when its turn comes.
#include "ref/error.h"
#include "ref/files/output_file.h"
#include "tools/backends.h"
#include "tools/bench_cases.h"
#include "tools/bench_copy.h"
#include "tools/bench_machine.h"
#include "tools/case_names.h"
#include "tools/cli.h"
#include "tools/ladder_backends.h"
#include "tools/parity/parity.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

namespace rotkv::tools {
namespace {

constexpr double k_least_seconds = 3e-3;  // of a device's iteration
constexpr int64_t k_most_calls = 4096;
constexpr int64_t k_device_iterations = 15;
constexpr int k_most_ahead = 12;            // cases,
constexpr double k_most_bytes_ahead = 4e9;  // which take two to three times as much

struct Flags {
    std::string pattern, backend, against = "ref", format = "console", json;
    int threads = 0, repetitions = 5;
    double seconds = 0.2;
    bool ladder = false;
    std::vector<std::string> cases;
};

double seconds_of(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What the cases must give, in turn. For a device the next ones are filled and computed by other
// threads, one each, while one is timed: that takes longer than everything else.
class Expectations {
  public:
    Expectations(std::vector<std::string> names, std::string against, bool on_device, int threads)
        : names_(std::move(names)),
          against_(std::move(against)),
          ahead_(on_device ? std::clamp(threads - 2, 1, k_most_ahead) : 0),
          threads_(on_device ? 1 : threads) {}

    /// Until the next name is asked for.
    const Expected& of(const std::string& name) {
        if (name == last_name_) return last_;
        while (!coming_.empty() && coming_.front().first != name) coming_.pop_front();
        if (coming_.empty()) start(name);
        const auto next = std::find(names_.begin(), names_.end(), name);
        const int64_t first = next - names_.begin();
        double bytes = 0;
        for (int64_t i = first; i < std::min(first + 1 + ahead_, int64_t(names_.size())); ++i) {
            bytes += make_case(names_[size_t(i)])->work().bytes;
            if (i < first + int64_t(coming_.size())) continue;
            if (bytes > k_most_bytes_ahead) break;
            start(names_[size_t(i)]);
        }
        last_ = coming_.front().second.get();
        last_name_ = name;
        coming_.pop_front();
        return last_;
    }

  private:
    void start(const std::string& name) {
        const auto compute = [name, against = against_, threads = threads_] {
            const std::unique_ptr<Case> one = make_case(name);
            return expected_results(*one, *make_backend(against, threads));
        };
        coming_.emplace_back(name, std::async(std::launch::async, compute));
    }

    std::vector<std::string> names_;
    std::string against_;
    int64_t ahead_;
    int threads_;
    std::deque<std::pair<std::string, std::future<Expected>>> coming_;
    std::string last_name_;
    Expected last_;
};

// What is timed: a case on a backend, and the name that it is shown by.
struct Timing {
    std::string name, case_name;
    Backend* backend;
};

// A case that agrees with the reference, in memory, ready to be called again and again.
class TimedCase {
  public:
    /// `copier`: the backend that copies.
    TimedCase(const Timing& timing, Expectations& expectations, Backend& copier, int threads)
        : name_(timing.name),
          backend_(*timing.backend),
          copier_(copier),
          on_device_(!backend_.in_host_memory()),
          one_(make_case(timing.case_name)) {
        const Support support = one_->supports(backend_);
        if (!support.yes) {
            refusal_ = "unsupported: " + support.reason;
            return;
        }
        const Expected& expected = expectations.of(timing.case_name);
        const CaseResult cell = run_on(*one_, expected, backend_, Alignment::memory);
        if (cell.outcome != Outcome::ok) {
            refusal_ = cell.text;
            return;
        }
        double bytes = 1;
        for (const CaseTensor& tensor : expected.tensors) {
            bytes += double(tensor.rows() * tensor.bytes_of_row());
        }
        const int64_t places = on_device_ ? int64_t(k_cold_bytes / bytes) + 1 : 1;
        for (int64_t i = 0; i < std::min(places, k_most_calls); ++i) {
            places_.push_back(std::make_unique<Placement>(backend_, expected.tensors,
                                                          one_->layout(), Alignment::memory));
        }
        copy_ = std::make_unique<Copy>(copier, on_device_, one_->work().bytes, threads);
        if (on_device_) choose_calls();
    }

    const std::string& name() const { return name_; }
    const std::string& refusal() const { return refusal_; }  ///< "": it is timed
    Case::Work work() const { return one_->work(); }

    double seconds_per_copy() {
        if (!on_device_) return seconds_of([&] { copy_->run_on_host(); });
        return seconds_per_call(copier_, [&](int64_t call) { copy_->run_on_device(call); });
    }
    double seconds_per_call() {
        return seconds_per_call(backend_, [&](int64_t call) {
            one_->run(backend_, places_[size_t(call) % places_.size()]->views());
        });
    }

  private:
    double seconds_per_call(Backend& backend, const std::function<void(int64_t)>& call) {
        const auto call_all = [&] {
            for (int64_t i = 0; i < calls_; ++i) call(i);
        };
        if (!on_device_) {
            return seconds_of([&] {
                call_all();
                backend.synchronize();
            });
        }
        call_all();  // so that these calls are the latest recording, and warm
        backend.synchronize();
        call_all();
        return seconds_of([&] { backend.synchronize(); }) / double(calls_);
    }

    // Whole rounds over the places. The first time of any calls is none to keep: they are seen
    // once, then recorded.
    void choose_calls() {
        const int64_t round = int64_t(places_.size());
        calls_ = std::max<int64_t>(round, 8);
        seconds_per_call();
        const double wanted = k_least_seconds / seconds_per_call();
        calls_ = (std::min(int64_t(wanted), k_most_calls) / round + 1) * round;
        seconds_per_copy();
        seconds_per_call();
    }

    std::string name_;
    Backend &backend_, &copier_;
    bool on_device_;
    std::unique_ptr<Case> one_;
    std::string refusal_;
    std::vector<std::unique_ptr<Placement>> places_;
    std::unique_ptr<Copy> copy_;
    int64_t calls_ = 1;
};

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + int64_t(values.size() / 2), values.end());
    return values[values.size() / 2];
}

void time_case(benchmark::State& state, TimedCase& timed) {
    if (!timed.refusal().empty()) return state.SkipWithError(timed.refusal().c_str());
    std::vector<double> times, copies;
    for (auto _ : state) {
        copies.push_back(timed.seconds_per_copy());
        times.push_back(timed.seconds_per_call());
        state.SetIterationTime(times.back());
    }
    const double time = median(times);
    const Case::Work work = timed.work();
    state.counters["GB/s"] = work.bytes / time * 1e-9;
    state.counters["x_memcpy"] = median(copies) / time;
    if (work.flops > 0) state.counters["GFLOP/s"] = work.flops / time * 1e-9;
}

bool is_meant(const Flags& flags, const std::string& name) {
    return name.find(flags.pattern) != std::string::npos;
}

std::vector<Timing> cases_of(const Flags& flags, Backend& backend) {
    std::vector<Timing> timings;
    for (const std::string& name : flags.cases) timings.push_back({name, name, &backend});
    if (!flags.cases.empty()) return timings;
    for (const char* name : !backend.in_host_memory()
                                ? std::span<const char* const>(k_device_cases)
                                : std::span<const char* const>(k_host_cases)) {
        if (is_meant(flags, name)) timings.push_back({name, name, &backend});
    }
    return timings;
}

// Every version on the cases of its ladder that it takes.
std::vector<Timing> versions_of(const Flags& flags, const std::vector<LadderVersion>& versions) {
    std::vector<Timing> timings;
    for (const LadderCase& of : flags.backend == "fast"
                                    ? std::span<const LadderCase>(k_host_ladder_cases)
                                    : std::span<const LadderCase>(k_ladder_cases)) {
        const std::unique_ptr<Case> one = make_case(of.name);
        for (const LadderVersion& version : versions) {
            const std::string name = version.ladder + "/" + version.name + "/" + of.name;
            if (version.ladder != of.ladder || !is_meant(flags, name)) continue;
            if (one->supports(*version.backend).yes) {
                timings.push_back({name, of.name, version.backend.get()});
            }
        }
    }
    return timings;
}

// What is shown as it comes, and kept as JSON for a file that appears when it is whole.
class ShownAndKept : public benchmark::BenchmarkReporter {
  public:
    ShownAndKept() : shown_(benchmark::CreateDefaultDisplayReporter()) {
        json_.SetOutputStream(&text_);
        json_.SetErrorStream(&text_);
    }

    bool ReportContext(const Context& context) override {
        return json_.ReportContext(context) && shown_->ReportContext(context);
    }
    void ReportRuns(const std::vector<Run>& runs) override {
        json_.ReportRuns(runs);
        shown_->ReportRuns(runs);
    }
    void Finalize() override {
        json_.Finalize();
        shown_->Finalize();
    }

    std::string json() const { return text_.str(); }

  private:
    std::unique_ptr<benchmark::BenchmarkReporter> shown_;
    benchmark::JSONReporter json_;
    std::ostringstream text_;
};

// How many ran. JSON on standard output is what the library shows.
size_t run_all(const std::string& json) {
    if (json.empty() || json == "-") return benchmark::RunSpecifiedBenchmarks();
    ShownAndKept reporter;
    const size_t count = benchmark::RunSpecifiedBenchmarks(&reporter);
    OutputFile file(json);
    file.write(reporter.json());
    file.finish();
    return count;
}

void require_sense(const Flags& flags) {
    if (!flags.cases.empty() && (flags.ladder || !flags.pattern.empty())) {
        throw Error(ErrorCode::usage, std::string("CASE and ") +
                                          (flags.ladder ? "--ladder" : "--case") +
                                          ": expected one of them");
    }
    if (flags.ladder && !flags.backend.empty() && flags.backend != "cuda" &&
        flags.backend != "fast") {
        throw Error(ErrorCode::usage,
                    "--ladder: expected --backend cuda or fast, found '" + flags.backend + "'");
    }
}

int run(const Flags& flags) {
    require_sense(flags);
    const int threads = flags.threads > 0 ? flags.threads : omp_get_num_procs();
    const std::unique_ptr<Backend> backend =
        make_backend(flags.ladder && flags.backend.empty() ? "cuda" : flags.backend, threads);
    const std::string against = make_backend(flags.against, 1)->name();
    const bool on_device = !backend->in_host_memory();
    std::vector<LadderVersion> versions;
    if (flags.ladder) versions = on_device ? ladder_versions() : fast_ladder_versions(threads);
    const std::vector<Timing> timings =
        flags.ladder ? versions_of(flags, versions) : cases_of(flags, *backend);
    if (timings.empty()) {
        throw Error(ErrorCode::usage, "--case '" + flags.pattern + "' is part of no timed case");
    }
    check_paths({}, {{"--json", flags.json}});
    std::vector<std::string> names;
    for (const Timing& timing : timings) {
        require_case(timing.case_name);  // before any is timed
        if (names.empty() || names.back() != timing.case_name) names.push_back(timing.case_name);
    }
    Expectations expectations(names, against, on_device, threads);
    std::unique_ptr<TimedCase> timed;  // one at a time: they are large
    for (const Timing& timing : timings) {
        auto* one =
            benchmark::RegisterBenchmark(timing.name.c_str(), [&, timing](benchmark::State& state) {
                if (timed == nullptr || timed->name() != timing.name) {
                    timed.reset();
                    timed = std::make_unique<TimedCase>(timing, expectations, *backend, threads);
                }
                time_case(state, *timed);
            });
        one->UseManualTime()->Unit(benchmark::kMicrosecond);
        on_device ? one->Iterations(k_device_iterations) : one->MinTime(flags.seconds);
        one->Repetitions(flags.repetitions)->ReportAggregatesOnly(flags.repetitions > 1);
    }
    std::vector<std::string> words = {
        "rotkv-bench-ops", "--benchmark_format=" + (flags.json == "-" ? "json" : flags.format)};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    int argc = int(argv.size());
    benchmark::Initialize(&argc, argv.data());
    benchmark::AddCustomContext("backend", backend->name() + ", " + backend->description());
    benchmark::AddCustomContext("validated against", against);
    return run_all(flags.json) > 0 ? k_good : k_failed;
}

constexpr const char* k_examples =
    "  rotkv-bench-ops\n"
    "  rotkv-bench-ops --case hadamard -t 1\n"
    "  rotkv-bench-ops --backend cuda --against fast --case attention\n"
    "  rotkv-bench-ops --ladder --against fast -r 1\n"
    "  rotkv-bench-ops --ladder --backend fast --case matvec\n"
    "  rotkv-bench-ops quantize/type=q4_0/rows=1000/D=128 --repetitions 1\n"
    "  rotkv-bench-ops -o csv > ops.csv\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app(
        "Times single operations, each beside a copy of as many bytes (x_memcpy: 1 is as fast as "
        "memory). What does not agree with the reference is not timed.",
        "rotkv-bench-ops");
    Flags flags;
    app.add_option("CASE", flags.cases, "cases to time instead of the built-in list");
    app.add_option("--case", flags.pattern, "only those of the list whose name contains this");
    app.add_flag("--ladder", flags.ladder,
                 "the versions of cuda's hadamard and attention, from the plainest to the one in "
                 "use, each on the cases that it takes; with --backend fast those of fast, and of "
                 "products of one token");
    app.add_option("--backend", flags.backend, "ref, fast, ...");
    app.add_option("--against", flags.against,
                   "the backend that validates: ref, or fast where ref takes long");
    add_whole(app, "-t,--threads", flags.threads, 1, 1024,
              "threads, as many as processors by default")
        ->default_str("");
    add_whole(app, "-r,--repetitions", flags.repetitions, 1, 1000, "how often each is measured");
    app.add_option_function<std::string>(
           "--seconds",
           [&flags](const std::string& text) {
               flags.seconds = parse_real("--seconds", text, 0.001, 60);
           },
           "how long one repetition runs at least, on a host")
        ->type_name("S");
    app.add_option("-o,--output", flags.format, "format on standard output: console, csv or json")
        ->capture_default_str()
        ->check(CLI::IsMember({"console", "csv", "json"}))
        ->type_name("FORMAT");
    add_json_flag(app, flags.json);
    return run_tool(app, argc, argv, k_examples, [&]() { return run(flags); });
}
