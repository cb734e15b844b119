// What changes the number of a model, and what does not.
#include "ref/files/fnv1a.h"
#include "ref/files/model_fingerprint.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

#include <cstring>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

std::string model_bytes(float epsilon, const char* name, float weight, int64_t rows = 64) {
    const TemporaryFolder folder;
    std::vector<float> weights(4096, 1.0f);
    weights[0] = weight;
    GgufWriter writer;
    writer.add("general.architecture", std::string_view("llama"));
    writer.add("general.name", std::string_view(name));
    writer.add("llama.epsilon", epsilon);
    writer.add("llama.list", GgufArray(std::vector<bool>{true, false}));
    writer.add_tensor("a", view(weights.data(), DType::f32, {rows, 4096 / rows}));
    writer.write(folder.file("m.gguf"));
    return read_all(folder.file("m.gguf"));
}

template <class Number>
uint64_t number_of(const std::string& bytes, const Number& number) {
    std::vector<uint64_t> aligned((bytes.size() + 7) / 8);
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    return number(GgufFile::parse(std::as_bytes(std::span(aligned)).first(bytes.size()), "m.gguf"));
}

uint64_t fingerprint_of(const std::string& bytes) { return number_of(bytes, model_fingerprint); }

uint64_t hash_of(const std::string& bytes) { return number_of(bytes, model_hash); }

}  // namespace

TEST_CASE("model_fingerprint: what a model computes counts, names do not") {
    const std::string model = model_bytes(1e-5f, "a", 0.5f);
    CHECK(fingerprint_of(model) == fingerprint_of(model_bytes(1e-5f, "another name", 0.5f)));
    CHECK(fingerprint_of(model) != fingerprint_of(model_bytes(1e-6f, "a", 0.5f)));
    CHECK(fingerprint_of(model) != fingerprint_of(model_bytes(1e-5f, "a", 0.25f)));
    CHECK(fingerprint_of(model) != fingerprint_of(model_bytes(1e-5f, "a", 0.5f, 32)));
    std::string bytes = model;
    const size_t array = bytes.find("llama.list") + 10 + 4 + 4 + 8;
    bytes[array + 1] = 1;  // {true, false} becomes {true, true}
    CHECK(fingerprint_of(model) != fingerprint_of(bytes));

    // By hand: no metadata that counts and no tensors, which leaves FNV's beginning.
    const std::string empty = std::string("GGUF\3", 5) + std::string(3 + 8 + 8 + 8, '\0');
    CHECK(fingerprint_of(empty) == 0xcbf29ce484222325u);
}

TEST_CASE("model_fingerprint: of files that stay, it is what saved caches carry since version 1") {
    const auto of = [](const char* name) {
        return model_fingerprint(
            GgufFile::open(ROTKV_GOLDEN_DIR "/../corpus_gguf/" + std::string(name)));
    };
    CHECK(of("gemma3") == 0xa98072fee8c9c44f);
    CHECK(of("every-value") == 0xd8db4ce4e1d9124f);
}

TEST_CASE("model_hash: every weight counts, and all that is computed") {
    const std::string model = model_bytes(1e-5f, "a", 0.5f);
    CHECK(hash_of(model) == hash_of(model_bytes(1e-5f, "another name", 0.5f)));
    CHECK(hash_of(model) != hash_of(model_bytes(1e-6f, "a", 0.5f)));
    CHECK(hash_of(model) != hash_of(model_bytes(1e-5f, "a", 0.5f, 32)));
    for (const size_t back : {size_t(1), size_t(5), size_t(4096), size_t(4 * 4096)}) {
        std::string bytes = model;
        bytes[bytes.size() - back] ^= 1;
        CHECK(hash_of(model) != hash_of(bytes));
    }
    // Two signs of one lane: sums that only multiply and add would not see them.
    std::string bytes = model;
    bytes[bytes.size() - 1] ^= char(0x80);
    bytes[bytes.size() - 33] ^= char(0x80);
    CHECK(hash_of(model) != hash_of(bytes));
    bytes = model;
    bytes[bytes.find("llama", bytes.find("general.architecture"))] = 'L';
    CHECK(fingerprint_of(model) == fingerprint_of(bytes));
    CHECK(hash_of(model) != hash_of(bytes));
}

TEST_CASE("fnv1a: the published values") {
    const auto of = [](const std::string& text) {
        Fnv1a hash;
        hash.add(std::as_bytes(std::span(text)));
        return hash.sum();
    };
    CHECK(of("") == 0xcbf29ce484222325);
    CHECK(of("a") == 0xaf63dc4c8601ec8c);
    CHECK(of("foobar") == 0x85944171f73967e8);
}
