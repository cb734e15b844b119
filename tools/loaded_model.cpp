#include "tools/loaded_model.h"

#include "tools/backends.h"

#include <fmt/format.h>

#include <utility>

namespace rotkv::tools {

LoadedModel::LoadedModel(const ModelFlags& flags, int64_t context)
    : file(GgufFile::open(flags.path)),
      tokenizer(Tokenizer::from_gguf(file)),
      backend(make_backend(flags.backend, flags.threads)),
      profile(flags.profile ? std::make_unique<Profile>() : nullptr),
      model(file, *backend,
            {.context = context,
             .precision = flags.precision,
             .phi3_window = flags.phi3_window,
             .observer = profile != nullptr ? profile->observer() : Observer()}) {}

Model observed(const Model& model, const Observer& observer) {
    ModelOptions options = model.options();
    options.observer = observer;
    return Model(model, options);
}

std::vector<int32_t> tokens_of_text(const Tokenizer& tokenizer, std::string text) {
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return tokenizer.encode(text, true);
}

KvCache make_cache(const Model& model, const WindowPlan& plan, DType type_k, DType type_v,
                   const RotationRequest& rotation) {
    const KvShape shape = model.cache_shape(plan.windows_at_once(), plan.ctx, type_k, type_v);
    const RotationSpec spec = RotationSpec::decide(rotation, type_k, shape.d_k, type_v, shape.d_v);
    return KvCache(model.backend(), shape, spec);
}

int64_t default_batch(int64_t ctx) {
    constexpr int64_t k_most = 2048;
    return ctx > k_most ? k_most : k_most / ctx * ctx;
}

std::string describe_cache(const KvCache& cache) {
    const KvShape& shape = cache.shape();
    const auto side = [&](const char* name, DType type, Side which) {
        return fmt::format("{} {}: rotation {}\n", name, type_info(type).name,
                           cache.spec().words(which));
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
