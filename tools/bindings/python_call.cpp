// The Python module: arguments in, arrays out, as its files share it.
#include "tools/bindings/python_call.h"

namespace rotkv::python {

rotkv_array array_of(const void* data, std::size_t bytes, int32_t type,
                     const std::vector<std::size_t>& shape, int64_t d) {
    rotkv_array array{const_cast<void*>(data), bytes, type, {1, 1, 1, d}, {0, 0, 0, 0}};
    if (shape.empty()) refuse("an array: expected at least one extent, found a number");
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
        const std::size_t axis = i + 5 > shape.size() ? i + 4 - shape.size() : 0;
        array.n[axis] *= int64_t(shape[i]);  // extents beyond four are one
    }
    return array;
}

const int32_t* ints_of(const Ints& ints, std::size_t count, const char* name) {
    if (ints.size() != count) {
        refuse(std::string(name) + ": expected " + std::to_string(count) + " numbers, found " +
               std::to_string(ints.size()));
    }
    return ints.data();
}

Unfit::Unfit(const char* name, const std::string& expected, nb::handle found)
    : nb::builtin_exception(nb::exception_type::type_error,
                            (std::string(name) + ": expected " + expected + ", found " +
                             nb::type_name(found.type()).c_str())
                                .c_str()) {}

RefusedArray& refused_array() {
    thread_local RefusedArray refused;
    return refused;
}

bool refuse_array(nb::handle given, const char* expected) noexcept {
    std::string found = "no array";
    try {
        found = nb::type_name(given.type()).c_str();
        if (nb::hasattr(given, "dtype")) {
            const nb::object dtype = given.attr("dtype");
            found += std::string(" of ") + nb::str(nb::handle(dtype)).c_str();
        }
    } catch (const nb::python_error&) {  // an array of somebody's who does not say
    }
    refused_array() = {given.ptr(), expected,
                       std::string("expected ") + expected + ", found " + found};
    return false;
}

bool same_numbers(const nb::object& given, const nb::ndarray<nb::ro>& converted) noexcept {
    nb::ndarray<nb::ro> as_given;
    if (!nb::try_cast(given, as_given)) return false;
    if (as_given.dtype() == converted.dtype()) return true;
    const auto kind = nb::dlpack::dtype_code(as_given.dtype().code);
    if (kind != nb::dlpack::dtype_code::Int && kind != nb::dlpack::dtype_code::UInt) return false;
    nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu> wide;
    if (!nb::try_cast(given, wide)) return false;
    for (std::size_t i = 0; i < wide.size(); ++i) {
        const int64_t found = converted.itemsize() == 1
                                  ? static_cast<const uint8_t*>(converted.data())[i]
                                  : static_cast<const int32_t*>(converted.data())[i];
        const bool wrapped = kind == nb::dlpack::dtype_code::UInt && wide.data()[i] < 0;
        if (wrapped || wide.data()[i] != found) return false;
    }
    return true;
}

void refuse(const std::string& words) { throw Failure(ROTKV_BAD_ARGUMENT, words.c_str()); }

nb::object copied_to_host(nb::handle given) noexcept {
    constexpr int k_host = 1;  // DLPack's kDLCPU
    try {
        if (!nb::hasattr(given, "__dlpack_device__")) return {};
        if (nb::cast<int>(given.attr("__dlpack_device__")()[0]) == k_host) return {};
        if (nb::hasattr(given, "cpu")) return given.attr("cpu")();  // torch
        const nb::object from = nb::module_::import_("numpy").attr("from_dlpack");
        return from(given, nb::arg("device") = "cpu");
    } catch (...) {  // refuse_array() says what was given
        return {};
    }
}

const char* c_words(const std::string& words, const char* name) {
    const std::size_t at = words.find('\0');
    if (at != std::string::npos) {
        refuse(std::string(name) + ": expected a text without a 0, found one behind '" +
               words.substr(0, at) + "'");
    }
    return words.c_str();
}

int32_t type_number(const std::string& name) {
    int32_t type = 0;
    must(rotkv_type_number(c_words(name, "type"), &type));
    return type;
}

rotkv_rotation rotation_of(const GivenRotation& given, const char* name) {
    rotkv_rotation rotation{};
    if (nb::try_cast(given.object, rotation, false)) return rotation;
    if (!nb::isinstance<nb::str>(given.object)) {
        throw Unfit(name, expected_of<GivenRotation>, given.object);
    }
    const auto words = nb::cast<std::string>(given.object);
    must(rotkv_rotation_of_words(c_words(words, name), &rotation));
    return rotation;
}

int64_t elements_of_row(const std::string& type, std::size_t bytes) {
    int64_t of_32 = 0;
    must(rotkv_row_bytes(c_words(type, "type"), 32, &of_32));
    return int64_t(bytes) * 32 / of_32;
}

Progress::Progress(const GivenProgress& given) : call_(given.object) {
    if (!PyBool_Check(call_.ptr())) {
        if (call_.is_none() || PyCallable_Check(call_.ptr())) return;
        throw Unfit("progress", std::string(expected_of<GivenProgress>) + " or None", call_);
    }
    const bool bar = call_.ptr() == Py_True;
    call_ = nb::none();
    if (bar) tqdm_ = nb::module_::import_("tqdm").attr("tqdm");
}

void Progress::draw(int64_t done, int64_t all) {
    if (!bar_.is_valid()) bar_ = tqdm_(nb::arg("total") = all);
    bar_.attr("total") = all;  // a search learns what is to come
    bar_.attr("update")(done - nb::cast<int64_t>(bar_.attr("n")));
}

int32_t Progress::ask(void* self, int64_t done, int64_t all) noexcept {
    const nb::gil_scoped_acquire held;
    Progress& progress = *static_cast<Progress*>(self);
    try {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (progress.tqdm_.is_valid()) progress.draw(done, all);
        return !progress.call_.is_none() && nb::cast<bool>(nb::bool_(progress.call_(done, all)));
    } catch (...) {
        progress.raised_ = std::current_exception();
        return 1;
    }
}

void Progress::run(const std::function<rotkv_status(rotkv_progress, void*)>& function) {
    const auto close = [this] {
        if (bar_.is_valid()) bar_.attr("close")();
    };
    try {
        must_without_gil([&] { return function(ask, this); });
    } catch (const Failure&) {
        close();
        if (raised_) std::rethrow_exception(raised_);
        throw;
    }
    close();
}

}  // namespace rotkv::python
