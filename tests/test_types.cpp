// The table of element types, and views.
// Docs: docs/00-glossary.md

#include "ref/error.h"
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/types.h"
#include "tests/catch.h"
#include "tests/random.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

using namespace rotkv;

namespace {

const DType k_all[] = {DType::f32,    DType::f16,    DType::q4_0, DType::q4_1, DType::q5_0,
                       DType::q5_1,   DType::q8_0,   DType::q2_k, DType::q3_k, DType::q4_k,
                       DType::q5_k,   DType::q6_k,   DType::i32,  DType::f64,  DType::bf16,
                       DType::iq4_nl, DType::iq4_xs, DType::mxfp4};

/// What became of a block: its scale, which every format puts first, and its values.
struct Stored {
    float scale;
    std::vector<float> values;

    Stored(DType type, const std::vector<float>& x) : values(k_block) {
        std::vector<std::byte> bytes(size_t(row_bytes(type, k_block)));
        ref::quantize_row(type, bytes.data(), x.data(), k_block);
        uint16_t d;
        std::memcpy(&d, bytes.data(), sizeof d);
        scale = f16_to_f32(d);
        ref::dequantize_row(type, values.data(), bytes.data(), k_block);
    }
};

std::string names(std::span<const DType> types) {
    std::string all;
    for (const DType type : types) all += std::string(type_info(type).name) + " ";
    return all;
}

}  // namespace

TEST_CASE("types: every type has one row, and its name leads back to it", "[types]") {
    int cache = 0, weight = 0;
    for (DType type : k_all) {
        CHECK(type_info(type).type == type);
        CHECK(parse_type(type_info(type).name) == type);
        CHECK(is_block_type(type) == (type_info(type).block_elements > 1));
        cache += type_info(type).cache;
        weight += type_info(type).weight;
    }
    CHECK(cache == 9);
    CHECK(weight == 16);
    CHECK(names(cache_types()) == "f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl ");
    CHECK(names(quantized_types()) == "q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl ");
    CHECK(names(weight_types()) == names(cache_types()) + "q2_K q3_K q4_K q5_K q6_K iq4_xs mxfp4 ");
    CHECK(parse_type("Q8_0") == DType::q8_0);
    CHECK(parse_type("q4_k") == DType::q4_k);
    CHECK(std::string(type_info(DType::q4_k).name) == "q4_K");
    CHECK_THROWS_AS(parse_type("q9_0"), Error);
    CHECK_THROWS_AS(parse_type(""), Error);
    for (int number : {-1, 4, 5, 40, 1 << 30}) CHECK_THROWS_AS(type_info(DType(number)), Error);
}

TEST_CASE("types: the bytes of a row are those of its block structs", "[types]") {
    CHECK(row_bytes(DType::f32, 7) == 28);
    CHECK(row_bytes(DType::f16, 7) == 14);
    CHECK(row_bytes(DType::bf16, 7) == 14);
    CHECK(row_bytes(DType::i32, 7) == 28);
    CHECK(row_bytes(DType::f64, 7) == 56);
    CHECK(row_bytes(DType::q8_0, 64) == 2 * sizeof(BlockQ8_0));
    CHECK(row_bytes(DType::q5_1, 64) == 2 * sizeof(BlockQ5_1));
    CHECK(row_bytes(DType::q5_0, 64) == 2 * sizeof(BlockQ5_0));
    CHECK(row_bytes(DType::q4_1, 64) == 2 * sizeof(BlockQ4_1));
    CHECK(row_bytes(DType::q4_0, 64) == 2 * sizeof(BlockQ4_0));
    CHECK(row_bytes(DType::iq4_nl, 64) == 2 * sizeof(BlockIq4Nl));
    CHECK(row_bytes(DType::mxfp4, 64) == 2 * sizeof(BlockMxfp4));
    CHECK(row_bytes(DType::q2_k, 512) == 2 * sizeof(BlockQ2_K));
    CHECK(row_bytes(DType::q3_k, 512) == 2 * sizeof(BlockQ3_K));
    CHECK(row_bytes(DType::q4_k, 512) == 2 * sizeof(BlockQ4_K));
    CHECK(row_bytes(DType::q5_k, 512) == 2 * sizeof(BlockQ5_K));
    CHECK(row_bytes(DType::q6_k, 512) == 2 * sizeof(BlockQ6_K));
    CHECK(row_bytes(DType::iq4_xs, 512) == 2 * sizeof(BlockIq4Xs));
    CHECK(row_bytes(DType::q4_0, 0) == 0);
    CHECK_THROWS_AS(row_bytes(DType::q4_0, 48), Error);
    CHECK_THROWS_AS(row_bytes(DType::q4_k, 32), Error);
    CHECK_THROWS_AS(row_bytes(DType::f32, -1), Error);
    CHECK_THROWS_AS(row_bytes(DType::f64, INT64_MAX / 4), Error);
}

