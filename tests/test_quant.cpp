// The block formats against foreign bytes, against the rules for what ggml leaves undefined, and
// against the laws of their error. Committed vectors: tests/golden/make_quant.py.
// Docs: docs/03-quantization.md

#include "ref/error.h"
#include "ref/half.h"
#include "ref/quant.h"
#include "tests/catch.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace rotkv;

namespace {

using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

constexpr float k_inf = std::numeric_limits<float>::infinity();
constexpr float k_nan = std::numeric_limits<float>::quiet_NaN();

Bytes read_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    INFO(path);
    REQUIRE(file.good());
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

Floats as_floats(const uint8_t* bytes, size_t count) {
    Floats values(count);
    std::memcpy(values.data(), bytes, count * sizeof(float));
    return values;
}

/// The row x in `type`; nothing may be written behind it.
Bytes quantized(DType type, const Floats& x) {
    const int64_t n = int64_t(x.size());
    const size_t size = size_t(row_bytes(type, n));
    Bytes y(size + 16, 0xA5);
    ref::quantize_row(type, y.data(), x.data(), n);
    for (size_t i = size; i < y.size(); ++i) REQUIRE(y[i] == 0xA5);
    y.resize(size);
    return y;
}

/// The n values that `bytes` stand for; nothing may be written behind them.
Floats dequantized(DType type, const Bytes& bytes, int64_t n) {
    Floats y(size_t(n) + 4, 12345.0f);
    ref::dequantize_row(type, y.data(), bytes.data(), n);
    for (size_t i = size_t(n); i < y.size(); ++i) REQUIRE(y[i] == 12345.0f);
    y.resize(size_t(n));
    return y;
}

/// Blocks of `type` in which the two differ, each named in the output; `skip_from` .. `skip_to`
/// are not looked at.
int64_t differing_blocks(DType type, const Bytes& ours, const Bytes& theirs, int64_t skip_from = 0,
                         int64_t skip_to = 0) {
    REQUIRE(ours.size() == theirs.size());
    const int64_t size = type_info(type).block_bytes;
    int64_t differing = 0;
    for (int64_t b = 0; b < int64_t(ours.size()) / size; ++b) {
        if (b >= skip_from && b < skip_to) continue;
        if (std::memcmp(&ours[size_t(b * size)], &theirs[size_t(b * size)], size_t(size)) == 0)
            continue;
        UNSCOPED_INFO(type_info(type).name << " differs in block " << b);
        ++differing;
    }
    return differing;
}

/// A block of 32 with `value` everywhere except what is set by hand afterwards.
Floats block_of(float value) { return Floats(size_t(k_block), value); }

/// What a block must look like: f16 scale, f16 minimum where the type has one, and every code the
/// same.
Bytes uniform_block(DType type, int scale, int minimum, int code) {
    const bool has_minimum = type == DType::q4_1 || type == DType::q5_1;
    const bool has_fifth = type == DType::q5_0 || type == DType::q5_1;
    const bool whole_bytes = type == DType::q8_0;
    const int every = whole_bytes ? code : (code & 15) * 17;
    Bytes block(size_t(type_info(type).block_bytes), uint8_t(every));
    block[0] = uint8_t(scale & 255);
    block[1] = uint8_t(scale >> 8);
    size_t next = 2;
    if (has_minimum) {
        block[next++] = uint8_t(minimum & 255);
        block[next++] = uint8_t(minimum >> 8);
    }
    for (int i = 0; has_fifth && i < 4; ++i) block[next++] = uint8_t(code & 16 ? 255 : 0);
    return block;
}

bool is_nan_block(DType type, const Floats& x) {
    const Bytes bytes = quantized(type, x);
    for (float value : dequantized(type, bytes, k_block)) {
        if (!std::isnan(value)) return false;
    }
    return bytes == uniform_block(type, 0x7E00, 0, 0);
}

/// The code of "no step": value 0 where there is no minimum.
int zero_code(DType type) {
    if (type == DType::q4_0 || type == DType::iq4_nl) return 8;
    return type == DType::q5_0 ? 16 : 0;
}

Floats gaussian(int64_t n, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    Floats x(static_cast<size_t>(n));
    for (float& value : x) value = normal(random);
    return x;
}

/// sum (x^ - x)^2 / sum x^2 after a round trip through `type`.
double relative_mse(DType type, const Floats& x) {
    const Floats y = dequantized(type, quantized(type, x), int64_t(x.size()));
    double error = 0, energy = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        error += (double(y[i]) - x[i]) * (double(y[i]) - x[i]);
        energy += double(x[i]) * x[i];
    }
    return error / energy;
}

}  // namespace

