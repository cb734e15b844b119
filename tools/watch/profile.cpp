#include "tools/watch/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

namespace rotkv::tools {

double Profile::steady_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

Observer Profile::observer() {
    return [this](int64_t, const Call& call, Backend& backend) {
        const double start = now_();
        backend.run(call);
        backend.synchronize();
        const double end = now_();
        Time& time = times_[name_of(call)];
        ++time.calls;
        time.seconds += end - start;
    };
}

std::string Profile::table(double seconds) const {
    std::vector<std::pair<std::string, Time>> rows(times_.begin(), times_.end());
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    double rest = seconds;
    std::size_t widest = 10;
    for (const auto& [op, time] : rows) widest = std::max(widest, op.size());
    std::string text;
    const auto line = [&](const std::string& op, const std::string& calls, double s) {
        text += fmt::format("  {:<{}} {:>8} {:>10.2f} ms {:>5.1f} %\n", op, widest, calls, 1e3 * s,
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
