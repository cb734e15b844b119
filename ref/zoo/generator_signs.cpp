#include "ref/zoo/generator_signs.h"

#include <array>
#include <bit>
#include <cstddef>

namespace rotkv::zoo {

namespace {

__extension__ using Wide = unsigned __int128;

// SeedSequence: the seed is hashed into a pool of four words, every word mixed with every other,
// and the pool hashed again into as many words as are asked for.
class SeedSequence {
  public:
    explicit SeedSequence(uint32_t seed) {
        uint32_t hash = 0x43b0d7e5;
        const auto hashed = [&](uint32_t value) {
            value ^= hash;
            hash *= 0x931e8875;
            value *= hash;
            return value ^ value >> 16;
        };
        for (std::size_t i = 0; i < pool_.size(); ++i) pool_[i] = hashed(i == 0 ? seed : 0);
        for (std::size_t from = 0; from < pool_.size(); ++from) {
            for (std::size_t to = 0; to < pool_.size(); ++to) {
                if (from == to) continue;
                const uint32_t mixed = 0xca01f9dd * pool_[to] - 0x4973f715 * hashed(pool_[from]);
                pool_[to] = mixed ^ mixed >> 16;
            }
        }
    }

    uint64_t next() {
        const uint64_t low = word();
        return low | uint64_t(word()) << 32;
    }

  private:
    uint32_t word() {
        uint32_t value = pool_[taken_++ % pool_.size()] ^ hash_;
        hash_ *= 0x58f38ded;
        value *= hash_;
        return value ^ value >> 16;
    }

    std::array<uint32_t, 4> pool_{};
    uint32_t hash_ = 0x8b51f9dd;
    std::size_t taken_ = 0;
};

class Pcg64 {
  public:
    explicit Pcg64(uint32_t seed) {
        SeedSequence words(seed);
        const Wide start = wide(words), stream = wide(words);
        increment_ = stream << 1 | 1;
        step();
        state_ += start;
        step();
    }

    uint64_t next() {
        step();
        return std::rotr(uint64_t(state_ >> 64) ^ uint64_t(state_), int(state_ >> 122));
    }

  private:
    static Wide wide(SeedSequence& words) {
        const Wide high = words.next();
        return high << 64 | words.next();
    }
    void step() {
        constexpr Wide k_multiplier = Wide(2549297995355413924) << 64 | Wide(4865540595714422341);
        state_ = state_ * k_multiplier + increment_;
    }

    Wide state_ = 0, increment_ = 0;
};

}  // namespace

std::vector<float> numpy_signs(uint32_t seed, int64_t skipped, int64_t count) {
    Pcg64 generator(seed);
    std::vector<float> signs;
    uint64_t output = 0;
    for (int64_t i = 0; i < skipped + count; ++i) {
        output = i % 2 == 0 ? generator.next() : output >> 32;
        if (i >= skipped) signs.push_back(output >> 31 & 1 ? 1.0f : -1.0f);
    }
    return signs;
}

std::vector<float> xoshiro_signs(uint64_t seed, int64_t count) {
    std::array<uint64_t, 4> s{};
    for (uint64_t& word : s) {
        uint64_t z = seed += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        word = z ^ z >> 31;
    }
    std::vector<float> signs;
    for (int64_t i = 0; i < count; ++i) {
        const uint64_t output = std::rotl(s[1] * 5, 7) * 9, shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = std::rotl(s[3], 45);
        signs.push_back(output & 1 ? 1.0f : -1.0f);
    }
    return signs;
}

std::vector<float> golden_signs(int64_t count) {
    std::vector<float> signs;
    for (int64_t i = 0; i < count; ++i) {
        signs.push_back(uint32_t(i) * 0x9e3779b9 >> 31 ? -1.0f : 1.0f);
    }
    return signs;
}

}  // namespace rotkv::zoo
