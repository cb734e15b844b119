#include "tools/beside_program.h"

#include "ref/error.h"

#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include <array>
#include <cstdint>
#include <filesystem>
#include <system_error>

namespace rotkv::tools {

static std::filesystem::path folder_of_this_program() {
#ifdef __APPLE__
    std::array<char, 4096> path{};
    uint32_t size = path.size();
    if (_NSGetExecutablePath(path.data(), &size) != 0) return {};
    return std::filesystem::path(path.data()).parent_path();
#else
    std::error_code ignored;
    return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
#endif
}

std::string beside_program(const std::string& name) {
    return (folder_of_this_program() / name).string();
}

std::string text_or_demo(const std::string& asked) {
    if (!asked.empty()) return asked;
    const std::string path = beside_program("demo.txt");
    if (std::filesystem::exists(path)) return path;
    throw Error(ErrorCode::io, path + ": no such file; name a text with -f FILE");
}

}  // namespace rotkv::tools