TEST_CASE("quantize: ggml's bytes for 2048 blocks", "[quant]") {
    if (test::data_dir().empty()) {
        test::skip("ROTKV_DATA is not set");
        return;
    }
    const std::string folder = test::data_dir() + "/golden/blocks/";
    const Bytes raw = read_bytes(folder + "input.f32");
    REQUIRE(raw.size() == 2048 * 32 * sizeof(float));
    const Floats x = as_floats(raw.data(), raw.size() / sizeof(float));
    for (DType type : quantized_types()) {
        const Bytes theirs = read_bytes(folder + "blocks." + type_info(type).name + ".bin");
        // Blocks of zeros: ggml leaves the previous block's iq4_nl codes there.
        const int64_t zeros_end = type == DType::iq4_nl ? 800 : 768;
        CHECK(differing_blocks(type, quantized(type, x), theirs, 768, zeros_end) == 0);
    }
}

TEST_CASE("quantize: the committed vectors", "[quant]") {
    const std::string folder = std::string(ROTKV_GOLDEN_DIR) + "/";
    const Bytes raw = read_bytes(folder + "quant_input.bin");
    REQUIRE(raw.size() >= 100 * 32 * sizeof(float));
    const Floats x = as_floats(raw.data(), raw.size() / sizeof(float));
    for (DType type : quantized_types()) {
        const Bytes theirs = read_bytes(folder + "quant_" + type_info(type).name + ".bin");
        CHECK(differing_blocks(type, quantized(type, x), theirs) == 0);
    }
}

TEST_CASE("dequantize: the committed vectors, bit for bit", "[quant]") {
    for (DType type : weight_types()) {
        if (!is_block_type(type)) continue;
        const std::string name = type_info(type).name;
        const Bytes both = read_bytes(std::string(ROTKV_GOLDEN_DIR) + "/dequant_" + name + ".bin");
        const size_t size = size_t(row_bytes(type, 1024));
        REQUIRE(both.size() == size + 1024 * sizeof(float));
        const Bytes blocks(both.begin(), both.begin() + int64_t(size));
        const Floats ours = dequantized(type, blocks, 1024);
        const Floats theirs = as_floats(&both[size], 1024);
        int64_t differing = 0;
        for (size_t i = 0; i < ours.size(); ++i) {
            if (std::memcmp(&ours[i], &theirs[i], sizeof(float)) == 0) continue;
            if (++differing <= 10)
                UNSCOPED_INFO(name << "[" << i << "] is " << ours[i] << ", expected " << theirs[i]);
        }
        CHECK(differing == 0);
    }
}

TEST_CASE("quantize: a NaN or inf anywhere spoils its block visibly, and only its block",
          "[quant]") {
    for (DType type : quantized_types()) {
        INFO(type_info(type).name);
        for (float bad : {k_nan, -k_nan, k_inf, -k_inf}) {
            for (size_t place = 0; place < 32; ++place) {
                Floats x = gaussian(32, place);
                x[place] = bad;
                CHECK(is_nan_block(type, x));
                x = block_of(0);
                x[place] = bad;
                CHECK(is_nan_block(type, x));
            }
        }
        Floats three = gaussian(96, 7);
        const Bytes good = quantized(type, three);
        three[40] = k_nan;
        const Bytes bad = quantized(type, three);
        const int64_t size = type_info(type).block_bytes;
        CHECK(std::equal(good.begin(), good.begin() + size, bad.begin()));
        CHECK(std::equal(good.begin() + 2 * size, good.end(), bad.begin() + 2 * size));
    }
}

