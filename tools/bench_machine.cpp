#include "tools/bench_machine.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <span>
#include <thread>

namespace rotkv::tools {

namespace {

constexpr double k_least_bytes = double(1 << 26), k_most_bytes = double(1 << 30);
constexpr int64_t k_host_extent = 1024;    // of a square product: 2.1 GFLOP
constexpr int64_t k_device_extent = 8192;  // 1.1 TFLOP, some tens of milliseconds there too

double seconds_of(const std::function<void()>& run) {
    const auto start = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The shortest of three runs; a slow one is long enough to count alone.
double shortest_seconds(const std::function<double()>& timed) {
    double best = timed();
    for (int more = 0; more < 2 && best < 0.1; ++more) best = std::min(best, timed());
    return best;
}

// part(first, count) for an equal share of `total` in each thread.
void in_threads(int threads, std::size_t total,
                const std::function<void(std::size_t, std::size_t)>& part) {
    const std::size_t n = std::size_t(threads);
    std::vector<std::thread> workers;
    for (std::size_t i = 0; i < n; ++i) {
        const std::size_t first = total * i / n, end = total * (i + 1) / n;
        workers.emplace_back([&part, first, end]() { part(first, end - first); });
    }
    for (std::thread& worker : workers) worker.join();
}

Buffer ones(Backend& backend, int64_t rows, int64_t columns) {
    const std::vector<float> values(std::size_t(rows * columns), 1.0f);
    Buffer buffer(backend, values.size() * sizeof(float));
    buffer.upload(std::as_bytes(std::span(values)));
    return buffer;
}

std::size_t host_bytes(double wanted) {
    return std::size_t(std::clamp(wanted, k_least_bytes, k_most_bytes)) / 16 * 16;
}

}  // namespace

Machine::Machine(Backend& backend, int threads, double bytes)
    : backend_(backend),
      threads_(threads),
      on_device_(!backend.in_host_memory()),
      extent_(on_device_ ? k_device_extent : k_host_extent),
      memory_(on_device_ ? Buffer() : Buffer(backend, host_bytes(bytes))),
      words_(reinterpret_cast<uint64_t*>(memory_.data()), memory_.bytes() / sizeof(uint64_t)),
      x_(ones(backend, extent_, extent_)),
      weight_(ones(backend, extent_, extent_)),
      product_(ones(backend, extent_, extent_)) {
    std::ranges::fill(words_, uint64_t(1));
}

double Machine::read_seconds() const {
    std::atomic<uint64_t> sum = 0;  // somebody wants the result, so it is computed
    return seconds_of([&]() {
        in_threads(threads_, words_.size(), [&](std::size_t first, std::size_t count) {
            const uint64_t* begin = words_.data() + first;
            sum += std::accumulate(begin, begin + count, uint64_t(0));
        });
    });
}

// f32 as f32: on a device, an operation that copies.
double Machine::device_copy_seconds() {
    const DequantizeArgs args{.dst = product_.view(DType::f32, {extent_, extent_}),
                              .src = x_.view(DType::f32, {extent_, extent_})};
    return seconds_of([&]() {
        backend_.run(args);
        backend_.synchronize();
    });
}

// One half of the buffer onto the other.
double Machine::copy_seconds() {
    if (on_device_) return device_copy_seconds();
    const std::size_t half = words_.size() / 2;
    return seconds_of([&]() {
        in_threads(threads_, half, [&](std::size_t first, std::size_t count) {
            std::memcpy(words_.data() + half + first, words_.data() + first,
                        count * sizeof(uint64_t));
        });
    });
}

void Machine::measure() {
    const MatmulArgs args{.dst = product_.view(DType::f32, {extent_, extent_}),
                          .weight = weight_.view(DType::f32, {extent_, extent_}),
                          .src = x_.view(DType::f32, {extent_, extent_})};
    const double flops = 2.0 * double(extent_ * extent_ * extent_);
    const double product = shortest_seconds([&]() {
        return seconds_of([&]() {
            backend_.run(args);
            backend_.synchronize();
        });
    });
    const double copy = shortest_seconds([&]() { return copy_seconds(); });
    const double read = on_device_ ? copy : shortest_seconds([&]() { return read_seconds(); });
    best_.flops = std::max(best_.flops, flops / product);
    best_.read_bytes = std::max(best_.read_bytes, double(buffer_bytes()) / read);
    best_.copy_bytes = std::max(best_.copy_bytes, double(buffer_bytes()) / copy);
}

int64_t peak_resident_bytes() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    return int64_t(usage.ru_maxrss);
#else
    return int64_t(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace rotkv::tools
