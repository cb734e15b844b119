// Which kernel computes attention, by arithmetic of the host: of three cards, none of which has to
// be there. What usual heads and types get must not change with a card's shared memory by accident.
#include "cuda/attention_path.h"
#include "cuda/failure.h"
#include "cuda/kernels.h"
#include "cuda/split_product.h"
#include "ref/cases/case.h"
#include "ref/forwarding_backend.h"
#include "ref/types.h"
#include "tests/catch.h"
#include "tests/cuda_device.h"
#include "tools/parity/parity.h"

#include <algorithm>

using namespace rotkv;
using cuda::AttentionKind;
using cuda::AttentionPath;

namespace {

struct Card {
    const char* name;
    cuda::DeviceLimits limits;
};
const Card k_cards[] = {
    {"99 KB, 8.9", {false, 128, 100 << 10, 99 << 10}},
    {"163 KB, 8.0", {false, 108, 164 << 10, 163 << 10}},
    {"227 KB, 9.0", {true, 132, 228 << 10, 227 << 10}},
};

// Of 32 query heads; memory that nobody looks at, on 16 bytes.
AttentionArgs call(DType type, int64_t tokens, int64_t d_k, int64_t d_v, Precision precision,
                   int64_t heads = 32, int64_t kv_heads = 8) {
    std::byte* const somewhere = reinterpret_cast<std::byte*>(uintptr_t(1) << 20);
    AttentionArgs args;
    args.dst = view(somewhere, DType::f32, {tokens, heads, d_v});
    args.q = view(somewhere, DType::f32, {tokens, heads, d_k});
    args.k_cache = view(somewhere, type, {1, 4096, kv_heads, d_k});
    args.v_cache = view(somewhere, type, {1, 4096, kv_heads, d_v});
    args.position = view(somewhere, DType::i32, {1, 4096});
    args.used = view(somewhere, DType::i32, {1});
    args.q_stream = args.q_position = view(somewhere, DType::i32, {tokens});
    args.precision = precision;
    return args;
}

std::string words_of(const Card& card, const AttentionArgs& args, const AttentionPath& path) {
    return std::string(card.name) + ", " + type_info(args.k_cache.type).name + ", heads of " +
           std::to_string(args.q.n[3]) + " / " + std::to_string(args.dst.n[3]) + ", " +
           std::to_string(args.q.n[1]) + " tokens, " +
           (args.precision == Precision::f16 ? "f16: " : "f32: ") + path.plan.kernel + ", " +
           std::to_string(path.plan.warps) + " warps, " + std::to_string(path.plan.stages) +
           " stages, " + std::to_string(path.plan.shared_bytes) + " bytes";
}

// Heads that have kernels of their own.
const std::pair<int64_t, int64_t> k_heads[] = {{64, 64},   {80, 80},   {96, 96},   {112, 112},
                                               {128, 128}, {192, 192}, {192, 128}, {256, 256}};

template <class Visit>
void for_each_call(const Visit& visit) {
    for (const Card& card : k_cards) {
        for (const DType type : cache_types()) {
            for (const auto& [d_k, d_v] : k_heads) {
                if (d_k % type_info(type).block_elements != 0) continue;
                if (d_v % type_info(type).block_elements != 0) continue;
                for (const Precision precision : {Precision::f16, Precision::f32}) {
                    for (const int64_t tokens : {1, 9, 512}) {
                        visit(card, call(type, tokens, d_k, d_v, precision));
                    }
                }
            }
        }
    }
}

// The device, as if it offered no more than a smaller one does.
class SmallerCard final : public ForwardingBackend {
  public:
    SmallerCard(std::unique_ptr<Backend> device, const cuda::DeviceLimits& limits)
        : ForwardingBackend(std::move(device)) {
        workspace_.create();
        workspace_.has_wgmma = workspace_.has_wgmma && limits.has_wgmma;
        workspace_.shared_bytes = std::min(workspace_.shared_bytes, limits.shared_bytes);
        workspace_.most_shared_bytes =
            std::min(workspace_.most_shared_bytes, limits.most_shared_bytes);
    }

