#include "cuda/cublas.h"

#include "ref/error.h"

#include <dlfcn.h>

#include <string>

namespace rotkv::cuda {
namespace {

void* open_library() {
    const std::string version = std::to_string(CUBLAS_VER_MAJOR);
    for (const std::string& name : {std::string(ROTKV_CUBLAS), "libcublas.so." + version}) {
        if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    }
    throw Error(ErrorCode::io, "cuBLAS " + version + ": " + dlerror());
}

class Names {
  public:
    explicit Names(void* library) : library_(library) {}

    template <class Function>
    void find(Function*& function, const char* name) const {
        function = reinterpret_cast<Function*>(dlsym(library_, name));
        if (function == nullptr) throw Error(ErrorCode::io, std::string("cuBLAS: ") + dlerror());
    }

  private:
    void* library_;
};

Cublas load() {
    const Names names(open_library());
    Cublas functions;
    names.find(functions.create, "cublasCreate_v2");
    names.find(functions.destroy, "cublasDestroy_v2");
    names.find(functions.set_stream, "cublasSetStream_v2");
    names.find(functions.set_workspace, "cublasSetWorkspace_v2");
    names.find(functions.set_math_mode, "cublasSetMathMode");
    names.find(functions.gemm, "cublasGemmEx");
    names.find(functions.status_string, "cublasGetStatusString");
    return functions;
}

}  // namespace

const Cublas& cublas() {
    static const Cublas functions = load();
    return functions;
}

}  // namespace rotkv::cuda
