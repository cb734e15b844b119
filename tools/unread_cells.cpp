#include "tools/unread_cells.h"

#include "ref/error.h"

#include <algorithm>
#include <string>

namespace rotkv::tools {

int64_t last_scored(const WindowPlan& plan) { return plan.ctx - (plan.shifts.times > 0 ? 1 : 2); }

void require_quantized_reads(const ModelConfig& config, const KvShape& shape, int64_t last) {
    const F16Tokens& tokens = shape.f16_tokens;
    if (!tokens.any()) return;
    bool quantized = false;
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        if (layer.kv_heads == 0) continue;
        if (!layer.type_k.quantized() && !layer.type_v.quantized()) continue;
        quantized = true;
        const int64_t window = config.plan[std::size_t(l)].window;
        const int64_t farthest =
            window > 0 ? std::min(last - tokens.first, window - 1) : last - tokens.first;
        if (farthest >= tokens.recent) return;
    }
    if (!quantized) return;
    throw Error(ErrorCode::bad_argument,
                "first=" + std::to_string(tokens.first) + ",recent=" +
                    std::to_string(tokens.recent) + ": of " + std::to_string(last + 1) +
                    " tokens in a row all that is read is in f16, nothing of few bits: expected "
                    "fewer such tokens, or more in a row");
}

}  // namespace rotkv::tools
