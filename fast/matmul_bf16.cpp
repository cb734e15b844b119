// Products with weights whose factors are rounded to bf16: half the bytes and, on processors with
// instructions for it, twice the products of f32. Sums stay f32.
#include "fast/kernels.h"
#include "fast/panel.h"
#include "fast/workspace.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>

namespace rotkv::fast {

#if DNNL_VERSION_MAJOR >= 3

namespace {

constexpr auto k_bf16 = dnnl::memory::data_type::bf16;
constexpr auto k_f32 = dnnl::memory::data_type::f32;

// Rows of bf16 in a workspace of floats.
uint16_t* reserve_bf16(Workspace& space, int64_t count) {
    return reinterpret_cast<uint16_t*>(space.reserve((count + 1) / 2));
}

void round_tokens(uint16_t* y, const TensorView& x) {
    const int64_t in = x.n[3];
#pragma omp parallel for
    for (int64_t t = 0; t < x.n[2]; ++t) {
        quantize_row(DType::bf16, y + t * in, x.row<const float>(t), in);
    }
}

// Rows [first, first + rows) of the weight.
void round_panel(uint16_t* y, const TensorView& weight, int64_t first, int64_t rows) {
    const int64_t in = weight.n[3];
#pragma omp parallel
    {
        thread_local Workspace space;
        float* const expanded = space.reserve(in);
#pragma omp for
        for (int64_t r = 0; r < rows; ++r) {
            dequantize_row(weight.type, expanded, weight.row<const std::byte>(first + r), in);
            quantize_row(DType::bf16, y + r * in, expanded, in);
        }
    }
}

// y [T][rows] = x [T][in] panel [rows][in]^T; y_step floats from row to row of y.
// oneDNN keeps what it generates for a shape and finds it again by the shape.
void multiply(float* y, int64_t y_step, uint16_t* x, int64_t tokens, uint16_t* panel, int64_t rows,
              int64_t in) {
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    thread_local dnnl::stream stream(engine);
    const dnnl::memory::desc x_desc({tokens, in}, k_bf16, dnnl::memory::dims{in, 1});
    const dnnl::memory::desc w_desc({in, rows}, k_bf16, dnnl::memory::dims{1, in});
    const dnnl::memory::desc y_desc({tokens, rows}, k_f32, dnnl::memory::dims{y_step, 1});
    const dnnl::matmul product({engine, x_desc, w_desc, y_desc});
    product.execute(stream, {{DNNL_ARG_SRC, dnnl::memory(x_desc, engine, x)},
                             {DNNL_ARG_WEIGHTS, dnnl::memory(w_desc, engine, panel)},
                             {DNNL_ARG_DST, dnnl::memory(y_desc, engine, y)}});
    stream.wait();
}

}  // namespace

bool has_bf16_products() { return true; }

// y[t, o] = sum_i bf16(w[o, i]) bf16(x[t, i])
void matmul_bf16(const MatmulArgs& args) {
    const int64_t tokens = args.src.n[2], in = args.src.n[3], out = args.weight.n[2];
    thread_local Workspace x_space, panel_space;
    uint16_t* const x = reserve_bf16(x_space, tokens * in);
    round_tokens(x, args.src);
    const int64_t step = args.dst.stride[2] / int64_t(sizeof(float));
    for (int64_t first = 0; first < out; first += panel_rows(args.weight)) {
        const int64_t rows = std::min(panel_rows(args.weight), out - first);
        uint16_t* const panel = reserve_bf16(panel_space, rows * in);
        round_panel(panel, args.weight, first, rows);
        multiply(args.dst.row<float>(0) + first, step, x, tokens, panel, rows, in);
    }
}

#else

bool has_bf16_products() { return false; }
void matmul_bf16(const MatmulArgs&) {}  // never entered: supports() is asked first

#endif

}  // namespace rotkv::fast
