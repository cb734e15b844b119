#pragma once
// The border between C and C++: exceptions become status codes, pointers are looked at before they
// are used, texts go out, handles take turns.
// Docs: docs/25-bindings.md

#include "ref/backend.h"
#include "ref/error.h"
#include "tools/bindings/rotkv.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>

namespace rotkv::bindings {

/// A callback asked for an end.
struct Cancelled {};

/// Runs the body of a C function under IEEE's rules for denormal numbers. What it throws becomes
/// the status, its words those of rotkv_last_error().
rotkv_status at_border(void (*call)(const void* body), const void* body) noexcept;
template <class Body>
rotkv_status at_border(const Body& body) noexcept {
    return at_border([](const void* one) { (*static_cast<const Body*>(one))(); }, &body);
}

[[noreturn]] void refuse(const std::string& what, const std::string& expected,
                         const std::string& found);

/// What a pointer leads to. Throws Error(bad_argument) that names the argument where it is null.
template <class T>
T& needed(T* pointer, const char* name) {
    if (pointer == nullptr) refuse(name, "a pointer", "null");
    return *pointer;
}

/// That there is one, where what it leads to has no type.
inline void require_pointer(const void* pointer, const char* name) {
    if (pointer == nullptr) refuse(name, "a pointer", "null");
}

/// A text of the caller's.
inline std::string text_at(const char* text, const char* name) { return &needed(text, name); }

/// A text of so many bytes, at most 2^31 - 1.
std::string_view text_of(const char* text, std::size_t bytes);

/// `count` elements of the caller's. Throws Error(bad_argument) for null where there are some, for
/// a count below 0 or of more bytes than there are addresses.
template <class T>
std::span<T> elements(T* data, int64_t count, const char* name) {
    constexpr int64_t most = INT64_MAX / int64_t(sizeof(T));
    if (count < 0 || count > most) {
        refuse(name, "0 to " + std::to_string(most) + " elements", std::to_string(count));
    }
    if (count > 0) needed(data, name);
    return {data, std::size_t(count)};
}

/// A number from `least` to `most`.
void require_number(const char* name, int64_t value, int64_t least, int64_t most);

/// A struct of a caller that may be older: what he does not know is 0. Throws Error(bad_argument)
/// for a size that is 0 or larger than is known here.
template <class Struct>
Struct known_part(const Struct* given, const char* name) {
    static_assert(std::is_trivially_copyable_v<Struct>);
    const std::size_t size = needed(given, name).size;
    if (size < sizeof size || size > sizeof(Struct)) {
        refuse(std::string(name) + ".size", "at most sizeof = " + std::to_string(sizeof(Struct)),
               std::to_string(size));
    }
    Struct known{};
    std::memcpy(static_cast<void*>(&known), given, size);
    return known;
}

/// The same for a struct that is given out: no more of it is written than the caller knows.
template <class Struct>
void give_struct(Struct* to, Struct value, const char* name) {
    value.size = known_part(to, name).size;
    std::memcpy(static_cast<void*>(to), &value, value.size);
}

/// Gives out a text and its length.
void give_text(const std::string& words, char* text, std::size_t capacity, std::size_t* length);

/// Gives out a list, if `capacity` elements hold it, and its length in any case.
template <class T>
void give_list(std::span<const T> list, T* to, int64_t capacity, int64_t* count, const char* name) {
    needed(count, "count") = int64_t(list.size());
    const std::span<T> room = elements(to, capacity, name);
    if (to == nullptr) return;
    if (room.size() < list.size()) {
        refuse(name, "room for " + std::to_string(list.size()), std::to_string(capacity));
    }
    std::ranges::copy(list, room.begin());
}

/// A backend that several handles may share, and whose turn it is.
struct OpenBackend {
    std::unique_ptr<Backend> backend;
    std::mutex busy;
    std::atomic<std::thread::id> owner{};
};

/// One call's turn on a backend. Throws Error(bad_argument) where the calling thread has it
/// already.
class Turn {
  public:
    explicit Turn(OpenBackend& open);
    ~Turn() {
        open_.owner = std::thread::id();
        open_.busy.unlock();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    Backend& backend() const { return *open_.backend; }

  private:
    OpenBackend& open_;
};

/// The backend of a handle; the thread's own ref for null.
std::shared_ptr<OpenBackend> backend_of(rotkv_backend* handle);

/// make_backend() behind a handle; threads 0: all cores.
std::shared_ptr<OpenBackend> open_backend(const char* name, int32_t threads);

}  // namespace rotkv::bindings

struct rotkv_backend {
    std::shared_ptr<rotkv::bindings::OpenBackend> open;
};
