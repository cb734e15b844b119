#include "fast/backend.h"

#include "fast/kernels.h"
#include "fast/simd.h"
#include "fast/workspace.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <cstring>
#include <new>

namespace rotkv {
namespace {

// OpenMP's number of threads belongs to the calling thread: set for one operation, then put back.
class ThreadCount {
  public:
    explicit ThreadCount(int threads) : before_(omp_get_max_threads()) {
        omp_set_num_threads(threads);
    }
    ~ThreadCount() { omp_set_num_threads(before_); }
    ThreadCount(const ThreadCount&) = delete;
    ThreadCount& operator=(const ThreadCount&) = delete;

  private:
    int before_;
};

}  // namespace

FastBackend::FastBackend(int threads) : threads_(threads > 0 ? threads : omp_get_max_threads()) {}

std::string FastBackend::description() const {
    const dnnl_version_t* dnnl = dnnl_version();
    return std::string(fast::Vec::arch_type::name()) + ", " + std::to_string(threads_) +
           (threads_ == 1 ? " thread" : " threads") + ", oneDNN " + std::to_string(dnnl->major) +
           "." + std::to_string(dnnl->minor) + "." + std::to_string(dnnl->patch);
}

std::byte* FastBackend::allocate(std::size_t bytes) {
    return static_cast<std::byte*>(::operator new(bytes, std::align_val_t(fast::k_alignment)));
}

void FastBackend::free_memory(std::byte* memory) {
    const auto imported = imported_.find(memory);
    if (imported != imported_.end()) {  // its owner frees it
        imported_.erase(imported);
        return;
    }
    ::operator delete(memory, std::align_val_t(fast::k_alignment));
}

std::byte* FastBackend::import(std::span<const std::byte> bytes) {
    // Imported memory is only read; the view type has no read-only twin.
    std::byte* alias = const_cast<std::byte*>(bytes.data());
    imported_.insert(alias);
    return alias;
}

void FastBackend::upload(std::byte* dst, std::span<const std::byte> src) {
    if (!src.empty()) std::memcpy(dst, src.data(), src.size());
}

void FastBackend::download(std::span<std::byte> dst, const std::byte* src) {
    if (!dst.empty()) std::memcpy(dst.data(), src, dst.size());
}

Support FastBackend::supports(const MatmulArgs& args) const {
    if (args.precision != Precision::bf16) return Backend::supports(args);
    if (!fast::has_bf16_products()) {
        return {false, std::string("bf16 products: they need oneDNN 3, this is built with ") +
                           std::to_string(DNNL_VERSION_MAJOR) + "." +
                           std::to_string(DNNL_VERSION_MINOR)};
    }
    MatmulArgs exact = args;
    exact.precision = Precision::f32;
    return Backend::supports(exact);
}

void FastBackend::run(const HadamardArgs& args) {
    const ThreadCount count(threads_);
    fast::hadamard(args);
}
void FastBackend::run(const QuantizeArgs& args) {
    const ThreadCount count(threads_);
    fast::quantize(args);
}
void FastBackend::run(const DequantizeArgs& args) {
    const ThreadCount count(threads_);
    fast::dequantize(args);
}
void FastBackend::run(const RopeArgs& args) {
    const ThreadCount count(threads_);
    fast::rope(args);
}
void FastBackend::run(const RmsNormArgs& args) {
    const ThreadCount count(threads_);
    fast::rms_norm(args);
}
void FastBackend::run(const MatmulArgs& args) {
    const ThreadCount count(threads_);
    fast::matmul(args);
}
void FastBackend::run(const KvStoreArgs& args) {
    const ThreadCount count(threads_);
    fast::kv_store(args);
}
void FastBackend::run(const AttentionArgs& args) {
    const ThreadCount count(threads_);
    fast::attention(args);
}
void FastBackend::run(const KvShiftArgs& args) {
    const ThreadCount count(threads_);
    fast::kv_shift(args);
}
void FastBackend::run(const ActMulArgs& args) {
    const ThreadCount count(threads_);
    fast::act_mul(args);
}
void FastBackend::run(const AddArgs& args) {
    const ThreadCount count(threads_);
    fast::add(args);
}
void FastBackend::run(const EmbedArgs& args) {
    const ThreadCount count(threads_);
    fast::embed(args);
}
void FastBackend::run(const NllArgs& args) {
    const ThreadCount count(threads_);
    fast::nll(args);
}
void FastBackend::run(const KldArgs& args) {
    const ThreadCount count(threads_);
    fast::kld(args);
}
void FastBackend::run(const LogitsArgs& args) {
    const ThreadCount count(threads_);
    fast::logits(args);
}

std::unique_ptr<Backend> make_fast_backend(int threads) {
    return std::make_unique<FastBackend>(threads);
}

}  // namespace rotkv