TEST_CASE("types: codes are what the row of their type says") {
    const std::vector<float> normal = test::normal_vector(k_block, 3);
    for (const DType type : quantized_types()) {
        INFO(type_info(type).name);
        const CodeInfo& codes = type_info(type).codes;
        const auto level = [&](int32_t code) {
            return float(codes.levels == nullptr ? code - codes.zero() : codes.levels[code]);
        };
        const float steps = float(codes.steps);

        // Levels from the first to the last, in steps of 1: nothing is rounded.
        std::vector<float> x;
        for (int32_t j = 0; j < k_block; ++j) {
            x.push_back(level(codes.first + j * (codes.last - codes.first) / 31));
        }
        CHECK((Stored(type, x).values == x && Stored(type, x).scale == 1));
        for (float& value : x) value += 3;
        CHECK((Stored(type, x).values == x && Stored(type, x).scale == 1) == codes.minimum);

        std::vector<float> ends(k_block, -steps);
        ends[7] = steps;
        const float end = codes.cut ? level(codes.last) : steps;
        if (!codes.fitted) CHECK(Stored(type, ends).values[7] == end);

        const ref::BlockRange range = ref::block_range(normal.data());
        const float width = codes.minimum ? range.max - range.min
                            : codes.cut   ? -range.peak
                                          : std::fabs(range.peak);
        const float scale = f16_to_f32(f32_to_f16(width / steps));
        CHECK((Stored(type, normal).scale == scale) == !codes.fitted);
    }
}

TEST_CASE("types: a part of a row begins with a block") {
    CHECK(block_offset(DType::f16, 7) == 14);
    CHECK(block_offset(DType::q8_0, 64) == 2 * sizeof(BlockQ8_0));
    CHECK(block_offset(DType::q4_k, 256) == sizeof(BlockQ4_K));
    CHECK(block_offset(DType::q4_0, 0) == 0);
    CHECK_THROWS_WITH(block_offset(DType::q4_0, 48),
                      "a block of q4_0 begins at multiples of 32, found element 48");
    CHECK_THROWS_AS(block_offset(DType::f32, -1), Error);
}

TEST_CASE("types: a view's strides, span and description", "[types]") {
    alignas(8) std::byte memory[8] = {};
    const TensorView a = view(memory, DType::f32, {7, 3, 128});
    const int64_t n[4] = {1, 7, 3, 128}, stride[4] = {7 * 3 * 512, 3 * 512, 512, 4};
    for (int axis = 0; axis < 4; ++axis) {
        CHECK(a.n[axis] == n[axis]);
        CHECK(a.stride[axis] == stride[axis]);
    }
    CHECK(a.rows() == 21);
    CHECK(span_bytes(a) == 7 * 3 * 512);
    CHECK(describe(a) == "f32 [1][7][3][128]");
    CHECK(a.row<std::byte>(6, 2) - a.data == 6 * 3 * 512 + 2 * 512);

    TensorView b = view(static_cast<const void*>(memory), DType::q4_0, {2, 5, 64});
    CHECK(b.stride[3] == 18);
    CHECK(b.stride[2] == 36);
    CHECK(describe(b) == "q4_0 [1][2][5][64]");
    b.stride[2] = 100;  // padded rows: the last one ends with its own last byte
    b.stride[1] = 500;
    CHECK(span_bytes(b) == 500 + 4 * 100 + 36);
    b.stride[1] = 0;  // a repeated source
    CHECK(span_bytes(b) == 4 * 100 + 36);

    const int32_t numbers[2][3] = {{1, 2, 3}, {4, 5, 6}};
    CHECK(ints(view(numbers, DType::i32, {2, 3}))[2] == 3);
    CHECK(ints(view(numbers, DType::i32, {2, 3}), 1)[0] == 4);

    const TensorView none = view(memory, DType::f16, {0, 8});
    CHECK(none.empty());
    CHECK(span_bytes(none) == 0);
    b.n[2] = 0;
    CHECK(span_bytes(b) == 0);
    CHECK_THROWS_AS(view(memory, DType::f32, {}), Error);
    CHECK_THROWS_AS(view(memory, DType::f32, {1, 1, 1, 1, 1}), Error);
    CHECK_THROWS_AS(view(memory, DType::f32, {-1}), Error);
    CHECK_THROWS_WITH(view(memory, DType::f32, {-1, 4}),
                      "a view's extents must not be negative, found -1");
    CHECK_THROWS_AS(view(memory, DType::q8_0, {33}), Error);
    CHECK_THROWS_AS(view(memory, DType::f32, {INT64_MAX / 2, INT64_MAX / 2, 4}), Error);
    CHECK_THROWS_AS(view(memory, DType::f32, {INT64_MAX / 2, INT64_MAX / 2, 0}), Error);
    CHECK_THROWS_AS(view(memory, DType::f32, {INT64_MAX / 2, 1}), Error);  // fits, its bytes not
}
