// Lanes as fibers on the calling thread. Within a simdgroup they take turns in a ring: who has to
// wait passes control to the next lane, and the last one to come goes on at once, so that a meeting
// costs one change of fibers a lane, and who runs first differs from meeting to meeting. Simdgroups
// take turns at barriers of the threadgroup, from the first to the last and back.
#include "metal/emul/lanes.h"

#include "metal/emul/fiber.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace rotkv::metal::emul {

std::string Place::text() const {
    const std::string path = file;
    return std::string(what) + " at " + path.substr(path.rfind('/') + 1) + ":" +
           std::to_string(line);
}

#ifndef ROTKV_EMUL_THREADS

namespace {

constexpr std::size_t k_page = 4096;
constexpr std::size_t k_stack = 32 * k_page;  // the lowest page is closed: too deep is a fault

// One mapping for all stacks, made once for each thread that runs lanes; what nobody touches costs
// no memory.
class Stacks {
  public:
    Stacks() {
        void* const mapped = mmap(nullptr, k_stack * k_most_threads, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        begin_ = static_cast<std::byte*>(mapped);
        for (unsigned i = 0; i < k_most_threads; ++i)
            mprotect(begin_ + i * k_stack, k_page, PROT_NONE);
    }
    ~Stacks() { munmap(begin_, k_stack * k_most_threads); }
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    std::byte* of(unsigned lane) const { return begin_ + lane * k_stack + k_page; }

  private:
    std::byte* begin_;
};

struct Thread {
    Lane lane;
    Fiber fiber;
    Place waits{};
};

struct Simdgroup {
    unsigned first = 0, lanes = 0;  // in the threadgroup
    unsigned next = 0;              // the lane that goes on when the simdgroup is resumed
    unsigned waiting = 0, returned = 0;
    unsigned turn = 0;  // of meetings: values of two of them are kept
    uint64_t values[2][k_lanes];
    Four fours[2][k_lanes];
    bool at_barrier = false;

    bool done() const { return returned == lanes; }
};

class Threadgroup {
  public:
    explicit Threadgroup(const Work& work);
    void run(const Extent& position);

    // What lanes call, on their own stacks:
    const uint64_t* exchange(const Place& place, uint64_t value);
    const Four* exchange_four(const Place& place, const Four& values);
    void meet(const Place& place);
    [[noreturn]] void stop();  // with a failure; no string of the lane's own is left on its stack
    [[noreturn]] void run_lane();
    unsigned lanes_beside() { return own().lanes; }

    Thread* now = nullptr;
    std::string failure;  // what stopped a lane

  private:
    Simdgroup& own() { return simdgroups_[now->lane.simdgroup()]; }
    void pass_on();
    bool wait(const Place& place);
    unsigned turn_of_meeting();
    void start(const Extent& position);
    void resume(Simdgroup& simdgroup);
    void release();

