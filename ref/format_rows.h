#pragma once
// Rows in formats without kernels, as class Backend sees to them for every backend.
// Docs: docs/20-zoo.md

#include "ref/backend.h"
#include "ref/format.h"

namespace rotkv {

/// Does the call write rows that are kept in a format?
bool names_format(const Call& call);

/// The same call on cells that are f32 and no more than that: what a backend runs.
Call without_formats(const Call& call);

/// The rows that such a call has just written: to bytes, and back into their cells.
void pass_through_formats(Backend& backend, const Call& call);

}  // namespace rotkv
