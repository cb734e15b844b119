#pragma once
// Writing files and folders so that a broken run leaves nothing behind that looks whole.
// Docs: docs/07-measuring.md

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

struct PartialName;

/// Where a file of that name comes to lie: what its links lead to, whether it is there or not.
/// Empty for what is written directly: a device, a pipe, and what lies in /dev or /proc and is a
/// link (/dev/stdout), since that names a file which is open already.
std::string place_of_output(const std::string& path);

/// A file that appears under its name only when it is whole: bytes go to PLACE.PID.partial, which
/// is this process's alone and which finish() renames, so that of several who write one file the
/// last to finish has written all of it. PLACE is place_of_output(); where there is none the bytes
/// are written directly. "-" is standard output.
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

    std::string path_, place_, partial_;  ///< empty but path_ where the file is written directly
    PartialName* kept_ = nullptr;
    std::FILE* file_ = nullptr;
};

/// A folder that appears under its name only when all of its files are in it; until then it is
/// NAME.PID.partial. Throws: Error(io) naming the folder or file and the system's reason, and where
/// something of that name is there already.
class OutputFolder {
  public:
    explicit OutputFolder(const std::string& path);
    ~OutputFolder();  ///< without finish(): removes the partial folder
    OutputFolder(const OutputFolder&) = delete;
    OutputFolder& operator=(const OutputFolder&) = delete;

    void make_folder(const std::string& name);  ///< in this one
    void write(const std::string& name, const std::string& bytes);
    void finish();

  private:
    void forget_names();

    std::string path_, partial_;
    std::vector<PartialName*> kept_;  ///< the folder, and all that is in it
};

}  // namespace rotkv
