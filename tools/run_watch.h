#pragma once
// Who looks on at a run that takes a while: a program prints, a caller's function may end it.
// Docs: tools/README.md

#include "ref/measure/evaluate.h"

#include <cstdint>
#include <functional>

namespace rotkv::tools {

/// Both may be empty. What they throw ends the run; what it has written by then stays, whole.
struct RunWatch {
    std::function<void(const WindowPlan& plan)> planned;  ///< before the first window
    std::function<void(int64_t done, int64_t all)> step;  ///< of windows, caches or parts

    void say_planned(const WindowPlan& plan) const {
        if (planned) planned(plan);
    }
    void say_step(int64_t done, int64_t all) const {
        if (step) step(done, all);
    }
};

}  // namespace rotkv::tools
