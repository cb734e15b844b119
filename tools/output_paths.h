#pragma once
// What a program reads and writes, as its flags name it, before anything runs: a result that has
// nowhere to go, or would go over an input, is found while nothing is lost.
// Docs: tools/README.md

#include <string>
#include <vector>

namespace rotkv::tools {

/// A path and the flag that names it. An empty path is a flag that was not given, "-" a standard
/// stream.
struct NamedPath {
    std::string flag, path;
};

/// Throws Error(usage), naming both flags, for an output that is the file of an input or of another
/// output (one device and inode, or one path where nothing is yet), and for one that is a model:
/// no program writes GGUF files. Throws Error(io) for an output that cannot be written: no folder,
/// a folder, no permission. Leaves nothing behind and truncates nothing.
void check_paths(const std::vector<NamedPath>& inputs, const std::vector<NamedPath>& outputs);

/// The same for a folder that a program makes: nothing may be there. Throws Error(io).
void check_new_folder(const NamedPath& folder);

/// Throws Error(usage) for what is there, has bytes and does not begin with `magic`; else says
/// whether something is there that would be replaced.
bool replaces(const NamedPath& output, const std::string& magic, const std::string& kind);

/// From here on a signal that ends this process removes its partial files first.
void remove_partial_files_on_signals();

}  // namespace rotkv::tools
