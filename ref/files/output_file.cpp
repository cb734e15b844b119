#include "ref/files/output_file.h"

#include "ref/error.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace rotkv {

// The partial files of this process. A signal may come at any time and on any thread: whoever takes
// a name out of its place owns it. A file that finds no place is not removed by a signal.
static std::array<std::atomic<char*>, 64> partial_names;
static std::array<std::atomic<char*>, 64>
    removed_names;  // no handler may free: who comes next does
static_assert(std::atomic<char*>::is_always_lock_free, "a signal handler uses them");

static std::size_t keep_name(const std::string& name) {
    char* copy = new char[name.size() + 1];
    std::memcpy(copy, name.c_str(), name.size() + 1);
    for (std::size_t place = 0; place < partial_names.size(); ++place) {
        char* empty = nullptr;
        if (!partial_names[place].compare_exchange_strong(empty, copy)) continue;
        delete[] removed_names[place].exchange(nullptr);
        return place;
    }
    delete[] copy;
    return partial_names.size();
}

static void forget_name(std::size_t place) {
    if (place < partial_names.size()) delete[] partial_names[place].exchange(nullptr);
}

void remove_partial_files() noexcept {
    for (std::size_t place = 0; place < partial_names.size(); ++place) {
        char* name = partial_names[place].exchange(nullptr);
        if (name == nullptr) continue;
        unlink(name);
        removed_names[place] = name;
    }
}

// A link counts as written directly: /dev/stdout is one, and replacing it would hit the link and
// not what it stands for.
static bool written_directly(const std::string& path) {
    std::error_code ignored;
    const std::filesystem::file_status status = std::filesystem::symlink_status(path, ignored);
    return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
}

OutputFile::OutputFile(const std::string& path) : path_(path) {
    if (path == "-") {
        file_ = stdout;
    } else if (written_directly(path)) {
        file_ = std::fopen(path.c_str(), "wb");
    } else {
        create_partial();
    }
    if (file_ == nullptr) fail("cannot be created");
}

// Never a file that is there: another machine's process may have our number, and a process that was
// killed may have left one.
void OutputFile::create_partial() {
    constexpr int k_most_tries = 100;
    const std::string begin = path_ + "." + std::to_string(getpid());
    for (int i = 0; i < k_most_tries && file_ == nullptr; ++i) {
        partial_ = begin + (i > 0 ? "-" + std::to_string(i) : "") + ".partial";
        file_ = std::fopen(partial_.c_str(), "wbx");
        if (file_ == nullptr && errno != EEXIST) return;
    }
    if (file_ != nullptr) place_ = keep_name(partial_);
}

OutputFile::~OutputFile() {
    close();
    if (partial_.empty()) return;
    std::remove(partial_.c_str());
    forget_name(place_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;  // fwrite asks for an address even of nothing
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size())
        fail("cannot be written");
}

void OutputFile::flush() {
    if (std::fflush(file_) != 0) fail("cannot be written");
}

void OutputFile::finish() {
    flush();
    if (!close()) fail("cannot be written");
    if (partial_.empty()) return;
    std::error_code error;
    std::filesystem::rename(partial_, path_, error);
    if (error) {
        errno = error.value();
        fail("cannot be put in place");
    }
    partial_.clear();
    forget_name(place_);
}

bool OutputFile::close() {
    const bool good = file_ == nullptr || file_ == stdout || std::fclose(file_) == 0;
    file_ = nullptr;
    return good;
}

void OutputFile::fail(const char* what) const {
    const std::string reason = std::generic_category().message(errno);
    throw Error(ErrorCode::io,
                (path_ == "-" ? "standard output" : path_) + " " + what + ": " + reason);
}

}  // namespace rotkv
