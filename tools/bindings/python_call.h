#pragma once
// What the files of the Python module share: a status becomes an exception, arrays become
// rotkv_array and back.
// Docs: docs/25-bindings.md

#include "tools/bindings/rotkv.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace rotkv::python {

namespace nb = nanobind;

/// rotkv.Error before it is Python's.
struct Failure : std::runtime_error {
    rotkv_status status;
    Failure(rotkv_status of, const char* words) : std::runtime_error(words), status(of) {}
};

/// Makes it Python's.
void set_error(const Failure& failure);

/// An argument's type: "k_rotation: expected a Rotation or its words, found int".
struct Unfit : nb::builtin_exception {
    Unfit(const char* name, const std::string& expected, nb::handle found);
};

/// Throws what a function of rotkv.h has to say.
inline void must(rotkv_status status) {
    if (status != ROTKV_OK) throw Failure(status, rotkv_last_error());
}

/// The same with the GIL given up meanwhile.
template <class Function>
void must_without_gil(const Function& function) {
    rotkv_status status;
    std::string words;
    {
        const nb::gil_scoped_release released;
        status = function();
        if (status != ROTKV_OK) words = rotkv_last_error();
    }
    if (status != ROTKV_OK) throw Failure(status, words.c_str());
}

/// The text that a function gives out, asked for twice: how long, and the text.
template <class Function>
std::string text_of(const Function& function) {
    std::size_t length = 0;
    must(function(nullptr, 0, &length));
    std::string text(length, '\0');
    must(function(text.data(), length + 1, &length));
    return text;
}

/// Why the calling thread's latest conversion refused an array. It does not know which argument it
/// was for; what called it does (python_named.h), by the object and what was expected of it.
struct RefusedArray {
    PyObject* given = nullptr;
    const char* expected = "";  // an expected_of
    std::string words;
};
RefusedArray& refused_array();

/// Leaves what was expected and what came; false.
bool refuse_array(nb::handle given, const char* expected) noexcept;

/// An array that is only read: as it lies on the host, or a copy, of a device's tensor or of
/// another type that stands for the same numbers: integers remain what they are, reals are rounded.
template <class T>
struct ReadArray : nb::ndarray<const T, nb::c_contig, nb::device::cpu> {
    using Base = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
    ReadArray() = default;
    explicit ReadArray(Base array) : Base(std::move(array)) {}
};
using Floats = ReadArray<float>;
using Ints = ReadArray<int32_t>;
using Doubles = ReadArray<double>;
using Bytes = ReadArray<uint8_t>;

/// An array that is written in place: never a copy, which would be written, and lost.
struct WritableBytes : nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu> {
    using Base = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;
    WritableBytes() = default;
    explicit WritableBytes(Base array) : Base(std::move(array)) {}
};

/// Whether an array of integers has the numbers that were given: none cut off, none wrapped around.
bool same_numbers(const nb::object& given, const nb::ndarray<nb::ro>& converted) noexcept;

/// A new array of numpy's. Empty ones too have memory.
template <class T>
struct NewArray {
    std::vector<std::size_t> shape;
    T* data;
    nb::object array;

    explicit NewArray(std::vector<std::size_t> extents) : shape(std::move(extents)) {
        std::size_t n = 1;
        for (const std::size_t extent : shape) n *= extent;
        data = new T[n + 1]();
        const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
        array = nb::cast(nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner));
    }
};