  protected:
    void execute(const Call& call) override {
        const auto* args = std::get_if<AttentionArgs>(&call);
        if (args == nullptr) return real().run(call);
        real().synchronize();  // calls so far may only be kept yet
        cuda::attention(*args, workspace_, nullptr);
    }

  private:
    cuda::Workspace workspace_;
};

bool is_float(DType type) { return type == DType::f32 || type == DType::bf16; }

// Are many tokens multiplied in f32 by tensor cores?
bool has_terms(const AttentionArgs& args) {
    const int64_t d = args.q.n[3];
    return (d == 64 || d == 128) && args.dst.n[3] == d && !is_float(args.k_cache.type);
}

}  // namespace

TEST_CASE("cuda paths: many tokens share a tile of cells on every card") {
    for_each_call([](const Card& card, const AttentionArgs& args) {
        if (args.q.n[1] == 1) return;
        const AttentionPath path = attention_path(args, card.limits);
        INFO(words_of(card, args, path));
        CHECK((path.kind == AttentionKind::prefill || path.kind == AttentionKind::prefill_f32));
        const bool is_terms = args.precision == Precision::f32 && has_terms(args);
        // Blocks of codes, with fewer rows than two groups of warps multiply, are left to code
        // for 8.0.
        const bool has_roles =
            card.limits.has_wgmma && (args.k_cache.type == DType::f16 || args.q.n[1] == 512);
        const char* const of_terms = has_roles ? "prefill_terms_hopper.cu" : "prefill_terms.cu";
        CHECK((std::string(path.plan.kernel) == of_terms) == is_terms);
        // f32 caches in f16 precision have no room for a stage on the smallest card.
        const bool may_be_f32 = args.precision == Precision::f32 ||
                                (args.k_cache.type == DType::f32 && card.limits.processors == 128);
        if (!may_be_f32) CHECK(path.kind == AttentionKind::prefill);
        // Nor has their stage beside the tiles of 9.0, of heads of 256.
        const bool has_no_stage = args.k_cache.type == DType::f32 && args.q.n[3] == 256;
        if (!may_be_f32 && !has_no_stage && card.limits.has_wgmma) {
            CHECK(std::string(path.plan.kernel) == "prefill_hopper.cuh");
        }
        CHECK(path.plan.shared_bytes <= card.limits.most_shared_bytes);
        CHECK(path.plan.warps >= 4);
    });
}

TEST_CASE("cuda paths: few tokens are read by tensor cores on every card") {
    for_each_call([](const Card& card, const AttentionArgs& args) {
        if (args.q.n[1] != 1) return;
        const AttentionPath path = attention_path(args, card.limits);
        INFO(words_of(card, args, path));
        CHECK(path.plan.shared_bytes <= card.limits.most_shared_bytes);
        if (is_float(args.k_cache.type)) return;  // of 4 and 2 bytes: what has room
        const bool is_f16 = args.precision == Precision::f16;
        CHECK(path.kind == (is_f16 ? AttentionKind::tensor : AttentionKind::terms));
        CHECK(path.plan.stages == 3);
    });
}

