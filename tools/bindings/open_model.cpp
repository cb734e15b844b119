#include "tools/bindings/open_model.h"

#include <numeric>

namespace rotkv::bindings {

constexpr int64_t k_most_positions = 1 << 24;

Model OpenModel::for_context(int64_t context, const Observer& observer) const {
    require_number("positions", context, 1, k_most_positions);
    return Model(model, {.context = context, .observer = observer});
}

void in_turn(const std::shared_ptr<OpenBackend>& open, const std::function<void()>& body) noexcept {
    if (open->owner == std::this_thread::get_id()) return body();
    const Turn turn(*open);
    body();
}

tools::Variant cache_of_words(const char* words, DType type) {
    return tools::parse_variant("cache", text_at(words, "cache_words"), {"", type, type, {}});
}

static KvCache make_reading_cache(const Model& model, const tools::Variant& variant,
                                  int64_t cells) {
    const KvShape shape = model.config().cache_shape(1, cells, variant.type_k, variant.type_v);
    return KvCache(model.backend(), shape, decide_rotation(variant.rotation, shape));
}

Reading::Reading(const OpenModel& open, const tools::Variant& variant, int64_t cells,
                 const Observer& observer)
    : model_(open.for_context(cells, observer)),
      cache_(make_reading_cache(model_, variant, cells)) {}

void Reading::read(std::span<const int32_t> tokens,
                   const std::function<void(const TensorView&, int64_t)>& visit) {
    constexpr std::size_t k_batch = 512;
    while (!tokens.empty()) {
        const auto batch = tokens.first(std::min(tokens.size(), k_batch));
        const std::vector<int32_t> streams(batch.size(), 0);
        std::vector<int32_t> positions(batch.size());
        std::iota(positions.begin(), positions.end(), int32_t(tokens_));
        visit(model_.forward(cache_, batch, streams, positions), tokens_);
        tokens_ += int64_t(batch.size());
        tokens = tokens.subspan(batch.size());
    }
}

std::span<const int32_t> tokens_of(const OpenModel& open, const int32_t* tokens, int64_t count,
                                   int64_t least) {
    require_number("count", count, least, k_most_positions);
    return indices(tokens, count, "tokens", 0, open.tokenizer.n_vocab() - 1);
}

}  // namespace rotkv::bindings
