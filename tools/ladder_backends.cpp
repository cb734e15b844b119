#include "tools/ladder_backends.h"

#include "fast/decode.h"
#include "fast/ladder.h"
#include "fast/matvec.h"
#include "fast/packed_products.h"
#include "fast/threads.h"
#include "ref/forwarding_backend.h"
#include "tools/backends.h"
#ifdef ROTKV_HAS_CUDA
#include "cuda/ladder.h"
#endif

#include <utility>

namespace rotkv::tools {

namespace {

bool takes_floats(const HadamardArgs& args) { return args.src.type == DType::f32; }

// The backend fast, whose operation with these arguments is one version.
template <class Args>
class OneOfFast final : public ForwardingBackend {
  public:
    OneOfFast(int threads, bool (*takes)(const Args&), void (*run)(const Args&))
        : ForwardingBackend(make_backend("fast", threads)),
          threads_(threads),
          takes_(takes),
          run_(run) {}

  protected:
    Support answer(const Call& call) const override {
        const Args* const args = std::get_if<Args>(&call);
        if (args != nullptr && !takes_(*args)) {
            return {false, "this version does not take such calls"};
        }
        return ForwardingBackend::answer(call);
    }
    void execute(const Call& call) override {
        const Args* const args = std::get_if<Args>(&call);
        if (args == nullptr) return ForwardingBackend::execute(call);
        synchronize();
        const fast::ThreadCount count(threads_);
        run_(*args);
    }

  private:
    int threads_;
    bool (*takes_)(const Args&);
    void (*run_)(const Args&);
};

}  // namespace

std::vector<LadderVersion> fast_ladder_versions(int threads) {
    std::vector<LadderVersion> all;
    for (const fast::HadamardVersion& version : fast::k_hadamard_ladder) {
        all.push_back(
            {"hadamard", version.name,
             std::make_unique<OneOfFast<HadamardArgs>>(threads, takes_floats, version.run)});
    }
    for (const fast::DecodeVersion& version : fast::k_decode_versions) {
        all.push_back(
            {"decode", version.name,
             std::make_unique<OneOfFast<AttentionArgs>>(threads, fast::decodes, version.run)});
    }
    for (const fast::MatvecVersion& version : fast::k_matvec_ladder) {
        all.push_back(
            {"matvec", version.name,
             std::make_unique<OneOfFast<MatmulArgs>>(threads, version.takes, version.run)});
    }
    for (const fast::MatvecVersion& version : fast::k_products_ladder) {
        all.push_back(
            {"products", version.name,
             std::make_unique<OneOfFast<MatmulArgs>>(threads, version.takes, version.run)});
    }
    return all;
}

#ifdef ROTKV_HAS_CUDA

namespace {

// The real backend's stream and the versions' wait for each other: theirs is the default one.
constexpr cuda::Stream k_stream = nullptr;

class OneVersion : public ForwardingBackend {
  public:
    explicit OneVersion(std::unique_ptr<Backend> real) : ForwardingBackend(std::move(real)) {}

    void free_memory(std::byte* memory) override {
        run_kept();
        ForwardingBackend::free_memory(memory);
    }
    void upload(std::byte* dst, std::span<const std::byte> src) override {
        run_kept();
        ForwardingBackend::upload(dst, src);
    }
    void download(std::span<std::byte> dst, const std::byte* src) override {
        run_kept();
        ForwardingBackend::download(dst, src);
    }
    void synchronize() override {
        run_kept();
        ForwardingBackend::synchronize();
    }

  protected:
    virtual bool is_own(const Call& call) const = 0;
    virtual bool takes(const Call& call) const = 0;
    virtual void run_version(const Call& call) = 0;

    Support answer(const Call& call) const override {
        if (is_own(call) && !takes(call)) return {false, "this version does not take such calls"};
        return ForwardingBackend::answer(call);
    }
    void execute(const Call& call) override {
        if (is_own(call)) return kept_.push_back(call);
        run_kept();
        ForwardingBackend::execute(call);
    }

  private:
    void run_kept() {
        if (kept_.empty()) return;
        ForwardingBackend::synchronize();  // what it has kept itself
        for (const Call& call : std::exchange(kept_, {})) run_version(call);
        cuda::wait_for_ladder(k_stream);
    }

    std::vector<Call> kept_;
};

class OneHadamard final : public OneVersion {
  public:
    OneHadamard(std::unique_ptr<Backend> real, const cuda::HadamardVersion& version)
        : OneVersion(std::move(real)), version_(version) {}

  protected:
    bool is_own(const Call& call) const override {
        return std::holds_alternative<HadamardArgs>(call);
    }
    bool takes(const Call& call) const override {
        const bool is_last = version_.run == std::end(cuda::k_hadamard_ladder)[-1].run;
        return is_last || std::get<HadamardArgs>(call).src.type == DType::f32;
    }
    void run_version(const Call& call) override {
        version_.run(std::get<HadamardArgs>(call), k_stream);
    }

  private:
    const cuda::HadamardVersion& version_;
};

class OneAttention final : public OneVersion {
  public:
    OneAttention(std::unique_ptr<Backend> real, const cuda::AttentionVersion& version)
        : OneVersion(std::move(real)), version_(version) {
        workspace_.create();
    }

  protected:
    bool is_own(const Call& call) const override {
        return std::holds_alternative<AttentionArgs>(call);
    }
    bool takes(const Call& call) const override {
        return version_.takes(std::get<AttentionArgs>(call));
    }
    void run_version(const Call& call) override {
        version_.run(std::get<AttentionArgs>(call), workspace_, k_stream);
    }

  private:
    const cuda::AttentionVersion& version_;
    cuda::Workspace workspace_;
};

}  // namespace

std::vector<LadderVersion> ladder_versions() {
    std::vector<LadderVersion> all;
    const auto real = [] { return make_backend("cuda", 0); };
    for (const cuda::HadamardVersion& version : cuda::k_hadamard_ladder) {
        all.push_back({"hadamard", version.name, std::make_unique<OneHadamard>(real(), version)});
    }
    for (const cuda::AttentionVersion& version : cuda::k_decode_ladder) {
        all.push_back({"decode", version.name, std::make_unique<OneAttention>(real(), version)});
    }
    for (const cuda::AttentionVersion& version : cuda::k_prefill_ladder) {
        all.push_back({"prefill", version.name, std::make_unique<OneAttention>(real(), version)});
    }
    return all;
}

#else

std::vector<LadderVersion> ladder_versions() {
    make_backend("cuda", 0);  // throws, and says why
    return {};
}

#endif

}  // namespace rotkv::tools
