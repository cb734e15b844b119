#pragma once
// Calls of operations, kept until somebody waits for their results, and replayed in one launch
// where the same calls come again: the next token of a sequence, the next batch of a text.
//
// What changes from step to step lies in the device's memory (positions, cells, lengths), never in
// the arguments. So equal arguments mean equal launches, and a recorded CUDA graph of them may
// stand for them all. Docs: docs/08-backends.md

#include "cuda/kernels.h"

#include <cstdint>
#include <functional>
#include <variant>
#include <vector>

struct CUgraphExec_st;  // a cudaGraphExec_t points to it

namespace rotkv::cuda {

using Call = std::variant<HadamardArgs, QuantizeArgs, DequantizeArgs, RopeArgs, RmsNormArgs,
                          MatmulArgs, KvStoreArgs, AttentionArgs, KvShiftArgs, ActMulArgs, AddArgs,
                          EmbedArgs, NllArgs, KldArgs, LogitsArgs>;

class Recorder {
  public:
    Recorder() = default;
    ~Recorder() { forget(); }
    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;

    void add(const Call& call) { calls_.push_back(call); }
    bool empty() const { return calls_.empty(); }

    /// Launches everything added since the last time: one by one the first time, recorded the
    /// second, with one launch from then on. Throws what `launch` throws, Error(io).
    void play(Stream stream, const std::function<void(const Call&)>& launch);

    /// Drops all recordings: memory that operations share has moved.
    void forget();

  private:
    struct Recording {
        std::vector<Call> calls;
        CUgraphExec_st* graph = nullptr;  ///< null: these calls were seen once
    };
    void remember(const std::vector<Call>& calls);
    static void drop(Recording& recording);

    std::vector<Call> calls_;
    std::vector<Recording> recordings_;  ///< the latest used first
};

}  // namespace rotkv::cuda
