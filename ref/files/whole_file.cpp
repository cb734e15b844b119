#include "ref/files/whole_file.h"

#include "ref/error.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace rotkv {

std::vector<std::byte> whole_file(const std::string& path, std::uint64_t most) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        throw Error(ErrorCode::io, path + ": no such file, or not a regular one");
    }
    const std::uint64_t size = std::filesystem::file_size(path, error);
    std::vector<std::byte> bytes(error ? 0 : std::size_t(std::min(size, most)));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
    if (error || !file) throw Error(ErrorCode::io, path + ": cannot be read");
    return bytes;
}

}  // namespace rotkv
