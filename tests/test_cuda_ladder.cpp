// Every version of the Hadamard transform on an NVIDIA GPU against ref, bit by bit, and every
// version of attention, of few tokens and of many, against ref and as a column of the table.
#include "cuda/ladder.h"
#include "ref/error.h"
#include "ref/forwarding_backend.h"
#include "ref/kernels.h"
#include "ref/quant.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/cuda_device.h"
#include "tests/parity.h"
#include "tests/random.h"
#include "tools/ladder_backends.h"
#include "tools/parity/parity.h"

#include <optional>

using namespace rotkv;
using rotkv::test::device_or_skip;
using rotkv::test::floats_equal;
using rotkv::test::normal_vector;
using rotkv::test::spec_of;

namespace {

// The device, as if it had so few processors, with one version of attention.
class FewProcessors final : public ForwardingBackend {
  public:
    FewProcessors(std::unique_ptr<Backend> device, const cuda::AttentionVersion& version,
                  int64_t processors)
        : ForwardingBackend(std::move(device)), version_(version) {
        workspace_.create();
        workspace_.processors = processors;
    }
    ~FewProcessors() override { workspace_.destroy(); }

  protected:
    void execute(const Call& call) override {
        const auto* args = std::get_if<AttentionArgs>(&call);
        if (args == nullptr) return real().run(call);
        real().synchronize();  // calls so far may only be kept yet
        version_.run(*args, workspace_, nullptr);
        cuda::wait_for_ladder(nullptr);
    }

  private:
    const cuda::AttentionVersion& version_;
    cuda::Workspace workspace_;
};

// The last token of each stream asks, after so many that many blocks share its cells.
test::CachedAttention long_case(DType type_k, DType type_v, int64_t d, int64_t heads,
                                int64_t streams) {
    test::CachedAttention c;
    c.heads = heads;
    c.kv_heads = 2;
    c.d_k = c.d_v = d;
    c.cells = 2100;
    c.type_k = type_k;
    c.type_v = type_v;
    c.scale = 1.0f / std::sqrt(float(d));
    c.spec = spec_of("k=32 v=32:7");
    c.fill(streams, 2051, uint64_t(d));
    c.sinks = normal_vector(heads, 8);
    c.q_streams.clear();
    c.q_positions.clear();
    for (int32_t s = 0; s < int32_t(streams); ++s) {
        c.q_streams.push_back(s);
        c.q_positions.push_back(2050);
    }
    c.q.resize(size_t(streams * heads * d));
    return c;
}

// The mean square of a - b over that of b.
double nmse(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, all = 0;
    for (size_t i = 0; i < b.size(); ++i) {
        error += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
        all += double(b[i]) * double(b[i]);
    }
    return error / all;
}

// Rows of d at `offset` elements from where memory is aligned, with `gap` elements behind each.
struct Place {
    int64_t offset, gap;
};

TensorView rows_of(const Buffer& buffer, DType type, int64_t rows, int64_t d, const Place& place) {
    TensorView rows_view = buffer.view(type, {rows, d});
    rows_view.data += place.offset * rows_view.stride[3];
    rows_view.stride[2] += place.gap * rows_view.stride[3];
    rows_view.stride[1] = rows_view.stride[0] = rows * rows_view.stride[2];
    return rows_view;
}

// Apart, then in place: both must be what ref makes of x.
void check_rows(Backend& device, const cuda::HadamardVersion& version, DType type, int64_t rows,
                int64_t d, const Rotation& rotation, bool inverse, const Place& place) {
    const int64_t count = rows * (d + place.gap) + place.offset;
    const std::vector<float> x = normal_vector(count, uint64_t(d + rotation.block));
    std::vector<std::byte> host(size_t(row_bytes(type, count)));
    ref::quantize_row(type, host.data(), x.data(), count);
    const Buffer src(device, host.size()), dst(device, host.size());
    src.upload(host);
    dst.upload(host);
    const TensorView from = rows_of(src, type, rows, d, place);
    const TensorView to = rows_of(dst, type, rows, d, place);
    TensorView on_host = from;
    on_host.data = host.data() + place.offset * from.stride[3];
    ref::hadamard({on_host, on_host, rotation, inverse});

    version.run({to, from, rotation, inverse}, nullptr);
    version.run({from, from, rotation, inverse}, nullptr);
    INFO(version.name << ", " << type_info(type).name << ": D = " << d << ", N = " << rotation.block
                      << ", rows = " << rows << (inverse ? ", back" : ", forward") << ", at "
                      << place.offset << " + " << place.gap);
    REQUIRE(test::download(device, dst.view(type, {count})) == host);
    REQUIRE(test::download(device, src.view(type, {count})) == host);
}

// All sizes, with and without signs, one row and many, aligned to 16 bytes and not.
void check_version(Backend& device, const cuda::HadamardVersion& version, DType type) {
    for (int64_t n = 1; n <= 1024; n *= 2) {
        for (const int64_t d : {n, 3 * n}) {
            for (const int64_t rows : {1, 37}) {
                for (const Place& place : {Place{0, 0}, Place{1, 3}, Place{4, 8}, Place{8, 16}}) {
                    for (const bool inverse : {false, true}) {
                        const auto check = [&](const Rotation& rotation) {
                            check_rows(device, version, type, rows, d, rotation, inverse, place);
                        };
                        check({});
                        check({Rotation::Kind::sylvester, n, 0, 0});
                        check({Rotation::Kind::signs, n, 5, 3});
                    }
                }
            }
        }
    }
}

// The bytes of both caches after one kv_store of x as K and as V, in no order, some tokens skipped.
std::vector<std::byte> stored(Backend& backend, DType type, const std::vector<float>& x,
                              int64_t heads, int64_t d, int64_t block) {
    const int64_t tokens = int64_t(x.size()) / (heads * d), cells = tokens;
    std::vector<int32_t> streams(size_t(tokens), 0), at;
    for (int64_t t = 0; t < tokens; ++t) at.push_back(t % 9 == 4 ? -1 : int32_t(t * 11 % cells));
    const Buffer rows = test::upload(backend, x), stream = test::upload(backend, streams);
    const Buffer cell = test::upload(backend, at);
    const Buffer k(backend, size_t(cells * heads * row_bytes(type, d))), v(backend, k.bytes());
    const KvStoreArgs args{.k_cache = k.view(type, {1, cells, heads, d}),
                           .v_cache = v.view(type, {1, cells, heads, d}),
                           .k = rows.view(DType::f32, {tokens, heads, d}),
                           .v = rows.view(DType::f32, {tokens, heads, d}),
                           .stream = stream.view(DType::i32, {tokens}),
                           .cell = cell.view(DType::i32, {tokens}),
                           .k_rotation = {Rotation::Kind::sylvester, block, 0, 0},
                           .v_rotation = {Rotation::Kind::signs, 32, 7, 0}};
    test::fill(backend, args.k_cache, std::byte(0x55));
    test::fill(backend, args.v_cache, std::byte(0x55));
    backend.run(args);
    std::vector<std::byte> bytes = test::download(backend, args.k_cache);
    const std::vector<std::byte> more = test::download(backend, args.v_cache);
    bytes.insert(bytes.end(), more.begin(), more.end());
    return bytes;
}

// Rows of the table of which some version might take each; skewed ones begin on 2 bytes.
std::vector<std::string> attention_cases() {
    std::vector<std::string> names = case_names("attention/");
    std::erase_if(names, [](const std::string& name) {
        const auto has = [&](const char* words) { return name.find(words) != std::string::npos; };
        const bool is_fine = !has("precision=f16");
        return has("layout=") || (is_fine && !has("/T=1/"));
    });
    return names;
}

}  // namespace

