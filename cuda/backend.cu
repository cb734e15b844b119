// The backend "cuda": memory and a stream of one device, and what it supports.
#include "cuda/backend.h"
#include "cuda/call_words.h"
#include "cuda/choose.h"
#include "cuda/device.cuh"
#include "cuda/entry.h"
#include "cuda/foreign_memory.h"
#include "cuda/fusion.h"
#include "cuda/split_product.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

namespace rotkv {

using cuda::require_success;

namespace {

constexpr int64_t k_most_elements = int64_t(1) << 31;  // threads have 32-bit numbers

// Small uploads wait here for the device.
constexpr std::size_t k_staging_bytes = 1 << 20;

Support refusal(const std::string& reason) { return {false, reason}; }

// The first that is a no.
template <class... More>
Support all(const Support& first, const More&... more) {
    if constexpr (sizeof...(more) == 0) {
        return first;
    } else {
        return first.yes ? all(more...) : first;
    }
}

Support countable(const char* what, const TensorView& tensor) {
    const int64_t whole_blocks = (tensor.n[3] + 31) / 32 * 32;
    if (tensor.rows() <= k_most_elements / std::max<int64_t>(1, whole_blocks)) return {};
    return refusal(std::string(what) + ": at most 2^31 elements, found " + describe(tensor));
}

Support small_block(const char* what, const Rotation& rotation) {
    if (!rotation.on() || rotation.block <= cuda::k_largest_block) return {};
    return refusal(std::string(what) + ": blocks of at most " +
                   std::to_string(cuda::k_largest_block) + " channels, found " +
                   std::to_string(rotation.block));
}

Support short_row(const char* what, const TensorView& tensor) {
    if (tensor.n[3] <= cuda::k_largest_row) return {};
    return refusal(std::string(what) + ": rows of at most " + std::to_string(cuda::k_largest_row) +
                   " channels, found " + std::to_string(tensor.n[3]));
}

Support at_most(int64_t most, const char* what, int64_t found) {
    if (found <= most) return {};
    return refusal("at most " + std::to_string(most) + " " + what + ", found " +
                   std::to_string(found));
}

// What the kernels cannot do, operation by operation.
struct Answers {
    const cuda::DeviceLimits& device;

