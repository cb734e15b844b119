// The Python module: programs as functions, in the form that programs.py gives arguments to.
#include "tools/bindings/python_model.h"
#include "tools/bindings/python_named.h"

#include <nanobind/stl/pair.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace rotkv::python {
namespace {

// {"k" or "v": [matrices [KV heads][D][D] of each layer]}
struct Matrices {
    nb::dict sides;

    static int32_t show(void* self, int64_t, int32_t side, const float* rows, int64_t kv_heads,
                        int64_t d) {
        const nb::gil_scoped_acquire held;
        nb::dict& sides = static_cast<Matrices*>(self)->sides;
        const char* name = side == 0 ? "k" : "v";
        if (!sides.contains(name)) sides[name] = nb::list();
        const NewArray<float> copy({std::size_t(kv_heads), std::size_t(d), std::size_t(d)});
        std::copy_n(rows, kv_heads * d * d, copy.data);
        nb::cast<nb::list>(sides[name]).append(copy.array);
        return 0;
    }
};

std::pair<std::string, nb::dict> run_program(const Model& self, const std::string& program,
                                             const std::vector<std::string>& flags,
                                             const nb::bytes& text, const GivenProgress& progress) {
    std::vector<const char*> words;
    for (const std::string& flag : flags) words.push_back(c_words(flag, "flags"));
    const char* const name = c_words(program, "program");
    const char* const data = text.c_str();
    const std::size_t bytes = text.size();
    Matrices matrices;
    rotkv_document* document = nullptr;
    Progress(progress).run([&](rotkv_progress ask, void* user) {
        return rotkv_program_run(self.handle, name, words.data(), int64_t(words.size()), data,
                                 bytes, ask, user, Matrices::show, &matrices, &document);
    });
    const std::unique_ptr<rotkv_document, void (*)(rotkv_document*)> owner(document,
                                                                           rotkv_document_close);
    return {rotkv_document_text(document), matrices.sides};
}

}  // namespace

void add_programs(nb::module_& module) {
    define(module, "run_program", run_program, nb::arg("model"), nb::arg("program"),
           nb::arg("flags"), nb::arg("text"), nb::arg("progress") = nb::none(),
           "(JSON, matrices) of rotkv-PROGRAM on a model that is open: what rotkv.outliers() "
           "and its like call. Source: docs/25-bindings.md");
}

}  // namespace rotkv::python
