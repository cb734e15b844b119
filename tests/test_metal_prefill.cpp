// attention in f16 on Metal, by the kernel of simdgroup matrices alone: attention would compute
// again what is no number, and so hide a tile that nobody has waited for.
#include "metal/operations.h"
#include "ref/kernels.h"
#include "tests/catch.h"
#include "tests/random.h"

#include <cmath>

using namespace rotkv;

namespace {

struct Shape {
    DType type;
    int64_t tokens, cells, heads, kv_heads, d;
};

// Two streams in turns; the cells of a stream hold its positions from 0 on, all of them seen by the
// last tokens.
struct Batch {
    Shape of;
    std::vector<float> q, out, lse;
    std::vector<std::byte> k, v;
    std::vector<int32_t> position, used, stream, at;

    explicit Batch(const Shape& shape) : of(shape) {
        q = test::normal_vector(of.tokens * of.heads * of.d, 1);
        out.resize(q.size());
        lse.resize(size_t(of.tokens * of.heads));
        k = rows(2);
        v = rows(3);
        for (int64_t i = 0; i < 2 * of.cells; ++i) position.push_back(int32_t(i % of.cells));
        used = {int32_t(of.cells), int32_t(of.cells)};
        for (int64_t t = 0; t < of.tokens; ++t) {
            stream.push_back(int32_t(t % 2));
            at.push_back(int32_t(of.cells - 1 - (of.tokens - 1 - t) / 2));
        }
    }
    std::vector<std::byte> rows(uint64_t seed) const {
        const int64_t n = 2 * of.cells * of.kv_heads;
        const std::vector<float> x = test::normal_vector(n * of.d, seed);
        std::vector<std::byte> bytes(size_t(n * row_bytes(of.type, of.d)));
        ref::quantize(QuantizeArgs{.dst = view(bytes.data(), of.type, {n, of.d}),
                                   .src = view(x.data(), DType::f32, {n, of.d})});
        return bytes;
    }
    AttentionArgs args() {
        const auto ints = [](std::vector<int32_t>& x, std::initializer_list<int64_t> extents) {
            return view(x.data(), DType::i32, extents);
        };
        AttentionArgs args;
        args.dst = view(out.data(), DType::f32, {of.tokens, of.heads, of.d});
        args.lse = view(lse.data(), DType::f32, {of.tokens, of.heads});
        args.q = view(q.data(), DType::f32, {of.tokens, of.heads, of.d});
        args.k_cache = view(k.data(), of.type, {2, of.cells, of.kv_heads, of.d});
        args.v_cache = view(v.data(), of.type, {2, of.cells, of.kv_heads, of.d});
        args.position = ints(position, {2, of.cells});
        args.used = ints(used, {2});
        args.q_stream = ints(stream, {of.tokens});
        args.q_position = ints(at, {of.tokens});
        args.scale = float(1 / std::sqrt(double(of.d)));
        args.precision = Precision::f16;
        return args;
    }
};

double distance(const std::vector<float>& expected, const std::vector<float>& found) {
    double apart = 0, all = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        apart += std::pow(double(found[i]) - double(expected[i]), 2);
        all += std::pow(double(expected[i]), 2);
    }
    return apart / all;
}

}  // namespace

TEST_CASE("metal: f16 alone holds ordinary numbers, tile by tile") {
    // rows that end inside of a matrix, tiles that end inside of one, all three widths
    for (const Shape& shape :
         {Shape{DType::q8_0, 19, 75, 6, 2, 64}, Shape{DType::f16, 9, 40, 4, 4, 128},
          Shape{DType::q4_0, 8, 45, 3, 1, 256}}) {
        Batch expected(shape), found(shape);
        ref::attention(expected.args());
        metal::Commands commands;
        metal::prefill(commands, found.args());
        commands.wait();
        INFO(type_info(shape.type).name);
        CHECK(distance(expected.out, found.out) < 1e-6);
        CHECK(distance(expected.lse, found.lse) < 1e-6);
    }
}

TEST_CASE("metal: what f16 does not hold is no number, and of its row alone") {
    Batch batch({DType::f32, 16, 40, 2, 1, 64});
    float* const k = reinterpret_cast<float*>(batch.k.data());
    k[36 * 64] = 1e6f;  // stream 0, position 36: tokens from 10 on see it
    metal::Commands commands;
    metal::prefill(commands, batch.args());
    commands.wait();
    for (int64_t t = 0; t < 16; ++t) {
        INFO(t);
        CHECK(std::isnan(batch.out[size_t(t * 128)]) == (t % 2 == 0 && batch.at[size_t(t)] >= 36));
    }
}
