#pragma once
// The C interface of the playground. Every function answers with JSON that stays until the next
// call, {"error": one line} where it has nothing else; a value that is not a number is null. One
// caller at a time.
// Docs: docs/34-playground.md

#include <stdint.h>

#if defined(__EMSCRIPTEN__)
#include <emscripten.h>
#define ROTKV_PLAYGROUND_API extern "C" EMSCRIPTEN_KEEPALIVE
#else
#define ROTKV_PLAYGROUND_API extern "C"
#endif

#define ROTKV_PLAYGROUND_CHANNELS 256

/// The row that the others read, [ROTKV_PLAYGROUND_CHANNELS] f32: the caller writes the first d.
ROTKV_PLAYGROUND_API float* rotkv_playground_row(void);

/// Every cache type and format for heads of d channels: {"types": [{"name", "zoo", "group",
/// "refusal" or "", and without one "bits", "policy": the rotation in words, "reason"}],
/// "examples": [names]}.
ROTKV_PLAYGROUND_API const char* rotkv_playground_types(int32_t d);

/// Fills the row with an example, d from 16 on: {"row": [d]}.
ROTKV_PLAYGROUND_API const char* rotkv_playground_example(const char* name, int32_t d,
                                                          uint32_t seed);

/// The row as the first of 16 keys (or a whole group), stored and read by a query: every stage.
/// rotation: "none", "64", "64:7". seed: of the other keys and the query.
/// {"rotated", "cells", "back", "error": [d], "relative_error", "bytes": [bytes of the row],
/// "blocks": [{"scale", "minimum", "has_minimum", "codes": [32]}], "figures": {"kurtosis", "crest",
/// "mu"} of what is quantized, "exact", "cached": {"score", "weight": [16]},
/// "largest_score_change", "moved_probability"}.
ROTKV_PLAYGROUND_API const char* rotkv_playground_store(int32_t d, const char* type,
                                                        const char* rotation, uint32_t seed);

/// The row moved by `difference` positions: {"steps": [{"name", "what", "row", "exact": [d],
/// "error"}]}. neox: 1 for pairs (i, i + d / 2), 0 for (2 i, 2 i + 1). RoPE has base 10000 and
/// turns the whole head.
ROTKV_PLAYGROUND_API const char* rotkv_playground_shift(int32_t d, const char* type,
                                                        const char* rotation, uint32_t seed,
                                                        int32_t difference, int32_t neox,
                                                        int32_t in_rotated_space);