TEST_CASE("cuda paths: one token over few cells is one kernel where blocks can meet") {
    const auto kind = [](const Card& card, int64_t cells, const AttentionArgs& like) {
        AttentionArgs args = like;
        for (TensorView* cache : {&args.k_cache, &args.v_cache}) cache->n[1] = cells;
        args.position.n[3] = cells;
        return attention_path(args, card.limits).kind;
    };
    for (const DType type : cache_types()) {
        for (const Precision precision : {Precision::f16, Precision::f32}) {
            INFO(type_info(type).name);
            const AttentionArgs of_64 = call(type, 1, 64, 64, precision, 9, 3);
            const AttentionArgs of_128 = call(type, 1, 128, 128, precision);
            for (const Card& card : k_cards) {
                const bool meets = card.limits.has_wgmma;
                CHECK((kind(card, 1, of_64) == AttentionKind::cluster) == meets);
                CHECK((kind(card, 1024, of_64) == AttentionKind::cluster) == meets);
                CHECK((kind(card, 512, of_128) == AttentionKind::cluster) == meets);
            }
            const Card& card = k_cards[2];
            CHECK(kind(card, 1025, of_64) != AttentionKind::cluster);
            CHECK(kind(card, 513, of_128) != AttentionKind::cluster);
            const AttentionArgs two = call(type, 2, 64, 64, precision, 9, 3);
            CHECK(kind(card, 128, two) != AttentionKind::cluster);
            const AttentionArgs of_96 = call(type, 1, 96, 96, precision);
            CHECK(kind(card, 128, of_96) != AttentionKind::cluster);
            const AttentionArgs many_heads = call(type, 1, 64, 64, precision, 32, 32);
            CHECK(kind(card, 32, many_heads) == AttentionKind::cluster);   // 32 clusters of 2
            CHECK(kind(card, 128, many_heads) == AttentionKind::cluster);  // ... of 8
        }
    }
}

// Two blocks of threads to a processor, of 8 cells for each group of lanes; what more
// clusters would be have fewer blocks each.
TEST_CASE("cuda paths: one token of each of some streams is one kernel over few cells") {
    const Card& card = k_cards[2];
    const auto kind = [&](int64_t tokens, int64_t streams, int64_t cells) {
        AttentionArgs args = call(DType::q8_0, tokens, 64, 64, Precision::f32, 9, 3);
        for (TensorView* cache : {&args.k_cache, &args.v_cache}) {
            cache->n[0] = streams;
            cache->n[1] = cells;
        }
        args.position.n[2] = args.used.n[3] = streams;
        args.position.n[3] = cells;
        return attention_path(args, card.limits).kind;
    };
    CHECK(kind(16, 16, 36) == AttentionKind::cluster);   // 48 clusters of 4
    CHECK(kind(16, 16, 512) == AttentionKind::cluster);  // ... where 8 are not there at once
    CHECK(kind(16, 16, 513) == AttentionKind::terms);
    CHECK(kind(16, 64, 36) == AttentionKind::cluster);
    CHECK(kind(88, 88, 128) == AttentionKind::cluster);  // 264 blocks
    CHECK(kind(88, 88, 129) == AttentionKind::terms);
    CHECK(kind(89, 89, 36) == AttentionKind::terms);
    CHECK(kind(2, 1, 36) == AttentionKind::terms);  // share a read of the cells
}

