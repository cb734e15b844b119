#pragma once
// Pictures: tools/plot.py draws them, here is who calls it.
// Docs: docs/12-sweeps.md

#include <string>
#include <vector>

namespace rotkv::tools {

/// Runs `python3 plot.py ARGUMENT...` and waits for it. The program is the one that the environment
/// variable ROTKV_PLOT names, or plot.py in the folder of this executable, where the build puts it.
/// Throws Error(io) with the last line it said, or what to install, if there are no pictures.
void draw(const std::vector<std::string>& arguments);

}  // namespace rotkv::tools
