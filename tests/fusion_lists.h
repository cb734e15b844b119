#pragma once
// Lists of calls that share one piece of memory, for the tests of what is joined to one launch.
// Docs: docs/08-backends.md
#include "ref/backend.h"
#include "ref/kernels.h"
#include "tests/cached_attention.h"
#include "tests/random.h"

#include <initializer_list>
#include <span>
#include <vector>

namespace rotkv::test {

// One piece of memory for all tensors of f32, so that any may lie over any other.
struct Memory {
    static constexpr int64_t floats = 1 << 19;
    static constexpr int64_t tokens = 12, turning = 16;
    static constexpr int64_t most_tokens = 65, no_cell = most_tokens;  // from this integer on

    std::vector<float> content = normal_vector(floats, 7);
    Buffer all, q8, q4, rows;
    Backend& backend;

    explicit Memory(Backend& where)
        : all(where, floats * sizeof(float)),
          q8(where, size_t(96 * row_bytes(DType::q8_0, 96))),
          q4(where, size_t(96 * row_bytes(DType::q4_0, 96))),
          rows(upload(where, integers())),
          backend(where) {
        reset();
        const TensorView x = view(0, {96, 96});
        where.run(QuantizeArgs{.dst = weight_q8(), .src = x});
        where.run(QuantizeArgs{.dst = weight_q4(), .src = x});
    }
    // Rows of the table, streams, cells; then as many times 0 as a list has tokens, and -1, no
    // cell.
    static std::vector<int32_t> integers() {
        std::vector<int32_t> all{3, 0, 5, 1, 2, 4, 3, 3, 0, 1, 2, 5};
        all.resize(no_cell);
        all.resize(no_cell + most_tokens, -1);
        return all;
    }
    void reset() const { all.upload(std::as_bytes(std::span(content))); }
    std::vector<std::byte> bytes() const { return download(backend, view(0, {floats})); }

    TensorView view(int64_t first, std::initializer_list<int64_t> extents) const {
        TensorView part = all.view(DType::f32, extents);
        part.data += first * int64_t(sizeof(float));
        return part;
    }
    // [T][n], so many floats from row to row.
    TensorView columns(int64_t first, int64_t n_tokens, int64_t n, int64_t apart) const {
        TensorView part = view(first, {n_tokens, n});
        part.stride[2] = apart * int64_t(sizeof(float));
        part.stride[1] = part.stride[0] = n_tokens * part.stride[2];
        return part;
    }
    // The same as heads of d.
    TensorView heads(int64_t first, int64_t n_tokens, int64_t n, int64_t d, int64_t apart) const {
        TensorView part = view(first, {n_tokens, n, d});
        part.stride[1] = apart * int64_t(sizeof(float));
        part.stride[0] = n_tokens * part.stride[1];
        return part;
    }
    TensorView weight_q8() const { return q8.view(DType::q8_0, {96, 96}); }
    TensorView weight_q4() const { return q4.view(DType::q4_0, {96, 96}); }
    TensorView table() const { return view(0, {6, turning / 2, 2}); }
    TensorView row(int64_t n_tokens) const { return rows.view(DType::i32, {n_tokens}); }
};

inline MatmulArgs product(const TensorView& dst, const TensorView& weight, const TensorView& src) {
    return {.dst = dst, .weight = weight, .src = src};
}
inline AddArgs sum(const TensorView& dst, const TensorView& a, const TensorView& b) {
    return {.dst = dst, .a = a, .b = b};
}
inline RmsNormArgs norm(const TensorView& dst, const TensorView& src, const TensorView& weight) {
    return {.dst = dst, .src = src, .weight = weight, .epsilon = 1e-5f};
}

struct List {
    const char* name;
    std::vector<Call> calls;
    std::vector<size_t> launches;  // how many calls each does
    bool is_exact = true;          // else products of what a norm makes round otherwise
};

// Where tensors lie, in floats: the activation, what is computed, weights, more weights.
constexpr int64_t k_x = 0, k_y = 20000, k_z = 60000, k_w = 100000, k_v = 300000;

/// Turns and kv_store.
std::vector<List> store_lists(const Memory& memory);

/// Norms before products of one token, which may be one launch for at most 1024 channels.
std::vector<List> norm_lists(const Memory& memory);

/// Products before sums, which may be one launch for at most eight tokens.
std::vector<List> sum_lists(const Memory& memory);

}  // namespace rotkv::test
