#pragma once
// The operations of the backend "fast", one function per struct of ops.h, each in the file of its
// stem with the name it has in ref; and the rows of which they are made. Arguments have passed
// check(). Every operation shares its work out by itself, and uses all threads it is given.
// Docs: docs/08-backends.md

#include "fast/threads.h"
#include "ref/backend.h"

#include <cstdint>
#include <vector>

namespace rotkv::fast {

void hadamard(const HadamardArgs& args);      // hadamard.cpp
void quantize(const QuantizeArgs& args);      // quant.cpp
void dequantize(const DequantizeArgs& args);  // quant.cpp
void rope(const RopeArgs& args);              // rope.cpp
void rms_norm(const RmsNormArgs& args);       // norm.cpp
void layer_norm(const LayerNormArgs& args);   // norm.cpp
void scale(const ScaleArgs& args);            // norm.cpp
void act_mul(const ActMulArgs& args);         // norm.cpp
void add(const AddArgs& args);                // norm.cpp
void matmul(const MatmulArgs& args);          // matmul.cpp
void matmul_bf16(const MatmulArgs& args);     // matmul_bf16.cpp
void embed(const EmbedArgs& args);            // matmul.cpp
void turn(const TurnArgs& args);              // turn.cpp
void kv_store(const KvStoreArgs& args);       // kv_cache.cpp
void kv_shift(const KvShiftArgs& args);       // kv_cache.cpp
void conv_step(const ConvStepArgs& args);     // delta.cpp
void delta_step(const DeltaStepArgs& args);   // delta.cpp
void attention(const AttentionArgs& args);    // attention.cpp
void merge(const MergeArgs& args);            // attention.cpp
void nll(const NllArgs& args);                // nll.cpp
void kld(const KldArgs& args);                // nll.cpp
void logits(const LogitsArgs& args);          // nll.cpp

// A mixture of experts: experts.cpp
void route(const RouteArgs& args);
void expert_matmul(const ExpertMatmulArgs& args);
void expert_sum(const ExpertSumArgs& args);

/// dst[t, a] += bias[id[t, a]]: expert_matmul's last step.
void add_expert_bias(const ExpertMatmulArgs& args);

/// All of them: what the backend runs a call through.
inline constexpr Operations k_operations{
    hadamard, quantize,  dequantize, rope,          rms_norm,   layer_norm, scale, act_mul,
    add,      matmul,    route,      expert_matmul, expert_sum, embed,      turn,  kv_store,
    kv_shift, conv_step, delta_step, attention,     merge,      nll,        kld,   logits};

/// A rotation made ready for many rows of d channels: signs are drawn once, not per row.
/// Exact: equal to ref's hadamard_row in every bit. y may be x.
class RowRotation {
  public:
    RowRotation(const Rotation& rotation, int64_t d);
    void forward(float* y, const float* x) const;  ///< y = H S x
    void back(float* y, const float* x) const;     ///< y = S H x

  private:
    int64_t d_, block_;         // block_ 0: no rotation
    float scale_;               // 1 / sqrt(block)
    std::vector<float> signs_;  // [d], or empty
};

/// Is matmul_bf16 there? It is a primitive of oneDNN 3; version 2 says it in another way.
bool has_bf16_products();

/// One row into any of the cache types. Exact: ref's bytes.
void quantize_row(DType type, void* y, const float* x, int64_t n);

/// One row of any cache or weight type to f32. Exact. The formats that only weights use are
/// expanded by ref's function, which is the one implementation of them.
void dequantize_row(DType type, float* y, const void* x, int64_t n);

/// y = act(gate) * up for n of a row: an element's bits do not depend on where in the row it is.
/// y may be gate or up. norm.cpp
void act_mul_row(Activation activation, float* y, const float* gate, const float* up, int64_t n);

/// A row of the table [n_rot / 2][2] as rope_row wants it: two factors for each channel,
/// [2][n_rot]. Valid until the thread's next call.
const float* rope_factors(const float* table, int64_t n_rot, RopePairs pairs);

/// One head of RoPE, by rope_factors(). Exact. y may be x.
void rope_row(float* y, const float* x, int64_t d, const float* factors, int64_t n_rot,
              RopePairs pairs);

/// Row r of a view whose three leading extents are counted as one. Divisions are slow beside a row
/// of 64 elements: none are made where r alone is the index.
template <class E>
inline E* row_number(const TensorView& tensor, int64_t r) {
    if (r < tensor.n[2]) return tensor.row<E>(r);
    const int64_t i01 = r / tensor.n[2], i2 = r - i01 * tensor.n[2];
    if (i01 < tensor.n[1]) return tensor.row<E>(i01, i2);
    return tensor.row<E>(i01 / tensor.n[1], i01 % tensor.n[1], i2);
}
}  // namespace rotkv::fast
