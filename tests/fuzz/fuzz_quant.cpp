// Every backend against the reference on any bit patterns: the codes of every cache type, the
// values of every stored type, the Hadamard transform of any size under any seed of signs.
// Input: byte 0 the transform's size 2^(byte mod 9), bytes 1 to 8 the seed, then floats.
#include "tests/cached_attention.h"
#include "tools/backends.h"

#include <cmath>
#include <stdexcept>
#include <string>

using namespace rotkv;
using namespace rotkv::test;

static constexpr size_t k_head = 9;
static constexpr size_t k_most_floats = 4096;

using Bytes = std::vector<std::byte>;

static bool is_equal(const Bytes& a, const Bytes& b) { return a == b; }

// Equal bits; a NaN equals any NaN.
static bool is_equal(const std::vector<float>& a, const std::vector<float>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
        return std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y));
    });
}

static std::vector<float> hadamard(Backend& b, const std::vector<float>& x,
                                   const Rotation& rotation, bool inverse) {
    const Buffer memory = upload(b, x);
    const TensorView view =
        memory.view(DType::f32, {int64_t(x.size()) / rotation.block, rotation.block});
    b.run(HadamardArgs{.dst = view, .src = view, .rotation = rotation, .inverse = inverse});
    return download_f32(b, view);
}

// Rows of f16 or bf16, any bits.
static Bytes hadamard(Backend& b, DType type, const Bytes& x, const Rotation& rotation,
                      bool inverse) {
    const Buffer memory(b, x.size());
    memory.upload(x);
    const int64_t rows = int64_t(x.size()) / 2 / rotation.block;
    const TensorView view = memory.view(type, {rows, rotation.block});
    b.run(HadamardArgs{.dst = view, .src = view, .rotation = rotation, .inverse = inverse});
    return download(b, view);
}

static Bytes quantize(Backend& b, DType type, const std::vector<float>& x) {
    const int64_t d = int64_t(x.size());
    const Buffer src = upload(b, x), dst(b, size_t(row_bytes(type, d)));
    b.run(QuantizeArgs{.dst = dst.view(type, {1, d}), .src = src.view(DType::f32, {1, d})});
    return download(b, dst.view(type, {1, d}));
}

static std::vector<float> dequantize(Backend& b, DType type, const Bytes& codes, int64_t d) {
    const Buffer src(b, codes.size()), dst(b, size_t(d) * sizeof(float));
    src.upload(codes);
    b.run(DequantizeArgs{.dst = dst.view(DType::f32, {1, d}), .src = src.view(type, {1, d})});
    return download_f32(b, dst.view(DType::f32, {1, d}));
}

// Runs `operation` on every backend of this processor; the first is the reference. (A device has
// the table's cases: one input here is a hundred small launches.)
template <class Operation>
static void agree(const std::string& what, const Operation& operation) {
    static const std::vector<std::unique_ptr<Backend>> backends = [] {
        std::vector<std::unique_ptr<Backend>> result;
        for (const char* name : {"ref", "fast"}) result.push_back(tools::make_backend(name, 1));
        return result;
    }();
    const auto expected = operation(*backends[0]);
    for (size_t i = 1; i < backends.size(); ++i) {
        if (is_equal(operation(*backends[i]), expected)) continue;
        throw std::logic_error(what + ": " + backends[i]->name() + " is not " +
                               backends[0]->name());
    }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < k_head) return 0;
    Rotation rotation;
    rotation.block = int64_t(1) << data[0] % 9;
    std::memcpy(&rotation.seed, data + 1, sizeof rotation.seed);
    const Bytes bytes(reinterpret_cast<const std::byte*>(data) + k_head,
                      reinterpret_cast<const std::byte*>(data) +
                          std::min(size, k_head + k_most_floats * sizeof(float)));

    std::vector<float> x((bytes.size() / sizeof(float) + 255) / 256 * 256);  // zeros behind
    if (x.empty()) return 0;
    std::memcpy(x.data(), bytes.data(), bytes.size() / sizeof(float) * sizeof(float));
    Bytes halves(x.size() * sizeof(float));
    std::memcpy(halves.data(), x.data(), halves.size());
    for (const Rotation::Kind kind : {Rotation::Kind::sylvester, Rotation::Kind::signs}) {
        rotation.kind = kind;
        for (const bool inverse : {false, true}) {
            agree("hadamard", [&](Backend& b) { return hadamard(b, x, rotation, inverse); });
            for (const DType type : {DType::f16, DType::bf16}) {
                agree(std::string("hadamard of ") + type_info(type).name,
                      [&](Backend& b) { return hadamard(b, type, halves, rotation, inverse); });
            }
        }
    }
    for (const DType type : weight_types()) {
        const TypeInfo& info = type_info(type);
        if (info.cache) {
            agree(std::string("quantize ") + info.name,
                  [&](Backend& b) { return quantize(b, type, x); });
        }
        const int64_t blocks = int64_t(bytes.size()) / info.block_bytes;
        if (blocks == 0) continue;
        const Bytes codes(bytes.begin(), bytes.begin() + blocks * info.block_bytes);
        agree(std::string("dequantize ") + info.name,
              [&](Backend& b) { return dequantize(b, type, codes, blocks * info.block_elements); });
    }
    return 0;
}
