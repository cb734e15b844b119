#pragma once
// A backend that makes one of the known mistakes, in every layer of whatever model runs on it: what
// an engine with that mistake would predict. Docs: docs/29-judge.md

#include "ref/cases/mistake.h"
#include "ref/forwarding_backend.h"

#include <memory>
#include <string>

namespace rotkv::tools {

/// kv_store, kv_shift and attention are those of ref/cases/mistake.h, the other operations are
/// `real`'s. Attention is computed in f64, cell by cell: for short texts.
class MistakenBackend final : public ForwardingBackend {
  public:
    /// Throws: Error(unsupported) where real's memory is not the host's.
    MistakenBackend(std::unique_ptr<Backend> real, const MistakeInfo& mistake);

    std::string description() const override;

  protected:
    Support answer(const Call& call) const override;
    void execute(const Call& call) override;

  private:
    void store(const KvStoreArgs& args);
    void shift(const KvShiftArgs& args);
    void attend(const AttentionArgs& args, int32_t stream);
    Rotation of_k(const Rotation& rotation) const;

    MistakeInfo mistake_;
};

/// The mistake of this name. Throws: Error(usage) with the names that there are.
const MistakeInfo& mistake_of_name(const std::string& name);

}  // namespace rotkv::tools
