#pragma once
// What the inputs of cases hold: made from integers by additions and products, so that every
// machine gets the same bits.
// Docs: docs/10-testing-your-engine.md

#include "ref/types.h"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace rotkv {

/// The kinds of rows, one word each, for Fields::word.
///   normal    about normal with variance 1: twelve uniform numbers less 6
///   channels  normal; two channels in 32 are 12 times louder, as in keys of real models
///   outlier   normal; one element of a row is 1000 times larger
///   outliers  normal; one element of every 32 is 10, 100 .. 1e6 times larger in turn, in
///             all rows the same ones: outlier_place of each 32
///   tiny      rows of size 1e-8, 1e-16, 1e-30, 1e-41 in turn
///   huge      rows of size 1e6, 1e20, 1e37 in turn
///   zeros     rows of +0, of +0 and -0, of -0, of -0 and +0 in turn
///   inf, nan  normal; one element of every second row is an infinity (both signs in turn), a NaN
///   ties      values halfway between neighbours of a type; see tie_values
inline constexpr std::initializer_list<const char*> k_value_kinds = {
    "normal", "channels", "outlier", "outliers", "tiny", "huge", "zeros", "inf", "nan", "ties"};

/// Where kind "outliers" has that of the n-th 32 elements.
inline int64_t outlier_place(int64_t n) { return (5 * n + 3) % 32; }

/// [rows][d] of a kind. Throws Error(bad_argument) for "ties", which need a type.
std::vector<float> case_values(const std::string& kind, int64_t rows, int64_t d, uint64_t seed);

/// Rows whose step is a power of two and whose other values lie in the middle between two codes
/// (of f16 and bf16: between two numbers), on both sides of zero.
std::vector<float> tie_values(DType type, int64_t rows, int64_t d, uint64_t seed);

/// 0 .. n - 1 in an order that depends on the seed.
std::vector<int32_t> permutation(int64_t n, uint64_t seed);

}  // namespace rotkv
