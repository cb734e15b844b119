// Moving tokens where V is a view of K: of a latent row the channels behind V turn, and no others.
#include "ref/hadamard.h"
#include "tests/laws.h"
#include "tests/random.h"

#include <cmath>
#include <complex>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;
constexpr int64_t k_tokens = 6, k_latent = 128, k_turning = 64, k_row = k_latent + k_turning;

// Pairs (2i, 2i + 1) of the channels behind the latent, turned by `difference` positions.
void turn(float* row, int32_t difference, double base) {
    for (int64_t i = 0; i < k_turning / 2; ++i) {
        float* pair = row + k_latent + 2 * i;
        const double angle = difference * std::pow(base, -2.0 * double(i) / double(k_turning));
        const auto z =
            std::complex<double>(double(pair[0]), double(pair[1])) * std::polar(1.0, angle);
        pair[0] = float(z.real());
        pair[1] = float(z.imag());
    }
}

}  // namespace

TEST_CASE("cache: a shift turns what lies behind V in a latent row") {
    const KvLayer layer{.kv_heads = 1,
                        .d_k = k_row,
                        .d_v = k_latent,
                        .type_k = DType::f32,
                        .type_v = DType::f32,
                        .v_in_k = true};
    RopeConfig rope;
    rope.pairs = RopePairs::norm;
    rope.n_rot = k_turning;
    rope.base = 100;
    const std::vector<float> k = normal_vector(k_tokens * k_row, 3);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const Rotation::Kind kind :
             {Rotation::Kind::none, Rotation::Kind::sylvester, Rotation::Kind::signs}) {
            Rotation rotation{.kind = kind};
            if (rotation.on()) rotation.block = 64;
            if (kind == Rotation::Kind::signs) rotation.seed = 7;
            KvCache cache(*backend, {.streams = 1, .cells = 8, .layers = {layer}},
                          RotationSpec::of(rotation, rotation));
            const KvBatch batch = cache.place(Ints(k_tokens, 0), Ints{0, 1, 2, 3, 4, 5});
            const Buffer rows = upload(*backend, k);
            backend->run(KvStoreArgs{.k_cache = cache.k(0),
                                     .k = rows.view(DType::f32, {k_tokens, 1, k_row}),
                                     .stream = batch.stream,
                                     .cell = batch.cell,
                                     .k_rotation = rotation});
            cache.shift(0, 2, 6, 5, [&](int64_t) { return rope; });

            std::vector<float> found = download_f32(*backend, cache.k(0));
            double apart = 0;
            for (int64_t t = 0; t < k_tokens; ++t) {
                float* row = &found[size_t(t * k_row)];
                ref::hadamard_row(row, row, k_row, rotation, true);
                std::vector<float> expected(k.begin() + t * k_row, k.begin() + (t + 1) * k_row);
                if (t >= 2) turn(expected.data(), 5, rope.base);
                for (int64_t i = 0; i < k_row; ++i) {
                    apart =
                        std::max(apart, std::fabs(double(row[i]) - double(expected[size_t(i)])));
                }
            }
            INFO(backend->name() << " rotation " << int(kind));
            CHECK(apart < 1e-5);
            CHECK(cache.host_positions()[2] == 7);
        }
    }
}