TEST_CASE("quantize: a scale or minimum beyond f16 spoils the block", "[quant]") {
    // 65520 is the least number that f16 rounds to inf; 127 * 65520 and the like are exact in f32.
    struct Row {
        DType type;
        float peak;
    };
    for (const Row& row : {Row{DType::q8_0, 65520.0f * 127}, Row{DType::q4_0, 65520.0f * 8},
                           Row{DType::q4_0, -65520.0f * 8}, Row{DType::q5_0, 65520.0f * 16},
                           Row{DType::q4_1, 65520.0f * 15}, Row{DType::q5_1, 65520.0f * 31}}) {
        INFO(type_info(row.type).name << " " << row.peak);
        Floats x = block_of(0);
        x[9] = row.peak;
        CHECK(is_nan_block(row.type, x));
        x[9] = std::nextafter(row.peak, 0.0f);
        CHECK((quantized(row.type, x)[1] & 0x7F) == 0x7B);  // the largest finite scale, 0x7BFF
    }
    for (DType type : {DType::q4_1, DType::q5_1}) {
        CHECK(is_nan_block(type, block_of(-65520.0f)));  // d = 0, the minimum alone is too large
        CHECK(is_nan_block(type, block_of(65520.0f)));
        CHECK(quantized(type, block_of(-65519.0f)) == uniform_block(type, 0, 0xFBFF, 0));
        Floats x = block_of(3e38f);
        x[0] = -3e38f;  // max - min overflows f32 already
        CHECK(is_nan_block(type, x));
    }
    for (float large : {1e7f, -1e7f, 1e15f, 3e38f}) {  // w = x * x overflows in the last two
        Floats x = block_of(1.0f);
        x[20] = large;
        CHECK(is_nan_block(DType::iq4_nl, x));
    }
}

TEST_CASE("quantize: zeros, and steps too small to be inverted", "[quant]") {
    struct Row {
        DType type;
        float smallest;  // the largest peak whose 1 / d overflows: 2^-128 times peak / d
    };
    for (const Row& row : {Row{DType::q8_0, 127 * 0x1p-128f}, Row{DType::q4_0, 8 * 0x1p-128f},
                           Row{DType::q5_0, 16 * 0x1p-128f}, Row{DType::q4_1, 15 * 0x1p-128f},
                           Row{DType::q5_1, 31 * 0x1p-128f}}) {
        INFO(type_info(row.type).name);
        const int code = zero_code(row.type);
        for (float sign : {1.0f, -1.0f}) {
            Floats x = block_of(0);
            x[5] = sign * row.smallest;
            const int minimum = sign < 0 ? 0x8000 : 0;  // f16(min) is -0
            CHECK(quantized(row.type, x) == uniform_block(row.type, 0, minimum, code));
            x[5] = sign * row.smallest * (1 + 0x1p-20f);  // 1 / d is finite: codes differ again
            const Bytes bytes = quantized(row.type, x);
            const int scale = bytes[0] | bytes[1] << 8;
            CHECK(bytes != uniform_block(row.type, scale, minimum, code));
        }
    }
    const Bytes q4_0_zero = uniform_block(DType::q4_0, 0x8000, 0, 8);
    const Bytes q5_0_zero = uniform_block(DType::q5_0, 0x8000, 0, 16);
    for (float zero : {0.0f, -0.0f}) {
        const int sign = std::signbit(zero) ? 0x8000 : 0;
        CHECK(quantized(DType::q8_0, block_of(zero)) == uniform_block(DType::q8_0, 0, 0, 0));
        CHECK(quantized(DType::q4_0, block_of(zero)) == q4_0_zero);
        CHECK(quantized(DType::q5_0, block_of(zero)) == q5_0_zero);
        CHECK(quantized(DType::q4_1, block_of(zero)) == uniform_block(DType::q4_1, 0, sign, 0));
        CHECK(quantized(DType::q5_1, block_of(zero)) == uniform_block(DType::q5_1, 0, sign, 0));
        CHECK(quantized(DType::iq4_nl, block_of(zero)) == uniform_block(DType::iq4_nl, 0, 0, 8));
    }
    for (DType type : {DType::q4_1, DType::q5_1}) {  // the first of equal minima counts
        Floats x = block_of(-0.0f);
        x[0] = 0.0f;
        CHECK(quantized(type, x) == uniform_block(type, 0, 0, 0));
    }
    // d itself underflows to -0: ggml's own answer, as for zeros.
    CHECK(quantized(DType::q4_0, block_of(0x1p-149f)) == q4_0_zero);

    Floats x = block_of(std::nextafter(1e-15f, 0.0f));
    CHECK(quantized(DType::iq4_nl, x) == uniform_block(DType::iq4_nl, 0, 0, 8));
    x[31] = 1e-15f;  // the least peak that counts; it lies on level -127, code 0
    CHECK(quantized(DType::iq4_nl, x)[17] >> 4 == 0);
}

