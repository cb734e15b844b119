#include "ref/placement.h"

#include "ref/error.h"
#include "ref/kv_cache.h"

#include <algorithm>
#include <string>
#include <vector>

namespace rotkv {

KvShape Placement::in(KvShape shape) const {
    shape.f16_tokens = tokens;
    std::vector<KvLayer*> own;
    for (KvLayer& layer : shape.layers) {
        if (layer.kv_heads > 0 && !layer.source) own.push_back(&layer);
    }
    const int64_t count = int64_t(own.size());
    if (end_layers > count / 2) {
        throw Error(ErrorCode::usage, "ends: expected at most " + std::to_string(count / 2) +
                                          " layers at either end of " + std::to_string(count) +
                                          ", found " + std::to_string(end_layers));
    }
    for (int64_t i = 0; i < count && ends; ++i) {
        if (std::min(i, count - 1 - i) < end_layers) {
            own[size_t(i)]->type_k = own[size_t(i)]->type_v = *ends;
        }
    }
    for (KvLayer& layer : shape.layers) {  // readers are like whose rows they read
        if (!layer.source) continue;
        layer.type_k = shape.layers[size_t(*layer.source)].type_k;
        layer.type_v = shape.layers[size_t(*layer.source)].type_v;
    }
    return shape;
}

}  // namespace rotkv
