// The zoo as a whole: names, bits, rows that are no numbers, what must be idempotent.
// Docs: docs/20-zoo.md
#include "ref/cache_type.h"
#include "ref/error.h"
#include "ref/hadamard.h"
#include "ref/rotation_policy.h"
#include "ref/zoo/zoo.h"
#include "tests/zoo_rows.h"

#include <algorithm>
#include <set>

using namespace rotkv;
using namespace rotkv::test;

namespace {

std::string refusal_of(const std::string& name) {
    try {
        return find_format(name) == nullptr ? "unknown" : "known";
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::usage);
        return error.what();
    }
}

bool any_nan(const std::vector<float>& x) {
    return std::ranges::any_of(x, [](float value) { return std::isnan(value); });
}

}  // namespace

TEST_CASE("zoo: every listed name finds its format, once") {
    std::set<std::string> seen, families;
    CHECK(format_families().size() >= 15);
    for (const FormatFamily& family : format_families()) {
        CAPTURE(family.name);
        CHECK(families.insert(family.name).second);
        CHECK(!family.what.empty());
        CHECK(!family.members.empty());
        for (const std::string& name : family.members) {
            CAPTURE(name);
            CHECK(seen.insert(name).second);
            CHECK(name.substr(0, family.name.size()) == family.name);
            CHECK(format_of(name)->name() == name);
            CHECK(find_cache_type(name)->format() != nullptr);
        }
    }
    CHECK(names_of_formats().size() == seen.size());
    for (const DType type : cache_types()) {  // no format hides a type that has kernels
        CHECK(families.count(type_info(type).name) == 0);
    }
}

TEST_CASE("zoo: a name that no family has is none, a parameter that it has not is an error") {
    CHECK(refusal_of("q8_0") == "unknown");  // a type, not a format
    CHECK(refusal_of("exl4:4") == "unknown");
    CHECK(refusal_of("") == "unknown");
    CHECK(refusal_of("exl3:4") == "known");
    CHECK(refusal_of("tqmse3:lsq-128") == "known");
    for (const char* bad : {"exl3",
                            "exl3:",
                            "exl3:9",
                            "exl3:4-4",
                            "exl3:4x",
                            "sign:1",
                            "sign:",
                            "tqmse3:wild",
                            "tqmse3:64",
                            "tqprod3:-1",
                            "qjl",
                            "qjl:9",
                            "qjl:2-seed",
                            "kivi:2-33",
                            "fp8_e4m3:16",
                            "q6_0:1",
                            "mxfp4:up",
                            "polar:4",
                            "kivi_keys",
                            "kivi_keys:2-33",
                            "polar_pairs",
                            "polar_pairs:4-4",
                            "polar_pairs:norm-4",
                            "polar_pairs:norm-4-9",
                            "polar_pairs:neox-48"}) {
        CAPTURE(bad);
        CHECK(refusal_of(bad).find("expected") != std::string::npos);
    }
    CHECK(refusal_of("exl3:9") == "format exl3: expected exl3:BITS, 2 to 8, found 'exl3:9'");
    CHECK(find_cache_type("EXL3:4")->name() == "exl3:4");
    CHECK(find_cache_type("Q8_0") == CacheType(DType::q8_0));
    CHECK(!find_cache_type("q4_K"));  // of weights alone
    CHECK(find_cache_type("exl3:4") == find_cache_type("exl3:4"));
    CHECK(find_cache_type("exl3:4") != find_cache_type("exl3:5"));
    CHECK(find_cache_type("exl3:4") != CacheType(DType::f32));
}

