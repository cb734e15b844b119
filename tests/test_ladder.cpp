// The versions of decode attention against the reference, each through the same cases.
#include "fast/backend.h"
#include "fast/decode.h"
#include "ref/kernels.h"
#include "ref/quant.h"
#include "tests/parity.h"

#include <omp.h>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr int k_threads = 3;  // so that parts of the cache are merged, on any machine

// The backend fast, whose attention is one version of the ladder.
class OneVersion final : public FastBackend {
  public:
    explicit OneVersion(const fast::DecodeVersion& version)
        : FastBackend(k_threads), version_(version) {}

  protected:
    using FastBackend::run;
    void run(const AttentionArgs& args) override {
        const int before = omp_get_max_threads();
        omp_set_num_threads(k_threads);
        version_.run(args);
        omp_set_num_threads(before);
    }

  private:
    const fast::DecodeVersion& version_;
};

struct Row {
    int64_t heads, kv_heads, d_k, d_v, streams, tokens, window;
    float softcap;
    bool sinks, v_in_k;
    const char* spec;
};

// Groups of 1, 2, 3, 4, 5 and 8 heads; tiles that are full, partly hidden and empty.
constexpr Row rows[] = {
    {9, 3, 64, 64, 1, 401, 0, 0, false, false, "k=64 v=64"},
    {5, 1, 64, 64, 3, 40, 0, 0, false, false, "k=none v=none"},
    {4, 1, 256, 256, 1, 270, 16, 0, false, false, "k=256 v=64"},
    {4, 4, 128, 128, 2, 133, 0, 20.0f, true, false, "k=128:1 v=64:1"},
    {8, 1, 192, 128, 1, 65, 33, 0, true, false, "k=64 v=none"},
    {4, 2, 96, 32, 1, 50, 0, 0, false, false, "k=none v=32"},
    {16, 1, 576, 512, 1, 20, 0, 0, false, true, "k=64 v=64"},
    {2, 1, 64, 64, 1, 1, 0, 0, false, false, "k=64 v=64"},
};

AttentionCase make_case(const Row& row, DType type) {
    AttentionCase c;
    c.heads = row.heads;
    c.kv_heads = row.kv_heads;
    c.d_k = row.d_k;
    c.d_v = row.d_v;
    c.window = row.window;
    c.softcap = row.softcap;
    c.v_in_k = row.v_in_k;
    c.cells = 448;
    c.scale = 1.0f / std::sqrt(float(row.d_k));
    c.type_k = type;
    c.type_v = row.v_in_k ? type : k_cache_types[size_t(row.tokens) % 9];
    c.spec = spec_of(row.spec);
    c.fill(row.streams, row.tokens, 5);
    if (row.sinks) c.sinks = normal_vector(row.heads, 8);
    // Each stream's last token asks, and one that sees nothing.
    c.q_streams.clear();
    c.q_positions.clear();
    for (int32_t s = 0; s < int32_t(row.streams); ++s) {
        c.q_streams.push_back(s);
        c.q_positions.push_back(int32_t(row.tokens) - 1);
    }
    c.q_streams.push_back(0);
    c.q_positions.push_back(-1);
    c.q.resize(c.q_streams.size() * size_t(c.heads * c.d_k), 0.5f);
    return c;
}

std::vector<float> run(Backend& backend, const AttentionCase& c) {
    KvCache cache(backend, c.shape(), c.spec);
    // What lies in empty cells must not matter, not even as 0 * NaN.
    fill(backend, cache.k(0), std::byte(0xFF));
    if (!c.v_in_k) fill(backend, cache.v(0), std::byte(0xFF));
    c.store(backend, cache);
    cache.remove(0, 3, 5);
    return c.attend(backend, cache);
}

}  // namespace

