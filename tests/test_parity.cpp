// Every backend against the reference where operations are exact: byte by byte.
#include "ref/kernels.h"
#include "tests/parity.h"

#include <limits>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// Rows that quantizers find hard: see docs/03-quantization.md.
std::vector<float> hard_rows(int64_t d) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    std::vector<float> x = loud_channels(16, d, 17, 16, 40.0);
    const auto row = [&](int64_t i) { return x.data() + i * d; };
    std::fill(row(1), row(2), 0.0f);
    row(2)[d / 2] = inf;
    row(3)[d - 1] = std::nanf("");
    for (int64_t j = 0; j < d; ++j) {
        row(4)[j] = float(j % 17 - 8) * 0.5f;  // ties of every format
        row(5)[j] *= 1e-30f;
        row(6)[j] *= 1e6f;  // scales beyond f16
        row(7)[j] += 100.0f;
        row(8)[j] = -0.0f;
        row(9)[j] *= 1e-16f;  // below what iq4_nl keeps
        row(10)[j] *= 1e-41f;
    }
    row(11)[0] = -8.0f;
    row(11)[1] = 8.0f;  // two elements of the largest magnitude
    return x;
}

}  // namespace

TEST_CASE("parity: hadamard is exact") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const int64_t d : {1, 2, 16, 64, 80, 96, 192, 256, 320, 576, 1024}) {
            for (int64_t n = 1; n <= d; n *= 2) {
                if (d % n != 0) continue;
                for (const int64_t rows : {1, 7, 113}) {
                    for (const Rotation::Kind kind :
                         {Rotation::Kind::sylvester, Rotation::Kind::signs}) {
                        const std::vector<float> x = normal_vector(rows * d, uint64_t(d + n));
                        const auto run = [&](Backend& b, bool inverse) {
                            const Buffer memory = upload(b, x);
                            const TensorView view = memory.view(DType::f32, {rows, d});
                            b.hadamard({view, view, {kind, n, 5, 0}, inverse});
                            return download_f32(b, view);
                        };
                        INFO(backend->name() << " D = " << d << ", N = " << n);
                        REQUIRE(floats_equal(run(*backend, false), run(*ref, false)));
                        REQUIRE(floats_equal(run(*backend, true), run(*ref, true)));
                    }
                }
            }
        }
    }
}

TEST_CASE("parity: quantize and dequantize are exact") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const DType type : k_cache_types) {
            for (const int64_t d : {32, 64, 96, 256, 576}) {
                const std::vector<float> x = hard_rows(d);
                const auto codes = [&](Backend& b) {
                    const Buffer src = upload(b, x);
                    const Buffer dst(b, size_t(16 * row_bytes(type, d)));
                    b.quantize({dst.view(type, {16, d}), src.view(DType::f32, {16, d})});
                    return download(b, dst.view(type, {16, d}));
                };
                const std::vector<std::byte> expected = codes(*ref);
                INFO(backend->name() << " " << type_info(type).name << " D = " << d);
                REQUIRE((codes(*backend) == expected));

                const auto values = [&](Backend& b) {
                    const Buffer src(b, expected.size());
                    src.upload(expected);
                    const Buffer dst(b, size_t(16 * d) * sizeof(float));
                    b.dequantize({dst.view(DType::f32, {16, d}), src.view(type, {16, d})});
                    return download_f32(b, dst.view(DType::f32, {16, d}));
                };
                REQUIRE(floats_equal(values(*backend), values(*ref)));
            }
        }
    }
}

TEST_CASE("parity: rope is exact") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const RopePairs pairs : {RopePairs::norm, RopePairs::neox}) {
            for (const int64_t d : {16, 64, 80, 256}) {
                for (const int64_t n_rot : {d, d / 2, int64_t(6)}) {
                    RopeConfig config;
                    config.n_rot = n_rot;
                    const std::vector<int32_t> positions = {0, 1, 77, 5000};
                    const std::vector<float> table = rope_table(config, positions);
                    const std::vector<float> x = normal_vector(7 * 3 * d, 2);
                    const auto run = [&](Backend& b) {
                        const Buffer memory = upload(b, x), turns = upload(b, table);
                        const Buffer rows = upload(b, std::vector<int32_t>{3, 0, 1, 2, 2, 3, 1});
                        const TensorView view = memory.view(DType::f32, {7, 3, d});
                        b.rope({view, view, turns.view(DType::f32, {4, n_rot / 2, 2}),
                                rows.view(DType::i32, {7}), pairs});
                        return download_f32(b, view);
                    };
                    INFO(backend->name() << " D = " << d << ", " << n_rot << " turn");
                    REQUIRE(floats_equal(run(*backend), run(*ref)));
                }
            }
        }
    }
}

TEST_CASE("parity: kv_store and kv_shift write the same cache") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    RopeConfig config;
    config.n_rot = 48;
    config.pairs = RopePairs::neox;
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const DType type : k_cache_types) {
            for (const char* text :
                 {"k=none v=none", "k=sylvester/32 v=sylvester/64", "k=signs/64/3 v=signs/32/9"}) {
                AttentionCase c;
                c.type_k = type;
                c.type_v = type == DType::q4_0 ? DType::f16 : type;
                c.kv_heads = 3;
                c.heads = 3;
                c.d_v = 128;
                c.spec = RotationSpec::parse(text);
                c.fill(2, 19, 77);
                const auto run = [&](Backend& b) {
                    KvCache cache(b, c.shape(), c.spec);
                    fill(b, cache.k(0), std::byte(0));
                    fill(b, cache.v(0), std::byte(0));
                    c.store(b, cache, 7);
                    cache.shift(1, 4, 12, 9, [&](int64_t) { return config; });
                    std::vector<std::byte> bytes = download(b, cache.k(0));
                    const std::vector<std::byte> v = download(b, cache.v(0));
                    bytes.insert(bytes.end(), v.begin(), v.end());
                    return bytes;
                };
                INFO(backend->name() << " " << type_info(type).name << " " << text);
                REQUIRE((run(*backend) == run(*ref)));
            }
        }
    }
}
