#include "ref/files/partial_names.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

namespace rotkv {

// A signal may come at any time and on any thread: whoever takes a name out of its place owns it.
// Places are never freed, only used again, so that a handler can walk along them. A place is its
// keeper's until forget_name(), whatever a handler took out of it.
struct PartialName {
    std::atomic<char*> name = nullptr;
    std::atomic<char*> removed = nullptr;  // no handler may free: who comes next does
    PartialName* next = nullptr;
    PartialName* next_free = nullptr;
};

static std::atomic<PartialName*> first_place = nullptr;
static_assert(std::atomic<char*>::is_always_lock_free, "a signal handler uses them");

// A dump has tens of thousands of names: a free place is not searched for. No handler comes here.
static std::mutex free_places;
static PartialName* first_free = nullptr;

static PartialName* free_place() {
    const std::lock_guard lock(free_places);
    PartialName* place = first_free;
    if (place != nullptr) first_free = place->next_free;
    return place;
}

PartialName* keep_name(const std::string& name) {
    char* copy = new char[name.size() + 1];
    std::memcpy(copy, name.c_str(), name.size() + 1);
    if (PartialName* place = free_place()) {
        place->name = copy;
        return place;
    }
    auto* place = new PartialName;
    place->name = copy;
    place->next = first_place;
    while (!first_place.compare_exchange_weak(place->next, place)) {
    }
    return place;
}

void forget_name(PartialName* kept) noexcept {
    if (kept == nullptr) return;
    delete[] kept->name.exchange(nullptr);
    delete[] kept->removed.exchange(nullptr);
    const std::lock_guard lock(free_places);
    kept->next_free = first_free;
    first_free = kept;
}

void remove_partial_files() noexcept {
    constexpr int k_deepest = 3;  // files, the folders they were in, the folder of these
    for (int pass = 0; pass < k_deepest; ++pass) {
        for (PartialName* place = first_place; place != nullptr; place = place->next) {
            char* name = place->name.exchange(nullptr);
            if (name == nullptr) continue;
            const bool full = unlink(name) != 0 && rmdir(name) != 0 && errno != ENOENT;
            (full ? place->name : place->removed) = name;
        }
    }
}

}  // namespace rotkv
