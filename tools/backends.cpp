#include "tools/backends.h"

#include "fast/backend.h"
#ifdef ROTKV_HAS_CUDA
#include "cuda/backend.h"
#include "cuda/guarded_memory.h"
#endif
#include "metal/backend.h"
#include "ref/error.h"
#include "ref/kernels.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace rotkv::tools {

static std::unique_ptr<Backend> make_ref(int /*threads*/) { return make_ref_backend(); }

const std::vector<BackendEntry>& backends() {
    static const std::vector<BackendEntry> entries = {
        {"ref", make_ref, nullptr},
        {"fast", make_fast_backend, nullptr, true},
#ifdef ROTKV_HAS_CUDA
        {"cuda", make_cuda_backend, nullptr, false, cuda::list_paths, cuda::make_guarded_memory},
#else
        {"cuda", nullptr, "CMake found no CUDA compiler, or ROTKV_CUDA is OFF"},
#endif
#if defined(ROTKV_HAS_METAL)
        {"metal", make_metal_backend, nullptr},
        {"metal-emul", nullptr, "on macOS there is Metal itself"},
#elif defined(ROTKV_EMULATES_METAL)
        {"metal", nullptr, "it needs macOS"},
        {"metal-emul", make_metal_backend, nullptr, false, nullptr, nullptr, true},
#else
        {"metal", nullptr, "CMake found no metal-cpp (METAL_CPP_INCLUDE_DIR)"},
        {"metal-emul", nullptr, "on macOS there is Metal itself"},
#endif
    };
    return entries;
}

static std::string default_name() {
    const char* asked = std::getenv("ROTKV_BACKEND");
    return asked != nullptr && *asked != '\0' ? asked : "fast";
}

std::unique_ptr<Backend> make_backend(const std::string& name, int threads) {
    const std::string wanted = name.empty() ? default_name() : name;
    std::string known;
    for (const BackendEntry& entry : backends()) {
        known += (known.empty() ? "" : ", ") + std::string(entry.name);
        if (wanted != entry.name) continue;
        if (entry.make != nullptr) return entry.make(threads);
        throw Error(ErrorCode::unsupported,
                    "backend " + wanted + " is not built: " + entry.not_built);
    }
    throw Error(ErrorCode::usage, "backend: expected one of " + known + ", found '" + wanted + "'");
}

static std::string describe(const BackendEntry& entry, int threads) {
    if (entry.make == nullptr) return "not built: " + std::string(entry.not_built);
    try {
        std::string text = entry.make(threads)->description();
        if (entry.paths == nullptr) return text;
        for (const std::string& line : entry.paths()) text += "\n            " + line;
        return text;
    } catch (const Error& error) {
        return "built, but cannot run here: " + std::string(error.what());
    }
}

std::string list_backends() {
    constexpr std::size_t k_name = 12;
    const int threads = std::max(1, int(std::thread::hardware_concurrency()));
    std::string text;
    for (const BackendEntry& entry : backends()) {
        const std::string name = entry.name;
        text += name + std::string(k_name - name.size(), ' ') + describe(entry, threads) + "\n";
    }
    return text;
}

}  // namespace rotkv::tools
