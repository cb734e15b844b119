// The Python module: what stands before every function and looks at its arguments.
#include "tools/bindings/python_named.h"

#include <unordered_map>

namespace rotkv::python {
namespace {

struct Checked {
    vectorcallfunc call;  // nanobind's
    std::string name;
    bool method;
    std::vector<Parameter> parameters;
};

// By the function's object. Never destroyed: calls end with the interpreter, after static objects.
std::unordered_map<PyObject*, Checked>& checked() {
    static auto& all = *new std::unordered_map<PyObject*, Checked>;
    return all;
}

[[noreturn]] void refuse_call(const Checked& function, const std::string& words) {
    throw nb::type_error((function.name + ": " + words).c_str());
}

std::string names_of(const Checked& function) {
    std::string names;
    for (const Parameter& one : function.parameters) {
        names += (names.empty() ? "" : ", ") + std::string(one.name);
    }
    return names.empty() ? "no argument" : names;
}

// What is given for each parameter; null: nothing. `n` of them by position, the others by keyword.
std::vector<nb::handle> by_parameter(const Checked& function, PyObject* const* given, std::size_t n,
                                     nb::handle keywords) {
    const std::vector<Parameter>& parameters = function.parameters;
    if (n > parameters.size()) {
        refuse_call(function, "expected at most " + std::to_string(parameters.size()) +
                                  " arguments, found " + std::to_string(n));
    }
    std::vector<nb::handle> all(given, given + n);
    all.resize(parameters.size());
    const std::size_t named = keywords.is_valid() ? nb::len(keywords) : 0;
    for (std::size_t i = 0; i < named; ++i) {
        const char* const utf8 = PyUnicode_AsUTF8(PyTuple_GET_ITEM(keywords.ptr(), Py_ssize_t(i)));
        if (utf8 == nullptr) throw nb::python_error();  // half of a pair
        const std::string name = utf8;
        std::size_t at = 0;
        while (at < parameters.size() && parameters[at].name != name) ++at;
        if (at == parameters.size()) {
            refuse_call(function, "expected " + names_of(function) + ", found '" + name + "'");
        }
        if (all[at].is_valid()) refuse_call(function, "expected one " + name + ", found two");
        all[at] = given[n + i];
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (all[i].is_valid() || parameters[i].has_default) continue;
        refuse_call(function, std::string("expected ") + parameters[i].name + ", found none");
    }
    return all;
}

void check_each(const Checked& function, const std::vector<nb::handle>& given) {
    for (std::size_t i = 0; i < given.size(); ++i) {
        const Parameter& parameter = function.parameters[i];
        if (!given[i].is_valid()) continue;
        if (given[i].is_none() && parameter.may_be_none) continue;
        parameter.check(given[i], parameter.name, parameter.may_be_none ? " or None" : "");
    }
}

// What the conversion of an array has left, with the name of its argument.
void name_array(const Checked& function, const std::vector<nb::handle>& given,
                const RefusedArray& refused) {
    for (std::size_t i = 0; i < given.size(); ++i) {
        const Parameter& parameter = function.parameters[i];
        if (given[i].ptr() != refused.given) continue;
        if (std::string_view(parameter.expected) != refused.expected) continue;
        PyErr_Clear();
        PyErr_SetString(PyExc_TypeError,
                        (std::string(parameter.name) + ": " + refused.words).c_str());
        return;
    }
}

PyObject* call_checked(PyObject* object, PyObject* const* given, std::size_t flagged,
                       PyObject* keywords) noexcept {
    const Checked& function = checked().at(object);
    // The upper bits are flags, one of them nanobind's own.
    const std::size_t n = static_cast<uint32_t>(flagged), self = function.method ? 1 : 0;
    std::vector<nb::handle> arguments;
    try {
        if (n >= self) {
            arguments = by_parameter(function, given + self, n - self, keywords);
            check_each(function, arguments);
        }
    } catch (const Failure& failure) {
        set_error(failure);
        return nullptr;
    } catch (const nb::builtin_exception& wrong) {
        PyErr_SetString(PyExc_TypeError, wrong.what());
        return nullptr;
    } catch (nb::python_error& raised) {
        raised.restore();
        return nullptr;
    } catch (const std::exception& wrong) {
        PyErr_SetString(PyExc_RuntimeError, wrong.what());
        return nullptr;
    }
    refused_array() = {};
    PyObject* const result = function.call(object, given, flagged, keywords);
    const RefusedArray refused = std::exchange(refused_array(), {});
    if (result == nullptr && refused.given != nullptr) name_array(function, arguments, refused);
    return result;
}

std::string range_of(int bits, bool is_signed) {
    const std::string power = "2^" + std::to_string(bits);
    return (is_signed ? "-" + power : "0") + " .. " + power + " - 1";
}

}  // namespace

void check_calls(nb::handle function, const std::string& called, bool method,
                 std::vector<Parameter> parameters) {
    // PEP 590: a callable holds the pointer to what a call of it runs.
    const Py_ssize_t at = Py_TYPE(function.ptr())->tp_vectorcall_offset;
    auto& call =
        *reinterpret_cast<vectorcallfunc*>(reinterpret_cast<std::byte*>(function.ptr()) + at);
    checked()[function.ptr()] = {std::exchange(call, call_checked), called, method,
                                 std::move(parameters)};
}

void require_integer(nb::handle given, const char* name, const char* or_none, int bits,
                     bool is_signed) {
    // Texts are numbers to PyNumber_Long, not to us; numpy's integers have an index.
    if (!PyIndex_Check(given.ptr()) || PyBool_Check(given.ptr())) {
        throw Unfit(name, std::string("an int") + or_none, given);
    }
    const nb::object index = nb::steal(PyNumber_Index(given.ptr()));
    if (!index.is_valid()) throw nb::python_error();
    const nb::object least = nb::int_(is_signed ? -1 : 0), one = nb::int_(1);
    const nb::object end = one << nb::int_(bits);
    if (index < least * end || !(index < end)) {
        refuse(std::string(name) + ": expected " + range_of(bits, is_signed) + ", found " +
               nb::str(index).c_str());
    }
}

void require_real(nb::handle given, const char* name, const char* or_none) {
    if (!PyBool_Check(given.ptr())) {
        PyFloat_AsDouble(given.ptr());
        if (!PyErr_Occurred()) return;
        PyErr_Clear();
    }
    throw Unfit(name, std::string("a number") + or_none, given);
}

void require_text(nb::handle given, const char* name, const char* or_none) {
    if (!PyUnicode_Check(given.ptr())) throw Unfit(name, std::string("a str") + or_none, given);
    if (PyUnicode_AsUTF8(given.ptr()) != nullptr) return;
    PyErr_Clear();
    refuse(std::string(name) + ": expected a str that UTF-8 can hold, found half of a pair");
}

void require_sequence(nb::handle given, const char* name, const char* of, Check item) {
    const bool text = PyUnicode_Check(given.ptr()) || PyBytes_Check(given.ptr());
    if (text || !PySequence_Check(given.ptr())) {
        throw Unfit(name, std::string("a sequence of ") + of, given);
    }
    for (const nb::handle one : nb::iter(given)) item(one, name, "");
}

void require_instance(nb::handle given, const char* name, const char* or_none, nb::handle type) {
    const int is = PyObject_IsInstance(given.ptr(), type.ptr());
    if (is < 0) throw nb::python_error();
    if (is > 0) return;
    throw Unfit(name, "a " + nb::cast<std::string>(type.attr("__name__")) + or_none, given);
}

}  // namespace rotkv::python
