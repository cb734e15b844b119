// Under ThreadSanitizer: a thread of the system for every lane, real barriers, and nothing else
// that orders what lanes do. Two lanes that touch a value without a barrier between are reported
// with their lines of the kernel's text, whatever order they happened to run in.
#include "metal/emul/lanes.h"

#ifdef ROTKV_EMUL_THREADS

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

namespace rotkv::metal::emul {

namespace {

// Where some lanes meet again and again. All must come to the same place.
class Meeting {
  public:
    explicit Meeting(unsigned lanes) : lanes_(lanes) {}

    // Throws Fault in every lane once one of them is elsewhere or has returned.
    void come(const Place& place, unsigned index) {
        std::unique_lock lock(mutex_);
        if (!fault_.empty()) throw Fault(fault_);
        if (returned_ > 0) {
            part(lock, "thread " + std::to_string(index) + " waits for " + place.text() +
                           ", thread " + std::to_string(last_returned_) + " has returned");
        }
        if (waiting_ > 0 && !(place == place_)) {
            part(lock, "thread " + std::to_string(index_) + " waits for " + place_.text() +
                           ", thread " + std::to_string(index) + " for " + place.text());
        }
        place_ = place;
        index_ = index;
        if (++waiting_ == lanes_) {
            waiting_ = 0;
            ++turn_;
            changed_.notify_all();
            return;
        }
        const unsigned turn = turn_;
        changed_.wait(lock, [&] { return turn_ != turn || !fault_.empty(); });
        if (turn_ == turn) throw Fault(fault_);
    }

    void leave(unsigned index) {
        std::unique_lock lock(mutex_);
        ++returned_;
        last_returned_ = index;
        if (waiting_ == 0 || !fault_.empty()) return;
        fault_ = "thread " + std::to_string(index_) + " waits for " + place_.text() + ", thread " +
                 std::to_string(index) + " has returned";
        changed_.notify_all();
    }

  private:
    [[noreturn]] void part(std::unique_lock<std::mutex>&, const std::string& fault) {
        fault_ = fault;
        changed_.notify_all();
        throw Fault(fault_);
    }

    const unsigned lanes_;
    std::mutex mutex_;
    std::condition_variable changed_;
    Place place_{};
    unsigned index_ = 0, waiting_ = 0, turn_ = 0, returned_ = 0, last_returned_ = 0;
    std::string fault_;
};

struct Simdgroup {
    explicit Simdgroup(unsigned n) : lanes(n), meeting(n) {}

    unsigned lanes;
    Meeting meeting;
    uint64_t values[2][k_lanes];
    Four fours[2][k_lanes];
};

struct Threadgroup {
    explicit Threadgroup(unsigned threads) : meeting(threads) {
        for (unsigned first = 0; first < threads; first += k_lanes) {
            simdgroups.push_back(std::make_unique<Simdgroup>(std::min(k_lanes, threads - first)));
        }
    }
    std::vector<std::unique_ptr<Simdgroup>> simdgroups;
    Meeting meeting;
};

struct Running {
    Threadgroup* group;
    Lane lane;
    unsigned turn = 0;

    Simdgroup& own() const { return *group->simdgroups[lane.simdgroup()]; }
};

thread_local Running* k_running = nullptr;

void run_threadgroup(const Work& work, const Extent& position) {
    const unsigned threads = unsigned(work.threads.count());
    Threadgroup group(threads);
    std::vector<std::unique_ptr<std::byte[]>> memory;
    std::vector<std::byte*> arguments;
    for (const std::size_t bytes : work.memory) {
        memory.push_back(std::make_unique<std::byte[]>(bytes));
        std::memset(memory.back().get(), k_unwritten, bytes);
        arguments.push_back(memory.back().get());
    }
    std::mutex mutex;
    std::string failure;
    std::vector<std::thread> lanes;
    for (unsigned i = 0; i < threads; ++i) {
        lanes.emplace_back([&, i] {
            Running running{&group, {position, i, arguments.data()}};
            k_running = &running;
            try {
                work.call(work.context, running.lane);
            } catch (const Fault& fault) {
                const std::lock_guard lock(mutex);
                if (failure.empty()) failure = fault.what();
            }
            running.own().meeting.leave(i);
            group.meeting.leave(i);
        });
    }
    for (std::thread& lane : lanes) lane.join();
    if (!failure.empty()) throw Fault(failure);
}

}  // namespace

void run_lanes(const Work& work) {
    for (unsigned z = 0; z < work.groups.z; ++z) {
        for (unsigned y = 0; y < work.groups.y; ++y) {
            for (unsigned x = 0; x < work.groups.x; ++x) run_threadgroup(work, {x, y, z});
        }
    }
}

const Lane& this_lane() { return k_running->lane; }

const uint64_t* exchange(const Place& place, uint64_t value) {
    Simdgroup& simdgroup = k_running->own();
    uint64_t* const values = simdgroup.values[++k_running->turn % 2];
    values[k_running->lane.in_simdgroup()] = value;
    simdgroup.meeting.come(place, k_running->lane.index);
    return values;
}

const Four* exchange_four(const Place& place, const Four& of_lane) {
    Simdgroup& simdgroup = k_running->own();
    if (simdgroup.lanes < k_lanes) throw Fault(place.text() + " in a simdgroup that is not whole");
    Four* const values = simdgroup.fours[++k_running->turn % 2];
    values[k_running->lane.in_simdgroup()] = of_lane;
    simdgroup.meeting.come(place, k_running->lane.index);
    return values;
}

uint64_t part_of(const uint64_t* values, const Place& place, unsigned lane) {
    const unsigned present = k_running->own().lanes;
    if (lane >= present) {
        throw Fault("thread " + std::to_string(this_lane().index) + " asks in " + place.text() +
                    " for lane " + std::to_string(lane) + " of " + std::to_string(present));
    }
    return values[lane];
}

void meet(const Place& place) { k_running->group->meeting.come(place, k_running->lane.index); }

const char* kind_of_lanes() { return "threads"; }

}  // namespace rotkv::metal::emul

#endif
