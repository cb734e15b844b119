#pragma once
// Bytes of a file under construction; byte_cursor.h reads such files. A number is little endian, a
// text or a list comes after its length as a u64, and nothing is aligned.
// Docs: docs/04-kv-cache.md

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace rotkv {

static_assert(std::endian::native == std::endian::little, "numbers are packed as they lie");

class BytePacker {
  public:
    void put(std::span<const std::byte> more) {
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
    template <class Number>
    requires std::is_arithmetic_v<Number>
    void put(Number number) { put(std::as_bytes(std::span(&number, 1))); }
    void put(std::string_view text) {
        put(uint64_t(text.size()));
        put(std::as_bytes(std::span(text)));
    }

    std::vector<std::byte> bytes;
};

}  // namespace rotkv
