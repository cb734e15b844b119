#pragma once
// The backend "cuda": the rotated-cache operations on one NVIDIA GPU, all on one stream.
// Docs: docs/08-backends.md

#include "cuda/products.h"
#include "cuda/recorder.h"

#include <exception>
#include <memory>
#include <string>

namespace rotkv {

/// Memory is the device's; import() copies. Operations are kept until the next upload(),
/// download(), synchronize() or free_memory(), launched then in the order of their calls, and
/// replayed as a CUDA graph when the same calls come again (recorder.h). download() and
/// synchronize() wait for them.
class CudaBackend final : public Backend {
  public:
    /// Takes the first device that the process sees (CUDA_VISIBLE_DEVICES chooses).
    /// Throws Error(unsupported) where there is none, or none of compute capability 8.0 or more.
    CudaBackend();
    ~CudaBackend() override;
    CudaBackend(const CudaBackend&) = delete;
    CudaBackend& operator=(const CudaBackend&) = delete;

    std::string name() const override { return "cuda"; }
    std::string description() const override;  ///< "NVIDIA H100, compute capability 9.0, CUDA 13.0"

    std::byte* allocate(std::size_t bytes) override;
    void free_memory(std::byte* memory) override;
    std::byte* import(std::span<const std::byte> bytes) override;
    void upload(std::byte* dst, std::span<const std::byte> src) override;
    void download(std::span<std::byte> dst, const std::byte* src) override;
    void synchronize() override;

    bool in_host_memory() const override { return false; }

  protected:
    Support answer(const Call& call) const override;
    void execute(const Call& call) override { recorder_.add(call); }

  private:
    void flush();

    cuda::Stream stream_ = nullptr;
    cuda::Workspace workspace_;
    std::unique_ptr<cuda::Products> products_;
    cuda::Recorder recorder_;
    int64_t moves_ = 0;  ///< of products_, when the recordings were made
    std::byte* staging_ = nullptr;
    std::size_t staged_ = 0;      ///< bytes of staging_ that copies on their way may still read
    std::exception_ptr failure_;  ///< of a flush in free_memory(), for the next one to report
};

/// `threads` is for backends on CPUs and is not used. Throws as the constructor does.
std::unique_ptr<Backend> make_cuda_backend(int threads);

}  // namespace rotkv
