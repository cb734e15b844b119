#pragma once
// The statistics and errors of every layer, head and side of a run, under each rotation, and the
// verdicts that follow from them.
// Docs: docs/11-outliers.md

#include "ref/measure/outliers.h"
#include "ref/measure/query_output.h"
#include "ref/model.h"
#include "tools/watch/capture.h"

#include <string>
#include <vector>

namespace rotkv::tools {

inline constexpr std::size_t k_rotations = 3;
inline constexpr const char* k_rotation_names[k_rotations] = {"none", "sylvester", "signs"};
inline constexpr const char* k_side_names[] = {"q", "k", "v"};
inline constexpr uint64_t k_signs_seed = 1;
inline constexpr int64_t k_queries = 16;  ///< of each window and head, whose outputs are judged

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
        std::vector<ErrorPair> moved;    ///< beside it: what the type moves outputs by, squared
    };
    std::vector<Rotated> rotations;  ///< [k_rotations]
    double output_square = 0;        ///< of the outputs that `moved` belongs to
    double k_bias_norm = -1;         ///< of a key's bias in the file; < 0: there is none

    /// Mean over rows of the largest |<x, row of H>| / |x|: after the rotation by H that is the
    /// largest value itself, and mu says how large in units of |x| / sqrt(D).
    double largest_row() const;

    /// |o' - o|^2 / |o|^2 of attention outputs o, where this head alone is stored in a type.
    ErrorPair output_error(std::size_t type, std::size_t rotation) const;
};

/// What one rotation does to one side in one type, over all layers and heads.
struct SideAdvice {
    CapturedRows::What side;
    DType type;
    std::size_t rotation = 0;      ///< 1 or 2, of k_rotation_names
    ErrorPair plain, rotated;      ///< output errors, mean over heads
    Mean measured, predicted;      ///< log_gain of both
    int64_t heads = 0, worse = 0;  ///< heads in all, and those with a larger error
    int64_t decisive_layer = 0, decisive_head = 0;
    double without = 0;  ///< log gain measured without that head
    int64_t plain_not_numbers = 0, rotated_not_numbers = 0;  ///< heads whose error is none
    Advice advice = Advice::indifferent;
};

/// Takes a run's rows window by window. Each batch must be one whole window: queries are judged
/// against the keys and values of their own batch.
class Survey {
  public:
    explicit Survey(const SurveyPlan& plan);
    void add(const CapturedRows& rows);

    const SurveyPlan& plan() const { return plan_; }
    std::vector<HeadSurvey>& heads() { return heads_; }
    const std::vector<HeadSurvey>& heads() const { return heads_; }

    /// What type number `type` adds to the scores of the queries that read this key head, logits^2.
    ErrorPair score_noise(const HeadSurvey& key, std::size_t type, std::size_t rotation) const;
    SideAdvice verdict(CapturedRows::What side, std::size_t type, std::size_t rotation) const;

    /// What was kept, [T][heads][D], for keep_rows.
    const std::vector<float>& rows(CapturedRows::What side, int64_t layer) const;

  private:
    /// The rows of one KV head in the batch at hand, and what each type makes of them.
    struct Window {
        std::vector<float> x;  ///< [T][D]
        struct Stored {
            std::vector<float> error;       ///< [T][D], rotated
            std::vector<double> predicted;  ///< [T][D / 32] by law, squared, per block
        };
        std::vector<Stored> stored;  ///< [k_rotations][types]
    };
    std::size_t first(CapturedRows::What side, int64_t layer) const;
    void add_row(const CapturedRows& captured, int64_t head, std::span<const float> x,
                 Window* window);
    void judge_outputs(const CapturedRows& q);
    void judge_keys(const QueryOutput& output, HeadSurvey& key, const Window& window,
                    std::span<const float> q, int64_t begin, int64_t count) const;
    void judge_values(const QueryOutput& output, HeadSurvey& value, const Window& window,
                      int64_t begin, int64_t count) const;

    SurveyPlan plan_;
    std::vector<HeadSurvey> heads_;      ///< layer by layer: its q heads, k heads, v heads
    std::vector<Window> keys_, values_;  ///< [K] of the layer at hand
    std::vector<std::vector<float>> kept_;
    double scale_ = 1;  ///< of the scores
};

}  // namespace rotkv::tools
