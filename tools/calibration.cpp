#include "tools/calibration.h"

#include "ref/error.h"
#include "ref/measure/query_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

namespace rotkv::tools {

using What = CapturedRows::What;

void Moment::add(const float* x, double weight) {
    for (int64_t i = 0; i < d_; ++i) {
        for (int64_t j = 0; j < d_; ++j) {
            sum_[std::size_t(i * d_ + j)] += weight * double(x[i]) * double(x[j]);
        }
    }
}

double Moment::square(const float* x) const {
    double all = 0;
    for (int64_t i = 0; i < d_; ++i) {
        double row = 0;
        for (int64_t j = 0; j < d_; ++j) row += sum_[std::size_t(i * d_ + j)] * double(x[j]);
        all += row * double(x[i]);
    }
    return all;
}

Calibration::Calibration(const KvShape& shape, int64_t rows) : shape_(shape), most_rows_(rows) {
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        if (layer.kv_heads == 0) continue;
        if (layer.v_in_k) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("layer {}: V lies in K's rows (latent attention), whose "
                                    "rotations are not calibrated here",
                                    l));
        }
        if (kv_heads_ == 0) {
            kv_heads_ = layer.kv_heads;
            d_k_ = layer.d_k;
            d_v_ = layer.d_v;
        }
        if (layer.kv_heads == kv_heads_ && layer.d_k == d_k_ && layer.d_v == d_v_) continue;
        throw Error(ErrorCode::unsupported,
                    fmt::format("layer {}: expected {} KV heads of {} and {} channels as in the "
                                "layers before, found {} of {} and {}: one file holds matrices of "
                                "one size",
                                l, kv_heads_, d_k_, d_v_, layer.kv_heads, layer.d_k, layer.d_v));
    }
    require(kv_heads_ > 0, ErrorCode::unsupported, "no layer of this model keeps keys and values");
    seen_.assign(std::size_t(2 * shape.n_layers() * kv_heads_), SeenHead(d_k_, d_v_));
    k_now_.resize(std::size_t(shape.n_layers() * kv_heads_));
    v_now_.resize(k_now_.size());
}

bool Calibration::has_rows(int64_t layer) const {
    const KvLayer& of = shape_.layers[std::size_t(layer)];
    return of.kv_heads > 0 && !of.source;
}

const SeenHead& Calibration::seen(Part part, int64_t layer, int64_t kv_head) const {
    const int64_t first = part == Part::learnt ? 0 : shape_.n_layers();
    return seen_[std::size_t((first + layer) * kv_heads_ + kv_head)];
}

SeenHead& Calibration::seen(Part part, int64_t layer, int64_t kv_head) {
    const Calibration& self = *this;
    return const_cast<SeenHead&>(self.seen(part, layer, kv_head));
}

void Calibration::add(const CapturedRows& captured) {
    captured.what == What::q ? add_queries(captured) : keep_rows(captured);
}

void Calibration::keep_rows(const CapturedRows& captured) {
    const bool keys = captured.what == What::k;
    for (int64_t h = 0; h < kv_heads_; ++h) {
        SeenHead& of = seen(part_, captured.layer, h);
        std::vector<float>& now =
            (keys ? k_now_ : v_now_)[std::size_t(captured.layer * kv_heads_ + h)];
        std::vector<float>& kept = keys ? of.k : of.v;
        const int64_t d = captured.rows.n[3];
        now.clear();
        for (int64_t t = 0; t < captured.rows.n[1]; ++t) {
            const std::span<const float> x(captured.rows.row<float>(t, h), std::size_t(d));
            now.insert(now.end(), x.begin(), x.end());
            if (int64_t(kept.size()) < most_rows_ * d) kept.insert(kept.end(), x.begin(), x.end());
        }
    }
}

void Calibration::add_queries(const CapturedRows& q) {
    const int64_t source = shape_.layers[std::size_t(q.layer)].source.value_or(q.layer);
    for (int64_t h = 0; h < q.rows.n[2]; ++h) {
        const int64_t kv_head = h / (q.rows.n[2] / kv_heads_);
        const std::size_t at = std::size_t(source * kv_heads_ + kv_head);
        SeenHead& of = seen(part_, source, kv_head);
        for (int64_t t = 0; t < q.rows.n[1]; ++t) of.queries.add(q.rows.row<float>(t, h), 1);
        add_attention(q, h, of, k_now_[at], v_now_[at]);
    }
}

// Rows are a window's tokens in order: row and position are one.
void Calibration::add_attention(const CapturedRows& q, int64_t head, SeenHead& of,
                                const std::vector<float>& k, const std::vector<float>& v) const {
    const int64_t tokens = q.rows.n[1], step = std::max<int64_t>(1, tokens / k_asking_queries);
    const double sink = q.sinks.empty() ? -HUGE_VAL : double(q.sinks[std::size_t(head)]);
    std::vector<double> attention(static_cast<std::size_t>(tokens));
    for (int64_t t = step - 1; t < tokens; t += step) {
        int64_t begin = 0;
        while (!q.attention->takes_part(begin, t)) ++begin;
        const auto seen_rows = [&](const std::vector<float>& x, int64_t d) {
            return std::span(x).subspan(std::size_t(begin * d), std::size_t((t + 1 - begin) * d));
        };
        const std::span<const float> query(q.rows.row<float>(t, head), std::size_t(d_k_));
        const QueryOutput output(
            query_scores(query, seen_rows(k, d_k_), double(q.attention->scale)),
            double(q.attention->softcap), seen_rows(v, d_v_), sink);
        for (std::size_t i = 0; i < output.p().size(); ++i) {
            attention[std::size_t(begin) + i] += output.p()[i];
        }
    }
    for (int64_t t = 0; t < tokens; ++t) {
        of.keys.add(&k[std::size_t(t * d_k_)], attention[std::size_t(t)]);
        of.values.add(&v[std::size_t(t * d_v_)], attention[std::size_t(t)]);
    }
}

}  // namespace rotkv::tools
