#pragma once
// What the tests of the backend "cuda" share: a device or an audible skip, a small model's run, and
// the test once more in a process of its own. Docs: docs/08-backends.md

#include "cuda/backend.h"
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/tiny_model.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace rotkv::test {

/// Null, after saying why, where no device is.
inline std::unique_ptr<Backend> device_or_skip() {
    try {
        return make_cuda_backend(0);
    } catch (const Error& error) {
        skip(error.what());
        return nullptr;
    }
}

/// A tiny model's file, as long as the object lives.
class TinyFile {
  public:
    explicit TinyFile(const TinyModel& tiny) : file_("cuda-" + tiny.name + ".gguf") {
        tiny.write(file_.path());
        gguf_ = std::make_unique<GgufFile>(GgufFile::open(file_.path()));
    }
    const GgufFile& gguf() const { return *gguf_; }

  private:
    TemporaryFile file_;
    std::unique_ptr<GgufFile> gguf_;
};

inline std::vector<int32_t> tiny_tokens(int32_t n) {
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < n; ++i) tokens.push_back(i * 31 % int32_t(TinyModel::words));
    return tokens;
}

/// Twelve tokens at once, then one after the other, which are the calls that come again.
inline std::vector<float> run_model(Backend& backend, const GgufFile& gguf,
                                    const std::vector<int32_t>& tokens,
                                    const ModelPrecision& precision = {}) {
    Model model(gguf, backend, {.context = 64, .precision = precision});
    KvCache cache(backend, model.config().cache_shape(1, 32, DType::f32, DType::f32),
                  RotationSpec());
    std::vector<float> result;
    for (size_t first = 0; first < tokens.size();) {
        const size_t count = first == 0 ? 12 : 1;
        std::vector<int32_t> positions(count);
        for (size_t i = 0; i < count; ++i) positions[i] = int32_t(first + i);
        const std::vector<int32_t> streams(count, 0);
        const TensorView hidden =
            model.forward(cache, std::span(tokens).subspan(first, count), streams, positions);
        const std::vector<float> part = download_f32(backend, hidden);
        result.insert(result.end(), part.begin(), part.end());
        first += count;
    }
    return result;
}

/// Calls enough for several graphs, of rows so wide, that come again and again.
inline constexpr int64_t k_calls = 60, k_width = 64;

inline std::vector<float> filled(float x) { return std::vector<float>(size_t(k_width), x); }

/// y = (1 + k_calls) x, in as many calls; every element of x is `value`.
inline std::vector<float> add_often(Backend& device, const Buffer& y, const Buffer& x,
                                    float value) {
    const TensorView from = x.view(DType::f32, {k_width}), to = y.view(DType::f32, {k_width});
    const std::vector<float> values = filled(value);
    x.upload(std::as_bytes(std::span(values)));
    device.run(AddArgs{.dst = to, .a = from, .b = from});
    for (int64_t i = 1; i < k_calls; ++i) device.run(AddArgs{.dst = to, .a = to, .b = from});
    return download_f32(device, to);
}

/// Is this the process that run_again() started?
inline bool is_child() { return std::getenv("ROTKV_TEST_CHILD") != nullptr; }

/// This very test in another process, with more in its environment ("NAME=1 OTHER=2"): what cannot
/// be undone, and what libraries read once. True if it passed; its output if not.
inline bool run_again(const std::string& environment, std::string& output) {
    const std::string name = Catch::getResultCapture().getCurrentTestName();
    const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string command =
        environment + " ROTKV_TEST_CHILD=1 '" + program + "' '" + name + "' 2>&1";
    std::FILE* pipe = popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::array<char, 4096> bytes;
    output.clear();
    while (const size_t n = std::fread(bytes.data(), 1, bytes.size(), pipe)) {
        output.append(bytes.data(), n);
    }
    return pclose(pipe) == 0;
}

}  // namespace rotkv::test
