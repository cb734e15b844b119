#pragma once
// GGUF model files: a reader that believes no number it has not checked, and a small writer.
//
// The format, front to back. All numbers are little endian; nothing is aligned before the data.
//
//   header    "GGUF"               4 bytes
//             u32 version          2 or 3 (the same layout; 3 also allows big-endian files)
//             u64 n_tensors
//             u64 n_entries
//   metadata  n_entries times:
//             string key           "llama.block_count"
//             u32 type             of the value, a GgufType
//             value
//   tensors   n_tensors times:
//             string name          "blk.0.attn_q.weight"
//             u32 n_dims           0 (one element) to 4
//             u64 extent[n_dims]   in elements, the innermost first
//             u32 type             a DType, or a type that is not read here
//             u64 offset           from the start of the data, a multiple of the alignment
//   padding   zeros, up to a multiple of the alignment
//   data      every tensor's bytes at its offset, rows back to back
//
//   where     string               u64 length, then as many bytes; no terminating zero
//             bool                 one byte, 0 or 1
//             array                u32 element type, u64 length, the elements back to back
//             alignment            metadata "general.alignment" (u32), or 32 without it
//
// Read here: versions 2 and 3, little endian, one file per model. Version 1 (32-bit counts) and
// big-endian files are named and refused, and so are arrays of arrays, which the format allows and
// no model uses. Parts of split models, tensors of types that are not read here and tensors without
// elements can be listed, not computed with.
// Docs: docs/06-gguf.md

#include "ref/types.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rotkv {

/// What a metadata value is; the numbers are the file's.
enum class GgufType : uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12,
};

/// The elements of an array. index() is the number of their GgufType; the place of `array` itself
/// stays empty, since no array holds arrays.
using GgufArray =
    std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
                 std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>,
                 std::vector<float>, std::vector<bool>, std::vector<std::string_view>,
                 std::monostate, std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>>;

/// One metadata value. index() is the number of its GgufType. Strings are windows on the file's
/// bytes: they live as long as the GgufFile does.
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string_view, GgufArray, uint64_t, int64_t, double>;

/// The value with its type on one printable line, long strings cut: "u32 30", "string 'llama'",
/// "array of 49152 string".
std::string describe(const GgufValue& value);

/// `text` from a file in quotes, for messages: one printable line, cut after 80 characters.
std::string in_quotes(std::string_view text);

struct GgufEntry {
    std::string key;
    GgufValue value;
};

/// A tensor as the file lists it, checked to lie inside the file and apart from every other.
struct GgufTensor {
    std::string name;
    uint32_t type_number = 0;     ///< as the file has it
    bool readable = true;         ///< false: `type` and `view` say nothing, for no weight has it
    DType type = DType::f32;      ///< the same as a DType
    int n_dims = 0;               ///< 0 to 4
    int64_t n[4] = {1, 1, 1, 1};  ///< extents as the file lists them: innermost first, then 1
    uint64_t offset = 0;          ///< from the start of the file
    uint64_t bytes = 0;  ///< not readable: at most, up to the next tensor or the end of the file
    TensorView view;     ///< the file's bytes, not to be written; extents innermost last

    bool empty() const { return n[0] == 0 || n[1] == 0 || n[2] == 0 || n[3] == 0; }
};

/// The tensor's type in words: "q8_0", or of what is not readable here "type 21 (IQ3_S)".
std::string describe_type(const GgufTensor& tensor);

/// Whether a part of a split model will do: to list what is in it, not to compute with.
enum class GgufParts {
    refused,
    taken,
};

/// A model file opened for reading. Move-only; everything it hands out lives as long as it does.
class GgufFile {
  public:
    /// Maps the file and checks all of it but the values of the weights.
    /// Cost:   reads header, metadata and tensor list; weights are paged in when they are used.
    ///         The file must not shrink while it is open.
    /// Throws: Error(io) where there is no readable file; as parse() otherwise.
    static GgufFile open(const std::string& path, GgufParts parts = GgufParts::refused);

    /// The same for bytes in memory, which the caller keeps, aligned to 8; `name` is for messages.
    /// Throws: Error(bad_file) for bytes that break the format, Error(unsupported) for other
    ///         versions, big-endian files, arrays of arrays, and a part of a split model unless it
    ///         is taken.
    static GgufFile parse(std::span<const std::byte> bytes, std::string name,
                          GgufParts parts = GgufParts::refused);

    GgufFile(GgufFile&&) = default;
    GgufFile& operator=(GgufFile&&) = default;

