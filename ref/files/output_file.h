#pragma once
// Writing a file so that a broken run leaves nothing behind that looks whole.
// Docs: docs/07-measuring.md

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

namespace rotkv {

/// A file that appears under its name only when it is whole: bytes go to NAME.PID.partial, which is
/// this process's alone and which finish() renames, so that of several who write one file the last
/// to finish has written all of it. What is already there and is no plain file (a device, a pipe, a
/// link) is written directly, and "-" is standard output.
/// Throws: Error(io) naming the file and the system's reason.
class OutputFile {
  public:
    explicit OutputFile(const std::string& path);
    ~OutputFile();  ///< without finish(): removes the partial file
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    void write(std::span<const std::byte> bytes);
    void write(const std::string& text) { write(std::as_bytes(std::span(text))); }
    void flush();  ///< asks the system now, so that a full disk is not found out hours later
    void finish();

  private:
    void create_partial();
    [[noreturn]] void fail(const char* what) const;
    bool close();

    std::string path_, partial_;  ///< partial_ is empty where the file is written directly
    std::size_t place_ = 0;       ///< of partial_ in the list of remove_partial_files()
    std::FILE* file_ = nullptr;
};

/// Removes the partial files of this process, as far as they are written now: for a signal that
/// ends it. May be called by a signal handler.
void remove_partial_files() noexcept;

}  // namespace rotkv
