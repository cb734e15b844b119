// The Python module: errors, names, rotations, backends. Arguments are converted here and in its
// other files; what they mean is said in rotkv.h.
#include "tools/bindings/python_named.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <sstream>
#include <tuple>

namespace rotkv::python {

namespace {

// rotkv.Error, with `code`: "bad argument", "usage", ...
PyObject* error_type() {
    static PyObject* const type = PyErr_NewExceptionWithDoc(
        "rotkv.Error",
        "What rotkv refuses, in one line: what was expected and what was found. `code` is its "
        "kind: 'bad argument', 'unsupported', 'bad file', 'io', 'usage', 'no memory', 'cancelled'.",
        PyExc_RuntimeError, nullptr);
    return type;
}

void add_error(nb::module_& module) {
    module.attr("Error") = nb::borrow(error_type());
    nb::register_exception_translator(
        [](const std::exception_ptr& thrown, void*) {
            try {
                std::rethrow_exception(thrown);
            } catch (const Failure& failure) {
                set_error(failure);
            }
        },
        nullptr);
}

std::string words_of(const rotkv_rotation& rotation) {
    return text_of([&](char* text, std::size_t capacity, std::size_t* length) {
        return rotkv_words_of_rotation(&rotation, text, capacity, length);
    });
}

void add_rotation(nb::module_& module) {
    nb::class_<rotkv_rotation> rotation(
        module, "Rotation",
        "y = H S x on blocks of channels: H the normalized Hadamard matrix, S random signs. In "
        "words: 'none', '64', '64:7' (signs of seed 7). Source: docs/04-kv-cache.md");
    define(
        rotation, "__init__",
        [](rotkv_rotation* self, const GivenRotation& words) {
            new (self) rotkv_rotation(rotation_of(words, "words"));
        },
        nb::arg("words"));
    rotation.def_ro("block", &rotkv_rotation::block, "channels of a block; 0: not rotated")
        .def_prop_ro(
            "seed",
            [](const rotkv_rotation& self) {
                return self.kind == ROTKV_SIGNS ? std::optional(self.seed) : std::nullopt;
            },
            "of the signs; None without signs")
        .def("__str__", words_of)
        .def("__repr__",
             [](const rotkv_rotation& self) { return "Rotation('" + words_of(self) + "')"; })
        .def(
            "__eq__",
            [](const rotkv_rotation& self, const rotkv_rotation& other) {
                return words_of(self) == words_of(other);
            },
            nb::is_operator());
    define(
        module, "policy",
        [](const std::string& cache, int64_t d_k, std::optional<int64_t> d_v) {
            rotkv_rotation k, v;
            const std::string why = text_of([&](char* text, std::size_t size, std::size_t* length) {
                return rotkv_policy(c_words(cache, "cache"), d_k, d_v.value_or(d_k), &k, &v, text,
                                    size, length);
            });
            return std::tuple(k, v, why);
        },
        nb::arg("cache"), nb::arg("d_k"), nb::arg("d_v") = nb::none(),
        "(rotation of K, rotation of V, why): what rotates in a cache of these words, such as "
        "'k=q4_0,v=q8_0,rot=auto', with heads of d_k and d_v channels. Keys: k, v, rot, rot-k, "
        "rot-v, signs. A side that is not named is f16. Source: docs/04-kv-cache.md");
}

void add_backends(nb::module_& module) {
    nb::class_<BackendHandle> backend(module, "Backend",
                                      "What computes: 'ref', the specification, 'fast', 'cuda', "
                                      "... Calls on one take turns. Source: docs/08-backends.md");
    define(
        backend, "__init__",
        [](BackendHandle* self, const std::string& name, int32_t threads,
           const std::string& mistake) { new (self) BackendHandle(name, threads, mistake); },
        nb::arg("name") = "", nb::arg("threads") = 0, nb::arg("mistake") = "",
        "'': ROTKV_BACKEND or fast; 0 threads: all cores. mistake: one of mistakes(), which this "
        "backend then makes");
    backend.def("__str__", [](const BackendHandle& self) {
        return text_of([&](char* text, std::size_t capacity, std::size_t* length) {
            return rotkv_backend_in_words(self.handle, text, capacity, length);
        });
    });
    define(
        module, "backends",
        [] {
            nb::dict all;
            const std::string lines = text_of(rotkv_backends_in_words);
            for (std::size_t i = 0; i < rotkv_backend_count(); ++i) {
                const std::string name = rotkv_backend_name(i);
                const std::size_t at = ("\n" + lines).find("\n" + name + " ");
                const std::size_t end = lines.find('\n', at);
                const std::string line = lines.substr(at, end - at);
                const std::size_t words = line.find_first_not_of(' ', name.size());
                all[name.c_str()] = line.substr(words == std::string::npos ? line.size() : words);
            }
            return all;
        },
        nb::sig("def backends() -> dict[str, str]"),
        "What this build can compute on, by name: what it is, or why it is not there.");
    define(
        module, "mistakes",
        [] {
            nb::dict all;
            std::istringstream lines(text_of(rotkv_mistakes_in_words));
            for (std::string line; std::getline(lines, line);) {
                const std::size_t gap = line.find("   ");
                all[line.substr(0, gap).c_str()] = line.substr(gap + 3);
            }
            return all;
        },
        nb::sig("def mistakes() -> dict[str, str]"),
        "What engines are known to have done wrong, by name, in words: Backend(mistake=name) does "
        "it. Source: docs/29-judge.md");
}

void add_cases(nb::module_& module) {
    define(
        module, "cases",
        [](const std::string& containing) {
            std::vector<std::string> names;
            for (std::size_t i = 0; i < rotkv_case_count(); ++i) {
                const std::string name = rotkv_case_name(i);
                if (name.find(containing) != std::string::npos) names.push_back(name);
            }
            return names;
        },
        nb::arg("containing") = "",
        "Names of the table of cases. Source: docs/10-testing-your-engine.md");
    define(
        module, "run_case",
        [](const std::string& name, const BackendHandle* backend) {
            constexpr const char* outcomes[] = {"ok", "failed", "unsupported", "no device"};
            int32_t outcome = 0;
            double bound_used = 0;
            std::string text(1 << 16, '\0');
            std::size_t length = 0;
            must_without_gil([&] {
                return rotkv_case_run(handle_of(backend), c_words(name, "name"), &outcome,
                                      &bound_used, text.data(), text.size(), &length);
            });
            return std::tuple(std::string(outcomes[outcome]), text.substr(0, length), bound_used);
        },
        nb::arg("name"), nb::arg("backend") = nb::none(),
        "(outcome, reason, largest |error| / bound) of one case, judged against 'ref'. Outcomes: "
        "'ok', 'failed', 'unsupported', 'no device'.");
}

void add_formats(nb::module_& module) {
    define(
        module, "formats",
        [](int64_t d) {
            nb::dict all;
            for (std::size_t i = 0; i < rotkv_cache_type_count(); ++i) {
                double bits = 0;
                const char* name = rotkv_cache_type_name(i);
                const rotkv_status status = rotkv_bits_per_value(name, d, &bits);
                if (status == ROTKV_UNSUPPORTED) continue;
                must(status);
                all[name] = bits;
            }
            return all;
        },
        nb::arg("d") = 128, nb::sig("def formats(d: int = 128) -> dict[str, float]"),
        "Bits per value of everything that heads of d channels can be kept in, scales counted: the "
        "nine types that have kernels, then the zoo. Source: docs/20-zoo.md");
}

}  // namespace

void set_error(const Failure& failure) {
    nb::object error = nb::borrow(error_type())(failure.what());
    error.attr("code") = rotkv_status_name(failure.status);
    PyErr_SetObject(error_type(), error.ptr());
}

}  // namespace rotkv::python

NB_MODULE(_rotkv, module) {
    using namespace rotkv::python;
    module.doc() =
        "rotkv: rotated, quantized KV caches. Arrays are numpy's, or anything that has DLPack or "
        "the buffer protocol; they are not copied where they lie in the host's memory (torch CPU "
        "tensors), packed and of the right type. A device's tensor is copied to the host. Letters "
        "of shapes: T tokens, H query "
        "heads, K KV heads, D channels of a head, S streams, C cells, E width, V words.";
    module.attr("__version__") = rotkv_version();
    add_error(module);
    add_rotation(module);
    add_backends(module);
    add_formats(module);
    add_cases(module);
    add_arrays(module);
    add_caches(module);
    add_models(module);
    add_programs(module);
}
