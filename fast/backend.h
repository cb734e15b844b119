#pragma once
// The backend "fast": every operation on all cores of this machine, with the vector instructions
// that the compiler was told of.
// Docs: docs/08-backends.md

#include "fast/joined.h"
#include "fast/large_pages.h"
#include "ref/backend.h"

#include <functional>
#include <memory>
#include <set>
#include <string>

namespace rotkv {

/// Memory is the process's own, aligned to 64 bytes; import() aliases what it does not copy into
/// large pages. Products of up to 64 tokens wait for the next call, which may be joined to them;
/// all else has finished when it returns. Results do not depend on who calls, nor, for exact
/// operations, on the number of threads.
class FastBackend : public Backend {
  public:
    /// threads 0: as many as OpenMP takes by itself.
    explicit FastBackend(int threads);

    std::string name() const override { return "fast"; }
    std::string description() const override;  ///< "avx512bw, 2 threads, oneDNN 2.6.3"

    std::byte* allocate(std::size_t bytes) override;
    void free_memory(std::byte* memory) override;
    std::byte* import(std::span<const std::byte> bytes) override;
    void upload(std::byte* dst, std::span<const std::byte> src) override;
    void download(std::span<std::byte> dst, const std::byte* src) override;
    void synchronize() override;
    bool in_host_memory() const override { return true; }
    void on_host(int64_t tasks, const std::function<void(int64_t)>& task) override;

  protected:
    Support answer(const Call& call) const override;
    void execute(const Call& call) override;

  private:
    int threads_;
    fast::JoinedProducts products_;
    std::multiset<const std::byte*> imported_;
    fast::LargePages copies_;
};

/// threads 0: all cores that this process may use.
std::unique_ptr<Backend> make_fast_backend(int threads);

}  // namespace rotkv
