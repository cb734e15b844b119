// From the residual stream to likelihoods: nll, kld, logits.
//   The vocabulary is walked in panels of 8192 words, the tokens in tiles of 512: a panel of the
//   output matrix is expanded (products.h), a product makes a tile of logits [512][8192] (16 MiB,
//   which stay in the L2 cache of the larger devices), and one block of threads a row folds its
//   part of the row into running sums, as ref does word by word. A thread holds its 32 logits in
//   registers. Logits and exponentials are f32, sums over words f64. Cost: the output matrix read
//   once, and written and read once more as f32.
#include "cuda/products.h"
#include "cuda/reduce.cuh"

#include <algorithm>
#include <vector>

namespace rotkv::cuda {
namespace {

constexpr int64_t k_panel_words = 8192, k_tile_tokens = 512;
constexpr int k_each = k_panel_words / k_threads;  // logits of a thread

// The logits of one tile, and which words they are of.
struct Tile {
    const float* logits;  // [tokens][k_panel_words]
    int32_t first, words;
    float softcap;
    bool last;  // no words are left
};

// What one row of logits has shown so far.
struct Running {
    double sum = 0;  // of exp(logit - largest)
    double target = 0;
    float largest = -INFINITY;
    int32_t top = 0;

    // What exponents are counted from: where all words so far have p = 0, from 0.
    __device__ float shift() const { return largest > -INFINITY ? largest : 0; }
    __device__ double log_sum() const { return double(largest) + log(sum); }
    __device__ double nll() const { return log_sum() - target; }
};
// The state of a row of kld: a is the reference.
struct RunningPair {
    Running a, b;
    double difference = 0;  // sum of exp(a_v - largest a) (a_v - b_v)
};

__device__ float capped(float x, float softcap) {
    return softcap > 0 ? softcap * tanhf(x / softcap) : x;
}

// This thread's logits of row t of a tile: those of words threadIdx.x + k_threads j.
struct Logits {
    float x[k_each];

    __device__ Logits(const Tile& tile, uint32_t t) {
        const float* row = tile.logits + int64_t(t) * k_panel_words;
#pragma unroll
        for (int j = 0; j < k_each; ++j) {
            const int word = int(threadIdx.x + k_threads * j);
            x[j] = word < tile.words ? capped(row[word], tile.softcap) : -INFINITY;
        }
    }
    __device__ Largest largest(const Tile& tile) const {
        Largest mine{-INFINITY, INT32_MAX};
#pragma unroll
        for (int j = 0; j < k_each; ++j) {
            mine.meet({x[j], tile.first + int32_t(threadIdx.x + k_threads * j)});
        }
        return block_largest(mine);
    }
};

// The row's largest logit and its target's, of words before this tile and in it. Returns the
// factor that brings sums to the new largest.
__device__ double advance(Running& run, const Logits& logits, const Tile& tile, uint32_t t,
                          int32_t target) {
    const int32_t at = target - tile.first;
    if (at >= 0 && at < tile.words) {
        run.target = capped(tile.logits[int64_t(t) * k_panel_words + at], tile.softcap);
    }
    const Largest largest = logits.largest(tile);
    if (!(largest.x > run.largest)) return 1;
    const double factor = exp(double(run.largest) - double(largest.x));
    run.largest = largest.x;
    run.top = largest.at;
    return factor;
}

// nll = log(sum_v exp(logit_v)) - logit_target
__global__ void __launch_bounds__(k_threads)
    nll_kernel(Tile tile, const int32_t* target, Running* state, double* nll, int32_t* top) {
    const uint32_t t = blockIdx.x;
    Running run = tile.first == 0 ? Running() : state[t];
    const Logits logits(tile, t);
    const double factor = advance(run, logits, tile, t, target[t]);
    double sums[1] = {};
#pragma unroll
    for (int j = 0; j < k_each; ++j) {
        if (threadIdx.x + k_threads * j < tile.words) sums[0] += expf(logits.x[j] - run.shift());
    }
    block_sums(sums);
    if (threadIdx.x != 0) return;
    run.sum = run.sum * factor + sums[0];
    state[t] = run;
    if (!tile.last) return;
    nll[t] = run.nll();
    top[t] = run.top;
}

struct KldResults {
    double *kld, *nll_a, *nll_b;
    int32_t *top_a, *top_b;
};

__device__ void store(const KldResults& results, uint32_t t, const RunningPair& run) {
    const double kld = run.difference / run.a.sum - run.a.log_sum() + run.b.log_sum();
    results.kld[t] = kld < 0 ? 0 : kld;  // rounding may leave -1e-17, and a NaN stays one
    results.nll_a[t] = run.a.nll();
    results.nll_b[t] = run.b.nll();
    results.top_a[t] = run.a.top;
    results.top_b[t] = run.b.top;
}

// kld = sum_v p_a (a_v - b_v) - log_sum_a + log_sum_b
__global__ void __launch_bounds__(k_threads)
    kld_kernel(Tile tile_a, Tile tile_b, const int32_t* target, RunningPair* state,
               KldResults results) {
    const uint32_t t = blockIdx.x;
    RunningPair run = tile_a.first == 0 ? RunningPair() : state[t];
    const Logits a(tile_a, t), b(tile_b, t);
    const double factor_a = advance(run.a, a, tile_a, t, target[t]);
    const double factor_b = advance(run.b, b, tile_b, t, target[t]);
    double sums[3] = {};
#pragma unroll
    for (int j = 0; j < k_each; ++j) {
        if (threadIdx.x + k_threads * j >= tile_a.words) break;
        const double e = expf(a.x[j] - run.a.shift());
        sums[0] += e;
        sums[1] += expf(b.x[j] - run.b.shift());
        sums[2] += e * (double(a.x[j]) - double(b.x[j]));
    }
    block_sums(sums);
    if (threadIdx.x != 0) return;
    run.a.sum = run.a.sum * factor_a + sums[0];
    run.b.sum = run.b.sum * factor_b + sums[1];
    run.difference = run.difference * factor_a + sums[2];
    state[t] = run;
    if (tile_a.last) store(results, t, run);
}

__global__ void __launch_bounds__(k_threads)
    cap_kernel(TensorView x, float softcap, uint32_t words) {
    const uint32_t v = blockIdx.x * k_threads + threadIdx.x;
    if (v >= words) return;
    float* row = reinterpret_cast<float*>(x.data + blockIdx.y * x.stride[2]);
    row[v] = capped(row[v], softcap);
}

// A walk over the vocabulary with one or two hidden states per token, and the memory it needs.
class Walk {
  public:
    Walk(Products& products, const TensorView& weight, float softcap,
         std::initializer_list<TensorView> hidden, int64_t state_bytes)
        : products_(products),
          weight_(weight),
          softcap_(softcap),
          tokens_(hidden.begin()->n[2]),
          tile_bytes_(room_for(std::min(tokens_, k_tile_tokens) * k_panel_words, DType::f32)) {
        const int64_t in = weight.n[3], count = int64_t(hidden.size());
        const int64_t states = (tokens_ * state_bytes + 255) / 256 * 256;
        const int64_t panel =
            products.room_for_weight(std::min(weight.n[2], k_panel_words), in, DType::f32);
        const int64_t rows = room_for(tokens_ * in, DType::f32);
        state_ = products.reserve(states + panel + count * (rows + tile_bytes_));
        panel_ = state_ + states;
        tiles_ = panel_ + panel + count * rows;
        std::byte* room = panel_ + panel;
        for (const TensorView& one : hidden) {
            hidden_.push_back(products.rows_of(one, DType::f32, room));
            room += rows;
        }
    }

