// Neighbouring calls that become one launch on an NVIDIA GPU: which do, which must not, and that
// the bytes are those of one call after the other.
#include "cuda/fusion.h"
#include "ref/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_device.h"
#include "tests/fusion_lists.h"
#include "tests/parity.h"

#include <cmath>
#include <cstring>

using namespace rotkv;
using namespace rotkv::test;

namespace {

std::vector<List> products(const Memory& m) {
    const TensorView x = m.view(k_x, {3, 96}), one = m.view(k_x, {1, 96});
    const TensorView q = m.columns(k_y, 3, 192, 320), k = m.columns(k_y + 192, 3, 64, 320);
    const TensorView v = m.columns(k_y + 256, 3, 64, 320), w_q = m.view(k_w, {192, 96});
    const TensorView w_k = m.view(k_w + 20000, {64, 96}), w_v = m.view(k_w + 40000, {64, 96});
    const TensorView y = m.view(k_y, {1, 96}), z = m.view(k_z, {1, 96});
    const TensorView some = m.view(k_x, {41, 96}), many = m.view(k_x, {65, 96}),
                     long_x = m.view(k_x, {1, 1536});
    // A row repeated: as many rows as one warp each is enough for, beside few that four share.
    const TensorView wide = m.view(k_v, {1, 9000}), x_wide = m.view(k_x, {1, 576});
    TensorView w_wide = m.view(k_w, {1, 576});
    w_wide.n[2] = 9000;
    w_wide.stride[2] = 0;
    return {
        {"q, k, v of three tokens",
         {product(q, w_q, x), product(k, w_k, x), product(v, w_v, x)},
         {3}},
        {"q, k, v of one",
         {product(m.view(k_y, {1, 192}), w_q, one), product(m.view(k_y + 192, {1, 64}), w_k, one),
          product(m.view(k_y + 256, {1, 64}), w_v, one)},
         {3}},
        {"blocks", {product(y, m.weight_q8(), one), product(z, m.weight_q8(), one)}, {2}},
        {"rows shared by one warp and by four",
         {product(wide, w_wide, x_wide), product(z, m.view(k_w + 1000, {96, 576}), x_wide)},
         {2}},
        {"long rows",
         {product(m.view(k_y, {1, 9}), m.view(k_w, {9, 1536}), long_x),
          product(m.view(k_z, {1, 5}), m.view(k_v, {5, 1536}), long_x)},
         {2}},
        {"four",
         {product(m.view(k_y, {1, 64}), w_k, one), product(m.view(k_y + 64, {1, 64}), w_v, one),
          product(m.view(k_y + 128, {1, 64}), w_k, one),
          product(m.view(k_y + 192, {1, 64}), w_v, one)},
         {3, 1}},
        {"weights of two types",
         {product(y, m.weight_q8(), one), product(m.view(k_y + 96, {1, 96}), m.weight_q8(), one),
          product(z, m.weight_q4(), one)},
         {2, 1}},
        {"too many tokens",
         {product(m.view(k_y, {65, 64}), w_k, many), product(m.view(k_z, {65, 64}), w_v, many)},
         {1, 1}},
        {"some tokens",
         {product(m.view(k_y, {41, 64}), w_k, some), product(m.view(k_z, {41, 64}), w_v, some)},
         {2}},
        {"other activations",
         {product(m.view(k_y, {1, 64}), w_k, one),
          product(m.view(k_z, {1, 64}), w_v, m.view(k_x + 96, {1, 96}))},
         {1, 1}},
        {"the second multiplies with what the first made",
         {product(q, w_q, x), product(m.view(k_z, {3, 8}), m.view(k_y, {8, 96}), x)},
         {1, 1}},
        {"the second writes over the first's weight",
         {product(q, w_q, x), product(m.view(k_w + 9600, {3, 64}), w_k, x)},
         {1, 1}},
        {"into the gaps of the activation",
         {product(m.columns(k_y + 96, 3, 64, 160), w_k, m.columns(k_y, 3, 96, 160)),
          MatmulArgs{
              .dst = m.view(k_z, {3, 64}), .weight = w_v, .src = m.columns(k_y, 3, 96, 160)}},
         {2}},
        {"both into one place",
         {product(q, w_q, x), product(q, m.view(k_v, {192, 96}), x)},
         {1, 1}},
        {"columns that overlap",
         {product(q, w_q, x), product(m.columns(k_y + 191, 3, 64, 320), w_k, x)},
         {1, 1}},
        {"columns that reach into the next row",
         {product(q, w_q, x), product(m.columns(k_y + 257, 3, 64, 320), w_k, x)},
         {1, 1}},
    };
}

// gate and up beside each other, as a model has them, of `tokens`.
std::vector<List> gated(const Memory& m, int64_t tokens, int64_t in) {
    const TensorView x = m.view(k_x, {tokens, in});
    const TensorView gate = m.columns(k_y, tokens, 97, 194),
                     up = m.columns(k_y + 97, tokens, 97, 194);
    const TensorView z = m.view(k_z, {tokens, 97});
    const MatmulArgs to_gate{.dst = gate, .weight = m.view(k_w, {97, in}), .src = x},
        to_up{up, m.view(k_v, {97, in}), x};
    const MatmulArgs to_z{.dst = z, .weight = m.view(k_v, {97, in}), .src = x};
    const Activation gelu = Activation::gelu_tanh;
    return {
        {"gate, up and silu",
         {to_gate, to_up, ActMulArgs{.dst = gate, .gate = gate, .up = up}},
         {3}},
        {"gate, up and gelu",
         {to_gate, to_up, ActMulArgs{.dst = gate, .gate = gate, .up = up, .activation = gelu}},
         {3}},
        {"up, gate and silu",
         {to_up, to_gate, ActMulArgs{.dst = gate, .gate = gate, .up = up}},
         {2, 1}},
        {"into up", {to_gate, to_up, ActMulArgs{.dst = up, .gate = gate, .up = up}}, {2, 1}},
        {"into another place",
         {to_gate, to_up, ActMulArgs{.dst = z, .gate = gate, .up = up}},
         {2, 1}},
        {"twice the gate",
         {to_gate, to_up, ActMulArgs{.dst = gate, .gate = gate, .up = gate}},
         {2, 1}},
        {"one product between",
         {to_gate, to_up, to_z, ActMulArgs{.dst = gate, .gate = gate, .up = up}},
         {3, 1}},
        {"both into one place, and silu",
         {to_gate, to_gate, ActMulArgs{.dst = gate, .gate = gate, .up = gate}},
         {1, 1, 1}},
    };
}

std::vector<List> turns(const Memory& m) {
    const TensorView q = m.heads(k_y, 3, 6, 32, 320), k = m.heads(k_y + 192, 3, 2, 32, 320);
    const TensorView z = m.view(k_z, {3, 6, 32}), table = m.table(), row = m.row(3);
    TensorView other_row = row;
    const TensorView part = m.heads(k_y, 3, 4, 32, 320);
    const RopePairs neox = RopePairs::neox;
    other_row.data += sizeof(int32_t);
    return {
        {"q and k",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row},
          RopeArgs{.dst = k, .src = k, .table = table, .row = row}},
         {2}},
        {"q and k, neox",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row, .pairs = neox},
          RopeArgs{.dst = k, .src = k, .table = table, .row = row, .pairs = neox}},
         {2}},
        {"many heads",
         {RopeArgs{.dst = m.view(k_y, {12, 40, 32}),
                   .src = m.view(k_w, {12, 40, 32}),
                   .table = table,
                   .row = m.row(12)},
          RopeArgs{.dst = m.view(k_z, {12, 9, 32}),
                   .src = m.view(k_v, {12, 9, 32}),
                   .table = table,
                   .row = m.row(12)}},
         {2}},
        {"three",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row},
          RopeArgs{.dst = k, .src = k, .table = table, .row = row},
          RopeArgs{.dst = z, .src = z, .table = table, .row = row}},
         {2, 1}},
        {"other pairs",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row},
          RopeArgs{.dst = k, .src = k, .table = table, .row = row, .pairs = neox}},
         {1, 1}},
        {"other rows",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row},
          RopeArgs{.dst = k, .src = k, .table = table, .row = other_row}},
         {1, 1}},
        {"other heads",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row},
          RopeArgs{.dst = m.view(k_z, {3, 2, 64}),
                   .src = m.view(k_z, {3, 2, 64}),
                   .table = table,
                   .row = row}},
         {1, 1}},
        {"twice the same",
         {RopeArgs{.dst = q, .src = q, .table = table, .row = row},
          RopeArgs{.dst = q, .src = q, .table = table, .row = row}},
         {1, 1}},
        {"the second turns what the first made",
         {RopeArgs{.dst = z, .src = q, .table = table, .row = row},
          RopeArgs{.dst = q, .src = z, .table = table, .row = row}},
         {1, 1}},
        {"the second writes over what the first turns",
         {RopeArgs{.dst = z, .src = q, .table = table, .row = row},
          RopeArgs{.dst = part, .src = m.view(k_w, {3, 4, 32}), .table = table, .row = row}},
         {1, 1}},
        {"the first makes the table",
         // rows 1 and 2 of it, which nobody reads
         {RopeArgs{.dst = m.heads(k_x + 16, 3, 1, 32, 96),
                   .src = m.view(k_z, {3, 1, 32}),
                   .table = table,
                   .row = row},
          RopeArgs{.dst = k, .src = k, .table = table, .row = row}},
         {1, 1}},
    };
}

