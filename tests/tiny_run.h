#pragma once
// A small model, written to a file and run from it.
// Docs: docs/18-models.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/tiny_model.h"

#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace rotkv::test {

inline std::vector<int32_t> some_tokens(int64_t n) {
    Random random(99);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(random.below(TinyModel::words)));
    return tokens;
}

// The file of a small model, and the reference to run it on.
struct Opened {
    TemporaryFile file;
    GgufFile gguf;
    std::unique_ptr<Backend> ref = make_ref_backend();

    explicit Opened(const TinyModel& tiny)
        : file(tiny.name + ".gguf"), gguf(written(tiny, file.path())) {}

    static GgufFile written(const TinyModel& tiny, const std::string& path) {
        tiny.write(path);
        return GgufFile::open(path);
    }
    KvCache cache(const Model& model, const RotationSpec& spec = RotationSpec()) {
        const KvShape shape = model.config().cache_shape(1, 32, DType::f32, DType::f32);
        return KvCache(*ref, shape, spec);
    }
};

// The model's own result for tokens of stream 0 at positions first, first + 1 ...
inline std::vector<float> run(Model& model, KvCache& cache, std::span<const int32_t> tokens,
                              int32_t first) {
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), first);
    const std::vector<int32_t> streams(tokens.size(), 0);
    return download_f32(model.backend(), model.forward(cache, tokens, streams, positions));
}

// The same, `per_call` tokens at a time.
inline std::vector<float> run_parts(Model& model, KvCache& cache,
                                    const std::vector<int32_t>& tokens, size_t per_call,
                                    int32_t first = 0) {
    std::vector<float> result;
    for (size_t t = 0; t < tokens.size(); t += per_call) {
        const size_t count = std::min(per_call, tokens.size() - t);
        const std::vector<float> part =
            run(model, cache, std::span(tokens).subspan(t, count), first + int32_t(t));
        result.insert(result.end(), part.begin(), part.end());
    }
    return result;
}

inline std::vector<float> run_model(const TinyModel& tiny, const std::vector<int32_t>& tokens,
                                    size_t per_call, int64_t context = 64,
                                    bool phi3_window = false) {
    Opened opened(tiny);
    Model model(opened.gguf, *opened.ref, {.context = context, .phi3_window = phi3_window});
    KvCache cache = opened.cache(model);
    return run_parts(model, cache, tokens, per_call);
}

// On any backend, from any position on.
inline std::vector<float> run_on(Backend& backend, const TinyModel& tiny,
                                 const std::vector<int32_t>& tokens, size_t per_call,
                                 int32_t first = 0) {
    const TemporaryFile file(tiny.name + ".gguf");
    const GgufFile gguf = Opened::written(tiny, file.path());
    Model model(gguf, backend, {.context = first + 64});
    const KvShape shape = model.config().cache_shape(1, 64, DType::f32, DType::f32);
    KvCache cache(backend, shape, RotationSpec());
    return run_parts(model, cache, tokens, per_call, first);
}

inline std::string failure(const TinyModel& tiny) {
    try {
        run_model(tiny, {0}, 1);
    } catch (const Error& error) {
        return error.what();
    }
    return "accepted";
}

// The same without the file's name in front.
inline std::string refused(const TinyModel& tiny) {
    const std::string what = failure(tiny);
    const size_t colon = what.find(": ");
    return colon == std::string::npos ? what : what.substr(colon + 2);
}

}  // namespace rotkv::test
