// Steps 2 to 4 of ref/attention.cpp for a tile: up to four query heads of a group share each row.
#include "fast/decode_tile.h"

#include "fast/decode_rows.h"

namespace rotkv::fast {
namespace {

// Calls visit with the number of heads as a constant.
template <class Visit>
void with_heads(int64_t heads, Visit visit) {
    // clang-format off
    switch (heads) {
        case 1: return visit(std::integral_constant<int64_t, 1>{});
        case 2: return visit(std::integral_constant<int64_t, 2>{});
        case 3: return visit(std::integral_constant<int64_t, 3>{});
        default: return visit(std::integral_constant<int64_t, k_row_heads>{});
    }
    // clang-format on
}

}  // namespace

void decode_tile(const AttentionArgs& args, const TokenState& state, int64_t t, int64_t kv,
                 const int32_t* cells, int64_t count) {
    const int64_t d_k = args.q.n[3], d_v = args.dst.n[3];
    const int64_t group = args.q.n[2] / args.k_cache.n[2], end = (kv + 1) * group;
    const int64_t stream = args.q_stream.row<const int32_t>(0)[t];
    const auto rows = [&](const TensorView& cache) {
        return PackedRows{cache.row<const std::byte>(stream, 0, kv), cache.stride[1], cells, count};
    };
    for (int64_t h = kv * group; h < end; h += k_row_heads) {
        with_heads(std::min(k_row_heads, end - h),
                   [&]<int64_t heads>(std::integral_constant<int64_t, heads>) {
                       float scores[heads * k_decode_cells], factor[heads];
                       with_packed(args.k_cache.type, [&]<class Format>(Format) {
                           score_rows<Format, heads>(scores, k_decode_cells, state.q + h * d_k,
                                                     rows(args.k_cache), d_k);
                       });
                       for (int64_t i = 0; i < heads; ++i) {
                           factor[i] =
                               softmax_step(state.softmax[h + i], scores + i * k_decode_cells,
                                            count, args.softcap);
                       }
                       with_packed(args.v_cache.type, [&]<class Format>(Format) {
                           add_rows<Format, heads>(state.sum + h * d_v, factor, scores,
                                                   k_decode_cells, rows(args.v_cache), d_v);
                       });
                   });
    }
}

}  // namespace rotkv::fast