TEST_CASE("ladder: each version of decode attention agrees within rounding") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const Row& row : rows) {
        for (const DType type : k_cache_types) {
            const AttentionCase c = make_case(row, type);
            const std::vector<float> expected = run(*ref, c);
            for (const fast::DecodeVersion& version : fast::k_decode_versions) {
                OneVersion backend(version);
                const std::vector<float> found = run(backend, c);
                INFO(version.name << " " << type_info(type).name << " D = " << c.d_k << "/" << c.d_v
                                  << ", " << row.tokens << " tokens, " << row.spec);
                // As in "parity: attention agrees within rounding".
                REQUIRE(distance(found, expected) < 400 * 0x1p-24);
                REQUIRE(floats_equal(run(backend, c), found));
            }
        }
    }
}

TEST_CASE("ladder: the operation is its last version") {
    const AttentionCase c = [] {
        AttentionCase one = make_case(rows[0], DType::q8_0);
        one.q_streams.resize(1);
        one.q_positions.resize(1);
        one.q.resize(size_t(one.heads * one.d_k));
        return one;
    }();
    OneVersion last(*std::rbegin(fast::k_decode_versions));
    FastBackend operation(k_threads);
    CHECK(floats_equal(run(operation, c), run(last, c)));
}

TEST_CASE("ladder: products with every weight type agree within rounding") {
    // 515 elements where a type has no blocks; rows that leave one over; tokens past one tile.
    constexpr DType types[] = {DType::f32,    DType::f16,  DType::bf16,   DType::q8_0,
                               DType::q5_1,   DType::q5_0, DType::q4_1,   DType::q4_0,
                               DType::iq4_nl, DType::q2_k, DType::q3_k,   DType::q4_k,
                               DType::q5_k,   DType::q6_k, DType::iq4_xs, DType::mxfp4};
    const std::unique_ptr<Backend> ref = ref::make_backend();
    FastBackend fast(0);
    for (const DType type : types) {
        const int64_t in = is_block_type(type) ? 768 : 515, out = 67;
        const TypeInfo& info = type_info(type);
        Random random(9);
        std::vector<std::byte> bytes(size_t(out * row_bytes(type, in)));
        std::vector<float> w(static_cast<size_t>(in));
        // Random blocks, drawn again where they hold something huge, inf or NaN.
        for (auto block = bytes.begin(); block != bytes.end(); block += info.block_bytes) {
            do {
                std::generate_n(block, info.block_bytes, [&] { return std::byte(random.bits()); });
                ref::dequantize_row(type, w.data(), &*block, info.block_elements);
            } while (!std::all_of(w.begin(), w.begin() + info.block_elements,
                                  [](float x) { return std::fabs(x) < 100.0f; }));
        }
        for (const int64_t tokens : {1, 2, 3, 4, 7, 12}) {
            const std::vector<float> x = normal_vector(tokens * in, 3);
            const auto product = [&](Backend& b) {
                const Buffer weight(b, bytes.size()), src = upload(b, x);
                weight.upload(bytes);
                const Buffer dst(b, size_t(tokens * out) * sizeof(float));
                const TensorView y = dst.view(DType::f32, {tokens, out});
                b.matmul({y, weight.view(type, {out, in}), src.view(DType::f32, {tokens, in})});
                return download_f32(b, y);
            };
            const std::vector<float> expected = product(*ref), found = product(fast);
            for (int64_t i = 0; i < tokens * out; ++i) {
                const int64_t t = i / out, o = i % out;
                ref::dequantize_row(type, w.data(), bytes.data() + o * row_bytes(type, in), in);
                double size = 0;  // sum |w x|
                for (int64_t j = 0; j < in; ++j) {
                    size += std::fabs(double(w[size_t(j)]) * double(x[size_t(t * in + j)]));
                }
                INFO(type_info(type).name << ", token " << t << " of " << tokens << ", row " << o);
                // 64 additions in a lane, 4 to 6 between lanes, the rest of a row.
                const double apart = double(found[size_t(i)]) - double(expected[size_t(i)]);
                REQUIRE(std::fabs(apart) <= 100 * 0x1p-24 * size);
            }
        }
    }
}
