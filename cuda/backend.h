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

    Support supports(const HadamardArgs& args) const override;
    Support supports(const QuantizeArgs& args) const override;
    Support supports(const DequantizeArgs& args) const override;
    Support supports(const RopeArgs& args) const override;
    Support supports(const RmsNormArgs& args) const override;
    Support supports(const MatmulArgs& args) const override;
    Support supports(const KvStoreArgs& args) const override;
    Support supports(const AttentionArgs& args) const override;
    Support supports(const KvShiftArgs& args) const override;
    Support supports(const ActMulArgs& args) const override;
    Support supports(const AddArgs& args) const override;
    Support supports(const EmbedArgs& args) const override;
    Support supports(const NllArgs& args) const override;
    Support supports(const KldArgs& args) const override;
    Support supports(const LogitsArgs& args) const override;

  protected:
    void run(const HadamardArgs& args) override { recorder_.add(args); }
    void run(const QuantizeArgs& args) override { recorder_.add(args); }
    void run(const DequantizeArgs& args) override { recorder_.add(args); }
    void run(const RopeArgs& args) override { recorder_.add(args); }
    void run(const RmsNormArgs& args) override { recorder_.add(args); }
    void run(const MatmulArgs& args) override { recorder_.add(args); }
    void run(const KvStoreArgs& args) override { recorder_.add(args); }
    void run(const AttentionArgs& args) override { recorder_.add(args); }
    void run(const KvShiftArgs& args) override { recorder_.add(args); }
    void run(const ActMulArgs& args) override { recorder_.add(args); }
    void run(const AddArgs& args) override { recorder_.add(args); }
    void run(const EmbedArgs& args) override { recorder_.add(args); }
    void run(const NllArgs& args) override { recorder_.add(args); }
    void run(const KldArgs& args) override { recorder_.add(args); }
    void run(const LogitsArgs& args) override { recorder_.add(args); }

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
