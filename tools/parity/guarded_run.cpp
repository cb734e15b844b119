#include "tools/parity/guarded_run.h"

#include "ref/error.h"

#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace rotkv::tools {
namespace {

using Json = nlohmann::json;

// ---- the child: one line of JSON for everything that happens ----

void tell(int pipe, const Json& what) {
    const std::string line = what.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    for (size_t sent = 0; sent < line.size();) {
        const ssize_t n = write(pipe, line.data() + sent, line.size() - sent);
        if (n < 0 && errno != EINTR) _exit(1);  // nobody listens
        if (n > 0) sent += size_t(n);
    }
}

// A device that met a fault answers no call any more.
void require_alive(const std::vector<Column>& columns) {
    for (const Column& column : columns) {
        if (column.backend != nullptr) column.backend->synchronize();
    }
}

void run_here(int pipe, std::span<const std::string> names, const std::vector<Column>& columns,
              Alignment alignment) {
    Json list = Json::array();
    for (const Column& column : columns) list.push_back(column.name);
    tell(pipe, {{"columns", list}});
    for (const std::string& name : names) {
        const auto begun = [&](const Column& column) {
            tell(pipe, {{"begun", name + " on " + column.name}});
        };
        Json cells = Json::array();
        bool failed = false;
        for (const CaseResult& cell : run_case(*make_case(name), columns, alignment, begun)) {
            cells.push_back({int(cell.outcome), cell.text, cell.worst});
            failed = failed || cell.outcome == Outcome::fail;
        }
        if (failed) require_alive(columns);
        tell(pipe, {{"name", name}, {"cells", cells}});
    }
    tell(pipe, {{"end", true}});
}

[[noreturn]] void child(int pipe, std::span<const std::string> names,
                        const std::function<std::vector<Column>()>& make_columns,
                        Alignment alignment) {
    for (const int fault : {SIGSEGV, SIGBUS}) std::signal(fault, SIG_DFL);  // the parent reports
    try {
        run_here(pipe, names, make_columns(), alignment);
    } catch (const Error& error) {
        tell(pipe, {{error.code() == ErrorCode::usage ? "usage" : "error", error.what()}});
    } catch (const std::exception& error) {
        tell(pipe, {{"error", error.what()}});
    }
    _exit(0);  // not what the parent registered for its own end
}

// ---- the parent ----

std::string received(int pipe) {
    std::string text;
    char part[1 << 16];
    for (;;) {
        const ssize_t n = read(pipe, part, sizeof part);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return text;
        text.append(part, size_t(n));
    }
}

std::string how_it_ended(pid_t process) {
    int status = 0;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
        const int number = WTERMSIG(status);
        return "signal " + std::to_string(number) + ", " + strsignal(number);
    }
    return "exit status " + std::to_string(WEXITSTATUS(status));
}

// Takes one line; false: it was the last.
bool take(const Json& line, ApartRun& run, std::string& begun) {
    if (line.contains("usage")) throw Error(ErrorCode::usage, line["usage"].get<std::string>());
    if (line.contains("error")) run.death = line["error"].get<std::string>();
    if (line.contains("begun")) begun = line["begun"].get<std::string>();
    if (line.contains("columns")) {
        for (const Json& name : line["columns"]) {
            run.columns.push_back({name.get<std::string>(), nullptr, ""});
        }
    }
    if (line.contains("cells")) {
        ApartRun::Row row{line["name"].get<std::string>(), {}};
        for (const Json& cell : line["cells"]) {
            row.cells.push_back({Outcome(cell[0].get<int>()), cell[1].get<std::string>(),
                                 cell[2].is_null() ? 0 : cell[2].get<double>()});
        }
        run.rows.push_back(std::move(row));
    }
    return !line.contains("end");
}

}  // namespace

ApartRun run_apart(std::span<const std::string> names,
                   const std::function<std::vector<Column>()>& make_columns, Alignment alignment) {
    int ends[2];
    require(pipe(ends) == 0, ErrorCode::io, "no pipe to a process of its own");
    const pid_t process = fork();
    require(process >= 0, ErrorCode::io, "no process of its own");
    if (process == 0) {
        close(ends[0]);
        child(ends[1], names, make_columns, alignment);
    }
    close(ends[1]);
    const std::string text = received(ends[0]);
    close(ends[0]);
    const std::string end = how_it_ended(process);

    ApartRun run;
    std::string begun = "before the first case";
    bool whole = false;
    for (size_t at = 0, next = 0; (next = text.find('\n', at)) != text.npos; at = next + 1) {
        whole = !take(Json::parse(text.substr(at, next - at)), run, begun);
    }
    if (!whole) run.death = begun + ": " + (run.death.empty() ? end : run.death);
    return run;
}

}  // namespace rotkv::tools
