// rotkv-cases: the table of cases as a program, for our backends and for other engines.
#include "ref/error.h"
#include "tools/backends.h"
#include "tools/case_names.h"
#include "tools/cli.h"
#include "tools/notes.h"
#include "tools/parity/case_files.h"
#include "tools/parity/guarded_run.h"
#include "tools/parity/likely_mistake.h"
#include "tools/parity/parity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace rotkv::tools {
namespace {

struct Flags {
    std::vector<std::string> names;
    std::string pattern, backend, folder, json, guard;
    std::optional<std::string> refused_by;
    bool quiet = false, exact = false, quick = false, small = false;

    /// Where the text goes: standard output takes one of text and JSON.
    std::FILE* results() const { return json == "-" ? stderr : stdout; }
};

std::vector<std::string> selected(const std::string& pattern) {
    std::vector<std::string> names = case_names(pattern);
    if (names.empty()) {
        throw Error(ErrorCode::usage, "--case '" + pattern + "' is part of no case's name");
    }
    return names;
}

// Four of five cases, and an eighth of the time that all take. What is refused takes none.
bool is_small(const Case& one, const Backend& ref) {
    constexpr double k_most_flops = 3e6, k_most_bytes = 1e6;
    if (!one.reference_supports(ref).yes) return true;
    const Case::Work work = one.work();
    return work.flops <= k_most_flops && work.bytes <= k_most_bytes;
}

int list(const Flags& flags) {
    const std::unique_ptr<Backend> judge =
        flags.refused_by ? make_backend(*flags.refused_by, 1) : nullptr;
    const std::unique_ptr<Backend> ref = make_backend("ref", 1);
    const std::vector<std::string> names = selected(flags.pattern);
    size_t printed = 0;
    for (const std::string& name : names) {
        const std::unique_ptr<Case> one = make_case(name);
        if (flags.small && !is_small(*one, *ref)) continue;
        const Support support = judge == nullptr ? Support{} : one->supports(*judge);
        if (judge == nullptr) {
            fmt::print("{}\n", name);
        } else if (!support.yes) {
            fmt::print("{}: {}\n", name, support.reason);
            ++printed;
        }
    }
    if (judge != nullptr && printed == 0) {
        say_note("rotkv-cases",
                 fmt::format("{} refuses none of the {} cases", *flags.refused_by, names.size()));
    }
    return k_good;
}

// The names given, in the table or not; else those of the table that hold the pattern.
std::vector<std::string> asked(const Flags& flags) {
    if (flags.names.empty()) return selected(flags.pattern);
    if (!flags.pattern.empty()) {
        throw Error(ErrorCode::usage, "CASE and --case: expected one of them");
    }
    for (const std::string& name : flags.names) require_case(name);
    return flags.names;
}

// The flag, else the environment; empty: all of them.
std::string backend_asked(const Flags& flags) {
    const char* environment = std::getenv("ROTKV_BACKEND");
    return flags.backend.empty() && environment != nullptr ? environment : flags.backend;
}

// What was found, as lines, a table and JSON.
class Findings {
  public:
    Findings(const Flags& flags, const std::vector<Column>& on, bool alone)
        : flags_(flags), tally_(on), alone_(alone) {
        for (const Column& column : on) on_.push_back(column.name);
    }

    void add(const std::string& name, const std::vector<CaseResult>& cells) {
        tally_.add(name.substr(0, name.find('/')), cells);
        for (size_t c = 0; c < cells.size(); ++c) {
            if (cells[c].outcome == Outcome::fail) {
                fmt::print(flags_.results(), "FAIL {}\n", cells[c].text);
            } else if (alone_) {
                fmt::print(flags_.results(), "{} on {}: {}{}{}\n", name, on_[c],
                           outcome_name(cells[c].outcome), cells[c].text.empty() ? "" : ", ",
                           cells[c].text);
            }
            if (flags_.json.empty()) continue;
            json_.push_back({{"case", name},
                             {"on", on_[c]},
                             {"outcome", outcome_name(cells[c].outcome)},
                             {"text", cells[c].text},
                             {"bound_used", cells[c].worst}});
        }
    }

