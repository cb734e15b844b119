#pragma once
// The caller's arrays as views in a backend's memory: as they lie on a host, copied to a device and
// back.
// Docs: docs/25-bindings.md

#include "tools/bindings/border.h"

#include <deque>
#include <string>
#include <vector>

namespace rotkv::bindings {

/// The view that an array is, in the caller's memory. Throws Error(bad_argument) where it would
/// reach beyond its bytes, for a type that is none, extents or strides that are none, data that is
/// null or not aligned to its elements.
TensorView view_of(const rotkv_array& array, const std::string& name);

/// The arrays of one call.
class Arrays {
  public:
    explicit Arrays(Backend& backend) : backend_(backend) {}
    Arrays(const Arrays&) = delete;
    Arrays& operator=(const Arrays&) = delete;

    /// An array that is read. "Not there" gives an empty view.
    TensorView in(const rotkv_array& array, const char* name) {
        return place(view_of(array, name), false);
    }
    /// One that is written, or read and written.
    TensorView out(const rotkv_array& array, const char* name) {
        return place(view_of(array, name), true);
    }

    /// Rows of numbers without gaps, read or (not const) written.
    TensorView ints(std::span<const int32_t> numbers, int64_t rows = 1);
    TensorView floats(std::span<const float> numbers, std::initializer_list<int64_t> extents);
    TensorView out(std::span<int32_t> numbers);
    TensorView out(std::span<double> numbers);

    /// After the call: what was written lies in the caller's memory.
    void finish();

  private:
    struct Copy {
        TensorView of;
        Buffer buffer;
        bool written;
    };
    TensorView place(const TensorView& view, bool written);

    Backend& backend_;
    std::deque<Copy> copies_;
};

/// Indices, each from `least` to `most`; `count` of them, or so many zeros where null may stand
/// for them.
std::span<const int32_t> indices(const int32_t* given, int64_t count, const char* name,
                                 int64_t least, int64_t most);
std::vector<int32_t> indices_or_zeros(const int32_t* given, int64_t count, const char* name,
                                      int64_t most);

Rotation rotation_of(const rotkv_rotation& given);
rotkv_rotation rotation_of(const Rotation& rotation);

}  // namespace rotkv::bindings
