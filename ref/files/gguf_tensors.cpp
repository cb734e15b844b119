// The tensors of a GGUF file. What is odd about one of them must not hide the others: a type that
// is not read here and a tensor without elements are listed, and refused where they are asked for
// as weights. What breaks the format is refused.
// Docs: docs/06-gguf.md

#include "ref/files/gguf_tensors.h"

#include "ref/error.h"

#include <algorithm>

namespace rotkv {
namespace {

// No extent, offset or size may be larger, so that the sum of two of them cannot wrap.
constexpr uint64_t k_most_bytes = uint64_t(1) << 62;

// ggml's tensor types by number, those that were withdrawn too: for messages about the ones that
// are not read here.
constexpr const char* k_ggml_type_names[] = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4",    "Q1_0",
    "Q2_0",
};

/// The description of tensor type `number`, or null where no weight is read from it.
const TypeInfo* find_weight_type(uint32_t number) {
    for (const DType type : weight_types()) {
        if (uint32_t(type) == number) return &type_info(type);
    }
    return nullptr;
}

void read_extents(ByteCursor& cursor, GgufTensor& tensor) {
    const uint32_t n_dims = cursor.number<uint32_t>("number of dimensions");
    if (n_dims > 4) cursor.fail("expected 0 to 4 dimensions, found " + std::to_string(n_dims));
    tensor.n_dims = int(n_dims);
    for (uint32_t i = 0; i < n_dims; ++i) {
        const uint64_t extent = cursor.number<uint64_t>("extent");
        if (extent > k_most_bytes) {
            cursor.fail("extent " + std::to_string(extent) + " of dimension " + std::to_string(i) +
                        " is out of range");
        }
        tensor.n[i] = int64_t(extent);
    }
}

/// Reads the type and sets the bytes of the data: blocks of a row times the bytes of one times
/// rows, each factor checked before it is multiplied in. An extent of 0 must not hide that the
/// others overflow, so it counts as 1 until they are checked.
void read_type(ByteCursor& cursor, GgufTensor& tensor) {
    tensor.type_number = cursor.number<uint32_t>("tensor type");
    const TypeInfo* info = find_weight_type(tensor.type_number);
    tensor.readable = info != nullptr;
    uint64_t row = uint64_t(tensor.n[0]), product = 1;  // of what is unknown, the elements
    if (info != nullptr) {
        tensor.type = info->type;
        if (tensor.n[0] % info->block_elements != 0) {
            cursor.fail("a row of " + std::to_string(tensor.n[0]) +
                        " elements is not whole blocks of " + std::to_string(info->block_elements) +
                        ", as " + info->name + " needs");
        }
        row /= uint64_t(info->block_elements);
        product = uint64_t(info->block_bytes);
    }
    for (const uint64_t n :
         {row, uint64_t(tensor.n[1]), uint64_t(tensor.n[2]), uint64_t(tensor.n[3])}) {
        const uint64_t factor = std::max(n, uint64_t(1));
        if (factor > k_most_bytes / product) cursor.fail("the product of the extents overflows");
        product *= factor;
    }
    tensor.bytes = tensor.readable && !tensor.empty() ? product : 0;
}

void read_offset(ByteCursor& cursor, GgufTensor& tensor, uint64_t alignment) {
    tensor.offset = cursor.number<uint64_t>("offset");
    if (tensor.offset > k_most_bytes) {
        cursor.fail("offset " + std::to_string(tensor.offset) + " is out of range");
    }
    if (tensor.offset % alignment != 0) {
        cursor.fail("expected an offset that is a multiple of " + std::to_string(alignment) +
                    ", found " + std::to_string(tensor.offset));
    }
}

/// Where the tensor's data ends, or its first byte where the size is not known.
uint64_t least_end(const GgufTensor& tensor) {
    return tensor.offset + (tensor.readable ? tensor.bytes : 1);
}

/// Tensors must not share bytes, nor lie past the end of the file. Expects them by offset, without
/// those that have no elements and so no place.
void check_places(const std::vector<GgufTensor*>& tensors, uint64_t file_bytes,
                  const std::string& file) {
    for (size_t i = 1; i < tensors.size(); ++i) {
        const GgufTensor &before = *tensors[i - 1], &tensor = *tensors[i];
        if (tensor.offset >= least_end(before)) continue;
        throw Error(ErrorCode::bad_file, file + ": tensor " + in_quotes(tensor.name) +
                                             " at offset " + std::to_string(tensor.offset) +
                                             " overlaps tensor " + in_quotes(before.name) +
                                             ", which ends at offset " +
                                             std::to_string(least_end(before)));
    }
    if (tensors.empty()) return;
    const GgufTensor& last = *tensors.back();
    const uint64_t end = least_end(last);
    if (end > file_bytes) {
        throw Error(ErrorCode::bad_file,
                    file + ": tensor " + in_quotes(last.name) + ": expected data up to offset " +
                        std::to_string(end) + ", found a file of " + std::to_string(file_bytes) +
                        " bytes (missing: " + std::to_string(end - file_bytes) + ")");
    }
}

/// Tensors whose size is not known take at most what is left for them.
void bound_unknown(const std::vector<GgufTensor*>& tensors, uint64_t file_bytes) {
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i]->readable) continue;
        const uint64_t end = i + 1 < tensors.size() ? tensors[i + 1]->offset : file_bytes;
        tensors[i]->bytes = end - tensors[i]->offset;
    }
}

}  // namespace

std::vector<GgufTensor> read_tensors(ByteCursor& cursor, uint64_t n_tensors, uint64_t alignment) {
    std::vector<GgufTensor> tensors;  // grown as they are read, for they may not all be there
    for (uint64_t i = 0; i < n_tensors; ++i) {
        GgufTensor& tensor = tensors.emplace_back();
        cursor.enter("tensor " + std::to_string(i));
        tensor.name = cursor.name();
        cursor.enter("tensor " + in_quotes(tensor.name));
        read_extents(cursor, tensor);
        read_type(cursor, tensor);
        read_offset(cursor, tensor, alignment);
    }
    return tensors;
}

void place_tensors(std::vector<GgufTensor>& tensors, uint64_t data_offset,
                   std::span<const std::byte> bytes, const std::string& file) {
    std::vector<GgufTensor*> placed;
    for (GgufTensor& tensor : tensors) {
        tensor.offset += data_offset;
        if (!tensor.empty()) placed.push_back(&tensor);
    }
    std::sort(placed.begin(), placed.end(),
              [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
    check_places(placed, bytes.size(), file);
    bound_unknown(placed, bytes.size());
    for (GgufTensor& tensor : tensors) {
        if (!tensor.readable) continue;
        const std::byte* data = tensor.empty() ? nullptr : bytes.data() + tensor.offset;
        const int64_t* n = tensor.n;
        tensor.view = view(data, tensor.type, {n[3], n[2], n[1], n[0]});
    }
}

std::string describe_type(const GgufTensor& tensor) {
    if (tensor.readable) return type_info(tensor.type).name;
    const std::string number = "type " + std::to_string(tensor.type_number);
    if (tensor.type_number >= std::size(k_ggml_type_names)) return number;
    return number + " (" + k_ggml_type_names[tensor.type_number] + ")";
}

}  // namespace rotkv