TEST_CASE("zoo: bits per value are those of the layouts, all metadata included") {
    // d = 64 and 128, from the description of each layout; 0: refused.
    const struct {
        const char* name;
        double bits_64, bits_128;
    } expected[] = {
        {"fp8_e4m3", 8, 8},
        {"fp8_e5m2:head", 8.5, 8.25},
        {"fp8_e4m3:32", 9, 9},
        {"mxfp4", 4.25, 4.25},
        {"nvfp4", 4.5, 4.5},
        {"q4_0fit", 4.5, 4.5},
        {"q6_0", 6.5, 6.5},
        {"exl3:2", 2.5, 2.5},
        {"exl3:3", 3.5, 3.5},
        {"exl3:8", 8.5, 8.5},
        {"sign", 1.5, 1.5},
        {"tqmse1", 1.25, 1.125},
        {"tqmse3:lsq", 3.25, 3.125},
        {"tqmse4:128", 0, 4.125},
        {"tqprod2", 2.5, 2.25},
        {"tqprod4:orthogonal", 4.5, 4.25},
        {"qjl:1", 1.25, 1.125},
        {"qjl:2-orthogonal", 2.25, 2.125},
        {"polar", 3.875, 3.875},
        {"kivi:2", 3, 3},
        {"kivi:2-64", 2.5, 2.5},
        {"kivi:2-128", 0, 2.25},
        {"q2row", 3, 2.75},
        {"turbo2", 0, 2.125},
        {"turbo3", 0, 3.125},
        {"turbo4", 0, 4.25},
        {"tq3_0", 3.5, 3.5},
        {"q8_kv", 9, 8.5},
        {"pq3_0", 3.25, 3.125},
        {"pq4_0", 4.25, 4.125},
        {"tbq3_0", 4.5, 4.25},
        {"tbq4_0", 5.5, 5.25},
        {"kivi_keys:2", 3, 3},
        {"kivi_keys:2-128", 2.25, 2.25},
        {"kivi_keys:4", 5, 5},
        {"polar_pairs:norm", 4.25, 4.25},
        {"polar_pairs:norm-3-3-32", 4, 4},
    };
    for (const auto& row : expected) {
        CAPTURE(row.name);
        const auto format = format_of(row.name);
        CHECK(format->refusal(64).empty() == (row.bits_64 > 0));
        if (row.bits_64 > 0) CHECK(format->bits_per_value(64) == row.bits_64);
        CHECK(format->bits_per_value(128) == row.bits_128);
    }
    CHECK(format_of("exl3:4")->refusal(80) ==
          "needs a head size that is a multiple of 32, found 80");
    CHECK(find_cache_type("polar")->words(64) == "polar, 3.875 bits per value");
    CHECK(find_cache_type("polar")->words(8) == "polar");
    CHECK(find_cache_type("q8_0")->words(64) == "q8_0");
    CHECK(row_bytes(*find_cache_type("polar"), 64) == 31);
    CHECK_THROWS_AS(row_bytes(*find_cache_type("polar"), 8), Error);
}

TEST_CASE("zoo: a row is its bytes and nothing else") {
    for (const std::string& name : names_of_formats()) {
        for (const int64_t d : {32, 64, 96, 128, 256}) {
            CAPTURE(name, d);
            const auto format = format_of(name);
            if (!format->refusal(d).empty()) continue;
            const std::vector<float> row = normal_vector(format->group() * d, 3);
            const size_t bytes = bytes_together(*format, d);
            // Whatever lay there before, and whatever lies behind, is not read and not written.
            std::vector<std::byte> clean(bytes + 8), dirty(bytes + 8, std::byte{0xFF});
            format->encode(std::span(clean).first(bytes), row, {});
            format->encode(std::span(dirty).first(bytes), row, {});
            CHECK(std::equal(clean.begin(), clean.begin() + int64_t(bytes), dirty.begin()));
            CHECK(std::count(clean.begin() + int64_t(bytes), clean.end(), std::byte{0}) == 8);
            CHECK(std::count(dirty.begin() + int64_t(bytes), dirty.end(), std::byte{0xFF}) == 8);
            dirty.resize(bytes);
            CHECK(decoded(*format, dirty, d) == through(*format, row));
            CHECK(!any_nan(through(*format, row)));
        }
    }
}

TEST_CASE("zoo: no byte of a row is dead weight") {
    // Every byte changes what some row of these means: bits that are counted are bits that count.
    for (const std::string& name : names_of_formats()) {
        CAPTURE(name);
        const auto format = format_of(name);
        const bool alone = format->group() == 1;  // groups have as many bytes in fewer channels
        const int64_t d = !alone ? 32 : format->refusal(64).empty() ? 64 : 128;
        const std::vector<std::byte> codes =
            encoded(*format, normal_vector(format->group() * d, 4));
        const std::vector<float> plain = decoded(*format, codes, d);
        for (size_t i = 0; i < codes.size(); ++i) {
            bool matters = false;
            for (int bit = 0; bit < 8 && !matters; ++bit) {
                std::vector<std::byte> other = codes;
                other[i] ^= std::byte(1 << bit);
                matters = decoded(*format, other, d) != plain;
            }
            CAPTURE(i);
            // Bytes of forks that only their kernels read, or nobody: turbo4's second f16, the sum
            // of q8_kv's codes.
            const bool unread =
                (name == "turbo4" && (i == 2 || i == 3)) || (name == "q8_kv" && i >= 4 && i < 8);
            CHECK(matters == !unread);
        }
    }
}

TEST_CASE("zoo: zeros are kept, and what is no number shows") {
    const float inf = std::numeric_limits<float>::infinity();
    for (const std::string& name : names_of_formats()) {
        CAPTURE(name);
        const auto format = format_of(name);
        const int64_t d = format->refusal(64).empty() ? 64 : 128;
        const std::vector<float> zeros(static_cast<size_t>(format->group() * d));
        if (name != "tq3_0") {  // which does as its forks do: tests/test_zoo_forks.cpp
            CHECK(through(*format, zeros) == zeros);  // -0 is 0 too
        }
        for (const float bad : {NAN, inf, -inf}) {
            std::vector<float> row = normal_vector(format->group() * 2 * d, 5);
            row[size_t(2 * d) - 3] = bad;
            const std::vector<float> kept = through(*format, row);
            CHECK(!std::isfinite(kept[size_t(2 * d) - 3]));
            // The first block of several does not know of the last one.
            const bool blocks = format->row_bytes(2 * d) == 2 * format->row_bytes(d);
            if (blocks) CHECK(std::isfinite(kept[0]));
        }
        // Magnitudes at both ends of f32: any answer is one, but a number, a NaN or an infinity
        // must come of it, and the same one each time.
        for (const float magnitude : {1e-45f, 1e-38f, 1e-10f, 1e10f, 3e38f}) {
            std::vector<float> row = normal_vector(format->group() * d, 6);
            for (float& value : row) value = std::copysign(magnitude, value);
            CHECK(encoded(*format, row) == encoded(*format, row));
        }
    }
}

