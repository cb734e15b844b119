#include "tools/bindings/border.h"

#include "ref/kernels.h"
#include "tools/backends.h"

#include <cfenv>
#include <exception>
#include <new>
#include <stdexcept>

namespace rotkv::bindings {

static thread_local std::string last_error;

static rotkv_status status_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::bad_argument:
            return ROTKV_BAD_ARGUMENT;
        case ErrorCode::unsupported:
            return ROTKV_UNSUPPORTED;
        case ErrorCode::bad_file:
            return ROTKV_BAD_FILE;
        case ErrorCode::io:
            return ROTKV_IO;
        case ErrorCode::usage:
            return ROTKV_USAGE;
    }
    return ROTKV_INTERNAL;
}

static rotkv_status run_and_judge(void (*call)(const void* body), const void* body) {
    const auto failed = [](rotkv_status status, const char* words) {
        last_error = words;
        return status;
    };
    try {
        call(body);
        last_error.clear();
        return ROTKV_OK;
    } catch (const Error& error) {
        return failed(status_of(error.code()), error.what());
    } catch (const Cancelled&) {
        return failed(ROTKV_CANCELLED, "cancelled by the callback");
    } catch (const std::bad_alloc&) {
        return failed(ROTKV_NO_MEMORY, "out of memory");
    } catch (const std::length_error&) {
        return failed(ROTKV_NO_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        return failed(ROTKV_INTERNAL, error.what());
    } catch (...) {
        return failed(ROTKV_INTERNAL, "an exception without words");
    }
}

rotkv_status at_border(void (*call)(const void* body), const void* body) noexcept {
    std::fenv_t outside;
    std::fegetenv(&outside);
    std::fesetenv(FE_DFL_ENV);
    const rotkv_status status = run_and_judge(call, body);
    std::fesetenv(&outside);
    return status;
}

void refuse(const std::string& what, const std::string& expected, const std::string& found) {
    throw Error(ErrorCode::bad_argument, what + ": expected " + expected + ", found " + found);
}

void require_number(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return;
    refuse(name, std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
}

std::string_view text_of(const char* text, std::size_t bytes) {
    require_number("bytes", int64_t(bytes), 0, INT32_MAX);
    const std::span<const char> all = elements(text, int64_t(bytes), "text");
    return {all.data(), all.size()};
}

void give_text(const std::string& words, char* text, std::size_t capacity, std::size_t* length) {
    if (text == nullptr && length == nullptr) refuse("text", "a pointer, or one to length", "null");
    if (length != nullptr) *length = words.size();
    if (text == nullptr) {
        if (capacity > 0) refuse("text", "a pointer", "null");
        return;
    }
    if (capacity <= words.size()) {
        refuse("capacity", "room for " + std::to_string(words.size()) + " bytes and a 0",
               std::to_string(capacity));
    }
    std::memcpy(text, words.c_str(), words.size() + 1);
}

Turn::Turn(OpenBackend& open) : open_(open) {
    require(open.owner != std::this_thread::get_id(), ErrorCode::bad_argument,
            "called from a callback of the same backend, which has the turn");
    open.busy.lock();
    open.owner = std::this_thread::get_id();
}

std::shared_ptr<OpenBackend> backend_of(rotkv_backend* handle) {
    if (handle != nullptr) return handle->open;
    static thread_local std::shared_ptr<OpenBackend> own;
    if (own == nullptr) {
        own = std::make_shared<OpenBackend>();
        own->backend = make_ref_backend();
    }
    return own;
}

std::shared_ptr<OpenBackend> open_backend(const char* name, int32_t threads) {
    require_number("threads", threads, 0, 1024);
    const int cores = std::max(1, int(std::thread::hardware_concurrency()));
    auto open = std::make_shared<OpenBackend>();
    open->backend =
        tools::make_backend(name == nullptr ? "" : name, threads == 0 ? cores : threads);
    return open;
}

}  // namespace rotkv::bindings

const char* rotkv_last_error(void) { return rotkv::bindings::last_error.c_str(); }

const char* rotkv_status_name(int status) {
    constexpr const char* names[] = {"ok",    "bad argument", "unsupported", "bad file", "io",
                                     "usage", "no memory",    "cancelled",   "internal"};
    return status >= 0 && status < int(std::size(names)) ? names[status] : "no status";
}
