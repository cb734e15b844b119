#pragma once
// The part of Apple's metal-cpp that the host uses, played on a CPU: names, arguments and ownership
// are Apple's, what lies beneath are the kernels of this room as lanes (lanes.h). What Metal
// forbids, and its own validation reports, is Misuse here, thrown by the call that does it; what
// goes wrong while kernels run is the command buffer's error(), as there. Work that was committed
// runs when somebody waits for it and no earlier: who forgets to, reads what was there before.
// Docs: docs/22-metal.md

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace rotkv::metal::emul {

struct Kernel;

/// A call that Metal does not allow.
class Misuse : public std::logic_error {
  public:
    using std::logic_error::logic_error;
};

/// Objects of NS and MTL that are alive: 0 once everybody has released what was theirs.
int64_t live_objects();

}  // namespace rotkv::metal::emul

namespace NS {

using UInteger = std::uintptr_t;
enum StringEncoding : UInteger { UTF8StringEncoding = 4 };

/// Counted by retain and release.
class Object {
  public:
    Object();
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

    void retain() { ++count_; }
    void release();

  protected:
    virtual ~Object();

    /// Of a new object whose caller does not own it: the pool in force releases it.
    /// Throws Misuse without a pool, where it would never be freed.
    template <class One>
    static One* autoreleased(One* one) {
        give_to_pool(one);
        return one;
    }

  private:
    static void give_to_pool(Object* one);

    int count_ = 1;
};

/// Objects that are released with it.
class AutoreleasePool : public Object {
  public:
    static AutoreleasePool* alloc() { return new AutoreleasePool; }
    AutoreleasePool* init();

  private:
    friend class Object;
    ~AutoreleasePool() override;

    std::vector<Object*> objects_;
    AutoreleasePool* outer_ = nullptr;
};

class String : public Object {
  public:
    static String* string(const char* text, StringEncoding encoding);
    const char* utf8String() const { return text_.c_str(); }

  private:
    explicit String(std::string text) : text_(std::move(text)) {}

    std::string text_;
};

class Error : public Object {
  public:
    explicit Error(std::string text) : text_(std::move(text)) {}
    String* localizedDescription() const;

  private:
    std::string text_;
};

template <class One>
class SharedPtr {
  public:
    SharedPtr() = default;
    ~SharedPtr() { reset(); }
    SharedPtr(SharedPtr&& other) noexcept : one_(std::exchange(other.one_, nullptr)) {}
    SharedPtr& operator=(SharedPtr&& other) noexcept {
        std::swap(one_, other.one_);
        return *this;
    }
    One* get() const { return one_; }
    One* operator->() const { return one_; }
    explicit operator bool() const { return one_ != nullptr; }
    void reset() {
        if (one_ != nullptr) std::exchange(one_, nullptr)->release();
    }

    template <class Other>
    friend SharedPtr<Other> TransferPtr(Other* one);
    template <class Other>
    friend SharedPtr<Other> RetainPtr(Other* one);

  private:
    One* one_ = nullptr;
};

template <class One>
SharedPtr<One> TransferPtr(One* one) {
    SharedPtr<One> owner;
    owner.one_ = one;
    return owner;
}
template <class One>
SharedPtr<One> RetainPtr(One* one) {
    one->retain();
    return TransferPtr(one);
}

}  // namespace NS

namespace MTL {

enum ResourceOptions : NS::UInteger { ResourceStorageModeShared = 0 };
enum CommandBufferStatus : NS::UInteger {
    CommandBufferStatusNotEnqueued = 0,
    CommandBufferStatusCommitted = 2,
    CommandBufferStatusCompleted = 4,
    CommandBufferStatusError = 5,
};

struct Size {
    Size(NS::UInteger w, NS::UInteger h, NS::UInteger d) : width(w), height(h), depth(d) {}

    NS::UInteger width, height, depth;
};

class Buffer : public NS::Object {
  public:
    NS::UInteger length() const { return length_; }
    void* contents() { return contents_; }

  private:
    friend class Device;
    Buffer(void* contents, NS::UInteger length, bool own)
        : contents_(contents), length_(length), own_(own) {}
    ~Buffer() override;

    void* contents_;
    NS::UInteger length_;
    bool own_;
};

class Function : public NS::Object {
  private:
    friend class Library;
    friend class Device;
    explicit Function(const rotkv::metal::emul::Kernel& kernel) : kernel_(&kernel) {}

    const rotkv::metal::emul::Kernel* kernel_;
};

/// All kernels that the program holds, whatever its path says.
class Library : public NS::Object {
  public:
    Function* newFunction(const NS::String* name);  ///< null: there is none of that name
};

class ComputePipelineState : public NS::Object {
  public:
    NS::UInteger maxTotalThreadsPerThreadgroup() const;
    NS::UInteger threadExecutionWidth() const;

  private:
    friend class Device;
    friend class ComputeCommandEncoder;
    explicit ComputePipelineState(const rotkv::metal::emul::Kernel& kernel) : kernel_(&kernel) {}

    const rotkv::metal::emul::Kernel* kernel_;
};

struct Dispatch;

/// Dispatches of one encoder run one after the other, each seeing what those before it wrote.
class ComputeCommandEncoder : public NS::Object {
  public:
    void setComputePipelineState(const ComputePipelineState* state);
    void setBuffer(const Buffer* buffer, NS::UInteger offset, NS::UInteger index);
    void setBytes(const void* bytes, NS::UInteger length, NS::UInteger index);
    void setThreadgroupMemoryLength(NS::UInteger length, NS::UInteger index);
    void dispatchThreadgroups(Size groups, Size threads);
    void endEncoding();

  private:
    friend class CommandBuffer;
    explicit ComputeCommandEncoder(std::vector<std::unique_ptr<Dispatch>>& into);
    ~ComputeCommandEncoder() override;
    void require_open() const;

    std::vector<std::unique_ptr<Dispatch>>& into_;
    std::unique_ptr<Dispatch> next_;
    bool ended_ = false;
};

class CommandBuffer : public NS::Object {
  public:
    ComputeCommandEncoder* computeCommandEncoder();
    void commit();
    void waitUntilCompleted();
    CommandBufferStatus status() const { return status_; }
    NS::Error* error() const { return error_.get(); }

  private:
    friend class CommandQueue;
    CommandBuffer();
    ~CommandBuffer() override;
    void run();

    std::vector<std::unique_ptr<Dispatch>> dispatches_;
    NS::SharedPtr<ComputeCommandEncoder> encoder_;
    NS::SharedPtr<NS::Error> error_;
    CommandBufferStatus status_ = CommandBufferStatusNotEnqueued;
};

class CommandQueue : public NS::Object {
  public:
    CommandBuffer* commandBuffer();
};

class Device : public NS::Object {
  public:
    Device() = default;
    NS::String* name() const;
    CommandQueue* newCommandQueue();
    Buffer* newBuffer(NS::UInteger length, ResourceOptions options);

    /// Memory of the host's, whole pages of it, which stay its own.
    Buffer* newBuffer(const void* pointer, NS::UInteger length, ResourceOptions options,
                      void (*deallocator)(void*, NS::UInteger));
    Library* newLibrary(const NS::String* path, NS::Error** error);
    ComputePipelineState* newComputePipelineState(const Function* function, NS::Error** error);
};

Device* CreateSystemDefaultDevice();

}  // namespace MTL
