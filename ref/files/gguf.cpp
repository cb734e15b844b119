// What a GgufFile does besides parsing: get the bytes, mapped where the system can map a file and
// read otherwise, and hand out values in the types that callers need.
// Docs: docs/06-gguf.md

#include "ref/files/gguf.h"

#include "ref/error.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <type_traits>
#include <utility>

#if __has_include(<sys/mman.h>) && !defined(ROTKV_NO_MMAP)
#define ROTKV_MMAP 1
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace rotkv {
namespace {

namespace fs = std::filesystem;

// In the order of GgufType.
constexpr const char* k_type_names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};

[[noreturn]] void io_error(const std::string& path, const std::string& problem) {
    throw Error(ErrorCode::io, path + ": " + problem);
}

#ifdef ROTKV_MMAP

/// The file's bytes, mapped read-only until the last copy of the pointer goes.
std::shared_ptr<const void> load(const std::string& path, size_t size) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) io_error(path, std::generic_category().message(errno));
    void* bytes = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    ::close(descriptor);
    if (bytes == MAP_FAILED) io_error(path, std::generic_category().message(error));
    return {bytes, [size](void* mapped) { ::munmap(mapped, size); }};
}

/// Gives back the pages that lie in a mapped file's bytes as a whole.
void release_pages(std::span<const std::byte> bytes) {
    const uintptr_t page = uintptr_t(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data());
    const uintptr_t first = (begin + page - 1) / page * page;
    const uintptr_t end = (begin + bytes.size()) / page * page;
    if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

#else

void release_pages(std::span<const std::byte>) {}

/// The file's bytes, read into memory.
std::shared_ptr<const void> load(const std::string& path, size_t size) {
    std::ifstream in(path, std::ios::binary);
    if (!in) io_error(path, "the file cannot be opened");
    const std::shared_ptr<std::byte[]> bytes(new std::byte[size]);
    in.read(reinterpret_cast<char*>(bytes.get()), std::streamsize(size));
    if (!in) io_error(path, "the file cannot be read to its end");
    return bytes;
}

#endif

/// The shortest text that reads back as the same number.
template <class Number>
std::string shortest(Number number) {
    char text[32];
    return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

size_t length(std::monostate) { return 0; }  // no array at all

template <class T>
size_t length(const std::vector<T>& elements) {
    return elements.size();
}

size_t length(const GgufArray& array) {
    return std::visit([](const auto& elements) { return length(elements); }, array);
}

/// Whether an array has no elements, and so could be of any type. (The place of arrays of arrays,
/// which are not read, is no array.)
bool is_empty_list(const GgufArray& array) {
    return length(array) == 0 && !std::holds_alternative<std::monostate>(array);
}

/// Integers, and not bool, which C++ counts among them.
template <class T>
constexpr bool k_is_integer = std::is_integral_v<T> && !std::is_same_v<T, bool>;

template <class T>
constexpr bool k_holds_integers = false;
template <class T>
constexpr bool k_holds_integers<std::vector<T>> = k_is_integer<T>;

/// "f32" for float.
template <class T>
const char* type_name() {
    return k_type_names[GgufValue(T()).index()];
}

}  // namespace

std::string in_quotes(std::string_view text) {
    constexpr size_t k_longest = 80;
    constexpr const char* k_hex = "0123456789abcdef";
    std::string result = "'";
    for (const char c : text.substr(0, k_longest)) {
        const uint8_t code = uint8_t(c);
        if (code >= 0x20 && code < 0x7F) {
            result += c;
        } else {
            result += {'\\', 'x', k_hex[code >> 4], k_hex[code & 15]};
        }
    }
    return result + (text.size() > k_longest ? "...'" : "'");
}

std::string describe(const GgufValue& value) {
    const std::string type = k_type_names[value.index()];
    return std::visit(
        [&](const auto& v) -> std::string {
            using V = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<V, GgufArray>) {
                return type + " of " + std::to_string(length(v)) + " " + k_type_names[v.index()];
            } else if constexpr (std::is_same_v<V, std::string_view>) {
                return type + " " + in_quotes(v);
            } else if constexpr (std::is_same_v<V, bool>) {
                return type + (v ? " true" : " false");
            } else {
                return type + " " + shortest(v);
            }
        },
        value);
}

GgufFile GgufFile::open(const std::string& path, GgufParts parts) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (error) io_error(path, error.message());
    if (!fs::is_regular_file(status)) io_error(path, "not a regular file");
    const size_t size = fs::file_size(path, error);
    if (error) io_error(path, error.message());
    if (size == 0) return parse({}, path, parts);

    const std::shared_ptr<const void> storage = load(path, size);
    GgufFile file = parse({static_cast<const std::byte*>(storage.get()), size}, path, parts);
    file.storage_ = storage;
    return file;
}

void GgufFile::release(const GgufTensor& tensor) const {
    if (storage_ != nullptr) release_pages(data(tensor));
}

const GgufValue* GgufFile::find(std::string_view key) const {
    const auto found = entry_of_.find(key);
    return found == entry_of_.end() ? nullptr : &found->second->value;
}