std::vector<List> sums(const Memory& m) {
    const int64_t d = 577;  // not a multiple of four, more than a block of threads
    const TensorView x = m.view(k_x, {5, d}), y = m.view(k_y, {5, d}), z = m.view(k_z, {5, d});
    const TensorView w = m.view(k_w, {d}), other = m.view(k_v, {5, d});
    const TensorView first_row = m.view(k_x, {d}), later_row = m.view(k_y + d, {5, d});
    TensorView bias = m.view(k_y, {5, d});
    bias.stride[2] = 0;
    return {
        {"residual", {sum(x, x, y), norm(z, x, w)}, {2}},
        {"one token",
         {sum(m.view(k_x, {576}), m.view(k_x, {576}), m.view(k_y, {576})),
          norm(m.view(k_z, {576}), m.view(k_x, {576}), m.view(k_w, {576}))},
         {2}},
        {"a new sum, normed in place", {sum(z, x, y), norm(z, z, w)}, {2}},
        {"a row added to all", {sum(x, x, bias), norm(z, x, w)}, {2}},
        {"of nothing",
         {sum(m.view(k_x, {0, d}), m.view(k_x, {0, d}), m.view(k_y, {0, d})),
          norm(m.view(k_z, {0, d}), m.view(k_x, {0, d}), w)},
         {1, 1}},
        {"the norm of something else", {sum(z, x, y), norm(other, x, w)}, {1, 1}},
        {"the norm of a part",
         {sum(x, x, y), norm(m.view(k_z, {4, d}), m.view(k_x, {4, d}), w)},
         {1, 1}},
        {"the sum is also the norm's weight", {sum(x, x, y), norm(z, x, first_row)}, {1, 1}},
        {"the norm over what other rows add", {sum(x, x, y), norm(later_row, x, w)}, {1, 1}},
        {"the norm over the row added to all", {sum(x, x, bias), norm(y, x, w)}, {1, 1}},
        {"the norm first", {norm(z, x, w), sum(x, x, y)}, {1, 1}},
    };
}

