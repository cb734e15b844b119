#include "fast/backend.h"

#include "fast/kernels.h"
#include "fast/simd.h"
#include "fast/threads.h"
#include "fast/workspace.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <cstring>
#include <new>

namespace rotkv {

FastBackend::FastBackend(int threads) : threads_(threads > 0 ? threads : omp_get_max_threads()) {}

std::string FastBackend::description() const {
    const dnnl_version_t* dnnl = dnnl_version();
    return std::string(fast::Vec::arch_type::name()) + ", " + std::to_string(threads_) +
           (threads_ == 1 ? " thread" : " threads") + ", oneDNN " + std::to_string(dnnl->major) +
           "." + std::to_string(dnnl->minor) + "." + std::to_string(dnnl->patch);
}

std::byte* FastBackend::allocate(std::size_t bytes) {
    void* const memory = ::operator new(bytes, std::align_val_t(fast::k_alignment));
    fast::prefer_large_pages(memory, bytes);
    return static_cast<std::byte*>(memory);
}

void FastBackend::free_memory(std::byte* memory) {
    synchronize();
    if (copies_.forget(memory)) return;
    const auto imported = imported_.find(memory);
    if (imported != imported_.end()) {  // its owner frees it
        imported_.erase(imported);
        return;
    }
    ::operator delete(memory, std::align_val_t(fast::k_alignment));
}

std::byte* FastBackend::import(std::span<const std::byte> bytes) {
    const fast::ThreadCount count(threads_);
    if (std::byte* const copy = copies_.copy(bytes)) return copy;
    // Imported memory is only read; the view type has no read-only twin.
    std::byte* alias = const_cast<std::byte*>(bytes.data());
    imported_.insert(alias);
    return alias;
}

void FastBackend::upload(std::byte* dst, std::span<const std::byte> src) {
    synchronize();
    if (!src.empty()) std::memcpy(dst, src.data(), src.size());
}

void FastBackend::download(std::span<std::byte> dst, const std::byte* src) {
    synchronize();
    if (!dst.empty()) std::memcpy(dst.data(), src, dst.size());
}

// Factors are rounded in one place alone: products in bf16, where the library has them.
Support FastBackend::answer(const Call& call) const {
    const Support written = fast::k_operations.written(call);
    if (!written.yes) return written;
    if (precision_of_products(call) != Precision::bf16) return unrounded_only(call);
    if (fast::has_bf16_products()) return {};
    return {false, std::string("bf16 products: they need oneDNN 3, this is built with ") +
                       std::to_string(DNNL_VERSION_MAJOR) + "." +
                       std::to_string(DNNL_VERSION_MINOR)};
}

void FastBackend::synchronize() {
    if (products_.empty()) return;
    const fast::ThreadCount count(threads_);
    products_.run();
}

void FastBackend::on_host(int64_t tasks, const std::function<void(int64_t)>& task) {
    const fast::ThreadCount count(threads_);
    fast::share(tasks, task);
}

void FastBackend::execute(const Call& call) {
    if (products_.keep(call)) return;
    synchronize();
    if (products_.keep(call)) return;
    const fast::ThreadCount count(threads_);
    fast::k_operations.run(call);
}

std::unique_ptr<Backend> make_fast_backend(int threads) {
    return std::make_unique<FastBackend>(threads);
}

}  // namespace rotkv
