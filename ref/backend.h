#pragma once
// THE INTERFACE: class Backend, which every room (ref, fast, cuda, metal) derives, and memory that
// it owns. Every call goes: check(call) -> supports(call) -> the backend; one that equals a call
// that has gone this way may go straight to the backend. Docs: docs/08-backends.md

#include "ref/ops.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <variant>
#include <vector>

namespace rotkv {

/// Yes, or no with a reason.
struct Support {
    bool yes = true;
    std::string reason;
};

/// Memory and operations of one kind of processor.
/// Operations may be asynchronous and run in the order of their calls; download() waits for them.
///
/// Threads. A backend, with all that lies in its memory, is one thread's at a time; it may be
/// another's afterwards. name(), description(), in_host_memory(), supports() and
/// require_supported() change nothing: any thread may call them at any time. Different backends may
/// be in different threads at once, also two of one kind.
class Backend {
  public:
    virtual ~Backend() = default;
    virtual std::string name() const = 0;         ///< "ref", "fast", "cuda", ...
    virtual std::string description() const = 0;  ///< one line: instruction set, threads, device

    // Memory. import() makes existing bytes (a mapped file) readable for operations: host backends
    // may alias them, devices copy; they are released by free_memory().
    virtual std::byte* allocate(std::size_t bytes) = 0;
    virtual void free_memory(std::byte* memory) = 0;
    virtual std::byte* import(std::span<const std::byte> bytes) = 0;
    virtual void upload(std::byte* dst, std::span<const std::byte> src) = 0;
    virtual void download(std::span<std::byte> dst, const std::byte* src) = 0;
    virtual void synchronize() = 0;

    /// Is its memory the host's, so that import() may alias?
    virtual bool in_host_memory() const = 0;

    /// task(0) .. task(tasks - 1) on the host, each once, in any order and any of its threads: what
    /// has no kernel. One after the other here. A task does not call this backend.
    virtual void on_host(int64_t tasks, const std::function<void(int64_t)>& task);

    /// Can the call be run? Its data pointers may be null. Rows of a block type must be whole
    /// blocks everywhere; the rest is the backend's own answer.
    Support supports(const Call& call) const;

    /// Throws: as check(); Error(unsupported) with the reason of supports(): no other path or
    ///         backend is taken in silence.
    void require_supported(const Call& call) const;

    /// Runs one operation. Throws as require_supported(), before anything is computed. Rows of
    /// formats without kernels (FormatRows) are seen to here, behind the operation.
    void run(const Call& call);

  protected:
    /// What this backend cannot do, although rows are whole blocks.
    virtual Support answer(const Call& call) const = 0;

    /// The operation itself: `call` has passed check() and supports().
    virtual void execute(const Call& call) = 0;

    /// A call may equal one that has passed before: whether it passes follows from the call alone.
    /// A backend that knows such calls runs them here and returns true; nothing is asked again.
    virtual bool execute_again(const Call& /*call*/) { return false; }
};

/// What a room has written: one function for each struct that it takes.
template <class... Args>
struct Operations {
    std::tuple<void (*)(const Args&)...> functions;

    constexpr Operations(void (*... function)(const Args&)) : functions(function...) {}

    template <class One>
    static constexpr bool has = (std::is_same_v<One, Args> || ...);

    /// Yes, or no because there is no function.
    Support written(const Call& call) const {
        return std::visit(
            [](const auto& args) -> Support {
                if constexpr (has<std::decay_t<decltype(args)>>) return {};
                return {false, "not written here"};
            },
            call);
    }

    /// Calls the function; none where there is none.
    void run(const Call& call) const {
        std::visit(
            [this](const auto& args) {
                using One = std::decay_t<decltype(args)>;
                if constexpr (has<One>) std::get<void (*)(const One&)>(functions)(args);
            },
            call);
    }
};

/// What the factors of an operation's products with weights may be rounded to.
Precision precision_of_products(const Call& call);

/// No with a reason for products or attention with rounded factors (Precision).
Support unrounded_only(const Call& call);

/// What import() does where memory is not the host's: a copy. Throws as allocate() and upload(),
/// and nothing is left behind then.
std::byte* import_copy(Backend& backend, std::span<const std::byte> bytes);

/// A block of a backend's memory, freed with the object.
class Buffer {
  public:
    Buffer() = default;
    Buffer(Backend& backend, std::size_t bytes);
    ~Buffer();
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;

    std::byte* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }

    /// A view of the block's beginning. Throws Error(bad_argument) if it is larger than the block.
    TensorView view(DType type, std::initializer_list<int64_t> extents) const;

    void upload(std::span<const std::byte> src) const;
    void download(std::span<std::byte> dst) const;

  private:
    Backend* backend_ = nullptr;
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
};

/// What lies from a view's first element to its last, on the host, gaps included.
template <class E>
std::vector<E> contents(Backend& backend, const TensorView& tensor) {
    std::vector<E> values(std::size_t(span_bytes(tensor)) / sizeof(E));
    backend.download(std::as_writable_bytes(std::span(values)), tensor.data);
    return values;
}

}  // namespace rotkv