TEST_CASE("cuda: kv_store of a batch that gives each thread several pieces equals ref") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const std::unique_ptr<Backend> host = make_ref_backend();
    const int64_t tokens = 2051, heads = 4;  // the table's batches are smaller
    for (const int64_t block : {64, 256, 512}) {
        const int64_t d = block == 64 ? 192 : block;
        const std::vector<float> x = normal_vector(tokens * heads * d, uint64_t(block));
        for (const DType type : cache_types()) {
            INFO(type_info(type).name << ", N = " << block);
            const bool equal = stored(*device, type, x, heads, d, block) ==
                               stored(*host, type, x, heads, d, block);
            REQUIRE(equal);  // and not the bytes, of which there are megabytes to print
        }
    }
}

TEST_CASE("cuda ladders: hadamard, every version equals ref") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    for (const cuda::HadamardVersion& version : cuda::k_hadamard_ladder) {
        check_version(*device, version, DType::f32);
    }
    const cuda::HadamardVersion& last = std::end(cuda::k_hadamard_ladder)[-1];
    for (const DType type : {DType::f16, DType::bf16}) check_version(*device, last, type);
}

TEST_CASE("cuda ladders: decode, every version is near ref, and twice the same") {
    if (device_or_skip() == nullptr) return;
    const std::unique_ptr<Backend> host = make_ref_backend();
    struct Row {
        DType k, v;
        int64_t d, heads, streams;
    };
    const Row rows[] = {
        {DType::q8_0, DType::q4_0, 128, 8, 1}, {DType::iq4_nl, DType::q5_1, 64, 6, 1},
        {DType::f16, DType::f16, 128, 22, 2},  {DType::f16, DType::bf16, 192, 2, 2},
        {DType::q8_0, DType::q8_0, 128, 6, 2}, {DType::q4_0, DType::q4_0, 64, 16, 1},
        {DType::q4_1, DType::f32, 96, 22, 1},  {DType::q5_0, DType::q8_0, 256, 16, 3}};
    std::vector<tools::LadderVersion> versions = tools::ladder_versions();
    for (const Row& row : rows) {
        test::CachedAttention c = long_case(row.k, row.v, row.d, row.heads, row.streams);
        const std::vector<float> expected = c.run(*host);
        for (const tools::LadderVersion& version : versions) {
            if (version.ladder != "decode") continue;
            Backend& device = *version.backend;
            KvCache cache(device, c.shape(), c.spec);
            c.store(device, cache);
            for (const Precision precision : {Precision::f32, Precision::f16}) {
                c.precision = precision;
                std::vector<float> found;
                try {
                    found = c.attend(device, cache);
                } catch (const Error& error) {
                    REQUIRE(error.code() == ErrorCode::unsupported);
                    continue;
                }
                INFO(version.name << ", " << type_info(row.k).name << ", D = " << row.d);
                // Rounding to f32, or of q and p to f16; the table's rows hold to its bounds.
                CHECK(nmse(found, expected) < (precision == Precision::f32 ? 1e-11 : 1e-5));
                CHECK(floats_equal(c.attend(device, cache), found));
            }
        }
    }
}

