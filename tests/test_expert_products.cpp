// Products with the matrices of chosen experts, on every backend: laws that tie them to matmul.
#include "ref/quant.h"
#include "tests/laws.h"
#include "tests/random.h"
#include "tests/refused_call.h"

#include <numeric>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr int64_t k_in = 96, k_out = 37, k_experts = 5;

// The rows of so many experts' matrices, of a type.
Buffer weights(Backend& backend, DType type, uint64_t seed) {
    const int64_t rows = k_experts * k_out;
    const std::vector<float> w = normal_vector(rows * k_in, seed);
    std::vector<std::byte> bytes(size_t(rows * row_bytes(type, k_in)));
    for (int64_t r = 0; r < rows; ++r) {
        ref::quantize_row(type, bytes.data() + r * row_bytes(type, k_in), w.data() + r * k_in,
                          k_in);
    }
    Buffer buffer(backend, bytes.size());
    buffer.upload(bytes);
    return buffer;
}

TensorView expert(const TensorView& weight, int64_t e) {
    TensorView one = weight;
    one.data += e * weight.stride[1];
    one.n[1] = 1;
    return one;
}

// What matmul makes of one row of activations.
std::vector<float> product(Backend& backend, const TensorView& weight, const TensorView& src,
                           int64_t t, int64_t a) {
    const Buffer y(backend, size_t(4 * k_out));
    TensorView row = src;
    row.data += t * src.stride[1] + a * src.stride[2];
    row.n[1] = row.n[2] = 1;
    const TensorView dst = y.view(DType::f32, {1, k_out});
    backend.run(MatmulArgs{.dst = dst, .weight = weight, .src = row});
    return download_f32(backend, dst);
}

double largest_apart(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    double apart = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double here = std::fabs(double(a[i]) - double(b[i]));
        apart = std::isnan(here) ? INFINITY : std::max(apart, here);
    }
    return apart;
}

// Sums of 96 products of normal numbers in two orders: |sum| of magnitudes is below 120 each.
constexpr double k_apart = 120 * 2 * 16 * k_unit;

}  // namespace

TEST_CASE("law: each row is matmul's with the matrix of its expert, few of one or many") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const DType type : {DType::f32, DType::q8_0, DType::q4_0}) {
            const Buffer w = weights(*backend, type, 1);
            const TensorView weight = w.view(type, {k_experts, k_out, k_in});
            for (const int64_t tokens : {int64_t(1), int64_t(3), int64_t(50)}) {
                const int64_t uses = 2;
                const Buffer x = upload(*backend, normal_vector(tokens * uses * k_in, 2));
                const Buffer y(*backend, size_t(4 * tokens * uses * k_out));
                // Expert 0 is used by every second row, 1 by rows at uneven distances, 4 by one.
                std::vector<int32_t> ids;
                for (int64_t r = 0; r < tokens * uses; ++r) {
                    ids.push_back(r == 1 ? 4 : r % 2 == 0 ? 0 : int32_t(1 + r * r / 4 % 3));
                }
                const Buffer id = upload(*backend, ids);
                const TensorView src = x.view(DType::f32, {tokens, uses, k_in}),
                                 dst = y.view(DType::f32, {tokens, uses, k_out});
                backend->run(ExpertMatmulArgs{.dst = dst,
                                              .weight = weight,
                                              .src = src,
                                              .id = id.view(DType::i32, {tokens, uses})});
                const std::vector<float> found = download_f32(*backend, dst);
                for (int64_t r = 0; r < tokens * uses; ++r) {
                    const std::vector<float> row(found.begin() + r * k_out,
                                                 found.begin() + (r + 1) * k_out);
                    const TensorView one = expert(weight, ids[size_t(r)]);
                    INFO(backend->name() << " " << type_info(type).name << " row " << r);
                    const double apart =
                        largest_apart(row, product(*backend, one, src, r / uses, r % uses));
                    CHECK(apart <= k_apart);
                }
            }
        }
    }
}

