#pragma once
// Files that a test makes and that are gone after it.
// Docs: docs/CONTRIBUTING.md

#include "tests/catch.h"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace rotkv::test {

/// An empty folder of its own, removed with the object.
struct TemporaryFolder {
    std::filesystem::path path;

    TemporaryFolder() {
        const std::string name = "rotkv-" + std::to_string(std::random_device{}());
        path = std::filesystem::temp_directory_path() / name;
        REQUIRE(std::filesystem::create_directory(path));
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path); }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    std::string file(const std::string& name) const { return (path / name).string(); }
    int64_t n_files() const {
        return std::distance(std::filesystem::directory_iterator(path),
                             std::filesystem::directory_iterator());
    }
};

inline std::string read_all(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_all(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

/// What a function writes into the file that it is given.
template <class Print>
std::string printed_by(const Print& print) {
    const TemporaryFolder folder;
    std::FILE* file = std::fopen(folder.file("printed").c_str(), "w");
    REQUIRE(file != nullptr);
    print(file);
    std::fclose(file);
    return read_all(folder.file("printed"));
}

}  // namespace rotkv::test
