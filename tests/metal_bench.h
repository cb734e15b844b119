#pragma once
// A kernel of the tests (tests/*_kernels.metal), dispatched by itself.
// Docs: docs/22-metal.md

#include "metal/emul/dispatch.h"

#include <stdexcept>
#include <string>
#include <vector>

namespace rotkv::metal::emul {
KernelFile kernel_file_broken_kernels();
KernelFile kernel_file_function_kernels();
}  // namespace rotkv::metal::emul

namespace rotkv::test {

namespace emul = rotkv::metal::emul;

/// Throws std::logic_error where none has this name.
inline const emul::Kernel& kernel_of_tests(const std::string& name) {
    static const std::vector<emul::Kernel> kernels = [] {
        std::vector<emul::Kernel> all;
        for (const emul::KernelFile& file :
             {emul::kernel_file_broken_kernels(), emul::kernel_file_function_kernels()}) {
            for (emul::Kernel one : file.kernels) {
                one.parameters = emul::parameters_of(file.text, one.function, one.cpp);
                all.push_back(one);
            }
        }
        return all;
    }();
    for (const emul::Kernel& one : kernels) {
        if (one.name == name) return one;
    }
    throw std::logic_error("no kernel " + name);
}

/// A device, two buffers of 4096 bytes, x and y, and one dispatch over them.
struct Bench {
    NS::SharedPtr<NS::AutoreleasePool> pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    NS::SharedPtr<MTL::Device> device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    NS::SharedPtr<MTL::Buffer> y = floats(1024), x = floats(1024);
    MTL::Dispatch dispatch;

    explicit Bench(const std::string& kernel) {
        dispatch.kernel = &kernel_of_tests(kernel);
        for (int i = 0; i < 1024; ++i) data(x)[i] = float(i);
        dispatch.set_buffer(y.get(), 0, 0);
        dispatch.set_buffer(x.get(), 0, 1);
        dispatch.set_memory(4096, 0);
    }
    NS::SharedPtr<MTL::Buffer> floats(NS::UInteger n) const {
        return NS::TransferPtr(
            device->newBuffer(n * sizeof(float), MTL::ResourceStorageModeShared));
    }
    static float* data(const NS::SharedPtr<MTL::Buffer>& buffer) {
        return static_cast<float*>(buffer->contents());
    }
    void run(NS::UInteger threads) {
        dispatch.check({1, 1, 1}, {threads, 1, 1});
        dispatch.run();
    }
};

}  // namespace rotkv::test
