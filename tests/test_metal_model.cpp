// Whole models on Metal, or where a CPU plays it: every architecture.
#include "ref/error.h"
#include "tests/catch.h"
#include "tests/laws.h"
#include "tests/tiny_run.h"
#include "tools/backends.h"

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("metal: every architecture equals its definition in f64") {
    std::unique_ptr<Backend> device;
    for (const tools::BackendEntry& entry : tools::backends()) {
        const std::string name = entry.name;
        if (entry.make == nullptr || name.substr(0, 5) != "metal") continue;
        try {
            device = entry.make(0);
        } catch (const Error& error) {
            if (entry.emulated) throw;  // it needs no device
            return skip(error.what());
        }
    }
    if (device == nullptr) return skip("metal is not built");
    if (device->description().find("emulated by threads") != std::string::npos) {
        return skip("a thread for every lane takes too long for models");
    }
    const std::vector<int32_t> tokens = {0, 5, 2, 11, 7, 5, 3};
    for (const Architecture& architecture : architectures()) {
        const TinyModel tiny = TinyModel::make(architecture.name, false);
        INFO(architecture.name);
        CHECK(distance(run_on(*device, tiny, tokens, 7), tiny.forward(tokens)) < 4e-5);
    }
}
