#pragma once
// A model of Python's.
// Docs: docs/25-bindings.md

#include "tools/bindings/python_call.h"

#include <atomic>
#include <cstdint>
#include <string>

namespace rotkv::python {

struct Model {
    rotkv_model* handle = nullptr;
    const uint64_t number = ++opened;  ///< of this process's models: no two are alike
    Model(const std::string& path, const BackendHandle& backend, const std::string& precision) {
        must_without_gil([&] {
            return rotkv_model_open_in(backend.handle, c_words(path, "path"),
                                       c_words(precision, "precision"), &handle);
        });
    }
    ~Model() { rotkv_model_close(handle); }
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    rotkv_model_figures figures() const {
        rotkv_model_figures all{};
        all.size = sizeof all;
        must(rotkv_model_describe(handle, &all));
        return all;
    }

  private:
    static inline std::atomic<uint64_t> opened = 0;
};

}  // namespace rotkv::python
