#pragma once
// A place for the bytes of a fuzz target that reads files by name.
// Docs: docs/CONTRIBUTING.md

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <system_error>

namespace rotkv::test {

/// A path of its own; the file is gone with the program.
struct TemporaryPath {
    std::string path = (std::filesystem::temp_directory_path() /
                        ("rotkv-fuzz-" + std::to_string(std::random_device()())))
                           .string();
    ~TemporaryPath() { clear(); }

    /// Before a file is written anew: some file systems wait for the disk when an old one is
    /// replaced, thousands of times in a run.
    void clear() const {
        std::error_code ignored;
        std::filesystem::remove(path, ignored);
    }
    void write(std::span<const uint8_t> bytes) const {
        clear();
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
    }
};

}  // namespace rotkv::test
