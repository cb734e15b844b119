// Products with weights: by panels of the weight, expanded to f32 and multiplied by dnnl_sgemm,
// where packed_products.h has nothing faster.
#include "fast/kernels.h"
#include "fast/packed_products.h"
#include "fast/panel.h"
#include "fast/workspace.h"

#include <oneapi/dnnl/dnnl.h>

#include <algorithm>

namespace rotkv::fast {
namespace {

int64_t floats(int64_t bytes) { return bytes / int64_t(sizeof(float)); }

// dnnl_sgemm wants rows that do not overlap; a view may repeat one.
bool rows_apart(const TensorView& tensor) { return floats(tensor.stride[2]) >= tensor.n[3]; }

}  // namespace

int64_t panel_rows(const TensorView& weight) {
    constexpr int64_t largest = 1 << 20;  // floats of a panel
    return std::clamp(largest / std::max<int64_t>(1, weight.n[3]), int64_t(64), int64_t(1024));
}

Panel load_panel(const TensorView& weight, int64_t first) {
    const int64_t in = weight.n[3], rows = std::min(panel_rows(weight), weight.n[2] - first);
    if (weight.type == DType::f32 && rows_apart(weight)) {
        return {weight.row<const float>(first), floats(weight.stride[2]), first, rows, in};
    }
    thread_local Workspace space;  // of the thread that opens the region
    float* const expanded = space.reserve(rows * in);
#pragma omp parallel for
    for (int64_t r = 0; r < rows; ++r) {
        dequantize_row(weight.type, expanded + r * in, weight.row<const std::byte>(first + r), in);
    }
    return {expanded, in, first, rows, in};
}

void multiply_panel(float* y, int64_t y_step, const TensorView& x, int64_t t, int64_t tokens,
                    const Panel& panel) {
    if (panel.in == 0) {  // sgemm takes no rows of nothing
        for (int64_t i = 0; i < tokens; ++i) std::fill_n(y + i * y_step, panel.rows, 0.0f);
        return;
    }
    if (!rows_apart(x) && tokens > 1) {
        for (int64_t i = 0; i < tokens; ++i, y += y_step) {
            multiply_panel(y, y_step, x, t + i, 1, panel);
        }
        return;
    }
    // Row-major: y = 1 * x * panel^T + 0 * y. The status would only tell of wrong arguments.
    const int64_t x_step = std::max(panel.in, floats(x.stride[2]));
    dnnl_sgemm('N', 'T', tokens, panel.rows, panel.in, 1.0f, x.row<const float>(t), x_step,
               panel.data, panel.step, 0.0f, y, y_step);
}

void multiply_panels(const MatmulArgs& args) {
    for (int64_t first = 0; first < args.weight.n[2]; first += panel_rows(args.weight)) {
        multiply_panel(args.dst.row<float>(0) + first, floats(args.dst.stride[2]), args.src, 0,
                       args.src.n[2], load_panel(args.weight, first));
    }
}

// y[t, o] = sum_i w[o, i] x[t, i]
void matmul(const MatmulArgs& args) {
    const int64_t tokens = args.src.n[2];
    // For few tokens the weight's bytes set the pace: rounding would win nothing, as of no columns.
    if (tokens <= k_few_tokens || args.weight.n[3] == 0) return multiply_packed(args);
    if (args.precision == Precision::bf16) return matmul_bf16(args);
    if (team_multiplies(tokens)) return multiply_packed(args);
    multiply_panels(args);
}

// y[t] = scale * w[token[t]]
void embed(const EmbedArgs& args) {
    const int64_t tokens = args.dst.n[2], width = args.dst.n[3];
    const int32_t* words = args.token.row<const int32_t>(0);
    for_each_row(tokens, width, [&](int64_t t) {
        float* y = args.dst.row<float>(t);
        dequantize_row(args.weight.type, y, args.weight.row<const std::byte>(words[t]), width);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) y[i] *= args.scale;
    });
}

}  // namespace rotkv::fast
