#pragma once
// What one side of a cache is kept in: a type that backends have kernels for, or a format of the
// zoo over f32 cells.
// Docs: docs/20-zoo.md

#include "ref/format.h"
#include "ref/types.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace rotkv {

class CacheType {
  public:
    CacheType(DType type) : cells_(type) {}  // NOLINT: a DType is a cache type
    explicit CacheType(std::shared_ptr<const Format> format)
        : cells_(DType::f32), format_(std::move(format)) {}

    /// What lies in the cells that kernels read.
    DType cells() const { return cells_; }

    /// What rows pass through on their way into the cells; null: nothing but their type.
    const Format* format() const { return format_.get(); }

    /// "q8_0", "exl3:4".
    std::string name() const;

    /// Few bits a value, which rotation helps: a block type, or a format.
    bool quantized() const { return format_ || is_block_type(cells_); }

    /// Why the policy does not rotate a quantized side; empty: it does.
    std::string unrotated_because() const {
        return format_ ? format_->unrotated_because() : std::string();
    }

    /// How many tokens are kept together (Format::group).
    int64_t group() const { return format_ ? format_->group() : 1; }

    /// Why heads of d channels cannot be kept; empty where they can.
    std::string refusal(int64_t d) const;

    /// "exl3:4, 4.5 bits per value"; the bare name for types with kernels, whose bits are known.
    std::string words(int64_t d) const;

    bool operator==(const CacheType& other) const {
        return cells_ == other.cells_ && name() == other.name();
    }

  private:
    DType cells_;
    std::shared_ptr<const Format> format_;
};

/// Bytes that one row of d channels takes: what is kept, not what cells that stand for it take.
/// Throws: Error(bad_argument) where heads of d channels cannot be kept.
int64_t row_bytes(const CacheType& type, int64_t d);

/// The cache type of a name, case ignored: one that caches have kernels for, or of the zoo.
/// Throws: Error(usage) where a format does not know what follows its ':'.
std::optional<CacheType> find_cache_type(const std::string& name);

}  // namespace rotkv
