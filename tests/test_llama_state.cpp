// Caches that llama.cpp saved: written here from a cache of ours, by the layout's description, and
// read back; which rotation their rows hold; and files that are none.
#include "ref/files/llama_state.h"
#include "tests/catch.h"
#include "tests/refused_call.h"
#include "tests/tiny_run.h"
#include "tools/state_beside.h"

#include <cstring>

using namespace rotkv;
using namespace rotkv::test;
using namespace rotkv::tools;

namespace {

struct Writer {
    std::vector<std::byte> bytes;

    template <class Number>
    void put(Number number) {
        const std::byte* const begin = reinterpret_cast<const std::byte*>(&number);
        bytes.insert(bytes.end(), begin, begin + sizeof number);
    }
    void put(const std::vector<std::byte>& more) {
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
};

struct Saved {
    uint32_t version = 4;
    bool session = false, transposed = false, packed_tokens = false;
    uint32_t k_block = 0, v_block = 0;  // what the file says
    int64_t skipped = 0;                // first cells that are left out
};

// One cache: the layers given, of a cache whose token p lies in cell p.
void put_cache(Writer& out, const KvCache& cache, const std::vector<int64_t>& layers,
               int64_t tokens, const Saved& how) {
    const int64_t cells = tokens - how.skipped;
    out.put(uint32_t(1));
    out.put(uint32_t(cells));
    for (int64_t c = how.skipped; c < tokens; ++c) {
        out.put(int32_t(c)), out.put(uint32_t(1)), out.put(int32_t(0));
    }
    out.put(uint32_t(how.transposed)), out.put(uint32_t(layers.size()));
    if (how.version == (how.session ? 11 : 4)) out.put(how.k_block), out.put(how.v_block);
    for (const Side side : {Side::k, Side::v}) {
        for (const int64_t l : layers) {
            const KvLayer& layer = cache.shape().layers[size_t(l)];
            if (side == Side::v && layer.v_in_k) continue;
            const DType type = side == Side::k ? layer.type_k.cells() : layer.type_v.cells();
            const int64_t values = layer.kv_heads * (side == Side::k ? layer.d_k : layer.d_v);
            const int64_t row = row_bytes(type, values), first = how.skipped * row;
            std::vector<std::byte> rows(size_t(tokens * row));
            cache.read_cells(l, 0, side, rows);
            rows.erase(rows.begin(), rows.begin() + first);
            out.put(int32_t(type));
            if (side == Side::k || !how.transposed) {
                out.put(uint64_t(row)), out.put(rows);
                continue;
            }
            const int64_t element = row / values;
            out.put(uint32_t(element)), out.put(uint32_t(values));
            for (int64_t j = 0; j < values; ++j) {
                for (int64_t c = 0; c < cells; ++c) {
                    const auto at = rows.begin() + c * row + j * element;
                    out.put(std::vector<std::byte>(at, at + element));
                }
            }
        }
    }
}

std::vector<std::byte> saved(const KvCache& cache, const std::vector<int32_t>& tokens,
                             const std::vector<std::vector<int64_t>>& caches, const Saved& how) {
    Writer out;
    out.put(how.session ? uint32_t(0x6767736e) : uint32_t(0x67677371));
    out.put(how.version);
    std::vector<int32_t> list = tokens;
    if (how.packed_tokens) {
        list.insert(list.begin(), {-1, 1, int32_t(tokens.size())});
        list.push_back(0);
    }
    out.put(uint32_t(list.size()));
    for (const int32_t token : list) out.put(token);
    if (how.session) {
        out.put(uint32_t(5));
        for (const char letter : {'l', 'l', 'a', 'm', 'a'}) out.put(letter);
    }
    for (const std::vector<int64_t>& layers : caches) {
        put_cache(out, cache, layers, int64_t(tokens.size()), how);
    }
    return out.bytes;
}

struct Tiny {
    Opened opened;
    Model model;
    std::vector<int32_t> tokens = some_tokens(20);

    explicit Tiny(const std::string& name)
        : opened(TinyModel::make(name)), model(opened.gguf, *opened.ref, {.context = 64}) {}