TEST_CASE("zoo: any bytes stand for some row") {
    Random random(7);
    for (const std::string& name : names_of_formats()) {
        CAPTURE(name);
        const auto format = format_of(name);
        for (int turn = 0; turn < 20; ++turn) {
            std::vector<std::byte> codes(bytes_together(*format, 128));
            for (std::byte& byte : codes) byte = std::byte(random.below(256));
            const std::vector<float> row = decoded(*format, codes, 128);
            CHECK(std::count(row.begin(), row.end(), -12345.0f) == 0);  // all of it written
        }
    }
}

TEST_CASE("zoo: what a format has kept once it keeps again") {
    // Scales that are a level themselves, or none: a second pass finds every value on its level.
    for (const char* name : {"fp8_e4m3", "fp8_e5m2", "mxfp4", "nvfp4", "q6_0", "sign"}) {
        CAPTURE(name);
        const auto format = format_of(name);
        for (const std::vector<float>& row : normal_rows(50, 128, 8)) {
            const std::vector<float> once = through(*format, row);
            CHECK(through(*format, once) == once);
        }
    }
    // And those whose peak is no level shrink with every pass: exllamav3's midpoints.
    const auto exl3 = format_of("exl3:4");
    const std::vector<float> row = normal_vector(128, 9);
    CHECK(through(*exl3, through(*exl3, row)) != through(*exl3, row));
}

TEST_CASE("zoo: the policy rotates formats, but not those that rotate rows themselves") {
    KvLayer layer{.kv_heads = 1, .d_k = 128, .d_v = 128};
    layer.type_k = *find_cache_type("tqmse3");
    layer.type_v = *find_cache_type("exl3:4");
    const RotationSpec spec = decide_rotation({}, {.streams = 1, .cells = 1, .layers = {layer}});
    CHECK(spec.at(0, Side::k).block == 128);
    CHECK(spec.reason(0, Side::k) == "policy: tqmse3 is quantized, D = 128");
    CHECK(!spec.at(0, Side::v).on());
    CHECK(spec.reason(0, Side::v) == "policy: exl3:4 rotates rows itself");

    // Why: H64 and then H32 are H2 across halves, which leaves a loud channel as loud as it was,
    // but for a factor of sqrt(2).
    std::vector<float> spike(64);
    spike[5] = 1;
    ref::hadamard_row(spike.data(), spike.data(), 64,
                      {.kind = Rotation::Kind::sylvester, .block = 64}, false);
    ref::hadamard_row(spike.data(), spike.data(), 64,
                      {.kind = Rotation::Kind::sylvester, .block = 32}, false);
    CHECK(std::fabs(double(spike[5]) - std::sqrt(0.5)) < 1e-6);
    CHECK(std::fabs(double(spike[37]) - std::sqrt(0.5)) < 1e-6);
    CHECK(std::fabs(double(spike[6])) < 1e-6);
}

TEST_CASE("zoo: codes lie in the bytes from the lowest bit on") {
    std::byte bytes[3] = {};
    for (int64_t i = 0; i < 8; ++i) zoo::put_code(bytes, i, 3, uint32_t(i));
    // 000 001 010 011 ... from the lowest bit: 0b11010001'00, ...
    CHECK(std::to_integer<int>(bytes[0]) == 0b10001000);
    CHECK(std::to_integer<int>(bytes[1]) == 0b11000110);
    CHECK(std::to_integer<int>(bytes[2]) == 0b11111010);
    for (int64_t i = 0; i < 8; ++i) CHECK(zoo::code_at(bytes, i, 3) == uint32_t(i));
    CHECK(zoo::packed_bytes(5, 3) == 2);
}

TEST_CASE("zoo: the scale of a tensor comes from a calibration") {
    const float tensor[] = {0.25f};
    const RowContext known{.calibration = tensor};
    for (const char* name : {"fp8_e4m3", "nvfp4"}) {
        CAPTURE(name);
        const auto format = format_of(name);
        // Four times the values in units of a quarter are the same bytes.
        std::vector<float> row = normal_vector(64, 10), quarter = row;
        for (float& value : quarter) value /= 4;
        CHECK(encoded(*format, quarter, known) == encoded(*format, row));
        std::vector<float> expected = through(*format, row);
        for (float& value : expected) value /= 4;
        CHECK(through(*format, quarter, known) == expected);
    }
}