TEST_CASE("law: all experts, each of weight 1, are one wide matrix and a sum") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        const int64_t tokens = 20;
        const Buffer w = weights(*backend, DType::f32, 3);
        const Buffer x = upload(*backend, normal_vector(tokens * k_in, 4));
        const Buffer ones = upload(*backend, std::vector<float>(size_t(tokens * k_experts), 1.0f));
        std::vector<int32_t> ids(size_t(k_experts), 0);
        std::iota(ids.begin(), ids.end(), 0);
        const Buffer id = upload(*backend, ids);
        const Buffer each(*backend, size_t(4 * tokens * k_experts * k_out));
        const Buffer wide(*backend, each.bytes()), sum(*backend, size_t(4 * tokens * k_out));
        TensorView src = x.view(DType::f32, {tokens, 1, k_in});
        src.n[2] = k_experts;  // x of a token for all its experts
        src.stride[2] = 0;
        TensorView all = id.view(DType::i32, {1, k_experts});
        all.n[2] = tokens;  // the same experts for every token
        all.stride[2] = 0;
        const TensorView dst = each.view(DType::f32, {tokens, k_experts, k_out});
        backend->run(ExpertMatmulArgs{.dst = dst,
                                      .weight = w.view(DType::f32, {k_experts, k_out, k_in}),
                                      .src = src,
                                      .id = all});
        const TensorView y = wide.view(DType::f32, {tokens, k_experts * k_out});
        backend->run(MatmulArgs{.dst = y,
                                .weight = w.view(DType::f32, {k_experts * k_out, k_in}),
                                .src = x.view(DType::f32, {tokens, k_in})});
        CHECK(largest_apart(download_f32(*backend, dst), download_f32(*backend, y)) <= k_apart);
        const TensorView total = sum.view(DType::f32, {tokens, k_out});
        backend->run(ExpertSumArgs{
            .dst = total, .src = dst, .weight = ones.view(DType::f32, {tokens, k_experts})});
        const std::vector<float> parts = download_f32(*backend, y),
                                 sums = download_f32(*backend, total);
        std::vector<float> expected;
        for (size_t i = 0; i < sums.size(); ++i) {
            double one = 0;
            for (size_t e = 0; e < size_t(k_experts); ++e) {
                one += double(parts[i / k_out * k_experts * k_out + e * k_out + i % k_out]);
            }
            expected.push_back(float(one));
        }
        CHECK(largest_apart(sums, expected) <= k_experts * k_apart);
    }
}

TEST_CASE("law: a bias is its expert's, and of one expert all is matmul and add") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        const Buffer w = weights(*backend, DType::f32, 5);
        const Buffer x = upload(*backend, normal_vector(2 * k_in, 6));
        const std::vector<float> b = normal_vector(k_experts * k_out, 7);
        const Buffer bias = upload(*backend, b), id = upload(*backend, std::vector<int32_t>{4, 1});
        const Buffer y(*backend, size_t(4 * 2 * k_out));
        const TensorView weight = w.view(DType::f32, {k_experts, k_out, k_in}),
                         src = x.view(DType::f32, {2, 1, k_in}),
                         dst = y.view(DType::f32, {2, 1, k_out});
        backend->run(ExpertMatmulArgs{.dst = dst,
                                      .weight = weight,
                                      .src = src,
                                      .id = id.view(DType::i32, {2, 1}),
                                      .bias = bias.view(DType::f32, {k_experts, k_out})});
        const std::vector<float> found = download_f32(*backend, dst);
        for (const int64_t t : {int64_t(0), int64_t(1)}) {
            const int64_t e = t == 0 ? 4 : 1;
            const std::vector<float> plain = product(*backend, expert(weight, e), src, t, 0);
            for (size_t o = 0; o < size_t(k_out); ++o) {
                const float expected = plain[o] + b[size_t(e * k_out) + o];
                CHECK(std::fabs(found[size_t(t * k_out) + o] - expected) <= float(k_apart));
            }
        }
    }
}

