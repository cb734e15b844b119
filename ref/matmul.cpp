// Products with the model's weights, which are dequantized one row at a time: matmul, embed.
#include "ref/kernels.h"
#include "ref/quant.h"

#include <vector>

namespace rotkv::ref {

// y[t, o] = sum_i w[o, i] x[t, i]
void matmul(const MatmulArgs& args) {
    const int64_t tokens = args.src.n[2], in = args.src.n[3], out = args.weight.n[2];
    std::vector<float> w(static_cast<size_t>(in));
    for (int64_t o = 0; o < out; ++o) {
        dequantize_row(args.weight.type, w.data(), args.weight.row<const std::byte>(o), in);
        for (int64_t t = 0; t < tokens; ++t) {
            const float* x = args.src.row<const float>(t);
            double sum = 0;
            for (int64_t i = 0; i < in; ++i) sum += double(w[size_t(i)]) * double(x[i]);
            args.dst.row<float>(t)[o] = float(sum);
        }
    }
}

// y[t] = scale * w[token[t]]
void embed(const EmbedArgs& args) {
    const int64_t tokens = args.dst.n[2], width = args.dst.n[3];
    for (int64_t t = 0; t < tokens; ++t) {
        const int32_t token = ints(args.token)[t];
        float* y = args.dst.row<float>(t);
        dequantize_row(args.weight.type, y, args.weight.row<const std::byte>(token), width);
        for (int64_t i = 0; i < width; ++i) y[i] *= args.scale;
    }
}

}  // namespace rotkv::ref
