#include "metal/emul/dispatch.h"

#include <cstring>
#include <string>

namespace MTL {

using rotkv::metal::emul::Extent;
using rotkv::metal::emul::Fault;
using rotkv::metal::emul::Misuse;
using rotkv::metal::emul::Parameter;
using rotkv::metal::emul::Source;
using rotkv::metal::emul::Work;

namespace emul = rotkv::metal::emul;

constexpr NS::UInteger k_buffers = 31;       // 0 .. 30
constexpr NS::UInteger k_most_bytes = 4096;  // of setBytes

static std::string number(NS::UInteger n) { return std::to_string(n); }

std::byte* Dispatch::Bound::data() {
    return (buffer != nullptr ? static_cast<std::byte*>(buffer->contents()) : bytes.data()) +
           offset;
}

NS::UInteger Dispatch::Bound::length() const {
    return (buffer != nullptr ? buffer->length() : bytes.size()) - offset;
}

static void check_index(NS::UInteger index) {
    if (index < k_buffers) return;
    throw Misuse("buffer index " + number(index) + ", there are " + number(k_buffers));
}

void Dispatch::set_buffer(const Buffer* buffer, NS::UInteger offset, NS::UInteger index) {
    check_index(index);
    if (buffer == nullptr) {
        bound.erase(index);
        return;
    }
    if (offset >= buffer->length()) {
        throw Misuse("buffer index " + number(index) + ": offset " + number(offset) + " of " +
                     number(buffer->length()) + " bytes");
    }
    Buffer* const kept = const_cast<Buffer*>(buffer);
    kept->retain();
    bound[index] = {std::shared_ptr<Buffer>(kept, [](Buffer* one) { one->release(); }), {}, offset};
}

void Dispatch::set_bytes(const void* data, NS::UInteger length, NS::UInteger index) {
    check_index(index);
    if (length == 0 || length > k_most_bytes) {
        throw Misuse("setBytes: " + number(length) + " bytes, expected 1 to " +
                     number(k_most_bytes));
    }
    std::vector<std::byte> copy(length);
    std::memcpy(copy.data(), data, length);
    bound[index] = {nullptr, std::move(copy), 0};
}

void Dispatch::set_memory(NS::UInteger length, NS::UInteger index) {
    if (length % emul::k_memory_unit != 0) {
        throw Misuse("threadgroup memory of " + number(length) + " bytes, expected a multiple of " +
                     number(emul::k_memory_unit));
    }
    memory[index] = length;
}

void Dispatch::check_argument(const Parameter& parameter) {
    const std::string name = "kernel " + kernel->name + ", argument '" + parameter.name + "': ";
    if (parameter.source == Source::threadgroup) {
        const auto found = memory.find(parameter.number);
        if (found == memory.end() || found->second == 0) {
            throw Misuse(name + "no threadgroup memory at index " + number(parameter.number));
        }
        return;
    }
    if (parameter.source != Source::buffer) return;
    const auto found = bound.find(parameter.number);
    if (found == bound.end()) {
        throw Misuse(name + "nothing bound at index " + number(parameter.number));
    }
    if (found->second.offset % parameter.cpp.alignment != 0) {
        throw Misuse(name + "offset " + number(found->second.offset) +
                     " is no multiple of its type's alignment, " + number(parameter.cpp.alignment));
    }
    if (found->second.length() < parameter.cpp.size) {
        throw Misuse(name + number(found->second.length()) + " bytes bound, its type has " +
                     number(parameter.cpp.size));
    }
}

void Dispatch::check_memory() {
    NS::UInteger all = 0;
    for (const Parameter& parameter : kernel->parameters) {
        if (parameter.source == Source::threadgroup) all += memory[parameter.number];
    }
    if (all <= emul::k_most_memory) return;
    throw Misuse("kernel " + kernel->name + ": " + number(all) +
                 " bytes of threadgroup memory, there are " + number(emul::k_most_memory));
}

void Dispatch::check(Size groups_per_grid, Size threads_per_group) {
    if (kernel == nullptr) throw Misuse("a dispatch without a pipeline state");
    groups = {unsigned(groups_per_grid.width), unsigned(groups_per_grid.height),
              unsigned(groups_per_grid.depth)};
    threads = {unsigned(threads_per_group.width), unsigned(threads_per_group.height),
               unsigned(threads_per_group.depth)};
    if (groups.count() == 0 || threads.count() == 0) {
        throw Misuse("kernel " + kernel->name + ": a grid without threads");
    }
    if (threads.count() > emul::k_most_threads) {
        throw Misuse("kernel " + kernel->name + ": " + number(threads.count()) +
                     " threads in a threadgroup, at most " + number(emul::k_most_threads));
    }
    for (const Parameter& parameter : kernel->parameters) check_argument(parameter);
    check_memory();
}

void Dispatch::run() {
    std::vector<std::byte*> buffers(k_buffers, nullptr);
    for (auto& [index, one] : bound) buffers[index] = one.data();
    struct Context {
        const emul::Kernel* kernel;
        emul::Arguments arguments;
    } context{kernel, {buffers.data(), kernel->parameters.data(), threads}};
    Work work{[](const void* any, const emul::Lane& lane) {
                  const Context& one = *static_cast<const Context*>(any);
                  one.kernel->call(one.kernel->code, one.arguments, lane);
              },
              &context,
              groups,
              threads,
              {}};
    for (const Parameter& parameter : kernel->parameters) {
        if (parameter.source != Source::threadgroup) continue;
        if (work.memory.size() <= parameter.number) work.memory.resize(parameter.number + 1);
        work.memory[parameter.number] = memory[parameter.number];
    }
    try {
        emul::run_lanes(work);
    } catch (const Fault& fault) {
        throw Fault("kernel " + kernel->name + ": " + fault.what());
    }
}

}  // namespace MTL
