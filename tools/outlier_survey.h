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

/// Channels of a head that are looked at by themselves. A head is one part, but for the row of
/// latent attention: what it says (V, and most of K) and what turns behind it are of two kinds.
struct HeadPart {
    int64_t first = 0, d = 0;
    const char* name = "";  ///< "latent", "rope"; "" where it is all there is
};

/// One layer that is looked at.
struct SurveyLayer {
    int64_t heads = 0, kv_heads = 0;  ///< none: it keeps a state, and nothing of it is quantized
    int64_t d_k = 0, d_v = 0;
    bool v_in_k = false;  ///< V is the first d_v channels of K
    int64_t rows_of = 0;  ///< the layer whose keys and values it reads; most layers: itself

    std::vector<HeadPart> parts(CapturedRows::What side) const;

    /// The block of the policy, or of `on` for a latent row; what comes closest where the head size
    /// rules that out.
    int64_t block(CapturedRows::What side) const;
    Rotation rotation(CapturedRows::What side, const HeadPart& part, std::size_t kind) const;
};

/// What a survey looks at.
struct SurveyPlan {
    std::vector<SurveyLayer> layers;
    std::vector<CacheType> types_k, types_v;
    bool keep_rows = false;  ///< all captured rows too, whatever they take

    /// Those that keys, or values, are judged in; queries are not stored.
    const std::vector<CacheType>& types(CapturedRows::What side) const {
        return side == CapturedRows::What::k ? types_k : types_v;
    }

    const SurveyLayer& at(int64_t layer) const { return layers[std::size_t(layer)]; }
};

/// One part of a head, mostly all of it, of one side in one layer.
struct HeadSurvey {
    CapturedRows::What side;
    int64_t layer = 0, head = 0;
    HeadPart part;
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

    /// |o' - o|^2 / |o|^2 of attention outputs o, where this part alone is stored in a type.
    ErrorPair output_error(std::size_t type, std::size_t rotation) const;
};

/// What attention sinks take.
struct SinkFigures {
    int64_t heads = 0;       ///< query heads that have one
    int64_t queries = 0;     ///< of these heads that were judged
    double probability = 0;  ///< that their sinks took, summed

    double share() const { return probability / double(queries); }
};

/// What one rotation does to one side in one type, over all layers and heads.
struct SideAdvice {
    CapturedRows::What side;
    CacheType type = DType::f16;
    std::size_t rotation = 0;      ///< 1 or 2, of k_rotation_names
    ErrorPair plain, rotated;      ///< output errors, mean over heads
    Mean measured, predicted;      ///< log_gain of both
    int64_t heads = 0, worse = 0;  ///< heads in all, and those with a larger error
    int64_t decisive_layer = 0, decisive_head = 0;
    const char* decisive_part = "";
    double without = 0;  ///< log gain measured without that head
    int64_t plain_not_numbers = 0, rotated_not_numbers = 0;  ///< heads whose error is none
    Advice advice = Advice::indifferent;

    /// The gain is one: both sums of errors are numbers.
    bool has_gain() const { return plain_not_numbers == 0 && rotated_not_numbers == 0; }
};

/// Takes a run's rows window by window. Each batch must be one whole window: queries are judged
/// against the keys and values of their own batch, those of the layer whose rows they read.
class Survey {
  public:
    explicit Survey(const SurveyPlan& plan);
    void add(const CapturedRows& rows);

    const SurveyPlan& plan() const { return plan_; }
    std::vector<HeadSurvey>& heads() { return heads_; }
    const std::vector<HeadSurvey>& heads() const { return heads_; }
    SinkFigures sinks() const;

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
            std::vector<float> error;       ///< [T][D of the part], rotated
            std::vector<double> predicted;  ///< [T][D / 32] by law, squared, per block
        };
        std::vector<Stored> stored;  ///< [parts][k_rotations][types]
    };
    void add_heads(CapturedRows::What side, int64_t layer, int64_t count,
                   const std::vector<CacheType>& types);
    std::size_t first(CapturedRows::What side, int64_t layer) const;
    void add_rows(const CapturedRows& captured, std::vector<Window>* windows);
    void add_part(HeadSurvey& head, std::span<const float> x, Window::Stored* stored) const;
    void forget_rows_behind(int64_t layer);
    void judge_outputs(const CapturedRows& q);
    void judge_query(const CapturedRows& q, int64_t head, int64_t position);
    void judge_keys(const QueryOutput& output, HeadSurvey& key, const Window::Stored* stored,
                    std::span<const float> q, int64_t begin, int64_t count) const;
    void judge_values(const QueryOutput& output, HeadSurvey& value, const Window::Stored* stored,
                      int64_t begin, int64_t count) const;

    SurveyPlan plan_;
    std::vector<HeadSurvey> heads_;   ///< layer by layer: its q heads, k heads, v heads
    std::vector<std::size_t> first_;  ///< [layers][3]: the first of a side in heads_
    std::vector<std::vector<Window>> keys_, values_;  ///< [layers][K], while they are read
    std::vector<std::vector<float>> kept_;
    SinkFigures sinks_;                ///< all but its heads
    std::vector<int64_t> sink_heads_;  ///< [layers]
    double scale_ = 1;                 ///< of the scores
};

}  // namespace rotkv::tools
