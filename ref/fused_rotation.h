#pragma once
// V's rotation written into a model's weights: what is cached is turned already, and nothing turns
// while the model runs.
//   v = W_v x + b,   y = W_o o,   o = sum_t p_t v_t        head by head
//   W_v' = R W_v,    b' = R b,    W_o' = W_o R^T           so that v' = R v, o' = R o, y' = y
// for any orthogonal R, here a Rotation in forward direction. A norm of v without weights stays as
// it is: |R v| = |v|. What multiplies channels one by one between o and W_o does not commute with
// R, and is refused.
// Where all heads share one latent row c = g * rms(W_d x) (MLA, absorbed), the row itself is
// turned:
//   W_d' = R W_d,  g' = 1,  and of what reads c:  w' = R (g * w)
// Equal in real arithmetic; the new weights are computed in f64 and rounded to f32.
// Source: QuaRot, arXiv 2404.00456, for V; the latent row likewise.
// Docs: docs/21-rotation-in-the-weights.md

#include "ref/model.h"

#include <string>
#include <vector>

namespace rotkv {

/// The metadata that says so, a string as rotation_name() spells it: of V of every head, or of the
/// latent row.
inline constexpr const char* k_fused_v_key = "rotkv.rotation.v";
inline constexpr const char* k_fused_latent_key = "rotkv.rotation.latent";

/// A tensor in place of the one that the file calls `name`.
struct FusedTensor {
    std::string name;
    std::vector<float> values;
    TensorView view;  ///< of `values`, in the extents of the old one
};

/// The key under which a model's rotation stands: k_fused_latent_key where layers keep a latent
/// row, else k_fused_v_key.
const char* fused_rotation_key(const ModelConfig& config);

/// Every tensor that changes when `rotation` goes into the weights.
/// Shapes: W_v [K Dv][E], or the last rows of [H Dk + K Dk + K Dv][E]; W_o [E][H Dv]; a query head
///         has its KV head's R. Signs count through a head.
/// Needs:  weights in host memory: of a backend that imports without a copy.
/// Cost:   4 bytes for each element of those tensors, all at once.
/// Throws: Error(unsupported), with the layer and the reason, for gates on the attention's output,
///         values that are keys before their norm, weights that are turned already, models without
///         a cache of values; Error(usage) for a block that does not divide the head.
std::vector<FusedTensor> fuse_rotation(const Model& model, const Rotation& rotation);

}  // namespace rotkv
