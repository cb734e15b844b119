#include "cuda/device.cuh"
#include "cuda/fusion.h"
#include "cuda/recorder.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace rotkv::cuda {
namespace {

constexpr std::size_t k_most_recordings = 8;
constexpr std::size_t k_least_calls = 8;  // fewer are launched as they come

// Calls of the first piece, which the device has to do while the host goes through the second's,
// which are this many times more.
constexpr std::size_t k_first_calls = 24, k_times_more = 5;

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

// Where a piece of at least `least` calls, from `begin` on, ends: between two launches.
std::size_t end_of_piece(std::span<const Call> calls, std::size_t begin, std::size_t least) {
    std::size_t end = begin;
    while (end < begin + least) end += joined(calls.subspan(end));
    return end;
}

Recorded record(std::span<const Call> calls, cudaStream_t stream, const LaunchAll& launch) {
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

// The first recording's calls, from the piece on that is not launched yet. What has no graph gets
// it, and is launched before the next is recorded: that one may move memory that they share.
void Recorder::replay(Stream stream, const LaunchAll& launch) {
    Recording& recording = recordings_.front();
    const std::span<const Call> calls = recording.calls;
    std::size_t piece = piece_, begin = launched_, least = k_first_calls;
    follow_anew();
    for (; begin < calls.size(); least *= k_times_more, ++piece) {
        if (piece == recording.pieces.size()) {
            const bool is_rest = calls.size() - begin < 2 * least;
            const std::size_t end = is_rest ? calls.size() : end_of_piece(calls, begin, least);
            recording.pieces.push_back(
                {end, record(calls.subspan(begin, end - begin), stream, launch)});
        }
        const Piece& one = recording.pieces[piece];
        require_success(launched(cudaGraphLaunch(one.graph.get(), stream)), "replay");
        begin = one.end;
    }
}

void Recorder::play_first(Stream stream) {
    const Piece& first = recordings_.front().pieces[piece_];
    const cudaError_t result = launched(cudaGraphLaunch(first.graph.get(), stream));
    if (result != cudaSuccess) follow_anew();
    require_success(result, "replay");
    launched_ = first.end;
    ++piece_;
}

// Not the recording after all: its calls so far that are not launched become calls like others.
void Recorder::keep_followed() {
    if (followed_ == 0) return;
    const auto first = recordings_.front().calls.begin();
    calls_.assign(first + std::ptrdiff_t(launched_), first + std::ptrdiff_t(followed_));
    follow_anew();
}

void Recorder::remember(const std::vector<Call>& calls) {
    if (recordings_.size() == k_most_recordings) recordings_.pop_back();
    recordings_.insert(recordings_.begin(), Recording{calls, {}});
}

void Recorder::forget() {
    recordings_.clear();
    follow_anew();
}

// A graph that still runs is freed when it has ended.
void DestroyRecorded::operator()(CUgraphExec_st* graph) const noexcept {
    ignore(cudaGraphExecDestroy(graph));
}

}  // namespace rotkv::cuda
