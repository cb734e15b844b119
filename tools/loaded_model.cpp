#include "tools/loaded_model.h"

#include "ref/rotation_words.h"
#include "tools/backends.h"

#include <fmt/format.h>

#include <utility>

namespace rotkv::tools {

static std::unique_ptr<Backend> backend_of(const ModelFlags& flags) {
    std::unique_ptr<Backend> backend = make_backend(flags.backend, flags.threads);
    if (!flags.profile) return backend;
    return std::make_unique<ProfileBackend>(std::move(backend));
}

LoadedModel::LoadedModel(const ModelFlags& flags, int64_t context)
    : file(GgufFile::open(flags.path)),
      tokenizer(Tokenizer::from_gguf(file)),
      backend(backend_of(flags)),
      profile(dynamic_cast<ProfileBackend*>(backend.get())),
      model(file, *backend, context, flags.phi3_window) {
    model.use_precision(flags.precision);
}

std::vector<int32_t> tokens_of_text(const Tokenizer& tokenizer, std::string text) {
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return tokenizer.encode(text, true);
}

KvCache make_cache(const Model& model, const WindowPlan& plan, DType type_k, DType type_v,
                   const RotationRequest& rotation) {
    const KvShape shape = model.cache_shape(plan.windows_at_once(), plan.ctx, type_k, type_v);
    return KvCache(model.backend(), shape, decide_rotation(rotation, shape));
}

int64_t default_batch(int64_t ctx) {
    constexpr int64_t k_most = 2048;
    return ctx > k_most ? k_most : k_most / ctx * ctx;
}

std::string describe_cache(const KvCache& cache) {
    const KvShape& shape = cache.shape();
    const auto side = [&](const char* name, DType type, Side which) {
        return fmt::format("{} {}: rotation {}\n", name, type_info(type).name,
                           describe(cache.spec(), 0, which));
    };
    return side("K", shape.type_k, Side::k) + side("V", shape.type_v, Side::v) +
           fmt::format("{} bytes per token in {} layers\n", shape.bytes_per_token(), shape.layers);
}

nlohmann::ordered_json json_of(const KvShape& shape) {
    return {{"k", type_info(shape.type_k).name},
            {"v", type_info(shape.type_v).name},
            {"bytes_per_token", shape.bytes_per_token()}};
}

}  // namespace rotkv::tools