// Those of 9.0 multiply numbers in registers, for heads of 128; others, and heads of 64, are teams'
// where there is room for 4 KV heads' 16 queries and two slices' tiles of 32 cells, two each.
TEST_CASE("cuda paths: some rows over blocks of codes are read once") {
    const cuda::DeviceLimits card = k_cards[2].limits;
    cuda::DeviceLimits other = card;
    other.has_wgmma = false;
    const auto kernel_on = [&](const cuda::DeviceLimits& device, const AttentionArgs& args) {
        return std::string(attention_path(args, device).plan.kernel);
    };
    const auto kernel = [&](const AttentionArgs& args) { return kernel_on(card, args); };
    constexpr Precision f16 = Precision::f16;
    for (const DType type : quantized_types()) {
        INFO(type_info(type).name);
        for (const int64_t d : {64, 128}) {
            INFO(d);
            CHECK(kernel(call(type, 2, d, d, f16)) == "decode.cu");
            CHECK(kernel_on(other, call(type, 3, d, d, f16)) == "decode_team.cu");
            CHECK(kernel_on(other, call(type, 4, d, d, f16)) == "decode_team.cu");
            CHECK(kernel_on(other, call(type, 5, d, d, f16)) == "prefill.cu");
            CHECK(kernel(call(type, 4, d, d, Precision::f32)) == "prefill_terms.cu");
            CHECK(kernel(call(type, 17, d, d, Precision::f32)) == "prefill_terms_hopper.cu");
        }
        CHECK(kernel(call(type, 4, 64, 64, f16)) == "decode_team.cu");
        CHECK(kernel(call(type, 5, 64, 64, f16)) == "prefill_hopper.cuh");
        CHECK(kernel(call(type, 3, 128, 128, f16)) == "decode_warpgroup.cu");
        CHECK(kernel(call(type, 8, 128, 128, f16)) == "decode_warpgroup.cu");
        CHECK(kernel(call(type, 9, 128, 128, f16)) == "prefill_hopper.cuh");
        CHECK(kernel(call(type, 4, 96, 96, f16)) == "prefill_hopper.cuh");
        // A token's own 12, 17 and 33 heads; tokens of streams of their own, and of shared ones.
        CHECK(kernel(call(type, 1, 128, 128, f16, 24, 2)) == "decode_warpgroup.cu");
        // The copy engine takes cells that begin on 16 bytes.
        const bool on_16 = row_bytes(type, 128) % 16 == 0;
        CHECK(kernel(call(type, 1, 128, 128, f16, 17, 1)) ==
              (on_16 ? "decode_warpgroup.cu" : "decode.cu"));
        CHECK(kernel(call(type, 1, 128, 128, f16, 34, 2)) == "decode_warpgroup.cu");
        CHECK(kernel(call(type, 1, 128, 128, f16, 33, 1)) == "decode.cu");
        CHECK(kernel_on(other, call(type, 1, 128, 128, f16, 17, 1)) == "decode.cu");
        AttentionArgs streams = call(type, 5, 128, 128, f16, 24, 2);
        streams.k_cache.n[0] = streams.v_cache.n[0] = 5;
        CHECK(kernel(streams) == "decode_warpgroup.cu");
        CHECK(kernel_on(other, streams) == "decode_team.cu");
        streams.k_cache.n[0] = streams.v_cache.n[0] = 4;
        CHECK(kernel(streams) == "prefill_hopper.cuh");
    }
    CHECK(kernel(call(DType::f16, 4, 128, 128, f16)) == "prefill_hopper.cuh");
    CHECK(attention_path(call(DType::q8_0, 4, 128, 128, f16), k_cards[0].limits).kind ==
          AttentionKind::prefill);  // no room
}

TEST_CASE("cuda paths: every line of the list names a kernel") {
    for (const Card& card : k_cards) {
        for (const std::string& line : cuda::list_attention_paths(card.limits)) {
            INFO(card.name << ": " << line);
            CHECK(line.find(".cu") != std::string::npos);
        }
        for (const std::string& line : cuda::list_product_paths(card.limits)) {
            INFO(card.name << ": " << line);
            CHECK((line.find("split_product.cuh") != std::string::npos) == card.limits.has_wgmma);
            CHECK(line.find("cuBLAS") != std::string::npos);
        }
    }
}

TEST_CASE("cuda paths: heads beyond 256 channels are served in f32, in f16 precision too") {
    for (const Card& card : k_cards) {
        for (const int64_t tokens : {1, 37}) {
            const AttentionArgs large = call(DType::q8_0, tokens, 512, 512, Precision::f16);
            const AttentionArgs latent = call(DType::f16, tokens, 576, 512, Precision::f16, 16, 1);
            for (const AttentionArgs& args : {large, latent}) {
                const AttentionPath path = attention_path(args, card.limits);
                INFO(words_of(card, args, path));
                CHECK(path.kind == AttentionKind::split);
                CHECK(attention_refusal(args, card.limits) == "");
            }
        }
        const AttentionArgs huge = call(DType::f16, 1, 4096, 4096, Precision::f16, 8, 1);
        INFO(attention_refusal(huge, card.limits));
        CHECK(attention_refusal(huge, card.limits).find("bytes of shared memory") !=
              std::string::npos);
    }
}

