// The value: its signs, and the words it is written in and read from.
#include "ref/random.h"
#include "tests/catch.h"
#include "tests/rotation_of.h"

#include <cstdint>
#include <optional>
#include <string>

using namespace rotkv;
using namespace rotkv::test;
using rotkv::test::spec_of;

TEST_CASE("rotation: signs are bits of SplitMix64, counted or in a row") {
    std::string signs;
    for (int64_t i = 0; i < 12; ++i) signs += rotation_sign(0, i) < 0 ? '-' : '+';
    CHECK(signs == "-++-+++-+-+-");
    CHECK(splitmix64(0, 0) == 0xE220A8397B1DCDAF);
    Random random(7);
    for (int64_t i = 0; i < 100; ++i) {
        CHECK(rotation_sign(7, i) == (random.bits() >> 63 != 0 ? -1.0f : 1.0f));
    }
}

TEST_CASE("rotation: what is written is read back") {
    const Rotation signs{.kind = Rotation::Kind::signs, .block = 64, .seed = UINT64_MAX};
    const Rotation inside{.kind = Rotation::Kind::signs, .block = 32, .seed = 0, .first = 96};
    CHECK(rotation_name(Rotation{}) == "none");
    CHECK(rotation_name({.kind = Rotation::Kind::sylvester, .block = 128}) == "128");
    CHECK(rotation_name(signs) == "64:18446744073709551615");
    CHECK(rotation_name(inside) == "32:0:96");
    for (const char* text : {"none", "1", "64", "128", "64:0", "64:7", "64:18446744073709551615",
                             "64:5:64", "32:0:96"}) {
        const std::optional<Rotation> rotation = parse_rotation(text);
        INFO(text);
        REQUIRE(rotation.has_value());
        CHECK(rotation_name(*rotation) == text);
    }
    CHECK(parse_rotation("64:18446744073709551615") == signs);
    CHECK(parse_rotation("32:0:96") == inside);
    CHECK(parse_rotation("64")->kind == Rotation::Kind::sylvester);
    CHECK(parse_rotation("64:0")->kind == Rotation::Kind::signs);
}

TEST_CASE("rotation: nothing else is read") {
    for (const char* text : {"",
                             ":",
                             "auto",
                             "sylvester/64",
                             "64:",
                             "64:7:",
                             "64:7:32:",
                             "64:7:32:1",
                             ":7",
                             "64::32",
                             "-64",
                             "64:-1",
                             "64 ",
                             " 64",
                             "64,7",
                             "0x40",
                             "64:18446744073709551616",
                             "9223372036854775808",
                             "64:7:9223372036854775808",
                             "none:7",
                             "None"}) {
        INFO(text);
        CHECK(!parse_rotation(text).has_value());
    }
}

TEST_CASE("rotation: layers may differ, and those behind the last entry are like it") {
    const RotationSpec::Layer a{.k = *parse_rotation("64"), .v = {}, .k_reason = "a"};
    const RotationSpec::Layer b{.k = *parse_rotation("64"), .v = *parse_rotation("32:5")};
    const RotationSpec spec({a, b});
    CHECK(rotation_name(spec.at(0, Side::v)) == "none");
    CHECK(rotation_name(spec.at(1, Side::v)) == "32:5");
    CHECK(rotation_name(spec.at(7, Side::v)) == "32:5");
    CHECK(spec.reason(0, Side::k) == "a");
    CHECK(spec == RotationSpec({a, b, b}));
    CHECK(spec != RotationSpec({a, b, a}));
    CHECK(RotationSpec({a, a}) == spec_of("k=64 v=none"));  // reasons do not count
    CHECK(RotationSpec() == spec_of("k=none v=none"));
    CHECK_THROWS_WITH(RotationSpec(std::vector<RotationSpec::Layer>{}),
                      containing("at least one, found none"));
    CHECK(spec_of("k=64:1 v=none") != spec_of("k=64:2 v=none"));
}

TEST_CASE("rotation: the older spelling of files, and the words for people") {
    const RotationSpec spec = spec_of("k=64 v=64:5:64");
    CHECK(saved_words(spec, 0) == "k=sylvester/64 v=signs/64/5/64");
    CHECK(saved_words(spec_of("k=none v=64:0"), 0) == "k=none v=signs/64/0");
    CHECK(describe(spec, 0, Side::k) == "sylvester, block 64 (not asked for)");
    CHECK(describe(spec, 0, Side::v) == "signs, block 64, seed 5 (not asked for)");
    CHECK(describe(RotationSpec(), 0, Side::k) == "off (not asked for)");
}
