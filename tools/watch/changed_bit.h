#pragma once
// A model whose first norm has a weight with another last bit: the least change that reaches every
// layer. What it does to predictions is what an instrument cannot tell from nothing.
// Docs: docs/07-measuring.md

#include "ref/error.h"
#include "ref/model.h"

#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

namespace rotkv::tools {

/// Puts a copy of the weight before the first attention or, where there is none, of that behind it,
/// with one element one bit larger, in place of the model's own; all else runs as it is.
class ChangedBit {
  public:
    /// Throws Error(unsupported) for a model that has neither.
    explicit ChangedBit(const Model& loaded)
        : norm_(first_norm(loaded.weights().layers[0])),
          exact_(std::size_t(norm_.n[3])),
          memory_(loaded.backend(), exact_.size() * sizeof(float)) {
        loaded.backend().download(std::as_writable_bytes(std::span(exact_)), norm_.data);
    }

    /// From now on it is this element, 0 .. E - 1.
    void choose(int64_t element) {
        std::vector<float> changed = exact_;
        float& x = changed[std::size_t(element)];
        x = std::nextafter(x, HUGE_VALF);
        memory_.upload(std::as_bytes(std::span(changed)));
    }

    /// For ModelOptions; this must outlive the model. choose() comes first.
    Observer observer() {
        return [this](int64_t, const Call& call, Backend& backend) {
            std::visit([&](const auto& args) { run(args, backend); }, call);
        };
    }

  private:
    static TensorView first_norm(const ModelLayer& layer) {
        const bool before = !layer.attention_norm.empty();
        const TensorView norm = before ? layer.attention_norm : layer.post_attention_norm;
        require(!norm.empty(), ErrorCode::unsupported,
                "one bit: expected a norm before the first attention or behind it, found none");
        return norm;
    }

    template <class Args>
    void run(const Args& args, Backend& backend) {
        if constexpr (std::is_same_v<Args, RmsNormArgs> || std::is_same_v<Args, LayerNormArgs>) {
            if (args.weight.data == norm_.data) {
                Args changed = args;
                changed.weight = memory_.view(DType::f32, {norm_.n[3]});
                return backend.run(changed);
            }
        }
        backend.run(args);
    }

    TensorView norm_;           ///< [E] f32 in the backend's memory
    std::vector<float> exact_;  ///< its contents
    Buffer memory_;
};

}  // namespace rotkv::tools