// 16 MiB hold a part of 16256 heads of 256: 256 channels, a maximum and a sum in f32.
TEST_CASE("cuda paths: more query heads than have room for a part are computed without parts") {
    for (const Card& card : k_cards) {
        for (const Precision precision : {Precision::f16, Precision::f32}) {
            for (const int64_t tokens : {1, 9}) {
                AttentionArgs args = call(DType::f16, tokens, 256, 256, precision, 16256, 1);
                args.lse = view(args.dst.data, DType::f32, {tokens, args.q.n[2]});
                CHECK(attention_path(args, card.limits).kind != AttentionKind::split);
                args = call(DType::f16, tokens, 256, 256, precision, 16257, 1);
                args.lse = view(args.dst.data, DType::f32, {tokens, args.q.n[2]});
                CHECK(attention_path(args, card.limits).kind == AttentionKind::split);
                CHECK(attention_refusal(args, card.limits) == "");
            }
        }
    }
}

// Every seventh row of the table, and those of large heads, where a tile is cut first.
TEST_CASE("cuda paths: attention agrees where shared memory is a smaller card's") {
    std::vector<std::unique_ptr<SmallerCard>> cards;
    for (const Card& card : k_cards) {
        std::unique_ptr<Backend> device = test::device_or_skip();
        if (!device) return;
        cards.push_back(std::make_unique<SmallerCard>(std::move(device), card.limits));
    }
    int64_t rows = 0;
    const std::vector<std::string> names = case_names("attention/");
    for (size_t i = 0; i < names.size(); ++i) {
        const std::string& name = names[i];
        const bool is_large = name.find("/D=192") != name.npos || name.find("/D=256") != name.npos;
        if ((i % 7 != 0 && !is_large) || name.find("C=32768") != name.npos) continue;
        const std::unique_ptr<Case> one = make_case(name);
        if (!one->supports(*cards[0]).yes) continue;
        const tools::Expected expected = tools::expected_results(*one);
        for (size_t c = 0; c < cards.size(); ++c) {
            const tools::CaseResult result = tools::run_on(*one, expected, *cards[c]);
            INFO(k_cards[c].name << ": " << name << ": " << result.text);
            CHECK(result.outcome == tools::Outcome::ok);
        }
        ++rows;
    }
    CHECK(rows > 100);
}

// One cell, so that every output is its value.
TEST_CASE("cuda: as many query heads as there are, with room for parts or without") {
    const auto device = test::device_or_skip();
    if (!device) return;
    constexpr int64_t heads = 20000, tokens = 9, d = 256;
    const std::vector<float> value = test::normal_vector(d, 1);
    const std::vector<int32_t> zeros(tokens, 0), one(1, 1);
    const Buffer q = test::upload(*device, test::normal_vector(tokens * heads * d, 2)),
                 cells = test::upload(*device, value), used = test::upload(*device, one),
                 integers = test::upload(*device, zeros), dst(*device, q.bytes());
    AttentionArgs args;
    args.dst = dst.view(DType::f32, {tokens, heads, d});
    args.q = q.view(DType::f32, {tokens, heads, d});
    args.k_cache = args.v_cache = cells.view(DType::f32, {1, 1, 1, d});
    args.position = integers.view(DType::i32, {1, 1});
    args.used = used.view(DType::i32, {1});
    args.q_stream = args.q_position = integers.view(DType::i32, {tokens});
    device->run(args);
    const std::vector<float> found = test::download_f32(*device, args.dst);
    int64_t wrong = 0;
    for (size_t i = 0; i < found.size(); ++i) wrong += found[i] != value[i % size_t(d)];
    CHECK(wrong == 0);
}

TEST_CASE("cuda: an error that nobody knows is taken for a fault") {
    for (const int refusal : {0, 1, 2, 9, 209, 400, 600, 701, 720, 801, 900, 901, 908, 910, 912}) {
        INFO(refusal);
        CHECK(!cuda::is_fault(refusal));
    }
    // 226 and 721: contained errors and leaks of tensor memory, which CUDA 12.4 did not know.
    for (const int fault :
         {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999, 12345}) {
        INFO(fault);
        CHECK(cuda::is_fault(fault));
    }
}