// One layer's calls, enough of them to be recorded.
List layer(const Memory& m, int64_t tokens) {
    std::vector<size_t> launches{1, 2, 2, 1, 2, 3, 1, 2};
    if (tokens == 1) launches = {3, 2, 2, 4, 1, 2};
    const TensorView residual = m.view(k_y + 10000, {tokens, 96}), x = m.view(k_y, {tokens, 96});
    const TensorView q = m.columns(k_z, tokens, 96, 192), k = m.columns(k_z + 96, tokens, 96, 192);
    const TensorView q_heads = m.heads(k_z, tokens, 3, 32, 192);
    const TensorView k_heads = m.heads(k_z + 96, tokens, 3, 32, 192), w = m.view(k_w, {96});
    const TensorView table = m.view(k_v, {6, Memory::turning / 2, 2}), row = m.row(tokens);
    const TensorView w_q = m.weight_q8(), w_o = m.weight_q4(), y = m.view(k_y + 5000, {tokens, 96});
    return {"a layer",
            {norm(x, residual, w), product(q, w_q, x), product(k, w_q, x),
             RopeArgs{.dst = q_heads, .src = q_heads, .table = table, .row = row},
             RopeArgs{.dst = k_heads, .src = k_heads, .table = table, .row = row},
             product(y, w_o, q), sum(residual, residual, y), norm(x, residual, w),
             product(q, w_o, x), product(k, w_o, x), ActMulArgs{.dst = q, .gate = q, .up = k},
             product(y, w_q, q), sum(residual, residual, y), norm(x, residual, w)},
            launches,
            tokens > 1};
}

