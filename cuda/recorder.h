#pragma once
// Calls of operations, kept until somebody waits for their results, and replayed in a few launches
// where the same calls come again: the next token of a sequence, the next batch of a text. The
// first few calls of many are a graph by themselves, which runs while the others still come.
//
// What changes from step to step lies in the device's memory (positions, cells, lengths), never in
// the arguments. So equal arguments mean equal launches, and a recorded CUDA graph of them may
// stand for them all. Docs: docs/08-backends.md

#include "cuda/kernels.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

struct CUgraphExec_st;  // a cudaGraphExec_t points to it

namespace rotkv::cuda {

/// Launches calls in their order.
using LaunchAll = std::function<void(std::span<const Call>)>;

struct DestroyRecorded {
    void operator()(CUgraphExec_st* graph) const noexcept;
};
using Recorded = std::unique_ptr<CUgraphExec_st, DestroyRecorded>;

class Recorder {
  public:
    Recorder() = default;
    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;

    /// While calls are those of the latest recording, they are counted and not even copied. Is
    /// this the next of them?
    bool follow(const Call& call) {
        if (!calls_.empty() || !continues(call)) return false;
        ++followed_;
        return true;
    }
    /// Any other call.
    void add(const Call& call) {
        keep_followed();
        calls_.push_back(call);
    }
    bool empty() const { return calls_.empty() && followed_ == 0; }

    /// Launches everything added since the last time: kernel by kernel the first time, recorded
    /// the second, as graphs from then on. Throws what `launch` throws, Failure. Then the
    /// calls are dropped, some of them launched, others not, and none is being recorded.
    void play(Stream stream, const LaunchAll& launch);

    /// Are the calls since then a graph that others will follow? Then play_first() launches it.
    bool has_first() const {
        return calls_.empty() && followed_ > launched_ && !recordings_.empty() &&
               piece_ + 1 < recordings_.front().pieces.size() &&
               recordings_.front().pieces[piece_].end == followed_;
    }
    /// Throws as play() does, and drops what is not launched.
    void play_first(Stream stream);

    /// Drops all recordings: memory that operations share has moved.
    void forget();

  private:
    struct Piece {
        std::size_t end;  ///< of its calls; they begin where the piece before ends
        Recorded graph;
    };
    struct Recording {
        std::vector<Call> calls;
        std::vector<Piece> pieces;  ///< none: these calls were seen once
    };
    bool continues(const Call& call) const {
        if (recordings_.empty() || followed_ == recordings_.front().calls.size()) return false;
        return recordings_.front().calls[followed_] == call;
    }
    void replay(Stream stream, const LaunchAll& launch);
    void keep_followed();
    void follow_anew() { followed_ = launched_ = piece_ = 0; }
    void remember(const std::vector<Call>& calls);

    std::vector<Recording> recordings_;  ///< the latest used first
    std::size_t followed_ = 0;           ///< calls since the last play() that equal the first's
    std::size_t launched_ = 0;           ///< so many of those are launched:
    std::size_t piece_ = 0;              ///< the pieces before this one
    std::vector<Call> calls_;            ///< all calls since then, if one was another
};

}  // namespace rotkv::cuda
