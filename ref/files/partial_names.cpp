#include "ref/files/partial_names.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace rotkv {

// A signal may come at any time and on any thread: whoever takes a name out of its place owns it.
// Places are never freed, only used again, so that a handler can walk along them.
struct PartialName {
    std::atomic<char*> name = nullptr;
    std::atomic<char*> removed = nullptr;  // no handler may free: who comes next does
    PartialName* next = nullptr;
};

static std::atomic<PartialName*> first_place = nullptr;
static_assert(std::atomic<char*>::is_always_lock_free, "a signal handler uses them");

PartialName* keep_name(const std::string& name) {
    char* copy = new char[name.size() + 1];
    std::memcpy(copy, name.c_str(), name.size() + 1);
    for (PartialName* place = first_place; place != nullptr; place = place->next) {
        char* empty = nullptr;
        if (!place->name.compare_exchange_strong(empty, copy)) continue;
        delete[] place->removed.exchange(nullptr);
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
    if (kept != nullptr) delete[] kept->name.exchange(nullptr);
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
