#pragma once
// The statistics and errors of every layer, head and side of a run, under each rotation, and the
// advice that follows from them.
// Docs: docs/11-outliers.md

#include "ref/model.h"
#include "ref/outliers.h"
#include "tools/capture.h"

#include <array>
#include <string>
#include <vector>

namespace rotkv::tools {

inline constexpr std::size_t k_rotations = 3;
inline constexpr const char* k_rotation_names[k_rotations] = {"none", "sylvester", "signs"};
inline constexpr const char* k_side_names[] = {"q", "k", "v"};
inline constexpr uint64_t k_signs_seed = 1;

/// What a survey looks at.
struct SurveyPlan {
    int64_t layers = 0, heads = 0, kv_heads = 0, d_k = 0, d_v = 0;
    std::vector<DType> types_k, types_v;
    bool keep_rows = false;  ///< all captured rows too, whatever they take

    /// The blocks of the policy, or what comes closest where the head size rules that out.
    int64_t block(CapturedRows::What side) const;
    Rotation rotation(CapturedRows::What side, std::size_t kind) const;
};

/// One head of one side in one layer.
struct HeadSurvey {
    CapturedRows::What side;
    int64_t layer = 0, head = 0;
    struct Rotated {
        HeadStatistics statistics;
        std::vector<TypeErrors> errors;  ///< one a type; none for q
    };
    std::vector<Rotated> rotations;  ///< [k_rotations]
    double k_bias_norm = -1;         ///< of a key's bias in the file; < 0: there is none

    /// Mean over rows of the largest |<x, row of H>| / |x|: after the rotation by H that is the
    /// largest value itself, and mu says how large in units of |x| / sqrt(D).
    double largest_row() const;
};

/// Errors of one type on one head and rotation, in the unit that heads are summed in.
/// K: variance of the score in logits^2; V: |e|^2 / |v|^2.
using HeadError = TypeErrors::Pair;

/// What one rotation does to one side in one type, over all layers and heads.
struct Verdict {
    CapturedRows::What side;
    DType type;
    std::size_t rotation;  ///< 1 or 2, of k_rotation_names
    Mean measured, predicted;
    int64_t heads = 0, hurt = 0;  ///< heads in all, and those that have a larger error
    Advice advice = Advice::indifferent;
};

class Survey {
  public:
    explicit Survey(const SurveyPlan& plan);
    void add(const CapturedRows& rows);

    const SurveyPlan& plan() const { return plan_; }
    std::vector<HeadSurvey>& heads() { return heads_; }
    const std::vector<HeadSurvey>& heads() const { return heads_; }

    /// [K or V heads of all layers] errors of type number `type` under one rotation.
    std::vector<HeadError> errors(CapturedRows::What side, std::size_t type,
                                  std::size_t rotation) const;
    Verdict verdict(CapturedRows::What side, std::size_t type, std::size_t rotation) const;

    /// What was kept, [T][heads][D], for keep_rows.
    const std::vector<float>& rows(CapturedRows::What side, int64_t layer) const;

  private:
    std::size_t first(CapturedRows::What side, int64_t layer) const;
    HeadError error(const HeadSurvey& head, std::size_t type, std::size_t rotation) const;

    SurveyPlan plan_;
    std::vector<HeadSurvey> heads_;  ///< layer by layer: its q heads, k heads, v heads
    std::vector<std::vector<float>> kept_;
    float scale_ = 1;
};

}  // namespace rotkv::tools
