#include "tools/plot.h"

#include "ref/error.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

extern char** environ;

namespace rotkv::tools {

namespace {

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorCode::io, "--plot: " + what); }

std::filesystem::path folder_of_this_program() {
#ifdef __APPLE__
    std::array<char, 4096> path{};
    uint32_t size = path.size();
    if (_NSGetExecutablePath(path.data(), &size) != 0) return {};
    return std::filesystem::path(path.data()).parent_path();
#else
    std::error_code ignored;
    return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
#endif
}

std::string path_of_plot() {
    const char* named = std::getenv("ROTKV_PLOT");
    const std::string path = named != nullptr ? named : folder_of_this_program() / "plot.py";
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

// Starts the words, found on the PATH, with standard error going to `errors`; no shell in between.
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
    if (error == 0) return child;
    fail(
        fmt::format("{} cannot be started ({}): install Python 3 and matplotlib, then repeat the "
                    "command: what is computed is kept",
                    words[0], std::generic_category().message(error)));
}

}  // namespace

void draw(const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {"python3", path_of_plot()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    int ends[2];
    if (pipe(ends) != 0) fail("no pipe: " + std::generic_category().message(errno));
    for (const int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
    pid_t child = 0;
    try {
        child = start(words, ends[1]);
    } catch (...) {
        close(ends[0]);
        close(ends[1]);
        throw;
    }
    close(ends[1]);
    const std::string said = read_all(ends[0]);
    close(ends[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    fail(said.empty() ? words[1] + " failed and did not say why" : last_line(said));
}

}  // namespace rotkv::tools
