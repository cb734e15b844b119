#pragma once
// A model whose first norm has a weight with another last bit: the least change that reaches every
// layer. What it does to predictions is what an instrument cannot tell from nothing.
// Docs: docs/07-measuring.md

#include "ref/error.h"
#include "ref/model.h"

#include <cmath>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace rotkv::tools {

/// Puts a copy of a weight, with one element one bit larger, in place of the model's own; all else
/// runs as it is. The weight is that of the norm before the first attention or, where there is
/// none, of the norm behind it.
class ChangedBit {
  public:
    /// Throws Error(unsupported) for a model without such a norm.
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
            if (const auto* norm = std::get_if<RmsNormArgs>(&call)) {
                backend.run(changed(*norm));
            } else if (const auto* layer_norm = std::get_if<LayerNormArgs>(&call)) {
                backend.run(changed(*layer_norm));
            } else {
                backend.run(call);
            }
        };
    }

  private:
    static const TensorView& first_norm(const ModelLayer& layer) {
        const TensorView& norm =
            layer.attention_norm.empty() ? layer.post_attention_norm : layer.attention_norm;
        require(!norm.empty(), ErrorCode::unsupported,
                "one bit: expected a norm before the first attention or behind it, found none");
        return norm;
    }

    template <class Args>
    Args changed(Args args) const {
        if (args.weight.data == norm_.data) args.weight = memory_.view(DType::f32, {norm_.n[3]});
        return args;
    }

    TensorView norm_;           ///< [E] f32 in the backend's memory
    std::vector<float> exact_;  ///< its contents
    Buffer memory_;
};

}  // namespace rotkv::tools
