#pragma once
// Products that follow each other and do not need each other (q, k and v; gate and up, of one token
// with act_mul; those of all experts that one token chose) run as one round of work: threads meet
// once, and not once for each of them. Docs: docs/performance.md

#include "ref/backend.h"

#include <vector>

namespace rotkv::fast {

/// Calls that wait for what may follow them.
class JoinedProducts {
  public:
    /// Is this call, after those that wait, a product that can run beside them, or act_mul of two
    /// of them in place of the first? Then it waits, too, for the next run().
    bool keep(const Call& call);

    /// Runs what waits: equal, to the bit, to one call after the other.
    void run();

    bool empty() const { return calls_.empty(); }

  private:
    std::vector<Call> calls_;
};

}  // namespace rotkv::fast
