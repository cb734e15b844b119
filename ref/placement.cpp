#include "ref/placement.h"

#include "ref/error.h"
#include "ref/kv_cache.h"

#include <algorithm>
#include <string>
#include <vector>

namespace rotkv {

namespace {

bool has_rows(const KvLayer& layer) { return layer.kv_heads > 0 && !layer.source; }

KvLayer& layer_of(KvShape& shape, const LayerType& own) {
    const char* const side = own.side == Side::k ? "k:" : "v:";
    if (own.layer < 0 || own.layer >= shape.n_layers()) {
        throw Error(ErrorCode::usage, side + std::to_string(own.layer) + ": expected layers 0 to " +
                                          std::to_string(shape.n_layers() - 1));
    }
    KvLayer& layer = shape.layers[size_t(own.layer)];
    if (!has_rows(layer)) {
        throw Error(ErrorCode::usage, side + std::to_string(own.layer) +
                                          ": this layer keeps no keys and values of its own");
    }
    return layer;
}

}  // namespace

KvShape Placement::in(KvShape shape) const {
    shape.f16_tokens = tokens;
    std::vector<KvLayer*> own;
    for (KvLayer& layer : shape.layers) {
        if (has_rows(layer)) own.push_back(&layer);
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
    for (const LayerType& of : layers) {
        KvLayer& layer = layer_of(shape, of);
        if (of.side == Side::k || layer.v_in_k) layer.type_k = of.type;
        if (of.side == Side::v || layer.v_in_k) layer.type_v = of.type;
    }
    for (KvLayer& layer : shape.layers) {  // readers are like whose rows they read
        if (!layer.source) continue;
        layer.type_k = shape.layers[size_t(*layer.source)].type_k;
        layer.type_v = shape.layers[size_t(*layer.source)].type_v;
    }
    return shape;
}

}  // namespace rotkv
