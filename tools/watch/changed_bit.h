#pragma once
// A model whose first norm weight has another last bit: the least change that reaches every layer.
// What it does to predictions is what an instrument cannot tell from nothing.
// Docs: docs/07-measuring.md

#include "ref/model.h"

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

/// Puts a copy of the weight before the first attention, with one element one bit larger, in place
/// of the model's own; all else runs as it is.
class ChangedBit {
  public:
    explicit ChangedBit(const Model& loaded)
        : norm_(loaded.weights().layers[0].attention_norm),
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
            const auto* norm = std::get_if<RmsNormArgs>(&call);
            if (norm == nullptr || norm->weight.data != norm_.data) return backend.run(call);
            RmsNormArgs changed = *norm;
            changed.weight = memory_.view(DType::f32, {norm_.n[3]});
            backend.run(changed);
        };
    }

  private:
    TensorView norm_;           ///< [E] f32 in the backend's memory
    std::vector<float> exact_;  ///< its contents
    Buffer memory_;
};

}  // namespace rotkv::tools