TEST_CASE("quantize: f32, f16 and bf16 rows", "[quant]") {
    Floats x = gaussian(45, 3);  // any length
    x[7] = k_nan;
    const Bytes f32 = quantized(DType::f32, x);
    CHECK(std::memcmp(f32.data(), x.data(), f32.size()) == 0);
    const Bytes f16 = quantized(DType::f16, x), bf16 = quantized(DType::bf16, x);
    const Floats back_f32 = dequantized(DType::f32, f32, 45);
    const Floats back_f16 = dequantized(DType::f16, f16, 45);
    const Floats back_bf16 = dequantized(DType::bf16, bf16, 45);
    for (size_t i = 0; i < x.size(); ++i) {
        if (i == 7) continue;
        CHECK(back_f32[i] == x[i]);
        CHECK(back_f16[i] == f16_to_f32(f32_to_f16(x[i])));
        CHECK(back_bf16[i] == bf16_to_f32(f32_to_bf16(x[i])));
    }
    CHECK((f16[14] | f16[15] << 8) == 0x7E00);
    CHECK((bf16[14] | bf16[15] << 8) == 0x7FC0);
}

TEST_CASE("quantize: the relative error on Gaussian values", "[quant]") {
    const Floats x = gaussian(1 << 20, 1);
    struct Row {
        DType type;
        double expected;
    };
    for (const Row& row :
         {Row{DType::q8_0, 2.87e-5}, Row{DType::q5_1, 1.43e-3}, Row{DType::q5_0, 1.82e-3},
          Row{DType::q4_1, 6.12e-3}, Row{DType::q4_0, 7.38e-3}, Row{DType::iq4_nl, 6.19e-3}}) {
        const double measured = relative_mse(row.type, x);
        INFO(type_info(row.type).name << " " << measured);
        CHECK(std::fabs(measured / row.expected - 1) < 0.005);
    }
}

TEST_CASE("quantize: what one outlier of 10 sigma costs the other 31 elements", "[quant]") {
    Floats x = gaussian(1 << 20, 3);
    for (size_t b = 0; b < x.size(); b += 32) x[b] = 10;
    struct Row {
        DType type;
        double expected;  // step^2 / 12 with step = 10 / Q
    };
    for (const Row& row :
         {Row{DType::q8_0, 100.0 / (127 * 127 * 12)}, Row{DType::q5_0, 100.0 / (16 * 16 * 12)},
          Row{DType::q4_0, 100.0 / (8 * 8 * 12)}}) {
        const Floats y = dequantized(row.type, quantized(row.type, x), int64_t(x.size()));
        double error = 0, energy = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            if (i % 32 == 0) continue;
            error += std::pow(double(y[i]) - x[i], 2);
            energy += double(x[i]) * x[i];
        }
        INFO(type_info(row.type).name << " " << error / energy);
        CHECK(std::fabs(error / energy / row.expected - 1) < 0.01);
    }
}

TEST_CASE("quantize: types and lengths that are refused", "[quant]") {
    for (DType type : {DType::q2_k, DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k,
                       DType::iq4_xs, DType::mxfp4, DType::i32, DType::f64, DType(4), DType(-1)}) {
        CHECK_THROWS_AS(ref::check_quantize_row(type, 256), Error);
    }
    for (DType type : {DType::i32, DType::f64, DType(4), DType(1000)}) {
        CHECK_THROWS_AS(ref::check_dequantize_row(type, 32), Error);
    }
    for (int64_t n : {31, 33, -32}) {
        CHECK_THROWS_AS(ref::check_quantize_row(DType::q4_0, n), Error);
        CHECK_THROWS_AS(ref::check_dequantize_row(DType::q4_0, n), Error);
        CHECK_THROWS_AS(ref::check_dequantize_row(DType::q4_k, n), Error);
    }
    CHECK_THROWS_AS(ref::check_dequantize_row(DType::q4_k, 32), Error);
    CHECK_THROWS_WITH(ref::check_quantize_row(DType::q4_k, 256),
                      "type q4_K cannot be quantized to: no cache uses it");
    CHECK_THROWS_WITH(ref::check_dequantize_row(DType::i32, 1),
                      "type i32 cannot be dequantized: no cache or weight uses it");
    for (DType type : cache_types()) ref::check_quantize_row(type, 32);
    for (DType type : weight_types()) ref::check_dequantize_row(type, 256);
    uint64_t bytes[64] = {};
    ref::quantize_row(DType::q4_0, bytes, block_of(1).data(), 0);  // an empty row is nothing
    for (uint64_t word : bytes) CHECK(word == 0);
}
