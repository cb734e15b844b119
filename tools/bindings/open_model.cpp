#include "tools/bindings/open_model.h"

#include <numeric>

namespace rotkv::bindings {

constexpr int64_t k_most_positions = 1 << 24;

Model OpenModel::for_context(int64_t context, const Observer& observer) const {
    require_number("positions", context, 1, k_most_positions);
    return Model(
        model, {.context = context, .precision = model.options().precision, .observer = observer});
}

void in_turn(const std::shared_ptr<OpenBackend>& open, const std::function<void()>& body) noexcept {
    if (open->owner == std::this_thread::get_id()) return body();
    const Turn turn(*open);
    body();
}

tools::Variant cache_of_words(const char* words, DType type) {
    return tools::parse_variant("cache", text_at(words, "cache_words"), {"", type, type, {}});
}

void require_no_placement(const tools::Variant& variant, const char* words) {
    if (!variant.placement.any() && !variant.key_bias) return;
    throw Error(ErrorCode::usage,
                "cache_words: expected no first, recent, ends, k:LAYERS, "
                "v:LAYERS or kbias, which need a model, found '" +
                    std::string(words) + "'");
}

void require_rows_of_kernels(const KvShape& shape, const RotationSpec& spec) {
    bool by_matrix = false;
    for (int64_t layer = 0; layer < spec.entries(); ++layer) {
        by_matrix |= spec.matrix(layer, Side::k) != nullptr;
        by_matrix |= spec.matrix(layer, Side::v) != nullptr;
    }
    require(!by_matrix, ErrorCode::unsupported,
            "cache: a rotation by a matrix needs a model to turn rows, queries and outputs");
    require(!shape.f16_tokens.any(), ErrorCode::unsupported,
            "cache: tokens in f16 need a model to attend in parts");
}

static KvCache make_reading_cache(const Model& model, const tools::Variant& variant, int64_t cells,
                                  int64_t last) {
    const tools::PlannedCache planned = tools::plan_cache(model, variant, 1, cells, last);
    return KvCache(model.backend(), planned.shape, planned.spec);
}

Reading::Reading(const OpenModel& open, const tools::Variant& variant, int64_t cells, int64_t last,
                 const Observer& observer)
    : model_(open.for_context(cells, observer)),
      cache_(make_reading_cache(model_, variant, cells, last)) {}

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
