#pragma once
// What a sweep says on stderr while it runs: a bar with the time left on a terminal, a line for
// each finished cell elsewhere.
// Docs: docs/12-sweeps.md

#include "tools/sweep_row.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace rotkv::tools {

class SweepProgress {
  public:
    /// `groups` of windows make a cell; `step` hears how many of all that are to be run are done.
    SweepProgress(bool quiet, std::size_t cells, int64_t groups,
                  std::function<void(int64_t done, int64_t all)> step = {});

    void start(int64_t groups_to_do);
    void begin_cell(std::size_t index, const std::string& name);
    void group_done();
    void row_done(std::size_t index, const SweepRow& row) const;

  private:
    std::string left() const;
    void print_bar() const;

    bool quiet_, bar_;
    std::size_t cells_, index_ = 0;
    int64_t groups_, group_ = 0, done_ = 0, left_ = 0;
    std::string name_;
    std::function<void(int64_t, int64_t)> step_;
    std::chrono::steady_clock::time_point start_;
};

}  // namespace rotkv::tools
