#include "ref/files/output_file.h"

#include "ref/error.h"
#include "ref/files/partial_names.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace rotkv {

namespace fs = std::filesystem;

static bool among_open_files(const fs::path& path) {
    std::error_code ignored;
    const std::string whole = fs::absolute(path, ignored).lexically_normal().string();
    return whole.starts_with("/dev/") || whole.starts_with("/proc/");
}

std::string place_of_output(const std::string& path) {
    constexpr int k_most_links = 40;  // as many as the system follows
    fs::path place = path;
    for (int i = 0; i < k_most_links; ++i) {
        std::error_code error;
        const fs::file_status status = fs::symlink_status(place, error);
        if (!fs::is_symlink(status)) {
            return fs::exists(status) && !fs::is_regular_file(status) ? "" : place.string();
        }
        const fs::path target = fs::read_symlink(place, error);
        if (error || among_open_files(place)) return "";
        place = place.parent_path() / target;  // target alone where that is absolute
    }
    return "";  // links in a circle: the system says so when it opens them
}

static std::string partial_of(const std::string& path, int i) {
    return path + "." + std::to_string(getpid()) + (i > 0 ? "-" + std::to_string(i) : "") +
           ".partial";
}

constexpr int k_most_tries = 100;

OutputFile::OutputFile(const std::string& path) : path_(path) {
    if (path != "-") place_ = place_of_output(path);
    if (path == "-") {
        file_ = stdout;
    } else if (place_.empty()) {
        file_ = std::fopen(path.c_str(), "wb");
    } else {
        create_partial();
    }
    if (file_ == nullptr) fail("cannot be created");
}

// Never a file that is there: another machine's process may have our number, and a process that was
// killed may have left one.
void OutputFile::create_partial() {
    for (int i = 0; i < k_most_tries && file_ == nullptr; ++i) {
        partial_ = partial_of(place_, i);
        file_ = std::fopen(partial_.c_str(), "wbx");
        if (file_ == nullptr && errno != EEXIST) return;
    }
    if (file_ != nullptr) kept_ = keep_name(partial_);
}

OutputFile::~OutputFile() {
    close();
    if (partial_.empty()) return;
    std::remove(partial_.c_str());
    forget_name(kept_);
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
    fs::rename(partial_, place_, error);
    if (error) {
        errno = error.value();
        fail("cannot be put in place");
    }
    partial_.clear();
    forget_name(kept_);
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

[[noreturn]] static void fail_in_folder(const std::string& path, const char* what, int reason) {
    throw Error(ErrorCode::io, path + " " + what + ": " + std::generic_category().message(reason));
}

OutputFolder::OutputFolder(const std::string& path) : path_(path) {
    std::error_code error;
    if (fs::exists(fs::symlink_status(path, error))) {
        throw Error(ErrorCode::io, path + " cannot be made: it exists");
    }
    while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
    for (int i = 0; i < k_most_tries && partial_.empty(); ++i) {
        const std::string partial = partial_of(path_, i);
        if (fs::create_directory(partial, error)) partial_ = partial;
        if (error) fail_in_folder(path, "cannot be made", error.value());
    }
    if (partial_.empty()) fail_in_folder(path, "cannot be made", EEXIST);
    kept_.push_back(keep_name(partial_));
}

OutputFolder::~OutputFolder() {
    std::error_code ignored;
    if (!partial_.empty()) fs::remove_all(partial_, ignored);
    forget_names();
}

void OutputFolder::make_folder(const std::string& name) {
    std::error_code error;
    kept_.push_back(keep_name(partial_ + "/" + name));
    fs::create_directory(partial_ + "/" + name, error);
    if (error) fail_in_folder(path_ + "/" + name, "cannot be made", error.value());
}

void OutputFolder::write(const std::string& name, const std::string& bytes) {
    const std::string path = partial_ + "/" + name;
    kept_.push_back(keep_name(path));
    std::FILE* file = std::fopen(path.c_str(), "wbx");
    if (file == nullptr) fail_in_folder(path_ + "/" + name, "cannot be created", errno);
    const bool good = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    int reason = good ? 0 : errno;
    if (std::fclose(file) != 0 && good) reason = errno;
    if (reason != 0) fail_in_folder(path_ + "/" + name, "cannot be written", reason);
}

void OutputFolder::finish() {
    std::error_code error;
    fs::rename(partial_, path_, error);
    if (error) fail_in_folder(path_, "cannot be put in place", error.value());
    partial_.clear();
    forget_names();
}

void OutputFolder::forget_names() {
    for (PartialName* kept : kept_) forget_name(kept);
    kept_.clear();
}

}  // namespace rotkv
