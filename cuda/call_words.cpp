#include "cuda/call_words.h"

#include <initializer_list>

namespace rotkv::cuda {
namespace {

struct Named {
    const char* name;
    const TensorView& tensor;
};

// "name type shape, ..."; what is left out of a call is left out here.
std::string list(std::initializer_list<Named> tensors) {
    std::string text;
    for (const auto& [name, tensor] : tensors) {
        if (tensor.empty()) continue;
        text += (text.empty() ? "" : ", ") + std::string(name) + " " + describe(tensor);
    }
    return text;
}

struct Tensors {
    template <class Rows>  // hadamard, quantize, dequantize
    std::string operator()(const Rows& a) const {
        return list({{"dst", a.dst}, {"src", a.src}});
    }
    std::string operator()(const RopeArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}, {"table", a.table}});
    }
    std::string operator()(const RmsNormArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}, {"weight", a.weight}});
    }
    std::string operator()(const LayerNormArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}, {"weight", a.weight}});
    }
    std::string operator()(const ScaleArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}, {"factor", a.factor}});
    }
    std::string operator()(const MatmulArgs& a) const {
        return list({{"dst", a.dst}, {"weight", a.weight}, {"src", a.src}});
    }
    std::string operator()(const TurnArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}, {"matrix", a.matrix}});
    }
    std::string operator()(const KvStoreArgs& a) const {
        return list({{"k_cache", a.k_cache}, {"v_cache", a.v_cache}, {"k", a.k}, {"v", a.v}});
    }
    std::string operator()(const AttentionArgs& a) const {
        return list({{"dst", a.dst},
                     {"lse", a.lse},
                     {"q", a.q},
                     {"k_cache", a.k_cache},
                     {"v_cache", a.v_cache},
                     {"sinks", a.sinks}});
    }
    std::string operator()(const MergeArgs& a) const {
        return list({{"dst", a.dst}, {"lse", a.lse}, {"a", a.a}, {"b", a.b}});
    }
    std::string operator()(const KvShiftArgs& a) const {
        return list({{"k_cache", a.k_cache}, {"table", a.table}});
    }
    std::string operator()(const ConvStepArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}, {"weight", a.weight}, {"state", a.state}});
    }
    std::string operator()(const DeltaStepArgs& a) const {
        return list({{"dst", a.dst}, {"q", a.q}, {"k", a.k}, {"v", a.v}, {"state", a.state}});
    }
    std::string operator()(const ActMulArgs& a) const {
        return list({{"dst", a.dst}, {"gate", a.gate}, {"up", a.up}});
    }
    std::string operator()(const AddArgs& a) const {
        return list({{"dst", a.dst}, {"a", a.a}, {"b", a.b}});
    }
    std::string operator()(const RouteArgs& a) const { return list({{"logits", a.logits}}); }
    std::string operator()(const ExpertMatmulArgs& a) const {
        return list({{"dst", a.dst}, {"weight", a.weight}, {"src", a.src}});
    }
    std::string operator()(const ExpertSumArgs& a) const {
        return list({{"dst", a.dst}, {"src", a.src}});
    }
    std::string operator()(const EmbedArgs& a) const {
        return list({{"dst", a.dst}, {"weight", a.weight}});
    }
    std::string operator()(const NllArgs& a) const {
        return list({{"nll", a.nll}, {"hidden", a.hidden}, {"weight", a.weight}});
    }
    std::string operator()(const KldArgs& a) const {
        return list({{"kld", a.kld},
                     {"hidden_a", a.hidden_a},
                     {"hidden_b", a.hidden_b},
                     {"weight", a.weight}});
    }
    std::string operator()(const LogitsArgs& a) const {
        return list({{"dst", a.dst}, {"hidden", a.hidden}, {"weight", a.weight}});
    }
};

}  // namespace

std::string words_of(const Call& call) {
    return std::string(name_of(call)) + " (" + std::visit(Tensors{}, call) + ")";
}

}  // namespace rotkv::cuda