TEST_CASE("cuda ladders: sums of one sign over 16384 cells of a warp") {
    if (device_or_skip() == nullptr) return;
    test::CachedAttention c;
    c.heads = c.kv_heads = 4;
    c.cells = 32768;
    c.scale = 0.01f;  // every cell counts
    c.fill(1, c.cells, 3);
    for (float& x : c.v) x = std::fabs(x);
    c.q_streams = {0};
    c.q_positions = {int32_t(c.cells - 1)};
    c.q.resize(size_t(c.heads * c.d_k));
    const cuda::AttentionVersion versions[] = {{"2_split", cuda::decode_2_split, cuda::takes_f32},
                                               {"8_terms", cuda::decode_8_terms, cuda::takes_f32},
                                               {"7_bands", cuda::decode_7_bands, nullptr}};
    for (const DType type : {DType::f16, DType::q8_0, DType::q4_1}) {
        c.type_k = c.type_v = type;
        const std::vector<float> expected = c.run(*make_ref_backend());
        for (const cuda::AttentionVersion& version : versions) {
            FewProcessors device(tools::make_backend("cuda", 0), version, 1);
            KvCache cache(device, c.shape(), c.spec);
            c.store(device, cache);
            INFO(version.name << ", " << type_info(type).name);
            // Tensor cores cut off what f32 does not hold: 1e-8, if they added up all tiles.
            CHECK(nmse(c.attend(device, cache), expected) <
                  (version.takes == nullptr ? 1e-5 : 1e-11));
        }
    }
}

TEST_CASE("cuda ladders: lanes hold the codes of a block as fragments.cuh says") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Buffer buffer(*device, 32 * 8 * sizeof(uint32_t));
    cuda::show_fragments(buffer.data(), nullptr);
    cuda::wait_for_ladder(nullptr);
    uint32_t words[32][2][4];
    device->download(std::as_writable_bytes(std::span(words)), buffer.data());
    // The table of the file, [lower even, lower odd], and 16 channels further on the higher ones.
    constexpr uint32_t scores[4][2][2] = {
        {{0, 2}, {1, 3}}, {{4, 6}, {5, 7}}, {{8, 10}, {9, 11}}, {{12, 14}, {13, 15}}};
    for (uint32_t lane = 0; lane < 32; ++lane) {
        for (uint32_t i = 0; i < 4; ++i) {
            INFO("lane " << lane << ", register " << i);
            const uint32_t times = i < 2 ? 1 : 16, g = lane / 4, t = lane % 4;
            const uint32_t(&two)[2] = scores[t][i % 2];
            CHECK(words[lane][0][i] == (two[0] | two[1] << 16) * times);
            const uint32_t channel = 2 * g + i % 2;
            CHECK(words[lane][1][i] == (channel | (15 - channel) << 16) * times);
        }
    }
}

TEST_CASE("cuda ladders: attention, every version is held to the table") {
    if (device_or_skip() == nullptr) return;
    const std::vector<std::string> names = attention_cases();
    std::vector<tools::LadderVersion> versions = tools::ladder_versions();
    std::vector<int64_t> judged(versions.size(), 0);
    for (const std::string& name : names) {
        const std::unique_ptr<Case> one = make_case(name);
        std::optional<tools::Expected> expected;
        for (size_t i = 0; i < versions.size(); ++i) {
            const tools::LadderVersion& version = versions[i];
            if (version.ladder == "hadamard" || !one->supports(*version.backend).yes) continue;
            if (!expected.has_value()) expected = tools::expected_results(*one);
            // As memory is allocated: lower versions read 16 bytes at a time, and say so.
            const tools::CaseResult cell =
                tools::run_on(*one, *expected, *version.backend, tools::Alignment::memory);
            // Where rows of positions begin is known once they lie somewhere.
            if (cell.text.find("does not take such calls") != std::string::npos) continue;
            INFO(version.ladder << " " << version.name << ": " << cell.text);
            CHECK(cell.outcome == tools::Outcome::ok);
            ++judged[i];
        }
    }
    for (size_t i = 0; i < versions.size(); ++i) {
        if (versions[i].ladder == "hadamard") continue;
        INFO(versions[i].ladder << " " << versions[i].name);
        CHECK(judged[i] >= 4);
    }
}
