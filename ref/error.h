#pragma once
// How rotkv reports what is wrong: one exception type, thrown at the boundary (files, text, flags,
// arguments of operations) and never inside a kernel, where what was checked is taken for granted
// and a switch over types that has no answer aborts.
// Docs: docs/CONTRIBUTING.md

#include <stdexcept>
#include <string>

namespace rotkv {

enum class ErrorCode {
    bad_argument,  ///< shapes, types or values that no backend could accept
    unsupported,   ///< well formed, but this backend, model or format is not handled
    bad_file,      ///< bytes that do not follow their format; the message names file and offset
    io,            ///< the operating system refused: not found, no space, no permission
    usage,         ///< flags that contradict each other; tools exit with 2
};

/// A failed boundary check. what() is one line: where (file, offset, tensor, argument), what was
/// expected, what was found.
class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ErrorCode code() const { return code_; }

  private:
    ErrorCode code_;
};

/// Throws Error(code, message) unless `good`. For messages that cost nothing to build; where the
/// text needs values, write the `if` and `throw` out.
inline void require(bool good, ErrorCode code, const char* message) {
    if (!good) throw Error(code, message);
}

}  // namespace rotkv
