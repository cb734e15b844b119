#pragma once
// What a text shows of the queries, keys and values of a model: second moments, and rows to judge
// rotations by. The first part of the text is learnt from, the rest is held out.
// Docs: docs/23-matrix-rotations.md

#include "ref/kv_cache.h"
#include "tools/watch/capture.h"

#include <cstdint>
#include <vector>

namespace rotkv::tools {

/// A symmetric matrix [d][d]: the sum of weight x x^T.
class Moment {
  public:
    explicit Moment(int64_t d) : d_(d), sum_(std::size_t(d * d)) {}

    void add(const float* x, double weight);
    int64_t d() const { return d_; }
    const std::vector<double>& sum() const { return sum_; }

    /// x^T sum x.
    double square(const float* x) const;

  private:
    int64_t d_;
    std::vector<double> sum_;
};

/// One KV head of one layer in one part of a text.
struct SeenHead {
    Moment queries;           ///< sum of q q^T of the query heads that read it
    Moment keys, values;      ///< sum of a k k^T and a v v^T, a the attention that a token gets
    std::vector<float> k, v;  ///< the first rows

    SeenHead(int64_t d_k, int64_t d_v) : queries(d_k), keys(d_k), values(d_v) {}
};

/// Of every query head this many queries a window, evenly spread, tell what attention tokens get.
inline constexpr int64_t k_asking_queries = 64;

class Calibration {
  public:
    enum class Part { learnt, held_out };

    /// `rows`: at most so many of a head are kept, in each part.
    /// Throws: Error(unsupported) that names a layer unlike the others, or whose V lies in its K.
    Calibration(const KvShape& shape, int64_t rows);

    /// To which part the windows that come belong; one window a batch.
    void begin(Part part) { part_ = part; }

    /// For capture().
    void add(const CapturedRows& captured);

    int64_t kv_heads() const { return kv_heads_; }
    int64_t d(Side side) const { return side == Side::k ? d_k_ : d_v_; }

    /// Has the layer rows of its own?
    bool has_rows(int64_t layer) const;
    const SeenHead& seen(Part part, int64_t layer, int64_t kv_head) const;

  private:
    SeenHead& seen(Part part, int64_t layer, int64_t kv_head);
    void keep_rows(const CapturedRows& captured);
    void add_queries(const CapturedRows& q);
    void add_attention(const CapturedRows& q, int64_t head, SeenHead& of,
                       const std::vector<float>& k, const std::vector<float>& v) const;

    KvShape shape_;
    int64_t most_rows_, kv_heads_ = 0, d_k_ = 0, d_v_ = 0;
    Part part_ = Part::learnt;
    std::vector<SeenHead> seen_;                     ///< [part][layer][kv head]
    std::vector<std::vector<float>> k_now_, v_now_;  ///< [layer][kv head]: of the window
};

}  // namespace rotkv::tools
