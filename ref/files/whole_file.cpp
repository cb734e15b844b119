#include "ref/files/whole_file.h"

#include "ref/error.h"

#include <filesystem>
#include <fstream>

namespace rotkv {

std::vector<std::byte> whole_file(const std::string& path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        throw Error(ErrorCode::io, path + ": no such file, or not a regular one");
    }
    std::vector<std::byte> bytes(std::size_t(std::filesystem::file_size(path, error)));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
    if (error || !file) throw Error(ErrorCode::io, path + ": cannot be read");
    return bytes;
}

}  // namespace rotkv
