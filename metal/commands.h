#pragma once
// The device's side of the backend: memory that host and device share, kernels by name, and the
// command buffer that calls are written into until somebody wants a result.
// Docs: docs/22-metal.md

#include "metal/launch.h"
#include "metal/metal_cpp.h"
#include "ref/types.h"

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace rotkv::metal {

class Commands {
  public:
    /// Throws Error(unsupported): no device, no library of kernels, a device with other simdgroups.
    Commands();
    ~Commands();
    Commands(const Commands&) = delete;
    Commands& operator=(const Commands&) = delete;

    std::string device_name() const;

    // Memory: all of it is the host's and the device's. The address is the host's.
    std::byte* allocate(std::size_t bytes);
    std::byte* import(std::span<const std::byte> bytes);  ///< an alias
    void free_memory(std::byte* memory);

    /// Memory for what one dispatch hands to another; gone at the next wait().
    TensorView scratch(DType type, std::initializer_list<int64_t> extents);

    /// Writes a dispatch into the command buffer: the struct at buffer 0, the tensors from buffer 1
    /// on; one that is empty is bound to some memory, which the kernel must not touch.
    template <class Args>
    void dispatch(const std::string& kernel, const Args& args,
                  std::initializer_list<TensorView> tensors, const Grid& grid) {
        static_assert(sizeof(Args) <= 4096, "what setBytes takes");
        dispatch(kernel, &args, sizeof args, tensors, grid);
    }

    /// To be done on the host once all that was dispatched before has run.
    void afterwards(std::function<void()> work);

    /// Until everything has run. Throws Error(io) with what the device says.
    void wait();

  private:
    struct Region {
        const std::byte* base;  ///< where the buffer begins
        NS::SharedPtr<MTL::Buffer> buffer;

        bool holds(const std::byte* data, std::size_t bytes) const;
    };

    void dispatch(const std::string& kernel, const void* args, std::size_t bytes,
                  std::initializer_list<TensorView> tensors, const Grid& grid);
    MTL::ComputePipelineState* pipeline(const std::string& kernel);
    MTL::ComputeCommandEncoder* encoder();
    Region pages_of(const std::byte* data, std::size_t bytes);
    void bind(const TensorView& tensor, NS::UInteger index);
    void commit();

    NS::SharedPtr<MTL::Device> device_;
    NS::SharedPtr<MTL::CommandQueue> queue_;
    NS::SharedPtr<MTL::Library> library_;
    NS::SharedPtr<MTL::Buffer> nothing_;
    std::map<std::string, NS::SharedPtr<MTL::ComputePipelineState>> pipelines_;
    std::multimap<const std::byte*, Region> regions_;
    std::vector<Region> borrowed_;  ///< of calls on their way: scratch, and memory of others
    NS::SharedPtr<MTL::CommandBuffer> open_;
    NS::SharedPtr<MTL::ComputeCommandEncoder> encoder_;
    int dispatches_ = 0;  ///< in open_
    std::vector<NS::SharedPtr<MTL::CommandBuffer>> committed_;
    std::vector<std::function<void()>> afterwards_;
};

}  // namespace rotkv::metal
