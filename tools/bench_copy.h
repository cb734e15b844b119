#pragma once
// The measure of rotkv-bench-ops. Docs: docs/performance.md

#include "ref/backend.h"

#include <benchmark/benchmark.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

namespace rotkv::tools {

constexpr double k_cold_bytes = double(256 << 20);  // more than caches of devices hold

/// The measure: as many bytes, half of them read and half written. On a host a memcpy by as many
/// threads, on a device the operation that copies.
class Copy {
  public:
    Copy(Backend& backend, bool on_device, double bytes, int threads)
        : backend_(backend),
          words_(int64_t(bytes / 2 / sizeof(float)) + 16),
          places_(on_device ? std::max<int64_t>(1, int64_t(k_cold_bytes / bytes)) : 1),
          from_(backend, size_t(words_ * places_) * sizeof(float)),
          to_(backend, from_.bytes()),
          threads_(threads) {
        const std::vector<float> ones(size_t(words_), 1.0f);
        for (int64_t i = 0; i < places_; ++i) {
            backend.upload(from_.data() + i * words_ * int64_t(sizeof(float)),
                           std::as_bytes(std::span(ones)));
        }
    }

    void run_on_host() {
        const size_t part = (from_.bytes() / size_t(threads_) + 63) / 64 * 64;
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int i = 0; i < threads_; ++i) {
            const size_t first = std::min(size_t(i) * part, from_.bytes());
            std::memcpy(to_.data() + first, from_.data() + first,
                        std::min(part, from_.bytes() - first));
        }
        benchmark::DoNotOptimize(to_.data());
    }
    void run_on_device(int64_t call) {
        const int64_t first = call % places_ * words_ * int64_t(sizeof(float));
        const auto view = [&](const Buffer& buffer) {
            TensorView all = buffer.view(DType::f32, {words_ / 16, 16});
            all.data += first;
            return all;
        };
        backend_.run(HadamardArgs{.dst = view(to_), .src = view(from_)});  // without a rotation
    }

  private:
    Backend& backend_;
    int64_t words_, places_;
    Buffer from_, to_;
    int threads_;
};

}  // namespace rotkv::tools