const GgufTensor* GgufFile::find_listed(std::string_view name) const {
    const auto found = tensor_of_.find(name);
    return found == tensor_of_.end() ? nullptr : found->second;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
    const GgufTensor* tensor = find_listed(name);
    if (tensor == nullptr) return nullptr;
    const std::string at = path_ + ": tensor " + in_quotes(name) + ": ";
    if (!tensor->readable) {
        throw Error(ErrorCode::unsupported, at + describe_type(*tensor) + " is not readable here");
    }
    if (tensor->empty()) {
        throw Error(ErrorCode::bad_file, at + "expected a weight, found a tensor without elements");
    }
    return tensor;
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
    if (const GgufTensor* found = find_tensor(name)) return *found;
    throw Error(ErrorCode::bad_file,
                path_ + ": expected a tensor " + in_quotes(name) + ", found none");
}

std::span<const std::byte> GgufFile::data(const GgufTensor& tensor) const {
    if (tensor.bytes == 0) return {};  // and its offset may be anywhere
    return bytes_.subspan(tensor.offset, tensor.bytes);
}

const GgufValue& GgufFile::value(std::string_view key) const {
    if (const GgufValue* found = find(key)) return *found;
    throw Error(ErrorCode::bad_file,
                path_ + ": expected a metadata key " + in_quotes(key) + ", found none");
}

void GgufFile::wrong_type(std::string_view key, const std::string& expected) const {
    throw Error(ErrorCode::bad_file, path_ + ": metadata key " + in_quotes(key) + ": expected " +
                                         expected + ", found " + describe(value(key)));
}

template <class T>
const T& GgufFile::get(std::string_view key) const {
    if (const T* found = std::get_if<T>(&value(key))) return *found;
    wrong_type(key, type_name<T>());
}

template <class T>
const std::vector<T>& GgufFile::get_array(std::string_view key) const {
    if (const GgufArray* array = std::get_if<GgufArray>(&value(key))) {
        if (const std::vector<T>* found = std::get_if<std::vector<T>>(array)) return *found;
        static const std::vector<T> none;
        if (is_empty_list(*array)) return none;
    }
    wrong_type(key, std::string("array of ") + type_name<T>());
}

template <class T, class Fits>
std::vector<T> GgufFile::get_integers(std::string_view key, const std::string& expected,
                                      const Fits& fits) const {
    const GgufArray* array = std::get_if<GgufArray>(&value(key));
    if (array == nullptr) wrong_type(key, expected);
    if (is_empty_list(*array)) return {};
    return std::visit(
        [&](const auto& numbers) -> std::vector<T> {
            if constexpr (k_holds_integers<std::decay_t<decltype(numbers)>>) {
                const auto unfit = std::ranges::find_if_not(numbers, fits);
                if (unfit == numbers.end()) return {numbers.begin(), numbers.end()};
                throw Error(ErrorCode::bad_file, path_ + ": metadata key " + in_quotes(key) +
                                                     ": expected " + expected + ", found " +
                                                     std::to_string(*unfit) + " in place " +
                                                     std::to_string(unfit - numbers.begin()));
            }
            wrong_type(key, expected);
        },
        *array);
}

uint32_t GgufFile::get_u32(std::string_view key) const {
    return std::visit(
        [&](const auto& number) -> uint32_t {
            if constexpr (k_is_integer<std::decay_t<decltype(number)>>) {
                if (std::in_range<uint32_t>(number)) return uint32_t(number);
            }
            wrong_type(key, "an integer from 0 to 4294967295");
        },
        value(key));
}

std::vector<int32_t> GgufFile::get_i32s(std::string_view key) const {
    const std::string expected = "array of signed integers of 32 bits";
    const auto fits = [](auto number) { return std::in_range<int32_t>(number); };
    return get_integers<int32_t>(key, expected, fits);
}

std::vector<bool> GgufFile::get_bools(std::string_view key) const {
    const GgufArray* array = std::get_if<GgufArray>(&value(key));
    if (array != nullptr && std::holds_alternative<std::vector<bool>>(*array)) {
        return std::get<std::vector<bool>>(*array);
    }
    return get_integers<bool>(key, "array of bool", [](auto n) { return n == 0 || n == 1; });
}

float GgufFile::get_f32(std::string_view key) const { return get<float>(key); }
bool GgufFile::get_bool(std::string_view key) const { return get<bool>(key); }
std::string_view GgufFile::get_string(std::string_view key) const {
    return get<std::string_view>(key);
}

const std::vector<float>& GgufFile::get_f32s(std::string_view key) const {
    return get_array<float>(key);
}
const std::vector<std::string_view>& GgufFile::get_strings(std::string_view key) const {
    return get_array<std::string_view>(key);
}

uint32_t GgufFile::get_u32(std::string_view key, uint32_t fallback) const {
    return find(key) != nullptr ? get_u32(key) : fallback;
}
float GgufFile::get_f32(std::string_view key, float fallback) const {
    return find(key) != nullptr ? get_f32(key) : fallback;
}
bool GgufFile::get_bool(std::string_view key, bool fallback) const {
    return find(key) != nullptr ? get_bool(key) : fallback;
}
std::string_view GgufFile::get_string(std::string_view key, std::string_view fallback) const {
    return find(key) != nullptr ? get_string(key) : fallback;
}

}  // namespace rotkv
