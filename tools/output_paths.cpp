#include "tools/output_paths.h"

#include "ref/error.h"
#include "ref/files/output_file.h"
#include "ref/files/partial_names.h"
#include "tools/ranks.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

namespace rotkv::tools {

namespace fs = std::filesystem;

namespace {

bool is_stream(const NamedPath& named) { return named.path.empty() || named.path == "-"; }

// What the path leads to, through links.
std::optional<struct stat> status_of(const std::string& path) {
    struct stat status;
    if (stat(path.c_str(), &status) != 0) return std::nullopt;
    return status;
}

// Where a file that is not there would be. Of links it is not enough to be canonical: one that
// leads nowhere yet counts as a file that is not there.
fs::path place_of(const std::string& path) {
    std::error_code error;
    const std::string place = place_of_output(path);
    return fs::weakly_canonical(fs::absolute(place.empty() ? path : place, error), error);
}

// Devices such as /dev/null take any number of outputs.
bool same_file(const std::string& a, const std::string& b) {
    const std::optional<struct stat> of_a = status_of(a), of_b = status_of(b);
    if (of_a && of_b) {
        return of_a->st_dev == of_b->st_dev && of_a->st_ino == of_b->st_ino &&
               !S_ISCHR(of_a->st_mode);
    }
    return !of_a && !of_b && place_of(a) == place_of(b);
}

void require_other_file(const NamedPath& output, const NamedPath& other) {
    if (is_stream(output) || is_stream(other) || !same_file(output.path, other.path)) return;
    throw Error(ErrorCode::usage,
                fmt::format("{} {}: expected a file of its own, found that of {} {}", output.flag,
                            output.path, other.flag, other.path));
}

std::string first_bytes(const std::string& path, std::size_t count) {
    std::string bytes(count, '\0');
    std::ifstream file(path, std::ios::binary);
    file.read(bytes.data(), std::streamsize(count));
    bytes.resize(std::size_t(file.gcount()));
    return bytes;
}

[[noreturn]] void cannot_be_written(const NamedPath& output, int reason) {
    throw Error(ErrorCode::io, fmt::format("{} {} cannot be written: {}", output.flag, output.path,
                                           std::generic_category().message(reason)));
}

// A file that does not exist yet, or will be replaced, is tried out with a partial one.
void require_writable(const NamedPath& output) {
    const std::optional<struct stat> status = status_of(output.path);
    if (status && S_ISDIR(status->st_mode)) cannot_be_written(output, EISDIR);
    if (status && access(output.path.c_str(), W_OK) != 0) cannot_be_written(output, errno);
    if (status && S_ISREG(status->st_mode) && first_bytes(output.path, 4) == "GGUF") {
        throw Error(ErrorCode::usage,
                    fmt::format("{} {}: expected a file to write, found a model: it is not "
                                "overwritten",
                                output.flag, output.path));
    }
    if (status && place_of_output(output.path).empty()) return;  // a device, a pipe
    try {
        const OutputFile trial(output.path);
    } catch (const Error& error) {
        throw Error(ErrorCode::io, output.flag + " " + error.what());
    }
}

// What is printed goes there already, and would be lost or in the way.
void require_other_than_standard_output(const NamedPath& output) {
    struct stat printed;
    const std::optional<struct stat> status = status_of(output.path);
    if (!status || place_of_output(output.path).empty() || fstat(STDOUT_FILENO, &printed) != 0 ||
        !S_ISREG(printed.st_mode) || printed.st_dev != status->st_dev ||
        printed.st_ino != status->st_ino) {
        return;
    }
    throw Error(ErrorCode::usage,
                fmt::format("{} {}: expected a file of its own, found that of standard output",
                            output.flag, output.path));
}

extern "C" void end_by_signal(int number) {
    remove_partial_files();
    raise(number);  // the handler is gone (SA_RESETHAND): what a signal does to a program, it does
}

}  // namespace

void check_paths(const std::vector<NamedPath>& inputs, const std::vector<NamedPath>& outputs) {
    if (!ranks().first()) return;  // the others write nothing
    for (auto output = outputs.begin(); output != outputs.end(); ++output) {
        for (const NamedPath& input : inputs) require_other_file(*output, input);
        for (auto other = outputs.begin(); other != output; ++other) {
            require_other_file(*output, *other);
        }
    }
    for (const NamedPath& output : outputs) {
        if (is_stream(output)) continue;
        require_other_than_standard_output(output);
        require_writable(output);
    }
}

void check_new_folder(const NamedPath& folder) {
    if (folder.path.empty() || !ranks().first()) return;
    try {
        const OutputFolder trial(folder.path);
    } catch (const Error& error) {
        throw Error(ErrorCode::io, folder.flag + " " + error.what());
    }
}

bool replaces(const NamedPath& output, const std::string& magic, const std::string& kind) {
    const std::optional<struct stat> status = status_of(output.path);
    if (is_stream(output) || !ranks().first() || !status || !S_ISREG(status->st_mode) ||
        status->st_size == 0) {
        return false;
    }
    if (first_bytes(output.path, magic.size()) == magic) return true;
    throw Error(ErrorCode::usage,
                fmt::format("{} {}: expected a new file or {}, found another one: it is not "
                            "overwritten",
                            output.flag, output.path, kind));
}

// What was ignored stays so (nohup). Other handlers give way: UCX, which Open MPI 5 loads, stops a
// process for a debugger when it gets SIGHUP, as does each one whose terminal is closed.
void remove_partial_files_on_signals() {
    for (const int number : {SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ}) {
        struct sigaction now;
        if (sigaction(number, nullptr, &now) != 0 || now.sa_handler == SIG_IGN) continue;
        struct sigaction ours = {};
        ours.sa_handler = end_by_signal;
        ours.sa_flags = int(SA_RESETHAND);
        sigemptyset(&ours.sa_mask);
        sigaction(number, &ours, nullptr);
    }
}

}  // namespace rotkv::tools
