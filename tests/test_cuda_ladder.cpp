// Every version of the Hadamard transform on an NVIDIA GPU against ref, bit by bit.
#include "cuda/ladder.h"
#include "ref/error.h"
#include "ref/kernels.h"
#include "tests/catch.h"
#include "tests/parity.h"
#include "tests/random.h"

using namespace rotkv;
using rotkv::test::floats_equal;
using rotkv::test::normal_vector;

namespace {

// Null, after saying why, where no device is.
std::unique_ptr<Backend> device_or_skip() {
    try {
        return tools::make_backend("cuda", 0);
    } catch (const Error& error) {
        test::skip(error.what());
        return nullptr;
    }
}

// Rows of d at `offset` floats from where memory is aligned, with `gap` floats behind each.
struct Place {
    int64_t offset, gap;
};

TensorView rows_of(const Buffer& buffer, int64_t rows, int64_t d, const Place& place) {
    TensorView rows_view = buffer.view(DType::f32, {rows, d});
    rows_view.data += place.offset * 4;
    rows_view.stride[2] += place.gap * 4;
    rows_view.stride[1] = rows_view.stride[0] = rows * rows_view.stride[2];
    return rows_view;
}

// Apart, then in place: both must be what ref makes of x.
void check_rows(Backend& device, const cuda::HadamardVersion& version, int64_t rows, int64_t d,
                const Rotation& rotation, bool inverse, const Place& place) {
    const std::vector<float> x =
        normal_vector(rows * (d + place.gap) + place.offset, uint64_t(d + rotation.block));
    std::vector<float> host = x;
    Buffer src = test::upload(device, x), dst = test::upload(device, x);
    const TensorView from = rows_of(src, rows, d, place), to = rows_of(dst, rows, d, place);
    TensorView on_host = from;
    on_host.data = reinterpret_cast<std::byte*>(host.data() + place.offset);
    ref::hadamard({on_host, on_host, rotation, inverse});

    version.run({to, from, rotation, inverse}, nullptr);
    version.run({from, from, rotation, inverse}, nullptr);
    INFO(version.name << ": D = " << d << ", N = " << rotation.block << ", rows = " << rows
                      << (inverse ? ", back" : ", forward") << ", at " << place.offset << " + "
                      << place.gap);
    const TensorView all = src.view(DType::f32, {int64_t(x.size())});
    const TensorView all_apart = dst.view(DType::f32, {int64_t(x.size())});
    REQUIRE(floats_equal(test::download_f32(device, all_apart), host));
    REQUIRE(floats_equal(test::download_f32(device, all), host));
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
    KvStoreArgs args;
    args.k_cache = k.view(type, {1, cells, heads, d});
    args.v_cache = v.view(type, {1, cells, heads, d});
    args.k = args.v = rows.view(DType::f32, {tokens, heads, d});
    args.stream = stream.view(DType::i32, {tokens});
    args.cell = cell.view(DType::i32, {tokens});
    args.k_rotation = {Rotation::Kind::sylvester, block, 0, 0};
    args.v_rotation = {Rotation::Kind::signs, 32, 7, 0};
    test::fill(backend, args.k_cache, std::byte(0x55));
    test::fill(backend, args.v_cache, std::byte(0x55));
    backend.kv_store(args);
    std::vector<std::byte> bytes = test::download(backend, args.k_cache);
    const std::vector<std::byte> more = test::download(backend, args.v_cache);
    bytes.insert(bytes.end(), more.begin(), more.end());
    return bytes;
}

}  // namespace

TEST_CASE("cuda: kv_store of a batch that gives each thread several pieces equals ref") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const std::unique_ptr<Backend> host = ref::make_backend();
    const int64_t tokens = 2051, heads = 4;  // the table's batches are smaller
    for (const int64_t block : {64, 256, 512}) {
        const int64_t d = block == 64 ? 192 : block;
        const std::vector<float> x = normal_vector(tokens * heads * d, uint64_t(block));
        for (const DType type : test::k_cache_types) {
            INFO(type_info(type).name << ", N = " << block);
            const bool equal = stored(*device, type, x, heads, d, block) ==
                               stored(*host, type, x, heads, d, block);
            REQUIRE(equal);  // and not the bytes, of which there are megabytes to print
        }
    }
}

TEST_CASE("cuda hadamard ladder: every version equals ref") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    for (const cuda::HadamardVersion& version : cuda::k_hadamard_ladder) {
        for (int64_t n = 1; n <= 1024; n *= 2) {
            for (const int64_t d : {n, 3 * n}) {
                for (const int64_t rows : {1, 37}) {
                    // Aligned to 16 bytes and not: by vectors, and element by element.
                    for (const Place& place : {Place{0, 0}, Place{1, 3}, Place{4, 8}}) {
                        for (const bool inverse : {false, true}) {
                            check_rows(*device, version, rows, d, {}, inverse, place);
                            check_rows(*device, version, rows, d,
                                       {Rotation::Kind::sylvester, n, 0, 0}, inverse, place);
                            check_rows(*device, version, rows, d, {Rotation::Kind::signs, n, 5, 3},
                                       inverse, place);
                        }
                    }
                }
            }
        }
    }
}
