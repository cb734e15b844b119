#pragma once
// How the time of a run divides among the operations.
// Docs: docs/performance.md

#include "tools/watch/forwarding_backend.h"

#include <cstdint>
#include <map>
#include <string>

namespace rotkv::tools {

/// Waits for each operation and adds up its time. What lies between operations (positions, uploads,
/// the host's own work) is in none of them.
class ProfileBackend : public ForwardingBackend {
  public:
    using ForwardingBackend::ForwardingBackend;

    struct Time {
        int64_t calls = 0;
        double seconds = 0;
    };
    /// By the name of the operation, since the last clear().
    const std::map<std::string, Time>& times() const { return times_; }
    void clear() { times_.clear(); }

    /// Lines "matmul  211 calls  8.12 ms  74.3 %", the longest first, and what is left of
    /// `seconds`.
    std::string table(double seconds) const;

  protected:
    void around(const char* op, const std::function<void()>& call) override;

  private:
    std::map<std::string, Time> times_;
};

}  // namespace rotkv::tools