TEST_CASE("experts: gates by hand, with both cuts of swiglu_oai") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        const Buffer gate = upload(*backend, std::vector<float>{0, 1, 9, -2, NAN, 1});
        const Buffer up = upload(*backend, std::vector<float>{5, 9, -9, 0.5f, 1, NAN});
        const Buffer y(*backend, 24);
        const auto gated = [&](Activation activation) {
            const TensorView dst = y.view(DType::f32, {6});
            backend->run(ActMulArgs{.dst = dst,
                                    .gate = gate.view(DType::f32, {6}),
                                    .up = up.view(DType::f32, {6}),
                                    .activation = activation});
            return download_f32(*backend, dst);
        };
        const std::vector<float> sigmoid = gated(Activation::sigmoid);
        CHECK(sigmoid[0] == 2.5f);
        CHECK(sigmoid[1] == Approx(9 * 0.7310585786));
        CHECK(sigmoid[3] == Approx(0.5 * 0.1192029220));
        const std::vector<float> oai = gated(Activation::swiglu_oai);
        CHECK(oai[0] == 0);
        CHECK(oai[1] == Approx(8 * 0.8457957659));                  // up: 7
        CHECK(oai[2] == Approx(-6 * 7 / (1 + std::exp(-11.914))));  // gate: 7, up: -7
        CHECK(oai[3] == Approx(-2 * 1.5 / (1 + std::exp(3.404))));
        for (const size_t i : {size_t(4), size_t(5)}) {
            CHECK(std::isnan(sigmoid[i]));
            CHECK(std::isnan(oai[i]));
        }
    }
}

TEST_CASE("ops_check: experts") {
    const auto said = [](const Call& call) {
        return refusal([&] { check(call); }, ErrorCode::bad_argument);
    };
    const RouteArgs route{.id = i32({3, 2}), .weight = f32({3, 2}), .logits = f32({3, 8})};
    CHECK(said(route) == "accepted");
    RouteArgs args = route;
    args.weight = f32({3, 3});
    CHECK(said(args) == "route: expected weight [1][1][3][2], found f32 [1][1][3][3]");
    args = route;
    args.selection_bias = f32({7});
    CHECK(said(args) == "route: expected selection_bias [1][1][1][8], found f32 [1][1][1][7]");
    args = route;
    args.expert_scale = f32({3, 8});
    CHECK(said(args).find("expert_scale [1][1][1][8]") != std::string::npos);
    args = route;
    args.groups = 3;
    CHECK(said(args) == "route: expected groups that share out 8 experts, found 3");
    args.groups = 4;
    args.groups_used = 5;
    CHECK(said(args) == "route: expected 1 to 4 groups in use, found 5");
    args.groups_used = 1;
    args.id = i32({3, 3});
    args.weight = f32({3, 3});
    CHECK(said(args) == "route: expected 1 to 2 experts for a token, found 3");
    args = route;
    args.id.stride[2] = 0;
    CHECK(said(args).find("id without strides of 0") != std::string::npos);

    const ExpertMatmulArgs matmul{
        .dst = f32({3, 2, 5}), .weight = half({4, 5, 6}), .src = f32({3, 2, 6}), .id = i32({3, 2})};
    CHECK(said(matmul) == "accepted");
    ExpertMatmulArgs product = matmul;
    product.weight = half({4, 5, 7});
    CHECK(said(product) ==
          "expert_matmul: expected weight [1][any][any][6], found f16 [1][4][5][7]");
    product = matmul;
    product.weight.type = DType::i32;
    CHECK(said(product).find("weight of a weight type") != std::string::npos);
    product = matmul;
    product.id = i32({3, 1});
    CHECK(said(product).find("id [1][1][3][2]") != std::string::npos);
    product = matmul;
    product.bias = f32({5});
    CHECK(said(product).find("bias [1][1][4][5]") != std::string::npos);
    product = matmul;
    product.dst.stride[2] = 0;
    CHECK(said(product).find("dst without strides of 0") != std::string::npos);
    product = matmul;
    product.weight = half({0, 5, 6});
    CHECK(said(product).find("an expert for each id") != std::string::npos);

    ExpertSumArgs sum{.dst = f32({3, 6}), .src = f32({3, 2, 6}), .weight = f32({3, 2})};
    CHECK(said(sum) == "accepted");
    sum.weight = f32({2, 3});
    CHECK(said(sum) == "expert_sum: expected weight [1][1][3][2], found f32 [1][1][2][3]");
}
