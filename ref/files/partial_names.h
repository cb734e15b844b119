#pragma once
// What is begun and not whole yet, by name, so that a signal can take it away.
// Docs: docs/07-measuring.md

#include <string>

namespace rotkv {

struct PartialName;

/// Remembers a file or folder as begun by this process, until forget_name().
PartialName* keep_name(const std::string& name);

/// The file is whole, renamed or removed. Nothing for nullptr.
void forget_name(PartialName* kept) noexcept;

/// Removes what is remembered now, folders with what is remembered in them: for a signal that ends
/// the process. May be called by a signal handler.
void remove_partial_files() noexcept;

}  // namespace rotkv
