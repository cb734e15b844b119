#pragma once
// The one way in which the bytes of a file are read: forward, bounds checked, with errors that say
// where.
// Docs: docs/06-gguf.md

#include "ref/error.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace rotkv {

/// A place in the file that only moves forward, over bytes that are there.
class ByteCursor {
  public:
    ByteCursor(std::span<const std::byte> bytes, const std::string& file)
        : bytes_(bytes), file_(file) {}

    uint64_t offset() const { return offset_; }
    uint64_t left() const { return bytes_.size() - offset_; }

    /// Names what is read from here on ("tensor 'output.weight'"), for messages.
    void enter(std::string subject) { subject_ = std::move(subject) + ": "; }

    std::span<const std::byte> take(uint64_t n, const char* what) {
        last_ = offset_;
        if (n > left()) {
            fail("expected " + std::to_string(n) + " bytes for the " + what + ", found " +
                 std::to_string(left()));
        }
        offset_ += n;
        return bytes_.subspan(last_, n);
    }

    template <class Number>
    Number number(const char* what) {
        Number value;
        std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
        return value;
    }

    /// How many of something follow. Each takes at least `least_bytes`, so the count can be
    /// believed once that many bytes are left.
    template <class Number = uint64_t>
    uint64_t count(const char* what, uint64_t least_bytes) {
        const uint64_t n = number<Number>(what);
        if (n > left() / least_bytes) {
            fail(what + (" " + std::to_string(n)) + " does not fit in the " +
                 std::to_string(left()) + " bytes left");
        }
        return n;
    }

    bool boolean() {
        const uint8_t byte = number<uint8_t>("bool");
        if (byte > 1) fail("expected a bool of 0 or 1, found " + std::to_string(byte));
        return byte == 1;
    }

    std::string_view string() {
        const uint64_t n = count("string length", 1);
        return {reinterpret_cast<const char*>(take(n, "string").data()), n};
    }

    /// A key or a tensor's name.
    std::string name() {
        const std::string_view text = string();
        if (text.empty()) fail("the name is empty");
        return std::string(text);
    }

    /// Ends the reading with an error at whatever was taken last.
    [[noreturn]] void fail(const std::string& problem, ErrorCode code = ErrorCode::bad_file) const {
        throw Error(code, file_ + ": offset " + std::to_string(last_) + ": " + subject_ + problem);
    }

  private:
    std::span<const std::byte> bytes_;
    const std::string& file_;
    std::string subject_;
    uint64_t offset_ = 0;
    uint64_t last_ = 0;  ///< where the last thing taken begins
};

}  // namespace rotkv
