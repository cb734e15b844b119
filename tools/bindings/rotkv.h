#pragma once
/* rotkv for programs in C, and for every language that calls C: operations of a rotated, quantized
 * cache on the caller's arrays, caches, models, and the figures that they are measured by.
 * This header has everything; its parts, in the order in which they need each other, are
 * rotkv_types.h, rotkv_backend.h, rotkv_operations.h, rotkv_cache.h, rotkv_model.h and
 * rotkv_programs.h.
 *
 * Status. Every function that can fail returns one; what it should have written is then undefined,
 *   but for sizes that say how much room is needed. rotkv_last_error() says in one line what was
 *   expected and what was found, in the same words as rotkv's programs.
 * Handles are opaque. They are closed in any order, once each; closing NULL does nothing. What one
 *   handle needs of another (a cache its model) lives on until both are closed.
 * Threads. Any function may be called from any thread. Calls on one backend, a model on it and
 *   caches on it take turns: the later one waits. A callback must not call what it was called from;
 *   that is an error, not a deadlock. Different handles run at once.
 * Arrays are the caller's, on the host; a device's backend copies them there and back. They may not
 *   overlap unless a function says so.
 * Texts are UTF-8 and end in 0. A text that is given out goes to `text`, with its 0, if `capacity`
 *   bytes hold it; `length` is set to its length without the 0 in any case. With `text` NULL and
 *   `capacity` 0 the length is asked for. One of `text` and `length` may be NULL.
 * Structs that begin with `size` want sizeof of themselves there: later versions may add fields.
 * Denormal numbers are IEEE's during a call, whatever the processor was set to; it is set back.
 * Docs: docs/25-bindings.md */
#include "rotkv_backend.h"
#include "rotkv_cache.h"
#include "rotkv_model.h"
#include "rotkv_operations.h"
#include "rotkv_programs.h"
#include "rotkv_types.h"
