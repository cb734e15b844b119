#include "tools/plot.h"

#include "ref/error.h"
#include "tools/beside_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

extern char** environ;

namespace rotkv::tools {

namespace {

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorCode::io, "--plot: " + what); }

std::string path_of_plot() {
    const char* named = std::getenv("ROTKV_PLOT");
    const std::string path = named != nullptr ? named : beside_program("plot.py");
    if (std::filesystem::is_regular_file(path)) return path;
    fail(path + ": no such file; ROTKV_PLOT may name another place of plot.py");
}

// What a process writes to its standard error, to the end.
std::string read_all(int file) {
    std::string text;
    std::array<char, 4096> block;
    for (ssize_t count; (count = read(file, block.data(), block.size())) != 0;) {
        if (count > 0) text.append(block.data(), std::size_t(count));
        if (count < 0 && errno != EINTR) break;
    }
    return text;
}

std::string last_line(std::string text) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text.substr(text.rfind('\n') + 1);  // all of it where there is none
}

// How a command ended, and what it said on standard error.
struct Ended {
    bool good = false;
    std::string said;
};

// Starts the words, found on the PATH, with standard error going to `errors`; no shell in between.
// 0 where there is no such program.
pid_t start(const std::vector<std::string>& words, int errors) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    pid_t child = 0;
    const int error = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    return error == 0 ? child : 0;
}

Ended run(const std::vector<std::string>& words) {
    int ends[2];
    if (pipe(ends) != 0) fail("no pipe: " + std::generic_category().message(errno));
    for (const int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
    const pid_t child = start(words, ends[1]);
    close(ends[1]);
    Ended ended;
    if (child != 0) ended.said = read_all(ends[0]);
    close(ends[0]);
    int status = 1;
    while (child != 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    ended.good = child != 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return ended;
}

// The system's Python has the packages where another one, of a virtual environment, comes first.
std::string python_that_draws() {
    for (const char* python : {"python3", "/usr/bin/python3"}) {
        if (run({python, "-c", "import numpy, matplotlib"}).good) return python;
    }
    fail(
        "expected a Python 3 that imports numpy and matplotlib, found none: neither python3 on the "
        "PATH nor /usr/bin/python3 does (Debian: python3-matplotlib; pip: matplotlib)");
}

}  // namespace

Plotter::Plotter() : program_(path_of_plot()), python_(python_that_draws()) {}

void Plotter::draw(const std::vector<std::string>& arguments) const {
    std::vector<std::string> words = {python_, program_};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const Ended ended = run(words);
    if (ended.good) return;
    fail(ended.said.empty() ? program_ + " failed and did not say why" : last_line(ended.said));
}

}  // namespace rotkv::tools
