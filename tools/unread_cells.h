#pragma once
// Caches whose tokens in f16 leave nothing of few bits to be read: what is measured of them is f16.
// Docs: docs/20-zoo.md

#include "ref/measure/evaluate.h"

namespace rotkv::tools {

/// Throws Error(bad_argument) for a cache with first or recent tokens in f16 and types of few bits,
/// of which no query that is scored reads a cell: in no layer is there a position from `first` on
/// whose distance is at least `recent` and inside the layer's window.
void require_quantized_reads(const ModelConfig& config, const KvShape& shape,
                             const WindowPlan& plan);

}  // namespace rotkv::tools
