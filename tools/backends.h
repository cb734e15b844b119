#pragma once
// Which backends this build holds, and how a tool picks one by name.
// Docs: docs/08-backends.md

#include "ref/backend.h"
#include "ref/guarded_memory.h"

#include <memory>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One room that computes.
struct BackendEntry {
    const char* name;
    std::unique_ptr<Backend> (*make)(int threads);  ///< null: not built
    const char* not_built;                          ///< why, if so
    bool threaded = false;                          ///< does it obey the number of threads?

    /// Which kernels compute what here, lines for people; null: nobody has to choose.
    std::vector<std::string> (*paths)() = nullptr;

    /// Of a device; null: it takes any memory of the host.
    std::unique_ptr<GuardedMemory> (*guarded_memory)(Guard guard) = nullptr;

    /// Does a CPU play its device? Hundreds of times slower than what it plays.
    bool emulated = false;
};

/// Every room, in the order ref, fast, cuda, metal, and what plays metal elsewhere.
const std::vector<BackendEntry>& backends();

/// The backend called `name`; an empty name asks the environment (ROTKV_BACKEND), then takes fast.
/// Throws Error(usage) for an unknown name, Error(unsupported) for one that is not built.
std::unique_ptr<Backend> make_backend(const std::string& name, int threads);

/// One line per room: "fast   AVX-512, 2 threads" or "cuda   not built: reason"; under it, how a
/// device's attention is computed.
std::string list_backends();

}  // namespace rotkv::tools
