#pragma once
// Caches whose tokens in f16 leave nothing of few bits to be read: what is measured of them is f16.
// Docs: docs/20-zoo.md

#include "ref/measure/evaluate.h"

namespace rotkv::tools {

/// The position of the last query whose prediction is scored in the plan's windows.
int64_t last_scored(const WindowPlan& plan);

/// Throws Error(bad_argument) for a cache with first or recent tokens in f16 and types of few bits,
/// of which no query up to the position `last` reads a cell: in no layer is there a position from
/// `first` on whose distance is at least `recent` and inside the layer's window.
void require_quantized_reads(const ModelConfig& config, const KvShape& shape, int64_t last);

}  // namespace rotkv::tools