    /// `left` cases of its operation were not run, the one that it died of among them.
    void add_death(const std::string& death, size_t left) {
        fmt::print(flags_.results(), "DIED {}\n  {} cases of the operation have no result\n", death,
                   left);
        json_.push_back({{"died", death}, {"without_result", left}});
        ++deaths_;
    }

    int end() const {
        if (!alone_) fmt::print(flags_.results(), "{}", tally_.table());
        fmt::print(flags_.results(), "{}\n", tally_.line());
        write_json(flags_.json, json_);
        const bool good = tally_.count(Outcome::fail) == 0 && tally_.count(Outcome::ok) > 0;
        return good && deaths_ == 0 ? k_good : k_failed;
    }

  private:
    const Flags& flags_;
    Tally tally_;
    bool alone_;
    int deaths_ = 0;
    std::vector<std::string> on_;
    nlohmann::ordered_json json_ = nlohmann::ordered_json::array();
};

// A process for each operation, which an access outside of a tensor ends.
int run_guarded(const Flags& flags, const std::vector<std::string>& names) {
    const Guard guard = flags.guard == "back" ? Guard::back : Guard::front;
    const Alignment alignment = guard == Guard::back ? Alignment::end : Alignment::begin;
    const auto op_of = [](const std::string& name) { return name.substr(0, name.find('/')); };
    std::optional<Findings> findings;
    for (size_t first = 0, end = 0; first < names.size(); first = end) {
        while (end < names.size() && op_of(names[end]) == op_of(names[first])) ++end;
        const ApartRun apart = run_apart(
            std::span(names).subspan(first, end - first),
            [&] { return columns(backend_asked(flags), guard, flags.quick); }, alignment);
        if (apart.columns.empty()) throw Error(ErrorCode::io, apart.death);
        if (!findings) findings.emplace(flags, apart.columns, names.size() == 1);
        for (const ApartRun::Row& row : apart.rows) findings->add(row.name, row.cells);
        if (!apart.death.empty()) {
            findings->add_death(apart.death, end - first - apart.rows.size());
        }
    }
    return findings->end();
}

int run(const Flags& flags) {
    const std::vector<std::string> names = asked(flags);
    check_paths({}, {{"--json", flags.json}});
    if (!flags.guard.empty()) return run_guarded(flags, names);
    const std::vector<Column> on = columns(backend_asked(flags), {}, flags.quick);
    Findings findings(flags, on, names.size() == 1);
    for (const std::string& name : names) findings.add(name, run_case(*make_case(name), on));
    return findings.end();
}

int page() {
    fmt::print("{}", support_page());
    return k_good;
}

int mistake_page(const Flags& flags) {
    fmt::print("{}", mistake_table(selected(flags.pattern.empty() ? "path/" : flags.pattern)));
    return k_good;
}

int dump(const Flags& flags) {
    const int64_t n = dump_cases(flags.folder, asked(flags));
    fmt::print("{} cases in {}; index.json says what each file is\n", n, flags.folder);
    return k_good;
}

// The first in full, more of them in a line each; then what they have in common.
void print_failures(std::FILE* out, const CheckReport& report) {
    constexpr size_t in_full = 3, in_all = 20;
    const size_t n = report.failures.size();
    for (size_t i = 0; i < std::min(n, in_all); ++i) {
        const CheckReport::Failure& one = report.failures[i];
        fmt::print(out, "FAIL {}\n", i < in_full ? one.text : one.line);
    }
    if (n > in_all) {
        fmt::print(out,
                   "... and {} cases more that fail: --json - lists all, --case NAME shows one "
                   "in full\n",
                   n - in_all);
    }
    for (const std::string& sentence : report.shared_fields) fmt::print(out, "{}\n", sentence);
    for (const std::string& sentence : report.likely_mistakes) fmt::print(out, "{}\n", sentence);
}

int check(const Flags& flags) {
    check_paths({{"DIR", flags.folder + "/index.json"}}, {{"--json", flags.json}});
    const CheckReport report = check_cases(flags.folder, flags.pattern, flags.exact);
    std::FILE* const out = flags.results();
    print_failures(out, report);
    if (!flags.quiet) {
        for (const std::string& text : report.notes) fmt::print(out, "{}\n", text);
    }
    fmt::print(out, "{} cases of {}: {} ok ({} to the bit), {} FAIL, {} without results\n",
               report.cases, report.written_by, report.ok, report.exact, report.failures.size(),
               report.missing);
    write_json(flags.json, report.json);
    return report.failures.empty() && report.ok > 0 ? k_good : k_failed;
}

constexpr const char* k_examples =
    "  rotkv-cases list --case attention/k=q4_0\n"
    "  rotkv-cases run\n"
    "  rotkv-cases run --backend fast --case hadamard/D=192/rot=64\n"
    "  rotkv-cases run --guard back                  (a read out of bounds is a fault, and named)\n"
    "  rotkv-cases run hadamard/rows=3/D=4096/rot=4096       (any name, in the table or not)\n"
    "  rotkv-cases list --refused-by cuda\n"
    "  rotkv-cases page > docs/ops.md\n"
    "  rotkv-cases mistakes                            (which mistake is caught by what)\n"
    "  rotkv-cases dump cases --case hadamard/       (then your engine writes its results)\n"
    "  rotkv-cases check cases\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("The table of cases that every backend, and any other engine, is held to.",
                 "rotkv-cases");
    Flags flags;
    app.require_subcommand(0, 1);
    const auto add = [&](const char* name, const char* help) {
        CLI::App* command = app.add_subcommand(name, help);
        command->add_option("--case", flags.pattern, "only cases whose name contains this");
        return command;
    };
    CLI::App* list_command = add("list", "print the names of the cases");
    list_command->add_option("--refused-by", flags.refused_by,
                             "only those that this backend refuses, and why");
    list_command->add_flag("--small", flags.small,
                           "only the small ones: at most 3e6 operations and 1 MB");
    CLI::App* run_command = add("run", "run them on every backend that is built");
    run_command->add_option("CASE", flags.names, "cases by their full names instead of a pattern");
    run_command->add_option("--backend", flags.backend,
                            "only on this one; without it ROTKV_BACKEND says which, else all");
    run_command
        ->add_option("--guard", flags.guard,
                     "every tensor lies flush against memory that is not there: behind its last "
                     "byte (back) or before its first (front)")
        ->check(CLI::IsMember({"back", "front"}));
    run_command->add_flag(
        "--quick", flags.quick,
        "a device that a CPU plays leaves out the cases that take it longest; with "
        "--guard every backend does");
    add_json_flag(*run_command, flags.json);
    CLI::App* page_command =
        app.add_subcommand("page", "print docs/ops.md: operations, agreement, support");
    CLI::App* mistakes_command =
        add("mistakes", "print which case of the path catches which known mistake");
    CLI::App* dump_command = add("dump", "write inputs and expected results as .npy files");
    dump_command->add_option("DIR", flags.folder, "a folder that does not exist yet")->required();
    dump_command->add_option("CASE", flags.names, "cases by their full names instead of a pattern");
    CLI::App* check_command = add("check", "judge the results that another engine wrote there");
    check_command->add_option("DIR", flags.folder, "the folder of the dump")->required();
    check_command->add_flag("--exact", flags.exact,
                            "ask for the agreement that rotkv's own backends keep");
    check_command->add_flag("--quiet", flags.quiet, "no line for what is merely close");
    add_json_flag(*check_command, flags.json);
    return run_tool(app, argc, argv, k_examples, [&]() {
        if (*list_command) return list(flags);
        if (*run_command) return run(flags);
        if (*page_command) return page();
        if (*mistakes_command) return mistake_page(flags);
        if (*dump_command) return dump(flags);
        if (*check_command) return check(flags);
        throw rotkv::Error(rotkv::ErrorCode::usage,
                           "expected list, run, page, mistakes, dump or check");
    });
}
