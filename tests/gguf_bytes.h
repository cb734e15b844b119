#pragma once
// GGUF files put together by hand, right or wrong, byte by byte.
// Docs: docs/06-gguf.md

#include "ref/files/gguf.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rotkv::test {

/// A file put together by hand, from front to back.
class Bytes {
  public:
    template <class Number>
    Bytes& number(Number value) {
        text_.append(reinterpret_cast<const char*>(&value), sizeof value);
        return *this;
    }
    Bytes& u8(uint8_t value) { return number(value); }
    Bytes& u32(uint32_t value) { return number(value); }
    Bytes& u64(uint64_t value) { return number(value); }
    Bytes& raw(std::string_view text) {
        text_ += text;
        return *this;
    }
    Bytes& string(std::string_view text) { return u64(text.size()).raw(text); }
    Bytes& zeros(size_t n) { return raw(std::string(n, '\0')); }
    Bytes& align(size_t n) { return zeros((n - text_.size() % n) % n); }

    Bytes& header(uint64_t n_tensors, uint64_t n_entries, uint32_t version = 3) {
        return raw("GGUF").u32(version).u64(n_tensors).u64(n_entries);
    }
    Bytes& key(std::string_view key, GgufType type) { return string(key).u32(uint32_t(type)); }
    Bytes& tensor(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type,
                  uint64_t offset) {
        string(name).u32(uint32_t(extents.size()));
        for (const uint64_t extent : extents) u64(extent);
        return u32(type).u64(offset);
    }

    operator std::string() const { return text_; }
    size_t size() const { return text_.size(); }

  private:
    std::string text_;
};

/// Parses a copy of exactly this size, so that a sanitizer sees any read behind its end.
template <class Use>
void parse(const std::string& text, const Use& use, GgufParts parts = GgufParts::refused) {
    const std::vector<char> exact(text.begin(), text.end());
    use(GgufFile::parse(std::as_bytes(std::span(exact)), "bad.gguf", parts));
}

}  // namespace rotkv::test
