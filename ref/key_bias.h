#pragma once
// Keys kept without their layer's bias, which is known and the same for all tokens but for its
// position: what a type of few bits would spend its range on.
// Docs: docs/20-zoo.md

#include "ref/kv_cache.h"
#include "ref/model.h"

namespace rotkv {

/// The shape with K's types of few bits wrapped so that they keep x - R t(b, p), and add it again
/// to what they kept: b the bias of the head's key, t its position embedding at p, R the rotation
/// of `spec`. Types with kernels become formats over f32 cells. A type's name ends in "+kbias".
/// Throws: Error(unsupported) where keys have no bias, where it is normed away or V lies in K.
KvShape without_key_bias(const Model& model, KvShape shape, const RotationSpec& spec);

}  // namespace rotkv
