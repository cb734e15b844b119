#pragma once
// The reference's operations: one function per struct of ops.h, each in the file of its stem, and
// the backend that forwards to them. Arguments have passed check(); see ops.h for what they mean.
// Docs: docs/08-backends.md

#include "ref/backend.h"

#include <memory>

namespace rotkv::ref {

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

/// All of them: what the backend runs a call through.
inline constexpr Operations k_operations{
    hadamard, quantize,  dequantize, rope,          rms_norm,   layer_norm, scale, act_mul,
    add,      matmul,    route,      expert_matmul, expert_sum, embed,      turn,  kv_store,
    kv_shift, conv_step, delta_step, attention,     merge,      nll,        kld,   logits};

/// One head of RoPE: y0 = x0 c - x1 s, y1 = x0 s + x1 c on each pair, every product and sum
/// rounded; channels from n_rot on are copied. table [n_rot / 2][2] f32; y may be x.
void rope_row(float* y, const float* x, int64_t d, const float* table, int64_t n_rot,
              RopePairs pairs);

}  // namespace rotkv::ref

namespace rotkv {

/// The backend "ref": plain loops on one thread.
std::unique_ptr<Backend> make_ref_backend();

}  // namespace rotkv