    KvCache filled(DType type, const Rotation& k, const Rotation& v) {
        KvCache cache(*opened.ref, model.config().cache_shape(1, 32, type, type),
                      RotationSpec::of(k, v));
        run(model, cache, tokens, 0);
        return cache;
    }
    StateBeside beside(const std::vector<std::byte>& bytes) {
        return hold_beside(model, parse_llama_state(bytes, "state.bin"));
    }
};

const Rotation k_turned{Rotation::Kind::sylvester, 16};
const std::vector<std::vector<int64_t>> k_all = {{0, 1, 2, 3}};

}  // namespace

TEST_CASE("llama state: what it holds comes back, whichever way it was written") {
    Tiny tiny("llama");
    const KvCache cache = tiny.filled(DType::f16, {}, {});
    for (const Saved& how : {Saved{}, Saved{.version = 3}, Saved{.version = 10, .session = true},
                             Saved{.version = 11, .session = true}, Saved{.transposed = true},
                             Saved{.packed_tokens = true}}) {
        const std::vector<std::byte> bytes = saved(cache, tiny.tokens, k_all, how);
        const LlamaState state = parse_llama_state(bytes, "state.bin");
        CHECK(state.tokens == tiny.tokens);
        CHECK(state.architecture == (how.session ? "llama" : ""));
        REQUIRE(state.caches.size() == 1);
        const LlamaStream& stream = state.caches[0][0];
        CHECK(stream.k_block.has_value() == (how.version == 4 || how.version == 11));
        for (const Side side : {Side::k, Side::v}) {
            const LlamaRows& rows = (side == Side::k ? stream.k : stream.v)[2];
            std::vector<std::byte> ours(rows.rows.size());
            cache.read_cells(2, 0, side, ours);
            CHECK(rows.rows == ours);
        }
    }
}

TEST_CASE("llama state: the rotation that rows hold is found, said or not") {
    Tiny tiny("llama");
    struct Asked {
        Rotation k, v;
        Saved how;
        bool as_said;
    };
    for (const Asked& asked :
         {Asked{k_turned, {}, {.version = 3}, true}, Asked{{}, k_turned, {.version = 3}, true},
          Asked{k_turned, k_turned, {.k_block = 16, .v_block = 16}, true},
          Asked{k_turned, {}, {.transposed = true, .k_block = 16}, true},
          Asked{{}, k_turned, {.version = 11, .session = true, .k_block = 16}, false},
          Asked{{}, {}, {.k_block = 16, .v_block = 16, .skipped = 3}, false}}) {
        const KvCache cache = tiny.filled(DType::f16, asked.k, asked.v);
        const StateBeside found = tiny.beside(saved(cache, tiny.tokens, k_all, asked.how));
        CHECK(found.cells == 20 - asked.how.skipped);
        REQUIRE(found.sides.size() == 8);
        for (const SideBeside& side : found.sides) {
            CHECK(side.rotation == (side.side == Side::k ? asked.k : asked.v));
            CHECK(side.as_said() == asked.as_said);
            CHECK(side.off < 2e-3);
            CHECK(side.off_otherwise > 0.8);
            CHECK(side.steps.equal == side.steps.elements);
            CHECK(side.steps.most == 0);
        }
    }
}

TEST_CASE("llama state: a few cells that were turned otherwise are not overlooked") {
    Tiny tiny("llama");
    KvCache cache = tiny.filled(DType::f16, {}, {});
    const KvCache turned = tiny.filled(DType::f16, k_turned, k_turned);
    const size_t row = size_t(cache.shape().layers[2].kv_heads * 16 * 2);
    std::vector<std::byte> rows(20 * row), other(20 * row);
    cache.read_cells(2, 0, Side::k, rows);
    turned.read_cells(2, 0, Side::k, other);
    std::copy_n(other.begin() + int64_t(17 * row), row, rows.begin() + int64_t(17 * row));
    cache.write_cells(2, 0, Side::k, rows);
    const StateBeside found = tiny.beside(saved(cache, tiny.tokens, k_all, {.version = 3}));
    CHECK(!found.explained());
    for (const SideBeside& side : found.sides) {
        const bool changed = side.layer == 2 && side.side == Side::k;
        CHECK(side.strange_cells == changed);
        CHECK(side.explained() == !changed);
        CHECK(side.first_strange == (changed ? 17 : -1));
    }
}

TEST_CASE("llama state: what llama.cpp does with the types is told from what it never does") {
    Tiny tiny("llama");  // heads of 16: it rotates none, and f16 nowhere
    const auto found = [&](const Rotation& k, const Rotation& v) {
        return tiny.beside(
            saved(tiny.filled(DType::f16, k, v), tiny.tokens, k_all, {.version = 3}));
    };
    CHECK((found({}, {}).as_policy() && found({}, {}).never_rotated()));
    CHECK((!found(k_turned, {}).as_policy() && !found(k_turned, {}).never_rotated()));
}

TEST_CASE("llama state: an element that is off is found, and by how much") {
    Tiny tiny("llama");
    KvCache cache = tiny.filled(DType::f16, {}, {});
    std::vector<std::byte> rows(size_t(20 * cache.shape().layers[1].kv_heads * 16 * 2));
    cache.read_cells(1, 0, Side::v, rows);
    const size_t at = size_t((7 * cache.shape().layers[1].kv_heads + 1) * 16 + 5) * 2;
    uint16_t bits = 0;
    std::memcpy(&bits, &rows[at], sizeof bits);
    bits = uint16_t(bits + 3);
    std::memcpy(&rows[at], &bits, sizeof bits);
    cache.write_cells(1, 0, Side::v, rows);
    const StateBeside found = tiny.beside(saved(cache, tiny.tokens, k_all, {.version = 3}));
    for (const SideBeside& side : found.sides) {
        const bool changed = side.layer == 1 && side.side == Side::v;
        CHECK(side.steps.elements - side.steps.equal == changed);
        if (!changed) continue;
        CHECK(side.steps.most >= 1.5);
        CHECK(side.steps.most <= 6);  // a step may double where the exponent does
        CHECK((side.cell == 7 && side.head == 1 && side.steps.channel == 5));
    }
}

TEST_CASE("llama state: layers with a window are in a cache of their own") {
    Tiny tiny("gemma3");
    const KvCache cache = tiny.filled(DType::f16, k_turned, k_turned);
    std::vector<std::vector<int64_t>> caches(2);
    for (int64_t l = 0; l < 4; ++l) {
        caches[tiny.model.config().plan[size_t(l)].window > 0].push_back(l);
    }
    REQUIRE((!caches[0].empty() && !caches[1].empty()));
    const StateBeside found = tiny.beside(saved(cache, tiny.tokens, caches, {.version = 3}));
    CHECK(found.sides.size() == 8);
    for (const SideBeside& side : found.sides) {
        CHECK(side.rotation == k_turned);
        CHECK(side.steps.equal == side.steps.elements);
    }
}

TEST_CASE("llama state: where V lies in K, K is all there is") {
    Tiny tiny("deepseek2");
    const KvCache cache = tiny.filled(DType::f16, {}, {});
    REQUIRE(cache.shape().layers[0].v_in_k);
    const StateBeside found = tiny.beside(saved(cache, tiny.tokens, k_all, {.version = 3}));
    REQUIRE(found.sides.size() == 4);
    for (const SideBeside& side : found.sides) {
        CHECK(side.side == Side::k);
        CHECK(!side.rotation.on());
        CHECK(side.steps.equal == side.steps.elements);
    }
}

TEST_CASE("llama state: what is none, or of another model, is refused by offset or layer") {
    Tiny tiny("llama");
    const KvCache cache = tiny.filled(DType::f16, {}, {});
    const std::vector<std::byte> good = saved(cache, tiny.tokens, k_all, {});
    const auto refused = [&](std::vector<std::byte> bytes, const std::string& why) {
        CHECK_THROWS_WITH(tiny.beside(bytes), Catch::Matchers::Contains(why));
    };
    size_t accepted = 0;
    for (size_t n = 0; n < good.size(); ++n) {
        try {
            parse_llama_state(std::span(good).first(n), "state.bin");
            ++accepted;
        } catch (const Error&) {
        }
    }
    CHECK(accepted == 1);  // behind all of K: a cache whose V lies in K looks the same
    std::vector<std::byte> bytes = good;
    bytes[4] = std::byte(9);
    refused(bytes, "offset 4: expected version 3 or 4, found 9");
    bytes = good;
    bytes.push_back(std::byte(0));
    refused(bytes, "cache");
    bytes = good;
    bytes[12] = std::byte(200);
    refused(bytes, "expected tokens below 53, found 200");
    refused(saved(cache, tiny.tokens, {{0, 1, 2}}, {}), "expected the model's 4 layers, found 3");
    bytes = good;
    bytes[12 + 4 * 20 + 8] = std::byte(90);  // the position of the first cell
    refused(bytes, "found 90: a shifted cache");
    // Tokens of another text: no rotation explains their rows.
    std::vector<int32_t> others = tiny.tokens;
    std::reverse(others.begin(), others.end());
    const StateBeside found = tiny.beside(saved(cache, others, k_all, {.version = 3}));
    CHECK(std::none_of(found.sides.begin() + 1, found.sides.end(),
                       [](const SideBeside& side) { return side.explained(); }));
}
