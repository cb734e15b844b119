#include "tools/outlier_survey.h"

#include "ref/hadamard.h"

#include <algorithm>
#include <cmath>

namespace rotkv::tools {

using What = CapturedRows::What;

int64_t SurveyPlan::block(What side) const {
    const int64_t d = side == What::v ? d_v : d_k, largest = d & -d;
    return side == What::v ? std::min<int64_t>(largest, 64) : largest;
}

Rotation SurveyPlan::rotation(What side, std::size_t kind) const {
    constexpr Rotation::Kind kinds[k_rotations] = {Rotation::Kind::none, Rotation::Kind::sylvester,
                                                   Rotation::Kind::signs};
    return {kinds[kind], kind == 0 ? 0 : block(side), kind == 2 ? k_signs_seed : 0, 0};
}

double HeadSurvey::largest_row() const {
    const HeadStatistics& turned = rotations[1].statistics;
    return turned.figures().mu / std::sqrt(double(turned.size()));
}

Survey::Survey(const SurveyPlan& plan) : plan_(plan) {
    const auto add_heads = [&](What side, int64_t layer, int64_t count, int64_t d,
                               const std::vector<DType>& types) {
        for (int64_t h = 0; h < count; ++h) {
            HeadSurvey head{side, layer, h, {}, -1};
            for (std::size_t r = 0; r < k_rotations; ++r) {
                HeadSurvey::Rotated rotated{HeadStatistics(d), {}};
                for (const DType type : types) rotated.errors.emplace_back(type, d);
                head.rotations.push_back(std::move(rotated));
            }
            heads_.push_back(std::move(head));
        }
    };
    for (int64_t l = 0; l < plan.layers; ++l) {
        add_heads(What::q, l, plan.heads, plan.d_k, {});
        add_heads(What::k, l, plan.kv_heads, plan.d_k, plan.types_k);
        add_heads(What::v, l, plan.kv_heads, plan.d_v, plan.types_v);
    }
    if (plan.keep_rows) kept_.resize(std::size_t(plan.layers) * 3);
}

// The first head of a side in a layer.
std::size_t Survey::first(What side, int64_t layer) const {
    const int64_t before =
        side == What::q ? 0 : plan_.heads + (side == What::v ? plan_.kv_heads : 0);
    return std::size_t(layer * (plan_.heads + 2 * plan_.kv_heads) + before);
}

void Survey::add(const CapturedRows& captured) {
    if (captured.what == What::q) scale_ = captured.scale;
    const TensorView& rows = captured.rows;
    const int64_t d = rows.n[3];
    std::vector<float> turned(static_cast<std::size_t>(d));
    const std::size_t head = first(captured.what, captured.layer);
    for (int64_t t = 0; t < rows.n[1]; ++t) {
        for (int64_t h = 0; h < rows.n[2]; ++h) {
            const float* x = rows.row<float>(t, h);
            HeadSurvey& survey = heads_[head + std::size_t(h)];
            for (std::size_t r = 0; r < k_rotations; ++r) {
                ref::hadamard_row(turned.data(), x, d, plan_.rotation(captured.what, r), false);
                survey.rotations[r].statistics.add(turned);
                for (TypeErrors& errors : survey.rotations[r].errors) errors.add(turned);
            }
            if (!plan_.keep_rows) continue;
            std::vector<float>& kept =
                kept_[std::size_t(captured.layer) * 3 + std::size_t(captured.what)];
            kept.insert(kept.end(), x, x + d);
        }
    }
}

const std::vector<float>& Survey::rows(What side, int64_t layer) const {
    return kept_[std::size_t(layer) * 3 + std::size_t(side)];
}

// For a key head the noise it puts on the scores of the queries that read it, in logits^2.
HeadError Survey::error(const HeadSurvey& head, std::size_t type, std::size_t rotation) const {
    const TypeErrors& errors = head.rotations[rotation].errors[type];
    if (head.side == What::v) return errors.relative();
    const int64_t group = plan_.heads / plan_.kv_heads;
    std::vector<double> q_square(std::size_t(plan_.d_k), 0.0);
    for (int64_t h = head.head * group; h < (head.head + 1) * group; ++h) {
        const HeadSurvey& q = heads_[first(What::q, head.layer) + std::size_t(h)];
        for (int64_t j = 0; j < plan_.d_k; ++j) {
            q_square[std::size_t(j)] +=
                q.rotations[rotation].statistics.mean_square(j) / double(group);
        }
    }
    HeadError noise = errors.score_noise(q_square);
    noise.predicted *= double(scale_) * double(scale_);
    noise.measured *= double(scale_) * double(scale_);
    return noise;
}

std::vector<HeadError> Survey::errors(What side, std::size_t type, std::size_t rotation) const {
    std::vector<HeadError> result;
    for (const HeadSurvey& head : heads_) {
        if (head.side == side) result.push_back(error(head, type, rotation));
    }
    return result;
}

Verdict Survey::verdict(What side, std::size_t type, std::size_t rotation) const {
    const std::vector<HeadError> plain = errors(side, type, 0),
                                 turned = errors(side, type, rotation);
    std::vector<double> measured[2], predicted[2];
    Verdict verdict{side,     (side == What::k ? plan_.types_k : plan_.types_v)[type],
                    rotation, {},
                    {},       int64_t(plain.size()),
                    0,        Advice::indifferent};
    for (std::size_t i = 0; i < plain.size(); ++i) {
        measured[0].push_back(plain[i].measured);
        measured[1].push_back(turned[i].measured);
        predicted[0].push_back(plain[i].predicted);
        predicted[1].push_back(turned[i].predicted);
        verdict.hurt += turned[i].measured > plain[i].measured;
    }
    verdict.measured = log_gain(measured[0], measured[1]);
    verdict.predicted = log_gain(predicted[0], predicted[1]);
    verdict.advice = advise(verdict.measured, verdict.predicted);
    return verdict;
}

}  // namespace rotkv::tools
