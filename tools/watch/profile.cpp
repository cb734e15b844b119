#include "tools/watch/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

namespace rotkv::tools {

Observer Profile::observer() {
    return [this](int64_t, const Call& call, Backend& backend) {
        const auto start = std::chrono::steady_clock::now();
        backend.run(call);
        backend.synchronize();
        const auto end = std::chrono::steady_clock::now();
        Time& time = times_[name_of(call)];
        ++time.calls;
        time.seconds += std::chrono::duration<double>(end - start).count();
    };
}

std::string Profile::table(double seconds) const {
    std::vector<std::pair<std::string, Time>> rows(times_.begin(), times_.end());
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    double rest = seconds;
    std::string text;
    const auto line = [&](const std::string& op, const std::string& calls, double s) {
        text += fmt::format("  {:<10} {:>8} {:>10.2f} ms {:>5.1f} %\n", op, calls, 1e3 * s,
                            100 * s / seconds);
    };
    for (const auto& [op, time] : rows) {
        line(op, fmt::format("{} x", time.calls), time.seconds);
        rest -= time.seconds;
    }
    line("between", "", rest);
    return text;
}

}  // namespace rotkv::tools
