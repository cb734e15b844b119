#pragma once
// The file of a sweep: JSON lines, the first of which says what is measured, then one line for each
// cell in a fixed order. Whatever happens between two lines or within one, the next start goes on
// behind the last whole line.
// Docs: docs/12-sweeps.md

#include "tools/sweep_row.h"

#include <cstddef>
#include <string>
#include <vector>

namespace rotkv::tools {

class SweepFile {
  public:
    /// Opens or creates the file (of an empty path there is none: rows are kept, nothing is read or
    /// written), locks it as long as this lives, reads what is there and drops a
    /// last line that was torn. `names` are the cells in their order.
    /// Throws Error(io) for what is no plain file, cannot be opened or is in use by another
    /// process; Error(bad_file) naming the difference for a file of something else: other lines,
    /// another header, cells out of order. Such a file is left as it is.
    SweepFile(const std::string& path, const nlohmann::ordered_json& header,
              const std::vector<std::string>& names);
    ~SweepFile();
    SweepFile(const SweepFile&) = delete;
    SweepFile& operator=(const SweepFile&) = delete;

    const std::vector<SweepRow>& rows() const { return rows_; }  ///< those found, those appended
    std::size_t torn_bytes() const { return torn_; }             ///< dropped from the end

    /// Writes one more line and hands it to the disk before it returns. Throws Error(io).
    void append(const SweepRow& row);

  private:
    void open();
    void read(const nlohmann::ordered_json& header, const std::vector<std::string>& names);
    void check(const SweepRow& row, std::size_t number, const std::string& name,
               std::size_t windows) const;
    void write(const std::string& text);
    [[noreturn]] void fail(const std::string& what) const;

    std::string path_;
    int file_ = -1;
    std::vector<SweepRow> rows_;
    std::size_t torn_ = 0;
};

/// Keys of a header that are for people: a file may be moved and renamed, a model be given another
/// name inside, which changes its size and no figure; what is noted also depends on how a run was
/// asked for.
bool only_for_people(const std::string& key);

/// "n_ctx: the file has 512, this run 32": the first key in which two headers differ, or nothing.
std::string difference_of(const nlohmann::ordered_json& file, const nlohmann::ordered_json& run);

}  // namespace rotkv::tools
