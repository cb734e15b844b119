#include "cuda/device.cuh"
#include "cuda/recorder.h"

#include <algorithm>
#include <utility>

namespace rotkv::cuda {
namespace {

constexpr std::size_t k_most_recordings = 8;
constexpr std::size_t k_least_calls = 8;  // fewer are launched as they come

cudaGraphExec_t record(const std::vector<Call>& calls, cudaStream_t stream,
                       const LaunchAll& launch) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    require_success(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "record");
    try {
        launch(calls);
    } catch (...) {
        cudaStreamEndCapture(stream, &graph);  // the stream must not stay as it is
        if (graph != nullptr) cudaGraphDestroy(graph);
        throw;
    }
    require_success(cudaStreamEndCapture(stream, &graph), "record");
    const cudaError_t result = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    require_success(result, "record");
    return executable;
}

}  // namespace

void Recorder::play(Stream stream, const LaunchAll& launch) {
    if (calls_.empty() && followed_ == recordings_.front().calls.size()) {
        followed_ = 0;
        return replay(stream, launch);
    }
    keep_followed();
    const std::vector<Call> calls = std::exchange(calls_, {});
    if (calls.size() < k_least_calls) return launch(calls);
    const auto known = std::find_if(recordings_.begin(), recordings_.end(),
                                    [&](const Recording& one) { return one.calls == calls; });
    if (known == recordings_.end()) {
        launch(calls);
        return remember(calls);
    }
    std::rotate(recordings_.begin(), known, known + 1);
    replay(stream, launch);
}

// The first recording's calls.
void Recorder::replay(Stream stream, const LaunchAll& launch) {
    Recording& recording = recordings_.front();
    if (recording.graph == nullptr) recording.graph = record(recording.calls, stream, launch);
    require_success(cudaGraphLaunch(recording.graph, stream), "replay");
}

// Not the recording after all: its calls so far become calls like others.
void Recorder::keep_followed() {
    if (followed_ == 0) return;
    const auto first = recordings_.front().calls.begin();
    calls_.assign(first, first + std::ptrdiff_t(followed_));
    followed_ = 0;
}

void Recorder::remember(const std::vector<Call>& calls) {
    if (recordings_.size() == k_most_recordings) {
        drop(recordings_.back());
        recordings_.pop_back();
    }
    recordings_.insert(recordings_.begin(), {calls, nullptr});
}

void Recorder::forget() {
    for (Recording& recording : recordings_) drop(recording);
    recordings_.clear();
    followed_ = 0;
}

// A graph that still runs is freed when it has ended.
void Recorder::drop(Recording& recording) {
    if (recording.graph != nullptr) cudaGraphExecDestroy(recording.graph);
}

}  // namespace rotkv::cuda
