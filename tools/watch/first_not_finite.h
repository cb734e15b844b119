#pragma once
// Which operation of a model is the first to write something that is not a finite number.
// Docs: docs/07-measuring.md

#include "ref/model.h"

#include <cstdint>
#include <string>

namespace rotkv::tools {

/// Looks at what every call wrote, until it has found one. Of kv_store that are the cells of the
/// batch, read back: what came in was looked at when it was made, so that whatever is not finite
/// there did not fit its type.
class FirstNotFinite {
  public:
    /// For ModelOptions; this must outlive the model.
    Observer observer();

    /// "layer 0, kv_store: K does not fit f16"; empty as long as everything was finite.
    const std::string& words() const { return words_; }

  private:
    std::string words_;
};

}  // namespace rotkv::tools
