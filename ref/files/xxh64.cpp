#include "ref/files/xxh64.h"

#include <array>
#include <bit>
#include <cstring>

namespace rotkv {

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

static constexpr uint64_t k_p1 = 0x9e3779b185ebca87u, k_p2 = 0xc2b2ae3d27d4eb4fu,
                          k_p3 = 0x165667b19e3779f9u, k_p4 = 0x85ebca77c2b2ae63u,
                          k_p5 = 0x27d4eb2f165667c5u;

template <class Word>
static uint64_t take(std::span<const std::byte>& bytes) {
    Word word;
    std::memcpy(&word, bytes.data(), sizeof word);
    bytes = bytes.subspan(sizeof word);
    return word;
}

static uint64_t round(uint64_t lane, uint64_t word) {
    return std::rotl(lane + word * k_p2, 31) * k_p1;
}

// Whole stripes of four words, one for each lane; the lanes as one number.
static uint64_t hash_of_stripes(std::span<const std::byte>& bytes, uint64_t seed) {
    std::array<uint64_t, 4> lane = {seed + k_p1 + k_p2, seed + k_p2, seed, seed - k_p1};
    while (bytes.size() >= 32) {
        for (uint64_t& one : lane) one = round(one, take<uint64_t>(bytes));
    }
    uint64_t hash = std::rotl(lane[0], 1) + std::rotl(lane[1], 7) + std::rotl(lane[2], 12) +
                    std::rotl(lane[3], 18);
    for (const uint64_t one : lane) hash = (hash ^ round(0, one)) * k_p1 + k_p4;
    return hash;
}

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed) {
    const uint64_t count = bytes.size();
    uint64_t hash = bytes.size() >= 32 ? hash_of_stripes(bytes, seed) : seed + k_p5;
    hash += count;
    while (bytes.size() >= 8) {
        hash = std::rotl(hash ^ round(0, take<uint64_t>(bytes)), 27) * k_p1 + k_p4;
    }
    while (bytes.size() >= 4) {
        hash = std::rotl(hash ^ take<uint32_t>(bytes) * k_p1, 23) * k_p2 + k_p3;
    }
    while (!bytes.empty()) hash = std::rotl(hash ^ take<uint8_t>(bytes) * k_p5, 11) * k_p1;
    hash = (hash ^ (hash >> 33)) * k_p2;
    hash = (hash ^ (hash >> 29)) * k_p3;
    return hash ^ (hash >> 32);
}

}  // namespace rotkv
