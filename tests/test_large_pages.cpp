// Weights that fast copies into large pages are the file's, to the last byte, whatever is given
// back meanwhile.
#include "fast/backend.h"
#include "fast/large_pages.h"
#include "ref/files/gguf.h"
#include "ref/random.h"
#include "tests/temporary_folder.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

using namespace rotkv;

namespace {

// Some whole pieces and a rest.
std::vector<std::byte> noise(uint64_t seed, size_t size = (size_t(3) << 20) + 12345) {
    Random random(seed);
    std::vector<std::byte> bytes(size);
    for (std::byte& one : bytes) one = std::byte(random.bits() & 255);
    return bytes;
}

bool equal(const std::byte* copy, const std::vector<std::byte>& bytes) {
    return std::memcmp(copy, bytes.data(), bytes.size()) == 0;
}

}  // namespace

TEST_CASE("large pages: copies are whole, and stay when their neighbours go") {
    fast::LargePages pages;
    const std::vector<std::byte> a = noise(1), b = noise(2);
    const std::byte* const copy_a = pages.copy(a);
    if (copy_a == nullptr) return test::skip("no large pages here, or too little memory");
    const std::byte* const copy_b = pages.copy(b);
    REQUIRE(copy_b != nullptr);
    CHECK(copy_a != a.data());
    CHECK(reinterpret_cast<uintptr_t>(copy_a) % fast::k_large_page == 0);
    CHECK(reinterpret_cast<uintptr_t>(copy_b) % 64 == 0);
    CHECK(equal(copy_a, a));
    CHECK(equal(copy_b, b));
    CHECK_FALSE(pages.forget(a.data()));
    CHECK(pages.forget(copy_a));
    CHECK(equal(copy_b, b));
    CHECK(pages.forget(copy_b));
    CHECK_FALSE(pages.forget(copy_b));
}

TEST_CASE("large pages: what is small or leaves others too little stays where it is") {
    fast::LargePages pages;
    CHECK(pages.copy(noise(1, 4096)) == nullptr);
    // Addresses that nothing reads: more than any machine's memory.
    const std::byte one{};
    CHECK(pages.copy({&one, size_t(1) << 46}) == nullptr);
    const std::unique_ptr<Backend> fast = make_fast_backend(2);
    const std::vector<std::byte> few = noise(1, 4096), many = noise(2);
    std::byte* const alias = fast->import(few);
    CHECK(alias == few.data());
    std::byte* const imported = fast->import(many);
    CHECK(equal(imported, many));
    fast->free_memory(alias);
    fast->free_memory(imported);
}

TEST_CASE("large pages: what a file gives back comes from it again, and bytes in memory stay") {
    const test::TemporaryFolder folder;
    const std::vector<std::byte> numbers = noise(3, size_t(1) << 20);
    GgufWriter writer;
    writer.add_tensor("t", view(numbers.data(), DType::f32, {int64_t(numbers.size() / 4)}));
    writer.write(folder.file("m.gguf"));

    const GgufFile mapped = GgufFile::open(folder.file("m.gguf"));
    CHECK(equal(mapped.tensor("t").view.data, numbers));
    mapped.release(mapped.tensor("t"));
    CHECK(equal(mapped.tensor("t").view.data, numbers));

    const std::string text = test::read_all(folder.file("m.gguf"));
    const GgufFile parsed = GgufFile::parse(std::as_bytes(std::span(text)), "m.gguf");
    parsed.release(parsed.tensor("t"));
    CHECK(equal(parsed.tensor("t").view.data, numbers));
}
