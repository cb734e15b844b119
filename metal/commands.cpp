#include "metal/commands.h"

#include "ref/error.h"

#include <unistd.h>

#include <algorithm>

namespace rotkv::metal {

namespace {

constexpr int k_batch = 256;  // dispatches of a command buffer, then the device may begin

// What metal-cpp returns unowned belongs to the pool in force; ours ends with the call.
class Pool {
  public:
    Pool() : pool_(NS::TransferPtr(NS::AutoreleasePool::alloc()->init())) {}

  private:
    NS::SharedPtr<NS::AutoreleasePool> pool_;
};

const NS::String* text(const std::string& words) {
    return NS::String::string(words.c_str(), NS::UTF8StringEncoding);
}

std::string words_of(NS::Error* error) {
    return error != nullptr ? error->localizedDescription()->utf8String() : "no reason given";
}

[[noreturn]] void no_device(const std::string& why) {
    throw Error(ErrorCode::unsupported, "Metal: " + why);
}

}  // namespace

Commands::Commands() {
    const Pool pool;
    device_ = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    if (!device_) no_device("no device");
    NS::Error* error = nullptr;
    library_ = NS::TransferPtr(device_->newLibrary(text(ROTKV_METALLIB), &error));
    if (!library_)
        no_device("the kernels of " + std::string(ROTKV_METALLIB) + ": " + words_of(error));
    queue_ = NS::TransferPtr(device_->newCommandQueue());
    nothing_ = NS::TransferPtr(device_->newBuffer(256, MTL::ResourceStorageModeShared));
    if (!queue_ || !nothing_) no_device("the device gives neither queue nor memory");
}

Commands::~Commands() {
    try {
        wait();
    } catch (const Error&) {  // nobody has asked for a result
    }
}

std::string Commands::device_name() const {
    const Pool pool;
    return device_->name()->utf8String();
}

std::byte* Commands::allocate(std::size_t bytes) {
    const Pool pool;
    const std::size_t least = std::max(bytes, std::size_t(1));
    NS::SharedPtr<MTL::Buffer> buffer =
        NS::TransferPtr(device_->newBuffer(least, MTL::ResourceStorageModeShared));
    if (!buffer)
        throw Error(ErrorCode::io, "Metal: no memory for " + std::to_string(bytes) + " bytes");
    std::byte* const memory = static_cast<std::byte*>(buffer->contents());
    regions_.emplace(memory, Region{memory, std::move(buffer)});
    return memory;
}

// Metal takes the host's memory by whole pages: those on which the bytes lie.
Commands::Region Commands::pages_of(const std::byte* data, std::size_t bytes) {
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<uintptr_t>(data);
    const uintptr_t first = at / page * page, end = (at + bytes + page - 1) / page * page;
    const std::byte* const base = data - (at - first);
    NS::SharedPtr<MTL::Buffer> buffer = NS::TransferPtr(device_->newBuffer(
        static_cast<const void*>(base), end - first, MTL::ResourceStorageModeShared, nullptr));
    if (!buffer)
        throw Error(ErrorCode::io, "Metal: the host's memory cannot be read by the device");
    return {base, std::move(buffer)};
}

std::byte* Commands::import(std::span<const std::byte> bytes) {
    const Pool pool;
    if (!bytes.empty()) regions_.emplace(bytes.data(), pages_of(bytes.data(), bytes.size()));
    return const_cast<std::byte*>(bytes.data());  // only read; views have no read-only twin
}

void Commands::free_memory(std::byte* memory) {
    wait();  // what is on its way may still use it
    const auto found = regions_.find(memory);
    if (found != regions_.end()) regions_.erase(found);
}

TensorView Commands::scratch(DType type, std::initializer_list<int64_t> extents) {
    const Pool pool;
    TensorView tensor = view(static_cast<void*>(nullptr), type, extents);
    const std::size_t bytes =
        std::max(std::size_t(tensor.rows() * row_bytes(type, tensor.n[3])), std::size_t(1));
    MTL::Buffer* const buffer = device_->newBuffer(bytes, MTL::ResourceStorageModeShared);
    if (buffer == nullptr) throw Error(ErrorCode::io, "Metal: no memory for a call's own");
    tensor.data = static_cast<std::byte*>(buffer->contents());
    borrowed_.push_back({tensor.data, NS::TransferPtr(buffer)});
    return tensor;
}

MTL::ComputePipelineState* Commands::pipeline(const std::string& kernel) {
    NS::SharedPtr<MTL::ComputePipelineState>& state = pipelines_[kernel];
    if (state) return state.get();
    const NS::SharedPtr<MTL::Function> function =
        NS::TransferPtr(library_->newFunction(text(kernel)));
    if (!function) throw Error(ErrorCode::unsupported, "Metal: no kernel " + kernel);
    NS::Error* error = nullptr;
    state = NS::TransferPtr(device_->newComputePipelineState(function.get(), &error));
    if (!state)
        throw Error(ErrorCode::unsupported, "Metal: kernel " + kernel + ": " + words_of(error));
    if (state->threadExecutionWidth() != k_lanes) {
        throw Error(ErrorCode::unsupported, "Metal: simdgroups of " +
                                                std::to_string(state->threadExecutionWidth()) +
                                                " lanes, expected 32");
    }
    if (state->maxTotalThreadsPerThreadgroup() < k_simdgroups * k_lanes) {
        throw Error(ErrorCode::unsupported,
                    "Metal: kernel " + kernel + ": threadgroups of at most " +
                        std::to_string(state->maxTotalThreadsPerThreadgroup()) +
                        " threads, expected " + std::to_string(k_simdgroups * k_lanes));
    }
    return state.get();
}

MTL::ComputeCommandEncoder* Commands::encoder() {
    if (!open_) {
        open_ = NS::RetainPtr(queue_->commandBuffer());
        encoder_ = NS::RetainPtr(open_->computeCommandEncoder());
    }
    return encoder_.get();
}

bool Commands::Region::holds(const std::byte* data, std::size_t bytes) const {
    return base <= data && data + bytes <= base + buffer->length();
}

void Commands::bind(const TensorView& tensor, NS::UInteger index) {
    if (tensor.empty()) return encoder()->setBuffer(nothing_.get(), 0, index);
    const std::size_t bytes = std::size_t(span_bytes(tensor));
    const auto use = [&](const Region& region) {
        encoder()->setBuffer(region.buffer.get(), NS::UInteger(tensor.data - region.base), index);
    };
    const auto behind = regions_.upper_bound(tensor.data);
    if (behind != regions_.begin() && std::prev(behind)->second.holds(tensor.data, bytes)) {
        return use(std::prev(behind)->second);
    }
    for (const Region& one : borrowed_) {
        if (one.holds(tensor.data, bytes)) return use(one);
    }
    borrowed_.push_back(pages_of(tensor.data, bytes));
    use(borrowed_.back());
}

void Commands::dispatch(const std::string& kernel, const void* args, std::size_t bytes,
                        std::initializer_list<TensorView> tensors, const Grid& grid) {
    const Pool pool;
    encoder()->setComputePipelineState(pipeline(kernel));
    encoder()->setBytes(args, bytes, 0);
    NS::UInteger index = 0;
    for (const TensorView& tensor : tensors) bind(tensor, ++index);
    if (grid.memory > 0) encoder()->setThreadgroupMemoryLength(grid.memory, 0);
    encoder()->dispatchThreadgroups(MTL::Size(grid.groups[0], grid.groups[1], grid.groups[2]),
                                    MTL::Size(grid.threads, 1, 1));
    if (++dispatches_ == k_batch) commit();
}

void Commands::afterwards(std::function<void()> work) { afterwards_.push_back(std::move(work)); }

void Commands::commit() {
    if (!open_) return;
    encoder_->endEncoding();
    encoder_ = {};
    open_->commit();
    committed_.push_back(std::move(open_));
    open_ = {};
    dispatches_ = 0;
}

void Commands::wait() {
    const Pool pool;
    commit();
    std::string failure;
    for (const NS::SharedPtr<MTL::CommandBuffer>& one : committed_) {
        one->waitUntilCompleted();
        if (failure.empty() && one->status() == MTL::CommandBufferStatusError) {
            failure = words_of(one->error());
        }
    }
    committed_.clear();
    const std::vector<Region> kept = std::move(borrowed_);  // what the work to come reads
    borrowed_.clear();
    const std::vector<std::function<void()>> work = std::move(afterwards_);
    afterwards_.clear();
    if (!failure.empty()) throw Error(ErrorCode::io, "Metal: " + failure);
    for (const std::function<void()>& one : work) one();
}

}  // namespace rotkv::metal
