#include "tools/outlier_survey.h"

#include "ref/error.h"
#include "ref/hadamard.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace rotkv::tools {

using What = CapturedRows::What;

namespace {

double dot(const float* a, const float* b, int64_t d) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum += double(a[j]) * double(b[j]);
    return sum;
}

void append(std::vector<float>& all, std::span<const float> part) {
    all.insert(all.end(), part.begin(), part.end());
}

}  // namespace

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

ErrorPair HeadSurvey::output_error(std::size_t type, std::size_t rotation) const {
    const ErrorPair& sum = rotations[rotation].moved[type];
    const auto share = [this](double part) {
        return part == 0 ? 0 : unsigned_nan(part / output_square);
    };
    return {share(sum.predicted), share(sum.measured)};
}

Survey::Survey(const SurveyPlan& plan) : plan_(plan) {
    const auto add_heads = [&](What side, int64_t layer, int64_t count, int64_t d,
                               const std::vector<DType>& types) {
        for (int64_t h = 0; h < count; ++h) {
            HeadSurvey head{side, layer, h, {}, 0, -1};
            for (std::size_t r = 0; r < k_rotations; ++r) {
                HeadSurvey::Rotated rotated{HeadStatistics(d), {}, {}};
                for (const DType type : types) rotated.errors.emplace_back(type, d);
                rotated.moved.resize(types.size());
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
    const TensorView& rows = captured.rows;
    const int64_t d = rows.n[3];
    std::vector<Window>* windows = captured.what == What::k   ? &keys_
                                   : captured.what == What::v ? &values_
                                                              : nullptr;
    if (windows != nullptr) windows->assign(std::size_t(plan_.kv_heads), Window{});
    for (int64_t t = 0; t < rows.n[1]; ++t) {
        for (int64_t h = 0; h < rows.n[2]; ++h) {
            const std::span<const float> x(rows.row<float>(t, h), std::size_t(d));
            add_row(captured, h, x, windows == nullptr ? nullptr : &(*windows)[std::size_t(h)]);
            if (!plan_.keep_rows) continue;
            append(kept_[std::size_t(captured.layer) * 3 + std::size_t(captured.what)], x);
        }
    }
    if (captured.what == What::q) judge_outputs(captured);
}

void Survey::add_row(const CapturedRows& captured, int64_t head, std::span<const float> x,
                     Window* window) {
    HeadSurvey& survey = heads_[first(captured.what, captured.layer) + std::size_t(head)];
    std::vector<float> turned(x.size());
    for (std::size_t r = 0; r < k_rotations; ++r) {
        HeadSurvey::Rotated& rotated = survey.rotations[r];
        ref::hadamard_row(turned.data(), x.data(), int64_t(x.size()),
                          plan_.rotation(captured.what, r), false);
        rotated.statistics.add(turned);
        if (window != nullptr) window->stored.resize(k_rotations * rotated.errors.size());
        for (std::size_t i = 0; i < rotated.errors.size(); ++i) {
            TypeErrors& errors = rotated.errors[i];
            errors.add(turned);
            Window::Stored& stored = window->stored[r * rotated.errors.size() + i];
            append(stored.error, errors.last_error());
            const std::span<const double> law = errors.last_predicted();
            stored.predicted.insert(stored.predicted.end(), law.begin(), law.end());
        }
    }
    if (window != nullptr) append(window->x, x);
}

const std::vector<float>& Survey::rows(What side, int64_t layer) const {
    return kept_[std::size_t(layer) * 3 + std::size_t(side)];
}

// Some queries of the window, evenly spread: their outputs, and what each type makes of them.
void Survey::judge_outputs(const CapturedRows& q) {
    require(q.attention->sinks.empty(), ErrorCode::unsupported,
            "outliers: attention sinks take probability, which output errors do not know of yet");
    scale_ = double(q.attention->scale);
    const int64_t tokens = q.rows.n[1], group = plan_.heads / plan_.kv_heads;
    const int64_t step = std::max<int64_t>(1, tokens / k_queries);
    for (int64_t i = step - 1; i < tokens; i += step) {
        int64_t begin = 0;  // rows are a window's tokens in order: row and position are one
        while (!q.attention->takes_part(begin, i)) ++begin;
        const int64_t count = i + 1 - begin;
        for (int64_t h = 0; h < plan_.heads; ++h) {
            const std::size_t kv = std::size_t(h / group);
            const Window &keys = keys_[kv], &values = values_[kv];
            const float* query = q.rows.row<float>(i, h);
            const std::vector<double> scores =
                query_scores({query, std::size_t(plan_.d_k)},
                             std::span(keys.x).subspan(std::size_t(begin * plan_.d_k),
                                                       std::size_t(count * plan_.d_k)),
                             scale_);
            const QueryOutput output(scores, double(q.attention->softcap),
                                     std::span(values.x).subspan(std::size_t(begin * plan_.d_v),
                                                                 std::size_t(count * plan_.d_v)));
            HeadSurvey& key = heads_[first(What::k, q.layer) + kv];
            HeadSurvey& value = heads_[first(What::v, q.layer) + kv];
            key.output_square += output.square();
            value.output_square += output.square();
            judge_keys(output, key, keys, std::span(query, std::size_t(plan_.d_k)), begin, count);
            judge_values(output, value, values, begin, count);
        }
    }
}

// Scores move by scale q.e, q rotated like the key. By law its variance is that of the blocks'
// errors, spread evenly over their channels.
void Survey::judge_keys(const QueryOutput& output, HeadSurvey& key, const Window& window,
                        std::span<const float> q, int64_t begin, int64_t count) const {
    const int64_t d = plan_.d_k, blocks = (d + k_block - 1) / k_block;
    std::vector<float> turned(q.size());
    std::vector<double> noise(static_cast<std::size_t>(count)), variance(noise.size());
    for (std::size_t r = 0; r < k_rotations; ++r) {
        ref::hadamard_row(turned.data(), q.data(), d, plan_.rotation(What::k, r), false);
        std::vector<double> q_square;  // of each block, per channel
        for (int64_t b = 0; b < d; b += k_block) {
            const int64_t n = std::min(k_block, d - b);
            const float* part = &turned[std::size_t(b)];
            q_square.push_back(dot(part, part, n) / double(n));
        }
        const std::size_t types = key.rotations[r].moved.size();
        for (std::size_t i = 0; i < types; ++i) {
            const Window::Stored& stored = window.stored[r * types + i];
            for (int64_t t = 0; t < count; ++t) {
                const float* error = &stored.error[std::size_t((begin + t) * d)];
                const double* law = &stored.predicted[std::size_t((begin + t) * blocks)];
                double sum = 0;
                for (int64_t b = 0; b < blocks; ++b) sum += q_square[std::size_t(b)] * law[b];
                noise[std::size_t(t)] = scale_ * dot(turned.data(), error, d);
                variance[std::size_t(t)] = scale_ * scale_ * sum;
            }
            ErrorPair& moved = key.rotations[r].moved[i];
            moved.predicted += output.expected_key_error(variance);
            moved.measured += output.key_error(noise);
        }
    }
}

void Survey::judge_values(const QueryOutput& output, HeadSurvey& value, const Window& window,
                          int64_t begin, int64_t count) const {
    const int64_t d = plan_.d_v, blocks = (d + k_block - 1) / k_block;
    std::vector<double> square(static_cast<std::size_t>(count));
    for (std::size_t r = 0; r < k_rotations; ++r) {
        const std::size_t types = value.rotations[r].moved.size();
        for (std::size_t i = 0; i < types; ++i) {
            const Window::Stored& stored = window.stored[r * types + i];
            for (int64_t t = 0; t < count; ++t) {
                square[std::size_t(t)] = 0;
                for (int64_t b = 0; b < blocks; ++b) {
                    square[std::size_t(t)] +=
                        stored.predicted[std::size_t((begin + t) * blocks + b)];
                }
            }
            ErrorPair& moved = value.rotations[r].moved[i];
            moved.predicted += output.expected_value_error(square);
            moved.measured += output.value_error(
                std::span(stored.error).subspan(std::size_t(begin * d), std::size_t(count * d)));
        }
    }
}

ErrorPair Survey::score_noise(const HeadSurvey& key, std::size_t type, std::size_t rotation) const {
    const int64_t group = plan_.heads / plan_.kv_heads;
    std::vector<double> q_square(std::size_t(plan_.d_k), 0.0);
    for (int64_t h = key.head * group; h < (key.head + 1) * group; ++h) {
        const HeadSurvey& q = heads_[first(What::q, key.layer) + std::size_t(h)];
        for (int64_t j = 0; j < plan_.d_k; ++j) {
            q_square[std::size_t(j)] +=
                q.rotations[rotation].statistics.mean_square(j) / double(group);
        }
    }
    ErrorPair noise = key.rotations[rotation].errors[type].score_noise(q_square);
    noise.predicted *= scale_ * scale_;
    noise.measured *= scale_ * scale_;
    return noise;
}

SideAdvice Survey::verdict(What side, std::size_t type, std::size_t rotation) const {
    SideAdvice v;
    v.side = side;
    v.type = (side == What::k ? plan_.types_k : plan_.types_v)[type];
    v.rotation = rotation;
    std::vector<const HeadSurvey*> heads;
    std::vector<double> measured[2], predicted[2];
    const double count = double(plan_.layers * plan_.kv_heads);
    for (const HeadSurvey& head : heads_) {
        if (head.side != side) continue;
        const ErrorPair a = head.output_error(type, 0), b = head.output_error(type, rotation);
        heads.push_back(&head);
        measured[0].push_back(a.measured);
        measured[1].push_back(b.measured);
        predicted[0].push_back(a.predicted);
        predicted[1].push_back(b.predicted);
        v.plain.measured += a.measured / count;
        v.plain.predicted += a.predicted / count;
        v.rotated.measured += b.measured / count;
        v.rotated.predicted += b.predicted / count;
        ++v.heads;
        v.worse += is_number(a.measured) && !(b.measured <= a.measured);
        v.plain_not_numbers += !is_number(a.measured);
        v.rotated_not_numbers += !is_number(b.measured);
    }
    v.measured = log_gain(measured[0], measured[1]);
    v.predicted = log_gain(predicted[0], predicted[1]);
    const std::size_t decisive = decisive_head(measured[0], measured[1]);
    v.decisive_layer = heads[decisive]->layer;
    v.decisive_head = heads[decisive]->head;
    for (std::vector<double>& errors : measured) errors.erase(errors.begin() + int64_t(decisive));
    v.without = log_gain(measured[0], measured[1]).value;
    const std::optional<Advice> clear = advise_without_gain(v.plain.measured, v.rotated.measured);
    v.advice = clear ? *clear : advise(v.measured, v.predicted);
    return v;
}

}  // namespace rotkv::tools
