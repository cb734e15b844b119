#pragma once
// What rows of keys and values are kept in without kernels: a format says how one row, or those of
// a group of tokens, become bytes and how bytes become rows. A cache of such a type has f32 cells
// that hold decode(encode(R x)), so that every backend reads it with the kernels it has
// (format_rows.cpp). The formats themselves, and how one is added, are the zoo's: ref/zoo/.
// Docs: docs/20-zoo.md

#include "ref/rotation.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace rotkv {

/// Where a row belongs, for formats that treat rows differently.
struct RowContext {
    int64_t layer = 0, kv_head = 0;
    Side side = Side::k;
    int64_t position = 0;  ///< of its token, the first of a group; a shift encodes again the rows
                           ///< that it turns
    std::span<const float> calibration =
        {};  ///< what is known of this layer, side and head
             ///< beforehand; empty: nothing. No cache knows any yet
};

/// One format: encode and decode are functions of their arguments alone, for any thread.
class Format {
  public:
    virtual ~Format() = default;

    /// As it is asked for and listed: "exl3:4".
    const std::string& name() const { return name_; }

    /// Why heads of d channels cannot be kept; empty where they can.
    virtual std::string refusal(int64_t d) const = 0;

    /// G: so many tokens become bytes together, those at positions n G .. n G + G - 1, when the
    /// last of them comes; until then their rows stay as they are. More than 1 for scales that
    /// tokens share. A cache asks for recent >= G - 1, so that no query reads a row whose scale a
    /// later token has set.
    virtual int64_t group() const { return 1; }

    /// Bytes of one row of d channels with everything that decode reads: scales, norms, padding; of
    /// a group, a token's share. Needs: no refusal(d), as encode and decode do.
    virtual int64_t row_bytes(int64_t d) const = 0;

    /// Shapes: codes [G][row_bytes(d)], rows [G][d], of one head; no aliasing.
    /// A NaN or an infinity leaves no value of its block finite.
    virtual void encode(std::span<std::byte> codes, std::span<const float> rows,
                        const RowContext& context) const = 0;

    /// The rows that `codes` stand for; any bytes stand for some.
    virtual void decode(std::span<float> rows, std::span<const std::byte> codes,
                        const RowContext& context) const = 0;

    /// Why the policy leaves its rows as they are, in words behind its name; empty: it does not.
    /// One that turns rows inside itself: a Hadamard matrix in there would undo most of one before
    /// it, H32 (H2 x H32) = H2 x 1. One that lives on what single channels are like.
    virtual std::string unrotated_because() const { return {}; }

    /// Bits per value of a row of d channels, all metadata included.
    double bits_per_value(int64_t d) const { return 8.0 * double(row_bytes(d)) / double(d); }

  protected:
    explicit Format(std::string name) : name_(std::move(name)) {}

  private:
    std::string name_;
};

/// Formats that differ in what follows a ':' behind their name.
struct FormatFamily {
    std::string name;                  ///< "exl3"
    std::string parameter;             ///< what may follow, in words; empty: nothing
    std::string what;                  ///< one line for people
    std::vector<std::string> members;  ///< full names to list, measure and test: "exl3:2", ...

    /// The format with what follows the ':', "" where nothing does; null if that is no parameter.
    /// The name is the whole of what was asked for.
    std::function<std::shared_ptr<const Format>(const std::string& name,
                                                const std::string& parameter)>
        make;
};

/// All of them, in the order of their names: what the files ref/zoo/format_*.cpp define.
const std::vector<FormatFamily>& format_families();

/// The full names of all formats that families list: "exl3:2", "exl3:3", ...
std::vector<std::string> names_of_formats();

/// The format of that name, lower-case; null where no family has it.
/// Throws: Error(usage) for a known family with a parameter that is none of its own.
std::shared_ptr<const Format> find_format(const std::string& name);

}  // namespace rotkv