    uint32_t version() const { return version_; }
    const std::string& path() const { return path_; }
    uint64_t file_bytes() const { return bytes_.size(); }
    uint64_t alignment() const { return alignment_; }
    uint64_t data_offset() const { return data_offset_; }
    uint32_t n_parts() const { return n_parts_; }  ///< of the model; 1: it is whole
    const std::vector<GgufEntry>& metadata() const { return metadata_; }  ///< in file order
    const std::vector<GgufTensor>& tensors() const { return tensors_; }   ///< in file order

    /// The value under `key`, or null.
    const GgufValue* find(std::string_view key) const;

    /// The tensor called `name` as it is listed, whether or not it can be used, or null.
    const GgufTensor* find_listed(std::string_view name) const;

    /// The weight called `name`, or null where none is listed: whoever gets a tensor by name can
    /// compute with it.
    /// Throws: Error(unsupported) for a type that is not readable here, Error(bad_file) for a
    ///         tensor without elements.
    const GgufTensor* find_tensor(std::string_view name) const;

    /// The same. Throws Error(bad_file) where none is listed.
    const GgufTensor& tensor(std::string_view name) const;

    /// The tensor's bytes in the file, of any type.
    std::span<const std::byte> data(const GgufTensor& tensor) const;

    /// Of a mapped file, gives back the memory of a tensor's pages, which come from the file again
    /// when they are read: for whoever has a copy.
    void release(const GgufTensor& tensor) const;

    // The value under a key, in the type that the caller needs. get_u32 and get_i32s take every
    // integer type as long as the value fits, get_bools integers of 0 and 1; an empty array is one
    // of every type. Without the key the second form returns its `fallback`; the first throws
    // Error(bad_file), as both do for a value of another type.
    uint32_t get_u32(std::string_view key) const;
    uint32_t get_u32(std::string_view key, uint32_t fallback) const;
    float get_f32(std::string_view key) const;
    float get_f32(std::string_view key, float fallback) const;
    bool get_bool(std::string_view key) const;
    bool get_bool(std::string_view key, bool fallback) const;
    std::string_view get_string(std::string_view key) const;
    std::string_view get_string(std::string_view key, std::string_view fallback) const;
    std::vector<int32_t> get_i32s(std::string_view key) const;
    const std::vector<float>& get_f32s(std::string_view key) const;
    std::vector<bool> get_bools(std::string_view key) const;
    const std::vector<std::string_view>& get_strings(std::string_view key) const;

  private:
    GgufFile() = default;
    const GgufValue& value(std::string_view key) const;
    template <class T>
    const T& get(std::string_view key) const;
    template <class T>
    const std::vector<T>& get_array(std::string_view key) const;
    template <class T, class Fits>
    std::vector<T> get_integers(std::string_view key, const std::string& expected,
                                const Fits& fits) const;
    [[noreturn]] void wrong_type(std::string_view key, const std::string& expected) const;

    std::shared_ptr<const void> storage_;  ///< the mapping; null after parse()
    std::span<const std::byte> bytes_;
    std::string path_;
    uint32_t version_ = 0;
    uint64_t alignment_ = 0;
    uint64_t data_offset_ = 0;
    uint32_t n_parts_ = 1;
    std::vector<GgufEntry> metadata_;
    std::vector<GgufTensor> tensors_;
    std::map<std::string_view, const GgufEntry*> entry_of_;    ///< by key, into metadata_
    std::map<std::string_view, const GgufTensor*> tensor_of_;  ///< by name, into tensors_
};

/// Collects metadata and tensors and writes them as one file, version 3, alignment 32.
class GgufWriter {
  public:
    /// Appends a metadata entry; the value is copied.
    /// Throws: Error(bad_argument) for an empty or repeated key, an array of arrays, and
    ///         "general.alignment", which is not the caller's to choose.
    void add(const std::string& key, const GgufValue& value);

    /// Appends a tensor of any weight type; its data must stay until write(). Leading extents of
    /// 1 are not written.
    /// Throws: Error(bad_argument) for an empty or repeated name, an empty tensor, a row that is
    ///         not whole blocks, a type that is not a weight's.
    void add_tensor(const std::string& name, const TensorView& tensor);

    /// Writes the file so that it appears under its name only when it is whole.
    /// Throws: Error(io), leaving nothing behind.
    void write(const std::string& path) const;

  private:
    struct Tensor {
        std::string name;
        TensorView view;
    };
    std::string head() const;  ///< everything before the data

    std::string metadata_;  ///< the entries as they stand in the file
    std::set<std::string> keys_;
    std::set<std::string> names_;
    std::vector<Tensor> tensors_;
};

}  // namespace rotkv
