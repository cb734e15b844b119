#include "ref/files/output_file.h"

#include "ref/error.h"

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace rotkv {

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
        return;
    }
    if (!written_directly(path)) partial_ = path + ".partial";
    file_ = std::fopen(partial_.empty() ? path.c_str() : partial_.c_str(), "wb");
    if (file_ == nullptr) fail("cannot be created");
}

OutputFile::~OutputFile() {
    close();
    if (!partial_.empty()) std::remove(partial_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
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
