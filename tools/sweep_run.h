#pragma once
// The cells of a sweep and how they are computed: cell after cell, each over all groups of windows,
// against a base that is computed once.
// Docs: docs/12-sweeps.md

#include "ref/error.h"
#include "tools/compare/cache_words.h"
#include "tools/loaded_model.h"
#include "tools/sweep_lists.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One cell: what is asked for, and what it comes to on this model.
struct SweepPoint {
    Variant variant;  ///< called "k=q8_0,v=q4_0,rot=auto", as in SweepRow::name()
    std::string rot;
    KvShape shape;                               ///< empty if unsupported
    RotationSpec spec;                           ///< likewise
    std::string unsupported;                     ///< why the model cannot have this cache, or empty
    ErrorCode refusal = ErrorCode::unsupported;  ///< of that reason: usage, unsupported
    std::optional<std::size_t> same_as;  ///< an earlier cell with the same types and rotations

    bool to_compute() const { return unsupported.empty() && !same_as; }
};

/// The cell of a variant: its cache on this model, or why there is none.
SweepPoint sweep_point(const Model& model, const WindowPlan& plan, const Variant& variant);

/// Throws the first cell's refusal where the model can have none of them.
void require_some_supported(const std::vector<SweepPoint>& cells);

/// Are both supported, with one shape and one rotation?
bool is_same(const SweepPoint& a, const SweepPoint& b);

/// The cells in their fixed order: K outermost, then V, then the rotations; all of one placement.
std::vector<SweepPoint> sweep_cells(const Model& model, const WindowPlan& plan,
                                    const SweepTypes& types,
                                    const std::vector<AskedRotation>& rotations,
                                    const Placement& placement);

/// "k=sylvester/64 v=none"; where layers with rows differ, once for each that begins another
/// rotation.
std::string rotations_in_words(const RotationSpec& spec, const KvShape& shape);

/// Of each rotation by matrices the hash of them all: a file may hold others tomorrow.
std::map<std::string, std::string> hashes_of_matrices(const std::vector<AskedRotation>& rotations,
                                                      const std::vector<SweepPoint>& cells);

/// Memory: one cache, the hidden states of one group of windows, and those of the base's scored
/// positions, windows * scored * E * 4 bytes, where that is not more than `base_bytes`. Where it
/// is, every cell computes the base again, group by group, and takes twice as long.
class SweepRun {
  public:
    SweepRun(Model& model, const WindowPlan& plan, const Variant& base, int64_t base_bytes);

    bool keeps_base() const { return keeps_base_; }
    const KvShape& base_shape() const { return base_shape_; }
    const RotationSpec& base_spec() const { return base_spec_; }

    /// Computes the base, or its first group where it is not kept: what the backend cannot do for
    /// it must not be taken for the first cell's fault.
    void start();

    /// Compares one cell with the base over all windows; calls `done` after each group.
    /// Precondition: the cell is supported.
    /// Throws Error(unsupported) where the backend lacks an operation for the cell's types.
    std::vector<TokenPair> measure(const SweepPoint& cell, const std::function<void()>& done);

  private:
    using Hidden = std::vector<float>;  ///< [rows][E]

    Hidden run_one(const KvShape& shape, const RotationSpec& spec, const WindowPlan& group);
    const Hidden& base_rows(int64_t index);

    Model& model_;
    const WindowPlan& plan_;
    KvShape base_shape_;
    RotationSpec base_spec_;
    bool keeps_base_ = true;
    std::vector<Hidden> base_;  ///< of groups 0, 1, ... so far; of one group where none are kept
};

}  // namespace rotkv::tools
