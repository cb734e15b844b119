#pragma once
// What a kernel's thread knows and asks of the threads beside it. A thread of the GPU is a lane:
// 32 lanes are a simdgroup, some simdgroups a threadgroup. Lanes meet (an exchange of values, a
// barrier) or return, and all lanes concerned do the same at the same place of the text; where
// they do not, the dispatch fails and says who waited where.
// The functions are written twice: lanes.cpp runs lanes in turns, as fibers; lanes_threads.cpp,
// under ThreadSanitizer, as threads of the system, so that it sees what no barrier orders.
// Docs: docs/22-metal.md

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#define ROTKV_EMUL_THREADS
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ROTKV_EMUL_THREADS
#endif
#endif

namespace rotkv::metal::emul {

constexpr unsigned k_lanes = 32;              ///< of a simdgroup, as on all of Apple's GPUs
constexpr unsigned k_most_threads = 1024;     ///< of a threadgroup
constexpr std::size_t k_most_memory = 32768;  ///< of a threadgroup, in bytes
constexpr std::size_t k_memory_unit = 16;     ///< of which threadgroup memory is a multiple
constexpr unsigned char k_unwritten = 0xFF;   ///< what it holds at first: no number

struct Extent {
    unsigned x = 1, y = 1, z = 1;

    std::size_t count() const { return std::size_t(x) * y * z; }
};

/// Where a lane waits, for the error that names it.
struct Place {
    const char* what;
    const char* file;
    int line;

    bool operator==(const Place& other) const { return line == other.line && what == other.what; }
    std::string text() const;  ///< "simd_sum at hadamard.metal:12"
};

/// What is wrong with a dispatch that began: lanes that part, a value of a lane that has none.
class Fault : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// One thread of a dispatch.
struct Lane {
    Extent threadgroup{0, 0, 0};         ///< position in the grid
    unsigned index = 0;                  ///< in the threadgroup
    std::byte* const* memory = nullptr;  ///< of the threadgroup, one for each argument

    unsigned in_simdgroup() const { return index % k_lanes; }
    unsigned simdgroup() const { return index / k_lanes; }
};

/// What every lane runs: a function and what it is called with.
struct Work {
    void (*call)(const void* context, const Lane& lane) = nullptr;
    const void* context = nullptr;
    Extent groups, threads;
    std::vector<std::size_t> memory;  ///< bytes for each threadgroup argument
};

/// Runs all threadgroups of a dispatch, one after the other. Throws Fault.
void run_lanes(const Work& work);

// For kernels, while they run:

/// The calling lane.
const Lane& this_lane();

/// Every lane of the simdgroup brings a value; what they have brought, in their order, valid until
/// the lane's next meeting.
const uint64_t* exchange(const Place& place, uint64_t value);

/// The same of four numbers each; all lanes of a whole simdgroup have some.
struct Four {
    float x[4];
};
const Four* exchange_four(const Place& place, const Four& values);

/// A lane's part of an exchange. Fails where the simdgroup has no such lane.
uint64_t part_of(const uint64_t* values, const Place& place, unsigned lane);

/// Waits for all lanes of the threadgroup.
void meet(const Place& place);

/// "fibers" or "threads".
const char* kind_of_lanes();

}  // namespace rotkv::metal::emul