std::vector<List> lists(const Memory& memory) {
    std::vector<List> result;
    for (const std::vector<List>& part :
         {products(memory), gated(memory, 1, 96), gated(memory, 3, 577), gated(memory, 8, 1536),
          turns(memory), sums(memory), norm_lists(memory), sum_lists(memory),
          store_lists(memory)}) {
        result.insert(result.end(), part.begin(), part.end());
    }
    result.push_back(layer(memory, 1));
    result.push_back(layer(memory, 7));
    return result;
}

}  // namespace

TEST_CASE("cuda fusion: calls are joined where that is certain to change nothing") {
    const std::unique_ptr<Backend> host = make_ref_backend();
    const Memory memory(*host);
    for (const List& list : lists(memory)) {
        for (const Call& call : list.calls) host->run(call);  // they are calls
        std::vector<size_t> launches;
        std::span<const Call> calls = list.calls;
        while (!calls.empty()) {
            launches.push_back(cuda::joined(calls));
            calls = calls.subspan(launches.back());
        }
        INFO(list.name);
        CHECK(launches == list.launches);
    }
}

// The bytes of one call after the other; or sums of at most 1024 products of numbers near 1, which
// are off by some 1e-5, and products of two such sums, of which the other is about 100 at most.
static double difference(const List& list, const std::vector<std::byte>& found,
                         const std::vector<std::byte>& expected) {
    if (list.is_exact) return found == expected ? 0 : INFINITY;
    double most = 0;
    for (size_t i = 0; i < found.size(); i += sizeof(float)) {
        float a = 0, b = 0;
        std::memcpy(&a, &found[i], sizeof a);
        std::memcpy(&b, &expected[i], sizeof b);
        const double off = std::fabs(double(a) - double(b)) / (1e-3 + 1e-5 * std::fabs(double(b)));
        if (!(off <= most)) most = off;
    }
    return most;
}

TEST_CASE("cuda fusion: kept together, calls write the bytes that they write one by one") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Memory memory(*device);
    for (const List& list : lists(memory)) {
        memory.reset();
        for (const Call& call : list.calls) {
            device->run(call);
            device->synchronize();
        }
        const std::vector<std::byte> expected = memory.bytes();
        for (int repeat = 0; repeat < 4; ++repeat) {  // as they come, recorded, replayed
            memory.reset();
            for (const Call& call : list.calls) device->run(call);
            const std::vector<std::byte> found = memory.bytes();
            INFO(list.name << ", run " << repeat);
            CHECK(difference(list, found, expected) <= 2);
            // Of what is read by others later, the norm itself, there is no question.
            const size_t of_x = k_y * sizeof(float);
            CHECK(
                std::equal(found.begin(), found.begin() + std::ptrdiff_t(of_x), expected.begin()));
        }
    }
}

TEST_CASE("cuda fusion: calls that begin like a recording and go on otherwise are all done once") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Memory memory(*device);
    const TensorView x = memory.view(0, {96}), y = memory.view(96, {96});
    const auto run = [&](size_t count, bool turned_off, bool at_once) {
        memory.reset();
        for (size_t i = 0; i < count; ++i) {
            const bool other = turned_off && i + 1 == count;
            device->run(other ? sum(x, y, y) : sum(x, x, y));
            if (at_once) device->synchronize();
        }
        return memory.bytes();
    };
    constexpr size_t whole = 300;  // three graphs: 24, 120, the rest
    for (int repeat = 0; repeat < 3; ++repeat) run(whole, false, false);
    for (const size_t count : {10, 23, 24, 25, 100, 143, 144, 145, 299, 300, 301}) {
        for (const bool turned_off : {false, true}) {
            const bool equal = run(count, turned_off, false) == run(count, turned_off, true);
            INFO(count << " calls" << (turned_off ? ", the last another" : ""));
            CHECK(equal);
            CHECK(run(whole, false, false) == run(whole, false, true));
        }
    }
}
