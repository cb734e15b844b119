#include "tools/sweep_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace rotkv::tools {

SweepProgress::SweepProgress(bool quiet, std::size_t cells, int64_t groups,
                             std::function<void(int64_t, int64_t)> step)
    : quiet_(quiet),
      bar_(!quiet && isatty(STDERR_FILENO) == 1),
      cells_(cells),
      groups_(groups),
      step_(std::move(step)) {}

void SweepProgress::start(int64_t groups_to_do) {
    start_ = std::chrono::steady_clock::now();
    left_ = groups_to_do;
}

void SweepProgress::begin_cell(std::size_t index, const std::string& name) {
    index_ = index;
    name_ = name;
    group_ = 0;
    print_bar();
}

void SweepProgress::group_done() {
    ++done_;
    --left_;
    ++group_;
    print_bar();
    if (step_) step_(done_, done_ + left_);
}

void SweepProgress::row_done(std::size_t index, const SweepRow& row) const {
    if (quiet_) return;
    std::string what = row.found ? fmt::format("KLD {:.6f}", row.found->kld.value)
                                 : "unsupported: " + row.unsupported;
    if (!row.same_as.empty()) what += ", as " + row.same_as;
    if (row.seconds > 0) what += fmt::format(", {:.1f} s{}", row.seconds, left());
    fmt::print(stderr, "{}[{}/{}] {}: {}\n", bar_ ? "\r\033[K" : "", index + 1, cells_, row.name(),
               what);
}

std::string SweepProgress::left() const {
    if (done_ == 0 || left_ <= 0) return "";
    const std::chrono::duration<double> so_far = std::chrono::steady_clock::now() - start_;
    const double seconds = so_far.count() / double(done_) * double(left_);
    return seconds < 90 ? fmt::format(", about {:.0f} s left", seconds)
                        : fmt::format(", about {:.0f} min left", seconds / 60);
}

void SweepProgress::print_bar() const {
    if (!bar_) return;
    constexpr std::size_t k_width = 20;
    const std::size_t full = k_width * index_ / cells_;
    fmt::print(stderr, "\r\033[K[{}{}] {}/{} {} batch {}/{}{}", std::string(full, '#'),
               std::string(k_width - full, '-'), index_ + 1, cells_, name_, group_, groups_,
               left());
    std::fflush(stderr);
}

}  // namespace rotkv::tools
