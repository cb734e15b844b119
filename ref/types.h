#pragma once
// The vocabulary of every other file: element types and views of tensors.
// One letter has one meaning everywhere: T tokens, H query heads, K kv heads, D head size,
// N rotation size, B block size, S streams, C cells, E width of the residual stream, V words.
// Docs: docs/00-glossary.md

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace rotkv {

/// Element types. Numbers and names are GGUF's (ggml's `enum ggml_type`). A switch over them names
/// each one and has no default: whoever adds a type is told by -Wswitch, and for device code by
/// tests/check.py, what is left to do.
enum class DType : int32_t {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    iq4_nl = 20,
    iq4_xs = 23,
    i32 = 26,
    f64 = 28,
    bf16 = 30,
    mxfp4 = 39,
};

/// How a block of a cache type counts: each code has a level, and a value is
/// scale * level (+ minimum). All 0 for plain numbers and for formats that rotkv never writes.
/// Math:   peak = the first element of largest magnitude; before it is rounded to f16, the scale is
///           (maximum - minimum) / steps  where a minimum is stored, and code 0 means it,
///           peak / -steps                where one side is cut: its sign turns the levels,
///           |peak| / steps               otherwise.
struct CodeInfo {
    int32_t first = 0, last = 0;     ///< the codes: first .. last
    int32_t steps = 0;               ///< of one scale each: to the peak, or across the range
    bool minimum = false;            ///< a block stores its minimum beside its scale
    bool cut = false;                ///< levels opposite the peak end before its magnitude
    const int8_t* levels = nullptr;  ///< of each code, rising; null: even, level = code - zero()
    bool fitted = false;             ///< the stored scale is fitted to the codes afterwards

    /// The code of level 0 where levels are even.
    int32_t zero() const { return minimum ? 0 : first + steps; }
};

/// What is fixed about a type; every list of types and every figure of a format comes from here.
struct TypeInfo {
    DType type;
    const char* name;
    int64_t block_elements;  ///< 1 for plain numbers, 32 or 256 for block formats
    int64_t block_bytes;
    bool cache;   ///< K and V may be stored in it (nine types)
    bool weight;  ///< a GGUF weight may be stored in it
    CodeInfo codes{};
};

/// The description of `type`. Throws Error(bad_argument) for a number outside the enum.
const TypeInfo& type_info(DType type);

/// The types that K and V may be stored in, those of them that are blocks, and the types that a
/// GGUF weight may be stored in. All listings have their order: plain numbers, the blocks of caches
/// from the most bytes to the fewest, the blocks of weights alone.
std::span<const DType> cache_types();
std::span<const DType> quantized_types();
std::span<const DType> weight_types();

/// The type called `name` ("q8_0", case ignored). Throws Error(bad_argument) listing the names.
DType parse_type(const std::string& name);

/// True for formats that store blocks of 32 or 256 elements with their scales: for all that rotkv
/// calls quantized.
inline bool is_block_type(DType type) { return type_info(type).block_elements > 1; }

/// Bytes of one row of n elements, and of nothing else: several rows take as many times that, and
/// a part of a row begins at its block_offset.
/// Throws: Error(bad_argument) unless n is a multiple of the type's block.
int64_t row_bytes(DType type, int64_t n);

/// Bytes from the beginning of a row to the block whose first element is `element`.
/// Throws: Error(bad_argument) where no block begins there.
int64_t block_offset(DType type, int64_t element);

/// A window on memory that somebody else owns: up to four extents, row-major, the last one
/// innermost and contiguous.
/// n:      extents in elements, right-aligned: missing leading extents are 1, so that a weight
///         [out][in] has n = {1, 1, out, in}.
/// stride: in bytes; stride[3] is one element or one block; never negative; 0 repeats a source.
/// data:   aligned to the element's or block's own alignment and no further.
struct TensorView {
    std::byte* data = nullptr;
    DType type = DType::f32;
    int64_t n[4] = {0, 0, 0, 0};
    int64_t stride[4] = {0, 0, 0, 0};

    bool operator==(const TensorView&) const = default;

    bool empty() const { return n[0] * n[1] * n[2] * n[3] == 0; }
    int64_t rows() const { return n[0] * n[1] * n[2]; }

    /// The row at the given leading indices, as elements or blocks of type E.
    template <class E>
    E* row(int64_t i0, int64_t i1, int64_t i2) const {
        return reinterpret_cast<E*>(data + i0 * stride[0] + i1 * stride[1] + i2 * stride[2]);
    }
    template <class E>
    E* row(int64_t i1, int64_t i2) const {
        return row<E>(0, i1, i2);
    }
    template <class E>
    E* row(int64_t i2) const {
        return row<E>(0, 0, i2);
    }
};

/// The int32 numbers of a row of an index view (cells, positions, targets).
inline const int32_t* ints(const TensorView& view, int64_t i2 = 0) {
    return view.row<const int32_t>(i2);
}

/// What the factors of products may be rounded to. Sums are f32 or better.
enum class Precision {
    f32,   ///< not rounded
    f16,   ///< 11 significant bits
    bf16,  ///< 8 significant bits
};

/// "f32", "f16", "bf16".
const char* precision_name(Precision precision);

/// Which channels form a pair.
enum class RopePairs {
    norm,  ///< (2i, 2i + 1): llama
    neox,  ///< (i, i + n_rot / 2): qwen, gemma, phi3
};

/// A contiguous view: view(p, DType::f32, {T, H, D}).
TensorView view(void* data, DType type, std::initializer_list<int64_t> extents);
TensorView view(const void* data, DType type, std::initializer_list<int64_t> extents);

/// Bytes from the view's first to one past its last element; 0 when it is empty.
int64_t span_bytes(const TensorView& tensor);

/// "f32 [1][1][7][128]", for messages.
std::string describe(const TensorView& tensor);

}  // namespace rotkv
