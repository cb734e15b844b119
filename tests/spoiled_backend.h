#pragma once
// Backends that are wrong on purpose, and one that rounds as tensor cores do.
// Docs: docs/10-testing-your-engine.md

#include "ref/cases/case_of.h"
#include "ref/forwarding_backend.h"
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/kernels.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rotkv::test {

/// The reference, after whose hadamard something goes wrong.
class SpoiledBackend : public ForwardingBackend {
  public:
    explicit SpoiledBackend(std::function<void(const HadamardArgs&)> spoil)
        : ForwardingBackend(make_ref_backend()), spoil_(std::move(spoil)) {}
    std::string name() const override { return "spoiled"; }

  protected:
    void execute(const Call& call) override {
        real().run(call);
        if (const auto* args = std::get_if<HadamardArgs>(&call)) spoil_(*args);
    }

  private:
    std::function<void(const HadamardArgs&)> spoil_;
};

/// The product of a matmul case, both factors rounded to f16 or bf16 first.
inline std::vector<float> product_in(DType type, const std::vector<CaseTensor>& tensors) {
    const auto rounded = [&](std::string_view name) {
        std::vector<float> x = named(std::span<const CaseTensor>(tensors), name).values();
        for (float& one : x) {
            one = type == DType::f16 ? f16_to_f32(f32_to_f16(one)) : bf16_to_f32(f32_to_bf16(one));
        }
        return x;
    };
    const std::vector<float> w = rounded("weight"), x = rounded("src");
    const size_t in = size_t(named(std::span<const CaseTensor>(tensors), "src").extents.back());
    std::vector<float> y;
    for (size_t t = 0; t < x.size(); t += in) {
        for (size_t o = 0; o < w.size(); o += in) {
            double sum = 0;
            for (size_t i = 0; i < in; ++i) sum += double(w[o + i]) * double(x[t + i]);
            y.push_back(float(sum));
        }
    }
    return y;
}

/// Attention over the inputs of a case with K = V = f32, one stream and K's rotation in blocks of
/// k_block, V's of 64, where every operand of a product is rounded to f16 first. lse gets the logs
/// of the sums, those of p as it is rounded.
inline std::vector<float> attention_in_f16(const std::vector<CaseTensor>& tensors, int64_t k_block,
                                           std::vector<float>& lse) {
    const auto find = [&](std::string_view name) -> const CaseTensor& {
        return named(std::span<const CaseTensor>(tensors), name);
    };
    const auto half = [](float x) { return double(f16_to_f32(f32_to_f16(x))); };
    const CaseTensor &dst = find("dst"), &k_cache = find("k_cache");
    const int64_t tokens = dst.extents[0], heads = dst.extents[1], d = dst.extents[2];
    const int64_t cells = k_cache.extents[1], kv_heads = k_cache.extents[2];
    const std::vector<float> q = find("q").values(), k = k_cache.values(),
                             v = find("v_cache").values();
    const std::vector<int32_t> position = find("position").indices(),
                               at = find("q_position").indices();
    const Rotation k_rotation{Rotation::Kind::sylvester, k_block, 0, 0};
    const Rotation v_rotation{Rotation::Kind::sylvester, 64, 0, 0};
    std::vector<float> result;
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t h = 0; h < heads; ++h) {
            std::vector<float> turned(static_cast<size_t>(d));
            ref::hadamard_row(turned.data(), q.data() + (t * heads + h) * d, d, k_rotation, false);
            std::vector<double> sum(size_t(d), 0.0);
            double total = 0, rounded = 0;
            for (int64_t c = 0; c < cells; ++c) {
                if (position[size_t(c)] < 0 || position[size_t(c)] > at[size_t(t)]) continue;
                const int64_t row = (c * kv_heads + h / (heads / kv_heads)) * d;
                double score = 0;
                for (int64_t j = 0; j < d; ++j) {
                    score += half(turned[size_t(j)]) * half(k[size_t(row + j)]);
                }
                const double p = std::exp(score / std::sqrt(double(d)) - 20);
                total += p;
                rounded += half(float(p * 0x1p20));
                for (int64_t j = 0; j < d; ++j) {
                    sum[size_t(j)] += half(float(p * 0x1p20)) * half(v[size_t(row + j)]);
                }
            }
            lse.push_back(float(std::log(rounded / 0x1p20) + 20));
            std::vector<float> out;
            for (const double x : sum) out.push_back(total > 0 ? float(x / total / 0x1p20) : 0);
            ref::hadamard_row(out.data(), out.data(), d, v_rotation, true);
            result.insert(result.end(), out.begin(), out.end());
        }
    }
    return result;
}

}  // namespace rotkv::test
