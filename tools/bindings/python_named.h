#pragma once
// How functions of the Python module are defined, so that an argument that does not fit is refused
// by its name, in one place and in the words of all errors.
// Docs: docs/25-bindings.md

#include "tools/bindings/python_call.h"

#include <functional>
#include <limits>

namespace rotkv::python {

/// Throws Unfit, or Failure for a number out of range, unless the object is what `name` wants;
/// or_none: "" or " or None".
using Check = void (*)(nb::handle given, const char* name, const char* or_none);

struct Parameter {
    const char* name;
    bool has_default;
    bool may_be_none;
    Check check;
    const char* expected;  // an expected_of, "" where there is none
};

void require_integer(nb::handle given, const char* name, const char* or_none, int bits,
                     bool is_signed);
void require_real(nb::handle given, const char* name, const char* or_none);
void require_text(nb::handle given, const char* name, const char* or_none);
void require_sequence(nb::handle given, const char* name, const char* of, Check item);
void require_instance(nb::handle given, const char* name, const char* or_none, nb::handle type);

template <class T>
struct ItemsOf : std::false_type {};
template <class T>
struct ItemsOf<std::vector<T>> : std::true_type {
    using Item = T;
};

/// The check of what is converted to T; of what has an expected_of, only that there is something.
template <class T>
void check(nb::handle given, const char* name, const char* or_none) {
    if constexpr (std::is_same_v<T, bool>) {
        if (!PyBool_Check(given.ptr())) {
            throw Unfit(name, std::string("True or False") + or_none, given);
        }
    } else if constexpr (std::is_integral_v<T>) {
        require_integer(given, name, or_none, std::numeric_limits<T>::digits, std::is_signed_v<T>);
    } else if constexpr (std::is_floating_point_v<T>) {
        require_real(given, name, or_none);
    } else if constexpr (std::is_same_v<T, std::string>) {
        require_text(given, name, or_none);
    } else if constexpr (std::is_same_v<T, nb::bytes>) {
        if (!PyBytes_Check(given.ptr())) throw Unfit(name, std::string("bytes") + or_none, given);
    } else if constexpr (ItemsOf<T>::value) {
        using Item = typename ItemsOf<T>::Item;
        require_sequence(given, name, std::is_same_v<Item, std::string> ? "str" : "numbers",
                         check<Item>);
    } else if constexpr (*expected_of<T> != '\0') {
        if (given.is_none()) throw Unfit(name, std::string(expected_of<T>) + or_none, given);
    } else {
        require_instance(given, name, or_none, nb::type<T>());
    }
}

template <class T>
struct NotOptional {
    using Type = T;
};
template <class T>
struct NotOptional<std::optional<T>> {
    using Type = T;
};
/// What stands behind const, &, * and optional.
template <class T>
using Bare =
    std::remove_cv_t<std::remove_pointer_t<typename NotOptional<std::remove_cvref_t<T>>::Type>>;

/// The parameters of a function, named by nanobind's annotations; of a method without its self.
/// None is taken where it is the default.
template <class Result, class... Arguments, class... Extra>
std::vector<Parameter> parameters_of(const std::function<Result(Arguments...)>*, bool method,
                                     const Extra&... extra) {
    std::vector<Parameter> all = {
        {"", false, false, check<Bare<Arguments>>, expected_of<Bare<Arguments>>}...};
    if (method) all.erase(all.begin());
    auto next = all.begin();
    [[maybe_unused]] const auto annotate = [&]<class One>(const One& one) {
        if constexpr (requires { one.name_; }) {
            next->name = one.name_;
            if constexpr (requires { one.value; }) {
                next->has_default = true;
                next->may_be_none = one.value.is_none();
            }
            ++next;
        }
    };
    (annotate(extra), ...);
    return all;
}

/// Sees to it that calls of a function of nanobind's are looked at by its parameters first.
void check_calls(nb::handle function, const std::string& called, bool method,
                 std::vector<Parameter> parameters);

/// scope.def(), of a module or a class, with every call looked at.
template <class Scope, class Function, class... Extra>
void define(Scope& scope, const char* name, const Function& function, const Extra&... extra) {
    constexpr bool method = !std::is_same_v<Scope, nb::module_>;
    scope.def(name, function, extra...);
    const std::string called = std::string_view(name) == "__init__"
                                   ? nb::cast<std::string>(nb::getattr(scope, "__name__"))
                                   : name;
    using Signature = decltype(std::function(function));
    check_calls(nb::getattr(scope, name), called, method,
                parameters_of(static_cast<const Signature*>(nullptr), method, extra...));
}

}  // namespace rotkv::python