    template <class State>
    State* state() const {
        return reinterpret_cast<State*>(state_);
    }

    // Calls visit(tiles, t, count) for tokens [t, t + count) and each panel of words: one tile of
    // logits for each hidden state.
    template <class Visit>
    void for_each_tile(Visit visit) {
        for (int64_t first = 0; first < weight_.n[2]; first += k_panel_words) {
            const int64_t words = std::min(k_panel_words, weight_.n[2] - first);
            const Matrix panel = products_.weight_of(weight_, first, words, hidden_, panel_);
            for (int64_t t = 0; t < tokens_; t += k_tile_tokens) {
                visit(multiply(panel, first, t), t, std::min(k_tile_tokens, tokens_ - t));
            }
        }
    }

  private:
    std::vector<Tile> multiply(const Matrix& panel, int64_t first, int64_t t) {
        std::vector<Tile> tiles;
        for (Matrix some : hidden_) {
            float* const logits =
                reinterpret_cast<float*>(tiles_ + int64_t(tiles.size()) * tile_bytes_);
            some.data += t * some.step * int64_t(sizeof(float));
            some.rows = std::min(k_tile_tokens, tokens_ - t);
            products_.multiply(logits, k_panel_words, some, panel);
            tiles.push_back({logits, int32_t(first), int32_t(panel.rows), softcap_,
                             first + panel.rows == weight_.n[2]});
        }
        return tiles;
    }

    Products& products_;
    TensorView weight_;
    float softcap_;
    int64_t tokens_, tile_bytes_;
    std::vector<Matrix> hidden_;
    std::byte *state_, *panel_, *tiles_;
};

}  // namespace

void nll(const NllArgs& args, Products& products) {
    if (args.hidden.empty()) return;
    Walk walk(products, args.weight, args.softcap, {args.hidden}, sizeof(Running));
    walk.for_each_tile([&](const std::vector<Tile>& tiles, int64_t t, int64_t count) {
        nll_kernel<<<unsigned(count), k_threads, 0, products.stream()>>>(
            tiles[0], args.target.row<const int32_t>(0) + t, walk.state<Running>() + t,
            args.nll.row<double>(0) + t, args.top.row<int32_t>(0) + t);
        require_launched("nll");
    });
}

void kld(const KldArgs& args, Products& products) {
    if (args.hidden_a.empty()) return;
    Walk walk(products, args.weight, args.softcap, {args.hidden_a, args.hidden_b},
              sizeof(RunningPair));
    walk.for_each_tile([&](const std::vector<Tile>& tiles, int64_t t, int64_t count) {
        const KldResults results{args.kld.row<double>(0) + t, args.nll_a.row<double>(0) + t,
                                 args.nll_b.row<double>(0) + t, args.top_a.row<int32_t>(0) + t,
                                 args.top_b.row<int32_t>(0) + t};
        kld_kernel<<<unsigned(count), k_threads, 0, products.stream()>>>(
            tiles[0], tiles[1], args.target.row<const int32_t>(0) + t,
            walk.state<RunningPair>() + t, results);
        require_launched("kld");
    });
}

// logit_v = softcap(hidden . w_v)
void logits(const LogitsArgs& args, Products& products) {
    matmul({args.dst, args.weight, args.hidden}, products);
    if (args.softcap <= 0 || args.dst.empty()) return;
    const dim3 blocks(blocks_for(args.dst.n[3], k_threads), unsigned(args.dst.n[2]));
    cap_kernel<<<blocks, k_threads, 0, products.stream()>>>(args.dst, args.softcap,
                                                            uint32_t(args.dst.n[3]));
    require_launched("logits");
}

}  // namespace rotkv::cuda
