#include "cuda/device.cuh"
#include "cuda/recorder.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace rotkv::cuda {
namespace {

constexpr std::size_t k_most_recordings = 8;
constexpr std::size_t k_least_calls = 8;  // fewer are launched as they come

struct DestroyGraph {
    void operator()(cudaGraph_t graph) const noexcept { ignore(cudaGraphDestroy(graph)); }
};
using Graph = std::unique_ptr<CUgraph_st, DestroyGraph>;

// What is launched on the stream while it lives becomes a graph. However that ends, the stream is
// as it was before. Only this thread's calls are kept from what would disturb it.
class Capture {
  public:
    explicit Capture(cudaStream_t stream) : stream_(stream) {
        require_success(launched(cudaSuccess), "record");
        require_success(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "record");
    }
    ~Capture() {
        Graph dropped;
        if (!ended_) ignore(end(dropped));
    }
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;

    Graph finish() {
        Graph graph;
        require_success(launched(end(graph)), "record");
        return graph;
    }

  private:
    cudaError_t end(Graph& graph) {
        ended_ = true;
        cudaGraph_t captured = nullptr;
        const cudaError_t result = cudaStreamEndCapture(stream_, &captured);
        graph.reset(captured);
        return result;
    }

    cudaStream_t stream_;
    bool ended_ = false;
};

Recorded record(const std::vector<Call>& calls, cudaStream_t stream, const LaunchAll& launch) {
    Capture capture(stream);
    launch(calls);
    const Graph graph = capture.finish();
    cudaGraphExec_t executable = nullptr;
    const cudaError_t result = cudaGraphInstantiate(&executable, graph.get(), 0);
    Recorded recorded(executable);
    require_success(launched(result), "record");
    return recorded;
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
    require_success(launched(cudaGraphLaunch(recording.graph.get(), stream)), "replay");
}

// Not the recording after all: its calls so far become calls like others.
void Recorder::keep_followed() {
    if (followed_ == 0) return;
    const auto first = recordings_.front().calls.begin();
    calls_.assign(first, first + std::ptrdiff_t(followed_));
    followed_ = 0;
}

void Recorder::remember(const std::vector<Call>& calls) {
    if (recordings_.size() == k_most_recordings) recordings_.pop_back();
    recordings_.insert(recordings_.begin(), Recording{calls, nullptr});
}

void Recorder::forget() {
    recordings_.clear();
    followed_ = 0;
}

// A graph that still runs is freed when it has ended.
void DestroyRecorded::operator()(CUgraphExec_st* graph) const noexcept {
    ignore(cudaGraphExecDestroy(graph));
}

}  // namespace rotkv::cuda
