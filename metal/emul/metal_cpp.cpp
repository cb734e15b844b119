#include "metal/emul/metal_cpp.h"

#include "metal/emul/dispatch.h"
#include "metal/emul/kernel.h"

#include <unistd.h>

#include <atomic>
#include <new>

using rotkv::metal::emul::Misuse;

static std::atomic<int64_t> live = 0;

int64_t rotkv::metal::emul::live_objects() { return live; }

namespace NS {

static thread_local AutoreleasePool* pool = nullptr;

Object::Object() { ++live; }
Object::~Object() { --live; }

void Object::release() {
    if (--count_ == 0) delete this;
}

void Object::give_to_pool(Object* one) {
    if (pool == nullptr) {
        one->release();
        throw Misuse("an object that nobody owns, and no autorelease pool");
    }
    pool->objects_.push_back(one);
}

AutoreleasePool* AutoreleasePool::init() {
    outer_ = std::exchange(pool, this);
    return this;
}

AutoreleasePool::~AutoreleasePool() {
    for (Object* one : objects_) one->release();
    pool = outer_;
}

String* String::string(const char* text, StringEncoding /*encoding*/) {
    return autoreleased(new String(text));
}

String* Error::localizedDescription() const {
    return String::string(text_.c_str(), UTF8StringEncoding);
}

}  // namespace NS

namespace MTL {

namespace emul = rotkv::metal::emul;

constexpr std::size_t k_alignment = 256;

Buffer::~Buffer() {
    if (own_) ::operator delete(contents_, std::align_val_t(k_alignment));
}

NS::String* Device::name() const {
    const std::string name = std::string("emulated by ") + emul::kind_of_lanes();
    return NS::String::string(name.c_str(), NS::UTF8StringEncoding);
}
CommandQueue* Device::newCommandQueue() { return new CommandQueue; }

Buffer* Device::newBuffer(NS::UInteger length, ResourceOptions /*options*/) {
    if (length == 0) throw Misuse("newBuffer: a length of 0");
    void* const memory = ::operator new(length, std::align_val_t(k_alignment), std::nothrow);
    return memory == nullptr ? nullptr : new Buffer(memory, length, true);
}

Buffer* Device::newBuffer(const void* pointer, NS::UInteger length, ResourceOptions /*options*/,
                          void (*)(void*, NS::UInteger)) {
    const NS::UInteger page = NS::UInteger(sysconf(_SC_PAGESIZE));
    if (length == 0) throw Misuse("newBuffer: a length of 0");
    if (reinterpret_cast<NS::UInteger>(pointer) % page != 0 || length % page != 0) {
        throw Misuse("newBuffer: memory of the host's must be whole pages");
    }
    return new Buffer(const_cast<void*>(pointer), length, false);
}

Library* Device::newLibrary(const NS::String* /*path*/, NS::Error** error) {
    try {
        emul::all_kernels();
        return new Library;
    } catch (const std::logic_error& wrong) {
        *error = autoreleased(new NS::Error(wrong.what()));
        return nullptr;
    }
}

ComputePipelineState* Device::newComputePipelineState(const Function* function,
                                                      NS::Error** /*error*/) {
    if (function == nullptr) throw Misuse("newComputePipelineState: no function");
    return new ComputePipelineState(*function->kernel_);
}

Function* Library::newFunction(const NS::String* name) {
    for (const emul::Kernel& kernel : emul::all_kernels()) {
        if (kernel.name == name->utf8String()) return new Function(kernel);
    }
    return nullptr;
}

NS::UInteger ComputePipelineState::maxTotalThreadsPerThreadgroup() const {
    return emul::k_most_threads;
}
NS::UInteger ComputePipelineState::threadExecutionWidth() const { return emul::k_lanes; }

CommandBuffer* CommandQueue::commandBuffer() { return autoreleased(new CommandBuffer); }

CommandBuffer::CommandBuffer() = default;

// Whoever lets go of a buffer does not undo what it was committed to do.
CommandBuffer::~CommandBuffer() {
    if (status_ == CommandBufferStatusCommitted) run();
}

ComputeCommandEncoder* CommandBuffer::computeCommandEncoder() {
    if (status_ != CommandBufferStatusNotEnqueued) throw Misuse("an encoder after commit");
    if (encoder_ && !encoder_->ended_) throw Misuse("an encoder while another one is open");
    auto* const encoder = autoreleased(new ComputeCommandEncoder(dispatches_));
    encoder_ = NS::RetainPtr(encoder);
    return encoder;
}

void CommandBuffer::commit() {
    if (status_ != CommandBufferStatusNotEnqueued) throw Misuse("commit: a second time");
    if (encoder_ && !encoder_->ended_) throw Misuse("commit: an encoder is open");
    encoder_.reset();
    status_ = CommandBufferStatusCommitted;
}

void CommandBuffer::waitUntilCompleted() {
    if (status_ == CommandBufferStatusNotEnqueued) throw Misuse("waitUntilCompleted: no commit");
    if (status_ == CommandBufferStatusCommitted) run();
}

void CommandBuffer::run() {
    status_ = CommandBufferStatusCompleted;
    for (const std::unique_ptr<Dispatch>& one : dispatches_) {
        try {
            one->run();
        } catch (const emul::Fault& fault) {
            error_ = NS::TransferPtr(new NS::Error(fault.what()));
            status_ = CommandBufferStatusError;
            break;
        }
    }
    dispatches_.clear();
}

ComputeCommandEncoder::ComputeCommandEncoder(std::vector<std::unique_ptr<Dispatch>>& into)
    : into_(into), next_(std::make_unique<Dispatch>()) {}
ComputeCommandEncoder::~ComputeCommandEncoder() = default;

void ComputeCommandEncoder::require_open() const {
    if (ended_) throw Misuse("an encoder is used after endEncoding");
}

void ComputeCommandEncoder::setComputePipelineState(const ComputePipelineState* state) {
    require_open();
    next_->kernel = state->kernel_;
}

void ComputeCommandEncoder::setBuffer(const Buffer* buffer, NS::UInteger offset,
                                      NS::UInteger index) {
    require_open();
    next_->set_buffer(buffer, offset, index);
}

void ComputeCommandEncoder::setBytes(const void* bytes, NS::UInteger length, NS::UInteger index) {
    require_open();
    next_->set_bytes(bytes, length, index);
}

void ComputeCommandEncoder::setThreadgroupMemoryLength(NS::UInteger length, NS::UInteger index) {
    require_open();
    next_->set_memory(length, index);
}

void ComputeCommandEncoder::dispatchThreadgroups(Size groups, Size threads) {
    require_open();
    next_->check(groups, threads);
    into_.push_back(std::make_unique<Dispatch>(*next_));  // what is set stays set
}

void ComputeCommandEncoder::endEncoding() {
    require_open();
    ended_ = true;
}

Device* CreateSystemDefaultDevice() { return new Device; }

}  // namespace MTL
