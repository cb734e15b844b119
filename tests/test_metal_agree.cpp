// Metal and its emulation, side by side in one program: what the emulation shows of a kernel must
// be what the device does. A Mac has both; elsewhere -DROTKV_METAL_TWICE=ON puts the emulation
// beside itself, which tries this test.
#include "metal/backend.h"
#include "ref/cases/cases.h"
#include "ref/error.h"
#include "tests/catch.h"
#include "tools/parity/parity.h"

using namespace rotkv;
using namespace rotkv::tools;

#ifdef ROTKV_METAL_TWICE
namespace rotkv {
std::unique_ptr<Backend> make_metal_backend_beside(int threads);
}

namespace {

// What the backend makes of the case, in the place of the reference's results.
Expected results_of(const Case& one, Backend& backend) {
    Expected expected = expected_results(one);
    Placement placement(backend, expected.tensors, one.layout());
    one.run(backend, placement.views());
    std::string damage;
    expected.results = placement.results(damage);
    CHECK(damage.empty());
    return expected;
}

}  // namespace
#endif

// Exact operations to the byte, the others within the bound that either keeps from ref.
TEST_CASE("metal: a device and its emulation agree on every case") {
#ifndef ROTKV_METAL_TWICE
    test::skip("one of the two is built: both are on a Mac, or with -DROTKV_METAL_TWICE=ON");
#else
    std::unique_ptr<Backend> device;
    try {
        device = make_metal_backend(0);
    } catch (const Error& error) {
        return test::skip(error.what());
    }
    const std::unique_ptr<Backend> emulated = make_metal_backend_beside(0);
    int64_t compared = 0;
    for (const std::string& name : case_names()) {
        const std::unique_ptr<Case> one = make_case(name);
        const bool runs = one->supports(*device).yes;
        INFO(name);
        CHECK(runs == one->supports(*emulated).yes);
        if (!runs) continue;
        const CaseResult cell = run_on(*one, results_of(*one, *emulated), *device);
        INFO(cell.text);
        CHECK(cell.outcome == Outcome::ok);
        ++compared;
    }
    CHECK(compared > 0);
#endif
}
