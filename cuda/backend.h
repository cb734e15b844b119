#pragma once
// The backend "cuda": the rotated-cache operations on one NVIDIA GPU, all on one stream.
// Docs: docs/08-backends.md

#include "cuda/failure.h"
#include "cuda/products.h"
#include "cuda/recorder.h"

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

/// Memory is the device's; import() copies. Operations are kept until the next upload(),
/// download(), synchronize() or free_memory(), launched then in the order of their calls, and
/// replayed as CUDA graphs when the same calls come again, the first of many of them as soon as
/// they have come (recorder.h). download() and synchronize() wait for them.
///
/// Errors. A refusal (failure.h: no memory, a launch not taken) is thrown by the call that launches
/// or allocates, as Failure, Error(io), naming the operation and its tensors or the bytes; what was
/// kept by then is dropped, and the backend goes on. A fault is found by the first call that waits,
/// whatever operation it was; from then on every call throws, naming that first cause. With
/// ROTKV_CUDA_SYNC=1 in the environment each operation is launched by itself and waited for by its
/// own run(): no kept calls, joined calls or graphs, and a fault names its operation.
///
/// Threads. As class Backend says, and it is watched: a call that meets another thread's in the
/// same backend throws Error(bad_argument). free_memory() waits for its turn instead, and may be
/// called from any thread. Backends of one device or several may be used in several threads at
/// once. The backend's device is made the thread's current one in each call, and then put back.
class CudaBackend final : public Backend {
  public:
    /// Takes the calling thread's current device, which is the first that the process sees
    /// (CUDA_VISIBLE_DEVICES chooses) unless cudaSetDevice said otherwise.
    /// Throws Error(unsupported) where there is none, or it has not compute capability 8.0 or more;
    /// Error(usage) for a ROTKV_CUDA_SYNC that is neither 0 nor 1; Failure.
    CudaBackend();
    ~CudaBackend() override;
    CudaBackend(const CudaBackend&) = delete;
    CudaBackend& operator=(const CudaBackend&) = delete;

    std::string name() const override { return "cuda"; }
    std::string description() const override;  ///< "NVIDIA H100, compute capability 9.0, CUDA 13.0"

    std::byte* allocate(std::size_t bytes) override;
    void free_memory(std::byte* memory) override;
    std::byte* import(std::span<const std::byte> bytes) override;

    /// Another library's tensor, judged where it lies: views may point into the memory for as long
    /// as it lives. What `theirs` has been given until now comes before this backend's next
    /// operation; whoever lets it read what operations have written calls synchronize() first.
    /// Throws Error(bad_argument) unless it is memory of this backend's device, of so many bytes,
    /// on 16 bytes and allocated up to 16 bytes.
    std::byte* import_device(void* memory, std::size_t bytes, cuda::Stream theirs);
    void upload(std::byte* dst, std::span<const std::byte> src) override;
    void download(std::span<std::byte> dst, const std::byte* src) override;
    void synchronize() override;

    bool in_host_memory() const override { return false; }

    /// Beyond the interface: words from rows of logits [n][V] f32, where they lie, as choose_word()
    /// of tools/sampling.h has it, but that sums of several words are added up side by side. words
    /// [n], at most k_max_logit_rows; -1 where a logit is not finite. u [n], or none at temperature
    /// 0. Throws as download().
    void choose_words(const TensorView& logits, double temperature, std::span<const double> u,
                      std::span<int32_t> words);

  protected:
    Support answer(const Call& call) const override;
    void execute(const Call& call) override;
    bool execute_again(const Call& call) override;

  private:
    template <class Body>
    auto enter(const Body& body);
    void require_sound() const;
    void copy_in(std::byte* dst, std::span<const std::byte> src);
    void run_alone(const Call& call);
    void flush();
    void launch_kept();
    void forget_if_moved();
    void wait();

    std::atomic<bool> in_use_ = false;
    const bool sync_;  ///< ROTKV_CUDA_SYNC
    int device_ = 0;
    std::string fault_;  ///< the first one, in words; "": none
    cuda::OwnStream stream_;
    cuda::Workspace workspace_;
    std::unique_ptr<cuda::Products> products_;
    cuda::Recorder recorder_;
    int64_t moves_ = 0;  ///< of products_, when the recordings were made
    cuda::PinnedMemory staging_;
    std::size_t staged_ = 0;      ///< bytes of staging_ that copies on their way may still read
    std::exception_ptr failure_;  ///< of free_memory(), for the next wait to report
};

/// `threads` is for backends on CPUs and is not used. Throws as the constructor does.
std::unique_ptr<Backend> make_cuda_backend(int threads);

namespace cuda {
/// For people: which kernels the current device gets. Throws Failure.
std::vector<std::string> list_paths();
}  // namespace cuda

}  // namespace rotkv