    Support operator()(const HadamardArgs& args) const {
        return all(countable("src", args.src), small_block("rotation", args.rotation));
    }
    Support operator()(const QuantizeArgs& args) const { return countable("src", args.src); }
    Support operator()(const DequantizeArgs& args) const { return countable("dst", args.dst); }
    Support operator()(const RopeArgs& args) const { return countable("src", args.src); }
    Support operator()(const KvStoreArgs& args) const {
        return all(countable("k", args.k), countable("v", args.v),
                   small_block("K", args.k_rotation), small_block("V", args.v_rotation));
    }
    Support operator()(const KvShiftArgs& args) const {
        return all(countable("K", args.k_cache), short_row("K", args.k_cache),
                   small_block("K", args.k_rotation));
    }
    Support operator()(const ConvStepArgs& args) const {
        return all(countable("src", args.src),
                   at_most(cuda::k_most_taps, "inputs to a sum", args.weight.n[3]),
                   at_most(cuda::k_most_blocks, "streams", args.state.n[1]));
    }
    Support operator()(const DeltaStepArgs& args) const {
        return all(countable("v", args.v),
                   at_most(cuda::k_most_key_channels, "channels of a head", args.v.n[3]),
                   at_most(cuda::k_most_blocks, "heads", args.v.n[2]),
                   at_most(cuda::k_most_blocks, "streams", args.state.n[0]));
    }
    Support operator()(const AttentionArgs& args) const {
        const Support shapes =
            all(countable("q", args.q), countable("dst", args.dst),
                small_block("K", args.k_rotation), small_block("V", args.v_rotation));
        if (!shapes.yes) return shapes;
        const std::string reason = cuda::attention_refusal(args, device);
        return reason.empty() ? Support{} : refusal(reason);
    }
    Support operator()(const RmsNormArgs& args) const { return countable("src", args.src); }
    Support operator()(const LayerNormArgs& args) const { return countable("src", args.src); }
    Support operator()(const ScaleArgs& args) const { return countable("src", args.src); }
    Support operator()(const ActMulArgs& args) const { return countable("dst", args.dst); }
    Support operator()(const AddArgs& args) const { return countable("dst", args.dst); }
    Support operator()(const RouteArgs& args) const {
        return all(countable("logits", args.logits),
                   at_most(cuda::k_most_experts, "experts", args.logits.n[3]));
    }
    Support operator()(const ExpertMatmulArgs& args) const {
        return all(at_most(cuda::k_most_expert_rows, "rows of an expert", args.weight.n[2]),
                   countable("src", args.src), countable("dst", args.dst),
                   at_most(cuda::k_most_experts, "experts", args.weight.n[1]));
    }
    Support operator()(const ExpertSumArgs& args) const { return countable("src", args.src); }
    Support operator()(const EmbedArgs& args) const { return countable("dst", args.dst); }
    Support operator()(const MatmulArgs& args) const {
        return all(countable("src", args.src), countable("dst", args.dst));
    }
    Support operator()(const NllArgs& args) const { return countable("hidden", args.hidden); }
    Support operator()(const KldArgs& args) const { return countable("hidden", args.hidden_a); }
    Support operator()(const LogitsArgs& args) const { return countable("dst", args.dst); }
    Support operator()(const MergeArgs& args) const { return countable("dst", args.dst); }
    Support operator()(const TurnArgs& args) const {
        return all(countable("src", args.src),
                   at_most(cuda::k_most_turned_channels, "channels", args.src.n[3]));
    }
};

// One thread of the process at a time launches or records: a kernel's attributes are the process's,
// so that what one sets for its launch another must not change before it; and cuBLAS, as it starts
// and ends, waits for the device, which would end another's recording.
std::mutex& launching() {
    static std::mutex one_at_a_time;
    return one_at_a_time;
}

// Off, unless it says 1.
bool wants_sync() {
    const char* value = std::getenv("ROTKV_CUDA_SYNC");
    const std::string text = value == nullptr ? "" : value;
    if (text.empty() || text == "0" || text == "1") return text == "1";
    throw Error(ErrorCode::usage, "ROTKV_CUDA_SYNC: expected 0 or 1, found '" + text + "'");
}

// The thread's current device, if it can be used.
int usable_device() {
    int devices = 0, device = 0, major = 0;
    const cudaError_t result = cudaGetDeviceCount(&devices);
    if (result != cudaSuccess || devices == 0) {
        cuda::ignore(result);
        const char* why = result != cudaSuccess ? cudaGetErrorString(result) : "none is visible";
        throw Error(ErrorCode::unsupported, std::string("no CUDA device: ") + why);
    }
    require_success(cudaGetDevice(&device), "device");
    require_success(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                    "device");
    if (major >= 8) return device;
    throw Error(ErrorCode::unsupported,
                "no CUDA device: expected compute capability 8.0 or more, found " +
                    std::to_string(major) + ".x");
}

}  // namespace

cuda::OnDevice::OnDevice(int device) {
    require_success(cudaGetDevice(&before_), "device");
    if (before_ == device) return;
    require_success(cudaSetDevice(device), "device");
    changed_ = true;
}

cuda::OnDevice::~OnDevice() {
    if (changed_) ignore(cudaSetDevice(before_));
}

// Every member owns what it has: if a later one cannot be made, nothing stays behind.
CudaBackend::CudaBackend() : sync_(wants_sync()), device_(usable_device()) {
    // Ordered with the default stream: kernels launched there, by tests, wait and are waited for.
    cuda::Stream stream = nullptr;
    require_success(cudaStreamCreate(&stream), "stream");
    stream_.reset(stream);
    workspace_.create();
    products_ = std::make_unique<cuda::Products>(stream, workspace_);
    staging_ = cuda::allocate_pinned(k_staging_bytes + k_max_logit_rows * sizeof(int32_t));
}

CudaBackend::~CudaBackend() {
    const std::lock_guard turn(launching());
    try {
        const cuda::OnDevice here(device_);
        cuda::ignore(cudaStreamSynchronize(stream_.get()));
        recorder_.forget();
        products_.reset();
        workspace_.destroy();
        staging_.reset();
        stream_.reset();
    } catch (const Error&) {  // after a fault; the members' ends drop the rest
    }
}

// Of every public call: alone, on the backend's device, and not after a fault.
template <class Body>
auto CudaBackend::enter(const Body& body) {
    const cuda::Alone alone(in_use_);
    require_sound();
    try {
        const cuda::OnDevice here(device_);
        return body();
    } catch (const cuda::Failure& failure) {
        if (!failure.fault()) throw;
        fault_ = failure.reason();
        const char* hint = sync_ ? "" : " (ROTKV_CUDA_SYNC=1 names the operation)";
        throw cuda::Failure(fault_ + hint, true);
    }
}

void CudaBackend::require_sound() const {
    if (fault_.empty()) return;
    throw cuda::Failure("this process has lost the device, since: " + fault_, true);
}

std::string CudaBackend::description() const {
    const cuda::OnDevice here(device_);
    cudaDeviceProp device;
    int runtime = 0;
    require_success(cudaGetDeviceProperties(&device, device_), "device");
    require_success(cudaRuntimeGetVersion(&runtime), "version");
    return std::string(device.name) + ", compute capability " + std::to_string(device.major) + "." +
           std::to_string(device.minor) + ", CUDA " + std::to_string(runtime / 1000) + "." +
           std::to_string(runtime % 1000 / 10);
}

// On whole 16 bytes, which kernels may copy at once; of no bytes not null, which is no buffer.
std::byte* CudaBackend::allocate(std::size_t bytes) {
    return enter([&] { return cuda::allocate(std::max<std::size_t>((bytes + 15) / 16 * 16, 16)); });
}

// Called from destructors: what went wrong is for the next wait to report.
void CudaBackend::free_memory(std::byte* memory) {
    const cuda::Alone alone(in_use_, cuda::Alone::Wait{});
    const auto attempt = [&](const auto& step) {
        try {
            const cuda::OnDevice here(device_);
            step();
        } catch (...) {
            if (failure_ == nullptr) failure_ = std::current_exception();
        }
    };
    attempt([&] { launch_kept(); });  // some may use it
    attempt([&] { cuda::release(memory); });
}

std::byte* CudaBackend::import_device(void* memory, std::size_t bytes, cuda::Stream theirs) {
    return enter([&] {
        cuda::require_usable(memory, bytes, device_);
        launch_kept();  // those are older
        cuda::put_in_order(theirs, stream_.get());
        return static_cast<std::byte*>(memory);
    });
}

std::byte* CudaBackend::import(std::span<const std::byte> bytes) {
    return import_copy(*this, bytes);
}

void CudaBackend::upload(std::byte* dst, std::span<const std::byte> src) {
    enter([&] { copy_in(dst, src); });
}

// Small uploads (positions, tokens, targets) go through memory that the device reads by itself, and
// nobody waits for them, until there have been so many since the last wait that it is full.
void CudaBackend::copy_in(std::byte* dst, std::span<const std::byte> src) {
    flush();
    if (src.empty()) return;
    const bool small = src.size() <= k_staging_bytes;
    if (small && staged_ + src.size() > k_staging_bytes) wait();
    const std::byte* from = src.data();
    if (small) {
        std::memcpy(staging_.get() + staged_, src.data(), src.size());
        from = staging_.get() + staged_;
        staged_ += src.size();
    }
    require_success(cudaMemcpyAsync(dst, from, src.size(), cudaMemcpyHostToDevice, stream_.get()),
                    "upload");
    if (!small) wait();
}

void CudaBackend::download(std::span<std::byte> dst, const std::byte* src) {
    enter([&] {
        flush();
        if (dst.empty()) return;
        require_success(
            cudaMemcpyAsync(dst.data(), src, dst.size(), cudaMemcpyDeviceToHost, stream_.get()),
            "download");
        wait();
    });
}

void CudaBackend::synchronize() {
    enter([&] {
        flush();
        wait();
    });
}

void CudaBackend::choose_words(const TensorView& logits, double temperature,
                               std::span<const double> u, std::span<int32_t> words) {
    enter([&] {
        flush();
        cuda::choose_words(logits, temperature, u, staging_.get() + k_staging_bytes, stream_.get());
        wait();
        std::memcpy(words.data(), staging_.get() + k_staging_bytes, words.size_bytes());
    });
}

void CudaBackend::wait() {
    require_success(cudaStreamSynchronize(stream_.get()), "wait");
    staged_ = 0;
}

void CudaBackend::execute(const Call& call) {
    if (sync_) return enter([&] { run_alone(call); });
    const cuda::Alone alone(in_use_);
    require_sound();
    recorder_.add(call);
}

// Calls of a recording have passed once; asking again takes a tenth of a token's time.
bool CudaBackend::execute_again(const Call& call) {
    {
        const cuda::Alone alone(in_use_);
        require_sound();
        if (!recorder_.follow(call)) return false;
        if (!recorder_.has_first()) return true;
    }
    enter([&] {
        const std::lock_guard turn(launching());
        recorder_.play_first(stream_.get());
    });
    return true;
}

void CudaBackend::run_alone(const Call& call) {
    flush();  // for what free_memory() left to report
    try {
        {
            const std::lock_guard turn(launching());
            cuda::launch({&call, 1}, workspace_, *products_);
        }
        wait();
    } catch (const cuda::Failure& failure) {
        if (!failure.fault()) throw;
        throw cuda::Failure(cuda::words_of(call) + ": " + failure.reason(), true);
    }
}

void CudaBackend::flush() {
    if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
    launch_kept();
}

void CudaBackend::launch_kept() {
    if (recorder_.empty()) return;
    const std::lock_guard turn(launching());
    try {
        recorder_.play(stream_.get(), [&](std::span<const Call> calls) {
            cuda::launch(calls, workspace_, *products_);
        });
    } catch (...) {
        forget_if_moved();
        throw;
    }
    forget_if_moved();
}

// Launches recorded before would use memory that is gone.
void CudaBackend::forget_if_moved() {
    if (products_->moves() == moves_) return;
    recorder_.forget();
    moves_ = products_->moves();
}

Support CudaBackend::answer(const Call& call) const {
    return std::visit(Answers{workspace_}, call);
}

std::unique_ptr<Backend> make_cuda_backend(int /*threads*/) {
    return std::make_unique<CudaBackend>();
}

std::vector<std::string> cuda::list_paths() {
    const DeviceLimits device = current_device();
    std::vector<std::string> lines = list_attention_paths(device);
    for (const std::string& line : list_product_paths(device)) lines.push_back(line);
    return lines;
}

}  // namespace rotkv