/// The shape of an array; leading extents that rotkv_array has no room for are one.
template <class Array>
std::vector<std::size_t> shape_of(const Array& array) {
    std::vector<std::size_t> shape;
    for (std::size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
    return shape;
}

/// Memory of so many elements in so many bytes, as rotkv.h sees it: its last extents, of which
/// `d` elements of `type` are the innermost (codes: bytes are not elements).
rotkv_array array_of(const void* data, std::size_t bytes, int32_t type,
                     const std::vector<std::size_t>& shape, int64_t d);
inline rotkv_array array_of(const Floats& x) {
    const std::vector<std::size_t> shape = shape_of(x);
    return array_of(x.data(), x.nbytes(), ROTKV_F32, shape,
                    shape.empty() ? 1 : int64_t(shape.back()));
}
inline rotkv_array array_of(const NewArray<float>& x, std::size_t count) {
    return array_of(x.data, count * sizeof(float), ROTKV_F32, x.shape, int64_t(x.shape.back()));
}

/// int32 numbers; Error unless there are `count` of them.
const int32_t* ints_of(const Ints& ints, std::size_t count, const char* name);

[[noreturn]] void refuse(const std::string& words);

/// A tensor of a device (DLPack says which) as one of the host, or nothing where it is none or
/// cannot be copied.
nb::object copied_to_host(nb::handle given) noexcept;

/// A str for C, where its first 0 would be its end. Throws Error that names the argument for one
/// that has a 0 inside.
const char* c_words(const std::string& words, const char* name);

/// The number of a type that has kernels or that weights may have.
int32_t type_number(const std::string& name);

/// An argument that any object is taken for, so that what does not fit is refused in our words.
template <class T>
struct Given {
    nb::object object;
};
class Progress;
using GivenRotation = Given<rotkv_rotation>;
using GivenProgress = Given<Progress>;

/// What is looked at by its own conversion or where it is used, and what is expected there; of all
/// other types "".
template <class T>
constexpr const char* expected_of = "";
template <>
inline constexpr const char* expected_of<Floats> = "an array of float32";
template <>
inline constexpr const char* expected_of<Doubles> = "an array of float64";
template <>
inline constexpr const char* expected_of<Ints> = "an array of int32, or of integers that fit";
template <>
inline constexpr const char* expected_of<Bytes> = "an array of uint8, or of integers that fit";
template <>
inline constexpr const char* expected_of<WritableBytes> =
    "an array of uint8, packed, on the host, that can be written";
template <>
inline constexpr const char* expected_of<GivenRotation> = "a Rotation or its words, such as '64:7'";
template <>
inline constexpr const char* expected_of<GivenProgress> = "a callable(done, all), True";

/// A Rotation, or its words. TypeError for another type, Error for other words.
rotkv_rotation rotation_of(const GivenRotation& given, const char* name);

/// Elements of a row of a type, from its bytes.
int64_t elements_of_row(const std::string& type, std::size_t bytes);

struct Rope {
    rotkv_rope_config config{};
    std::vector<float> factors;
};

/// The argument `progress`, a Python callable(done, all): what it raises, Ctrl-C too, ends the work
/// and is raised again; what it returns, if true, ends it with rotkv.Error. True: a bar of tqdm's.
/// Throws ImportError where that is not installed.
class Progress {
  public:
    explicit Progress(const GivenProgress& given);
    static int32_t ask(void* self, int64_t done, int64_t all) noexcept;

    /// Runs a function that takes rotkv_progress and its user.
    void run(const std::function<rotkv_status(rotkv_progress, void*)>& function);

  private:
    void draw(int64_t done, int64_t all);

    nb::object call_;        ///< None: nobody is told
    nb::object tqdm_, bar_;  ///< the class, and one from the first step on; or nothing
    std::exception_ptr raised_;
};

/// A backend of Python's; null where none was given.
struct BackendHandle {
    rotkv_backend* handle = nullptr;
    BackendHandle(const std::string& name, int32_t threads, const std::string& mistake = "") {
        must(mistake.empty() ? rotkv_backend_open(c_words(name, "name"), threads, &handle)
                             : rotkv_backend_open_mistaken(c_words(name, "name"), threads,
                                                           c_words(mistake, "mistake"), &handle));
    }
    ~BackendHandle() { rotkv_backend_close(handle); }
    BackendHandle(const BackendHandle&) = delete;
    BackendHandle& operator=(const BackendHandle&) = delete;
};
inline rotkv_backend* handle_of(const BackendHandle* backend) {
    return backend == nullptr ? nullptr : backend->handle;
}

void add_arrays(nb::module_& module);
void add_caches(nb::module_& module);
void add_models(nb::module_& module);
void add_programs(nb::module_& module);

}  // namespace rotkv::python

namespace nanobind::detail {

template <class T>
struct type_caster<rotkv::python::Given<T>> {
    static constexpr bool is_rotation = std::is_same_v<T, rotkv_rotation>;
    static constexpr auto name() {
        if constexpr (is_rotation) {
            return make_caster<T>::Name + const_name(" | str");
        } else {
            return const_name("collections.abc.Callable[[int, int], object] | bool");
        }
    }
    NB_TYPE_CASTER(rotkv::python::Given<T>, name())

    template <class Flags>
    bool from_python(handle given, Flags, cleanup_list*) noexcept {
        value.object = borrow(given);
        return true;
    }
};

template <class T>
struct type_caster<rotkv::python::ReadArray<T>> {
    using Base = make_caster<typename rotkv::python::ReadArray<T>::Base>;
    NB_TYPE_CASTER(rotkv::python::ReadArray<T>, Base::Name)

    template <class Flags>
    bool from_python(handle given, Flags flags, cleanup_list* cleanup) noexcept {
        Base base;
        object on_host = borrow(given);
        bool taken = base.from_python(on_host, flags, cleanup);
        if (!taken) {
            on_host = rotkv::python::copied_to_host(given);
            taken = on_host.is_valid() && base.from_python(on_host, flags, cleanup);
        }
        if constexpr (std::is_integral_v<T>) {
            taken = taken && rotkv::python::same_numbers(on_host, ndarray<ro>(base.value));
        }
        if (!taken) {
            return rotkv::python::refuse_array(
                given, rotkv::python::expected_of<rotkv::python::ReadArray<T>>);
        }
        value = rotkv::python::ReadArray<T>(std::move(base.value));
        return true;
    }
};

template <>
struct type_caster<rotkv::python::WritableBytes> {
    using Base = make_caster<rotkv::python::WritableBytes::Base>;
    NB_TYPE_CASTER(rotkv::python::WritableBytes, Base::Name)

    template <class Flags>
    bool from_python(handle given, Flags flags, cleanup_list* cleanup) noexcept {
        Base base;
        if (!base.from_python(given, Flags(flags & ~Flags(cast_flags::convert)), cleanup)) {
            return rotkv::python::refuse_array(
                given, rotkv::python::expected_of<rotkv::python::WritableBytes>);
        }
        value = rotkv::python::WritableBytes(std::move(base.value));
        return true;
    }
};

}  // namespace nanobind::detail
