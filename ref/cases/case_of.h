#pragma once
// What the cases of all operations share: from named tensors to the operation's struct and call.
// Docs: docs/10-testing-your-engine.md

#include "ref/cases/case.h"
#include "ref/error.h"

#include <algorithm>
#include <cmath>

namespace rotkv {

inline constexpr double k_unit = 0x1p-24;    ///< u: half the distance from 1 to the next f32
inline constexpr double k_least = 0x1p-126;  ///< below the normal f32 nothing is promised

/// How far n rounded additions, one after the other, may be off, in u of the sum of magnitudes M.
/// Math: the k-th partial sum is at most M k / n and its rounding error at most u of it, evenly
///       spread over both signs: variance (u M k / n)^2 / 3. All n of them: u^2 M^2 n / 9, and four
///       standard deviations of that are u M 4/3 sqrt(n); two more for products and the last word.
///       Sums in lanes or blocks stay further below.
/// Source: after Higham and Mary 2019, A New Approach to Probabilistic Rounding Error Analysis.
inline double walk(int64_t n) { return 4.0 / 3.0 * std::sqrt(double(n)) + 2; }

/// A tensor that has a shape and no place, for supports().
inline TensorView unplaced(const CaseTensor& tensor) {
    TensorView view;
    view.type = tensor.type;
    std::fill(view.n, view.n + 4, int64_t(1));
    std::copy_backward(tensor.extents.begin(), tensor.extents.end(), view.n + 4);
    return view;
}

/// Field "fill": is the cache as it is at work, without holes and in order?
inline bool is_dense(Fields& f) { return f.word("fill", "holes", {"holes", "dense"}) == "dense"; }

inline CaseTensor in(const char* name, DType type, std::vector<int64_t> extents) {
    return {name, type, std::move(extents), true, false, type == DType::i32};
}
inline CaseTensor out(const char* name, DType type, std::vector<int64_t> extents) {
    return {name, type, std::move(extents), false, true};
}
inline CaseTensor in_out(const char* name, DType type, std::vector<int64_t> extents) {
    return {name, type, std::move(extents), true, true};
}

/// Which of `rows` rows of a table each token takes, not in their order.   result [tokens]
inline std::vector<int32_t> rows_of_tokens(int64_t tokens, int64_t rows) {
    std::vector<int32_t> list;
    for (int64_t t = 0; t < tokens; ++t) list.push_back(int32_t((3 * t + 3) % rows));
    return list;
}

/// The tensor called `name`. Throws Error(bad_argument) where there is none.
inline const CaseTensor& named(std::span<const CaseTensor> tensors, std::string_view name) {
    for (const CaseTensor& tensor : tensors) {
        if (tensor.name == name) return tensor;
    }
    throw Error(ErrorCode::bad_argument, "case: no tensor is called " + std::string(name));
}
inline CaseTensor& named(std::vector<CaseTensor>& tensors, std::string_view name) {
    return const_cast<CaseTensor&>(named(std::span<const CaseTensor>(tensors), name));
}

/// A case of one operation of a backend.
class CallCase : public Case {
  public:
    Support supports(const Backend& backend) const override {
        return supports_call(backend, &CallCase::call);
    }
    Support reference_supports(const Backend& ref) const override {
        return supports_call(ref, &CallCase::exact_call);
    }
    void run(Backend& backend, const Views& views) const override { backend.run(call(views)); }
    void run_reference(Backend& ref, const Views& views) const override {
        ref.run(exact_call(views));
    }

  protected:
    virtual Call call(const Views& views) const = 0;
    virtual Call exact_call(const Views& views) const { return call(views); }  ///< in f32 precision

  private:
    Support supports_call(const Backend& backend, Call (CallCase::*of)(const Views&) const) const {
        const std::vector<CaseTensor> shapes = tensors();
        std::vector<TensorView> views;
        for (const CaseTensor& tensor : shapes) views.push_back(unplaced(tensor));
        return backend.supports((this->*of)(Views(shapes, views)));
    }
};

/// The call with nothing rounded to f16 or bf16.
template <class Args>
Call in_f32(const Call& call) {
    Args exactly = std::get<Args>(call);
    exactly.precision = Precision::f32;
    return exactly;
}

template <class T>
std::unique_ptr<Case> make(Fields& fields) {
    return std::make_unique<T>(fields);
}

// One list per file; case_ops() joins them.
std::span<const CaseOp> row_case_ops();         // case_rows.cpp
std::span<const CaseOp> cache_case_ops();       // case_cache.cpp
std::span<const CaseOp> delta_case_ops();       // case_delta.cpp
std::span<const CaseOp> attention_case_ops();   // case_attention.cpp
std::span<const CaseOp> path_case_ops();        // case_path.cpp
std::span<const CaseOp> weight_case_ops();      // case_weights.cpp
std::span<const CaseOp> norm_case_ops();        // case_norms.cpp
std::span<const CaseOp> expert_case_ops();      // case_experts.cpp
std::span<const CaseOp> likelihood_case_ops();  // case_likelihood.cpp

/// What the rounded butterflies of a row may be off, per element, where the row itself is exact:
/// each of the log2 N stages and the scale round once, and what lies below the normal f32 may be
/// taken for 0: N products with the scale, then N / 2, N / 4, ... sums that meet in an element.
/// Infinite where the block is finite and its sum is not in f32: who scales last overflows there.
/// Math: u (log2 N + 2) / sqrt(N) * sum over the block of |x| + 2 N 2^-126.   x, result [d].
std::vector<double> hadamard_bound(std::span<const float> x, const Rotation& rotation);

/// Fills a weight of any type; formats that rotkv never writes get random codes and small scales.
void fill_weight(CaseTensor& weight, uint64_t seed);

/// The kinds of a product's factors: those of case_values, for x, and
///   outliers-zero-weight  "outliers" that meet weights of 0: every result is the quiet ones'. A
///                         format without a level of 0 has its smallest there
///   positive              magnitudes of "normal", weights too: sums of one sign, of types that a
///                         cache can have
///   wild-weight           "normal"; of every five rows of the weight four have one number that is
///                         inf, -inf, NaN, 1e34 in turn, of the same types
inline constexpr std::initializer_list<const char*> k_factor_kinds = {
    "normal",   "outlier",     "outliers", "outliers-zero-weight",
    "positive", "wild-weight", "tiny",     "huge",
    "zeros",    "inf",         "nan"};

/// Fills a weight and the rows that it is multiplied with.
void fill_factors(const std::string& kind, CaseTensor& weight, CaseTensor& src, uint64_t seed);
NotFinite not_finite_of(const std::string& kind);

/// `units` u of a product's sum of magnitudes; nothing where that leaves f32.
double bound_of_product(double magnitude, double units);

/// `units` u of every |y|, and what lies below the normal f32.   y, result [n]
std::vector<double> relative(std::span<const float> y, double units);

/// sum_i |w[o, i] x[t, i]| of every element of y = x W^T, in f64.   result [T][out]
std::vector<double> magnitudes(const CaseTensor& weight, const CaseTensor& x);

}  // namespace rotkv
