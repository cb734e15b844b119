#pragma once
// Pictures: tools/plot.py draws them, here is who calls it.
// Docs: docs/12-sweeps.md

#include <string>
#include <vector>

namespace rotkv::tools {

/// plot.py and a Python that can run it, looked for before anything is measured. The program is the
/// one that the environment variable ROTKV_PLOT names, or plot.py in the folder of this executable,
/// where the build puts it; Python is the python3 of the PATH, or /usr/bin/python3 where only that
/// one imports numpy and matplotlib.
class Plotter {
  public:
    /// Throws Error(io) that says what is missing.
    Plotter();

    /// Runs `python3 plot.py ARGUMENT...` and waits for it.
    /// Throws Error(io) with the last line it said if there are no pictures.
    void draw(const std::vector<std::string>& arguments) const;

  private:
    std::string program_, python_;
};

}  // namespace rotkv::tools
