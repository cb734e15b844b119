#pragma once
// What the checks of all operations are made of: rules that throw Error(bad_argument) with the
// operation, the argument, what was expected and what was found.
// Docs: docs/08-backends.md

#include "ref/error.h"
#include "ref/ops.h"

#include <algorithm>
#include <initializer_list>
#include <string>

namespace rotkv {

/// The rules of one operation's arguments. Extents written as -1 may be anything.
class Rules {
  public:
    explicit Rules(const char* op) : op_(op) {}

    void type(const char* name, const TensorView& tensor, DType expected) const {
        if (tensor.type == expected) return;
        refuse(op_, std::string(name) + " of type " + type_info(expected).name, describe(tensor));
    }

    void float_type(const char* name, const TensorView& tensor) const {
        const DType found = tensor.type;
        if (found == DType::f32 || found == DType::f16 || found == DType::bf16) return;
        refuse(op_, std::string(name) + " of type f32, f16 or bf16", describe(tensor));
    }

    void cache_type(const char* name, const TensorView& tensor) const {
        if (type_info(tensor.type).cache) return;
        refuse(op_, std::string(name) + " of a cache type", describe(tensor));
    }

    void weight(const char* name, const TensorView& tensor, int64_t out, int64_t in) const {
        weight_type(name, tensor);
        extents(name, tensor, {1, 1, out, in});
    }

    void weight_type(const char* name, const TensorView& tensor) const {
        if (type_info(tensor.type).weight) return;
        refuse(op_, std::string(name) + " of a weight type", describe(tensor));
    }

    void extents(const char* name, const TensorView& tensor,
                 std::initializer_list<int64_t> expected) const {
        if (std::equal(expected.begin(), expected.end(), tensor.n,
                       [](int64_t want, int64_t have) { return want < 0 || want == have; })) {
            return strides(name, tensor);
        }
        std::string text = std::string(name) + " ";
        for (const int64_t n : expected) {
            text += "[" + (n < 0 ? std::string("any") : std::to_string(n)) + "]";
        }
        refuse(op_, text, describe(tensor));
    }

    void f32(const char* name, const TensorView& tensor,
             std::initializer_list<int64_t> expected) const {
        type(name, tensor, DType::f32);
        extents(name, tensor, expected);
    }

    /// A contiguous vector of indices.
    void i32(const char* name, const TensorView& tensor, int64_t n) const {
        type(name, tensor, DType::i32);
        extents(name, tensor, {1, 1, 1, n});
    }

    void like(const char* name, const TensorView& tensor, const TensorView& other) const {
        f32(name, tensor, {other.n[0], other.n[1], other.n[2], other.n[3]});
    }

    /// Rows of indices.
    void i32_rows(const char* name, const TensorView& tensor, int64_t rows, int64_t n) const {
        type(name, tensor, DType::i32);
        extents(name, tensor, {1, 1, rows, n});
    }

    /// Outputs may not repeat a row: two results would meet in one place.
    void writable(const char* name, const TensorView& tensor) const {
        for (int i = 0; i < 3; ++i) {
            if (tensor.n[i] > 1 && tensor.stride[i] == 0) {
                refuse(op_, std::string(name) + " without strides of 0", describe(tensor));
            }
        }
    }

    void rotation(const char* name, const Rotation& rotation, int64_t d) const {
        if (rotation.fits(d) && rotation.first >= 0) return;
        refuse(op_, std::string(name) + " block a power of two that divides " + std::to_string(d),
               std::to_string(rotation.block));
    }

    void holds(bool good, const std::string& expected, const std::string& found) const {
        if (!good) refuse(op_, expected, found);
    }

    void range(const std::string& name, const Range& range) const {
        holds(range.from >= 0, name + " from 0 or more", std::to_string(range.from));
        holds(range.from <= range.to, name + " that ends where it begins, or later",
              "from " + std::to_string(range.from) + " to " + std::to_string(range.to));
    }

    /// {cos, sin} rows lie back to back, so that a backend can read a row as one piece.
    void rope_table(const TensorView& table, int64_t d) const {
        f32("table", table, {1, -1, -1, 2});
        holds(table.stride[2] == 8, "table rows without gaps", describe(table));
        holds(2 * table.n[2] <= d, "at most D = " + std::to_string(d) + " turning channels",
              describe(table));
    }

  private:
    [[noreturn]] static void refuse(const char* op, const std::string& expected,
                                    const std::string& found) {
        throw Error(ErrorCode::bad_argument,
                    std::string(op) + ": expected " + expected + ", found " + found);
    }

    void strides(const char* name, const TensorView& tensor) const {
        for (int i = 0; i < 4; ++i) {
            if (tensor.n[i] < 0 || tensor.stride[i] < 0) {
                refuse(op_, std::string(name) + " without negative extents or strides",
                       describe(tensor));
            }
        }
        if (!tensor.empty() && tensor.stride[3] != type_info(tensor.type).block_bytes) {
            refuse(op_, std::string(name) + " with a contiguous innermost extent",
                   describe(tensor));
        }
    }

    const char* op_;
};

}  // namespace rotkv