    const Work& work_;
    std::vector<Thread> threads_;
    std::vector<Simdgroup> simdgroups_;
    std::vector<std::unique_ptr<std::byte[]>> memory_;
    std::vector<std::byte*> arguments_;
    Fiber scheduler_;
};

thread_local Threadgroup* k_running = nullptr;

void enter_lane() {
    Fiber::begun();
    k_running->run_lane();
}

Threadgroup::Threadgroup(const Work& work) : work_(work), threads_(work.threads.count()) {
    for (unsigned first = 0; first < threads_.size(); first += k_lanes) {
        Simdgroup simdgroup;
        simdgroup.first = first;
        simdgroup.lanes = std::min(k_lanes, unsigned(threads_.size()) - first);
        simdgroups_.push_back(simdgroup);
    }
    for (const std::size_t bytes : work.memory) {  // apart, so that AddressSanitizer sees borders
        memory_.push_back(std::make_unique<std::byte[]>(bytes));
        arguments_.push_back(memory_.back().get());
    }
}

void Threadgroup::start(const Extent& position) {
    static thread_local const Stacks stacks;
    for (std::size_t i = 0; i < memory_.size(); ++i) {
        std::memset(memory_[i].get(), k_unwritten, work_.memory[i]);
    }
    for (unsigned i = 0; i < threads_.size(); ++i) {
        threads_[i].lane = {position, i, arguments_.data()};
        threads_[i].fiber.prepare(stacks.of(i), k_stack - k_page, enter_lane);
    }
    for (Simdgroup& simdgroup : simdgroups_) {
        simdgroup.next = simdgroup.first;
        simdgroup.waiting = simdgroup.returned = simdgroup.turn = 0;
        simdgroup.at_barrier = false;
    }
}

void Threadgroup::run(const Extent& position) {
    start(position);
    bool backward = false;
    for (bool more = true; more; backward = !backward) {
        more = false;
        for (std::size_t i = 0; i < simdgroups_.size(); ++i) {
            Simdgroup& simdgroup = simdgroups_[backward ? simdgroups_.size() - 1 - i : i];
            if (simdgroup.done()) continue;
            resume(simdgroup);
            more = more || !simdgroup.done();
        }
        if (more) release();
    }
}

void Threadgroup::resume(Simdgroup& simdgroup) {
    now = &threads_[simdgroup.next];
    Fiber::change(scheduler_, now->fiber);
    if (!failure.empty()) throw Fault(failure);
}

// All simdgroups wait for the threadgroup or have returned: they must wait at one place.
void Threadgroup::release() {
    const Thread* first = nullptr;
    for (Simdgroup& simdgroup : simdgroups_) {
        const Thread& one = threads_[simdgroup.first];
        if (first == nullptr && simdgroup.at_barrier) first = &one;
        simdgroup.at_barrier = false;
    }
    for (const Simdgroup& simdgroup : simdgroups_) {
        const Thread& one = threads_[simdgroup.first];
        if (simdgroup.done()) {
            throw Fault("thread " + std::to_string(first->lane.index) + " waits for " +
                        first->waits.text() + ", thread " + std::to_string(one.lane.index) +
                        " has returned");
        }
        if (one.waits == first->waits) continue;
        throw Fault("thread " + std::to_string(first->lane.index) + " waits for " +
                    first->waits.text() + ", thread " + std::to_string(one.lane.index) + " for " +
                    one.waits.text());
    }
}

void Threadgroup::run_lane() {
    work_.call(work_.context, now->lane);
    Simdgroup& simdgroup = own();
    if (simdgroup.waiting > 0) {
        const Thread& other = threads_[simdgroup.next];
        failure = "thread " + std::to_string(other.lane.index) + " waits for " +
                  other.waits.text() + ", thread " + std::to_string(now->lane.index) +
                  " has returned";
        stop();
    }
    if (++simdgroup.returned < simdgroup.lanes) pass_on();
    Fiber::change(now->fiber, scheduler_);
    std::abort();  // nobody comes back to a lane that has returned
}

// To the next lane of the ring. It has not met the others yet: who has, passed control on.
void Threadgroup::pass_on() {
    Simdgroup& simdgroup = own();
    Thread& here = *now;
    const unsigned next = (here.lane.in_simdgroup() + 1) % simdgroup.lanes;
    now = &threads_[simdgroup.first + next];
    Fiber::change(here.fiber, now->fiber);
}

// Until all lanes of the simdgroup are at `place`. The last one to come does not wait: true.
bool Threadgroup::wait(const Place& place) {
    Simdgroup& simdgroup = own();
    now->waits = place;
    if (simdgroup.returned > 0) {
        failure = "thread " + std::to_string(now->lane.index) + " waits for " + place.text() +
                  ", another of its simdgroup has returned";
        stop();
    }
    if (simdgroup.waiting == 0) simdgroup.next = now->lane.index;
    const Thread& first = threads_[simdgroup.next];
    if (!(first.waits == place)) {
        failure = "thread " + std::to_string(first.lane.index) + " waits for " +
                  first.waits.text() + ", thread " + std::to_string(now->lane.index) + " for " +
                  place.text();
        stop();
    }
    if (++simdgroup.waiting < simdgroup.lanes) {
        pass_on();
        return false;
    }
    simdgroup.waiting = 0;
    simdgroup.next = now->lane.index;
    return true;
}

// Lanes are at most one meeting apart, so that two sets of values are enough.
unsigned Threadgroup::turn_of_meeting() {
    Simdgroup& simdgroup = own();
    return (simdgroup.waiting == 0 ? ++simdgroup.turn : simdgroup.turn) % 2;
}

const uint64_t* Threadgroup::exchange(const Place& place, uint64_t value) {
    uint64_t* const values = own().values[turn_of_meeting()];
    values[now->lane.in_simdgroup()] = value;
    wait(place);
    return values;
}

const Four* Threadgroup::exchange_four(const Place& place, const Four& of_lane) {
    if (own().lanes < k_lanes) {
        failure = place.text() + " in a simdgroup that is not whole";
        stop();
    }
    Four* const values = own().fours[turn_of_meeting()];
    values[now->lane.in_simdgroup()] = of_lane;
    wait(place);
    return values;
}

// Of each simdgroup the last lane to come hands over to the other simdgroups.
void Threadgroup::meet(const Place& place) {
    Thread& here = *now;
    if (!wait(place)) return;
    own().at_barrier = true;
    Fiber::change(here.fiber, scheduler_);
}

void Threadgroup::stop() {
    Fiber::change(now->fiber, scheduler_);
    std::abort();  // a threadgroup that has failed is not resumed
}

}  // namespace

void run_lanes(const Work& work) {
    Threadgroup threadgroup(work);
    struct Running {
        explicit Running(Threadgroup* one) { k_running = one; }
        ~Running() { k_running = nullptr; }
    } running(&threadgroup);
    for (unsigned z = 0; z < work.groups.z; ++z) {
        for (unsigned y = 0; y < work.groups.y; ++y) {
            for (unsigned x = 0; x < work.groups.x; ++x) threadgroup.run({x, y, z});
        }
    }
}

const Lane& this_lane() { return k_running->now->lane; }

const uint64_t* exchange(const Place& place, uint64_t value) {
    return k_running->exchange(place, value);
}

const Four* exchange_four(const Place& place, const Four& values) {
    return k_running->exchange_four(place, values);
}

uint64_t part_of(const uint64_t* values, const Place& place, unsigned lane) {
    const unsigned present = unsigned(k_running->lanes_beside());
    if (lane >= present) {
        k_running->failure = "thread " + std::to_string(this_lane().index) + " asks in " +
                             place.text() + " for lane " + std::to_string(lane) + " of " +
                             std::to_string(present);
        k_running->stop();
    }
    return values[lane];
}

void meet(const Place& place) { k_running->meet(place); }

const char* kind_of_lanes() { return "fibers"; }

#endif

}  // namespace rotkv::metal::emul
