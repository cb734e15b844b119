// Backends of one kind in several threads at once compute what one does alone.
#include "tests/parity.h"

#include <thread>

using namespace rotkv;
using namespace rotkv::test;

namespace {

CachedAttention some_attention(uint64_t seed) {
    CachedAttention c;
    c.type_k = DType::q8_0;
    c.type_v = DType::q4_0;
    c.d_k = c.d_v = seed % 2 == 0 ? 64 : 128;
    c.spec = spec_of("k=64 v=32:7");
    c.fill(2, 20, seed);
    return c;
}

// What a backend of its own makes of it, several times; an error's words if it throws.
struct Work {
    CachedAttention attention;
    std::vector<std::vector<float>> results;
    std::string error;

    void run(const tools::BackendEntry& entry, int times) {
        try {
            for (int i = 0; i < times; ++i) results.push_back(attention.run(*entry.make(1)));
        } catch (const Error& failure) {
            error = failure.what();
        }
    }
};

}  // namespace

TEST_CASE("backends of one kind in several threads at once compute what one does") {
    for (const tools::BackendEntry& entry : tools::backends()) {
        if (entry.make == nullptr) continue;
        Work alone[] = {{some_attention(4), {}, {}}, {some_attention(5), {}, {}}};
        for (Work& work : alone) work.run(entry, 1);
        if (!alone[0].error.empty()) {
            skip(std::string(entry.name) + ": " + alone[0].error);
            continue;
        }
        INFO(entry.name);
        Work together[] = {{alone[0].attention, {}, {}}, {alone[1].attention, {}, {}}};
        constexpr int k_times = 8;
        std::thread first([&] { together[0].run(entry, k_times); });
        std::thread second([&] { together[1].run(entry, k_times); });
        first.join();
        second.join();
        for (int i = 0; i < 2; ++i) {
            CHECK(together[i].error.empty());
            CHECK(together[i].results.size() == size_t(k_times));
            for (const std::vector<float>& result : together[i].results) {
                const bool equal = floats_equal(result, alone[i].results[0]);
                CHECK(equal);
            }
        }
    }
}
