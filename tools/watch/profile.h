#pragma once
// How the time of a run divides among the operations.
// Docs: docs/performance.md

#include "ref/model.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace rotkv::tools {

/// Waits for each operation of a model and adds up its time. What lies between operations
/// (positions, uploads, the host's own work) is in none of them.
class Profile {
  public:
    /// `now`: the time in seconds since some moment; the machine's steady clock unless given.
    explicit Profile(std::function<double()> now = steady_seconds) : now_(std::move(now)) {}

    /// For ModelOptions; this must outlive the model.
    Observer observer();

    void clear() { times_.clear(); }

    /// Lines "matmul  211 calls  8.12 ms  74.3 %", the longest first, since the last clear(); and
    /// what is left of `seconds`.
    std::string table(double seconds) const;

  private:
    static double steady_seconds();
    struct Time {
        int64_t calls = 0;
        double seconds = 0;
    };
    std::function<double()> now_;
    std::map<std::string, Time> times_;  ///< by the name of the operation
};

}  // namespace rotkv::tools
