// The main of a fuzz target where libFuzzer is not linked: runs every file named, and every file
// in a folder named, then mutations of each, the same ones every time.
#include "tests/random.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size);

using rotkv::test::Random;
namespace fs = std::filesystem;

// Seeds are small: whoever asks for this much at once believed a number that the input made up.
static constexpr std::size_t k_largest_allocation = std::size_t(16) << 20;
static constexpr int k_mutations = 2000;  // of each seed

// All of a pair are replaced, and none is inlined: a compiler that saw std::free take what an
// operator new gave would call them mismatched.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    void* memory = bytes > k_largest_allocation ? nullptr : std::malloc(std::max<size_t>(bytes, 1));
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
[[gnu::noinline]] void* operator new[](std::size_t bytes) { return ::operator new(bytes); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using Bytes = std::vector<uint8_t>;

Bytes read_all(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// The numbers that parsers forget: 0, 1, -1, powers of two and their neighbours.
uint64_t awkward_number(Random& random) {
    if (random.below(4) == 0) return uint64_t(random.below(64));
    return (uint64_t(1) << random.below(64)) + uint64_t(random.below(3)) - 1;
}

// One change: other bits, a number, fewer bytes, more bytes, or a piece moved.
void mutate(Bytes& bytes, Random& random) {
    if (bytes.empty()) bytes.push_back(uint8_t(random.bits()));
    const int64_t n = int64_t(bytes.size()), at = random.below(n);
    const int64_t count = std::min(n - at, 1 + random.below(16));
    const auto here = bytes.begin() + at;
    switch (random.below(6)) {
        case 0:
            *here = uint8_t(*here ^ 1 << random.below(8));
            break;
        case 1:
            *here = uint8_t(random.bits());
            break;
        case 2: {
            const uint64_t number = awkward_number(random);
            const std::size_t width = std::size_t(1) << random.below(4);
            std::memcpy(&*here, &number, std::min(width, std::size_t(n - at)));
            break;
        }
        case 3:
            if (random.below(4) == 0)
                bytes.resize(std::size_t(at));
            else
                bytes.erase(here, here + count);
            break;
        case 4: {
            const Bytes piece(here, here + count);
            bytes.insert(bytes.begin() + random.below(n), piece.begin(), piece.end());
            break;
        }
        default:
            std::copy_n(here, count, bytes.begin() + random.below(n - count + 1));
    }
}

// libFuzzer takes an exception for a finding, and so does this.
bool run(const Bytes& bytes, const std::string& name) {
    try {
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        return true;
    } catch (const std::exception& error) {
        std::printf("%s: %s\n", name.c_str(), error.what());
        return false;
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<fs::path> seeds;
    for (int i = 1; i < argc; ++i) {
        if (!fs::is_directory(argv[i]))
            seeds.push_back(argv[i]);
        else
            std::copy(fs::directory_iterator(argv[i]), {}, std::back_inserter(seeds));
    }
    std::sort(seeds.begin(), seeds.end());
    int64_t inputs = 0, findings = 0;
    for (const fs::path& path : seeds) {
        std::fprintf(stderr, "%s\n", path.string().c_str());  // which it was, after a crash
        const Bytes seed = read_all(path);
        findings += !run(seed, path.string());
        Random random(seed.size());
        for (int i = 0; i < k_mutations; ++i) {
            Bytes bytes = seed;
            for (int64_t changes = 1 + random.below(4); changes > 0; --changes) {
                mutate(bytes, random);
            }
            findings += !run(bytes, path.string() + ", mutation " + std::to_string(i));
        }
        inputs += 1 + k_mutations;
    }
    std::printf("%lld inputs, %lld findings\n", (long long)(inputs), (long long)(findings));
    return findings > 0 || inputs == 0;
}
