#include "tools/outlier_survey.h"

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

std::vector<HeadPart> SurveyLayer::parts(What side) const {
    if (side == What::v) return {{0, d_v}};
    if (!v_in_k) return {{0, d_k}};
    return {{0, d_v, "latent"}, {d_v, d_k - d_v, "rope"}};
}

int64_t SurveyLayer::block(What side) const {
    const auto power_of_two_dividing = [](int64_t n) { return n & -n; };
    if (v_in_k) return std::min<int64_t>(power_of_two_dividing(d_v | d_k), 64);
    if (side == What::v) return std::min<int64_t>(power_of_two_dividing(d_v), 64);
    return power_of_two_dividing(d_k);
}

Rotation SurveyLayer::rotation(What side, const HeadPart& part, std::size_t kind) const {
    constexpr Rotation::Kind kinds[k_rotations] = {Rotation::Kind::none, Rotation::Kind::sylvester,
                                                   Rotation::Kind::signs};
    const bool signs = kinds[kind] == Rotation::Kind::signs;
    return {kinds[kind], kind == 0 ? 0 : block(side), signs ? k_signs_seed : 0,
            signs ? part.first : 0};
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

Survey::Survey(const SurveyPlan& plan)
    : plan_(plan),
      keys_(plan.layers.size()),
      values_(plan.layers.size()),
      sink_heads_(plan.layers.size()) {
    for (std::size_t l = 0; l < plan.layers.size(); ++l) {
        const SurveyLayer& layer = plan.layers[l];
        const int64_t own = layer.rows_of == int64_t(l) ? layer.kv_heads : 0;
        add_heads(What::q, int64_t(l), layer.heads, {});
        add_heads(What::k, int64_t(l), own, plan.types_k);
        add_heads(What::v, int64_t(l), own, plan.types_v);
    }
    if (plan.keep_rows) kept_.resize(plan.layers.size() * 3);
}

void Survey::add_heads(What side, int64_t layer, int64_t count,
                       const std::vector<CacheType>& types) {
    first_.push_back(heads_.size());
    for (int64_t h = 0; h < count; ++h) {
        for (const HeadPart& part : plan_.at(layer).parts(side)) {
            HeadSurvey head{side, layer, h, part, {}, 0, -1};
            for (std::size_t r = 0; r < k_rotations; ++r) {
                HeadSurvey::Rotated rotated{HeadStatistics(part.d), {}, {}};
                for (const CacheType& type : types) {
                    rotated.errors.emplace_back(
                        type, part.d,
                        RowContext{.layer = layer,
                                   .kv_head = h,
                                   .side = side == What::k ? Side::k : Side::v});
                }
                rotated.moved.resize(types.size());
                head.rotations.push_back(std::move(rotated));
            }
            heads_.push_back(std::move(head));
        }
    }
}

// The first head of a side in a layer.
std::size_t Survey::first(What side, int64_t layer) const {
    return first_[std::size_t(layer) * 3 + std::size_t(side)];
}

void Survey::add(const CapturedRows& captured) {
    const std::size_t layer = std::size_t(captured.layer);
    switch (captured.what) {
        case What::k: {
            add_rows(captured, &keys_[layer]);
            if (!plan_.at(captured.layer).v_in_k) return;
            CapturedRows values = captured;
            values.what = What::v;
            values.rows.n[3] = plan_.at(captured.layer).d_v;
            return add_rows(values, &values_[layer]);
        }
        case What::v:
            return add_rows(captured, &values_[layer]);
        case What::q:
            add_rows(captured, nullptr);
            judge_outputs(captured);
            forget_rows_behind(captured.layer);
    }
}

void Survey::add_rows(const CapturedRows& captured, std::vector<Window>* windows) {
    const TensorView& rows = captured.rows;
    const std::vector<HeadPart> parts = plan_.at(captured.layer).parts(captured.what);
    const std::size_t begin = first(captured.what, captured.layer);
    if (windows != nullptr) windows->assign(std::size_t(rows.n[2]), Window{});
    for (int64_t t = 0; t < rows.n[1]; ++t) {
        for (int64_t h = 0; h < rows.n[2]; ++h) {
            const std::span<const float> x(rows.row<float>(t, h), std::size_t(rows.n[3]));
            Window* window = windows == nullptr ? nullptr : &(*windows)[std::size_t(h)];
            if (window != nullptr) append(window->x, x);
            for (std::size_t p = 0; p < parts.size(); ++p) {
                HeadSurvey& head = heads_[begin + std::size_t(h) * parts.size() + p];
                const std::size_t each = k_rotations * head.rotations[0].errors.size();
                if (window != nullptr) window->stored.resize(parts.size() * each);
                add_part(head, x.subspan(std::size_t(parts[p].first), std::size_t(parts[p].d)),
                         window == nullptr ? nullptr : &window->stored[p * each]);
            }
            if (!plan_.keep_rows) continue;
            append(kept_[std::size_t(captured.layer) * 3 + std::size_t(captured.what)], x);
        }
    }
}

void Survey::add_part(HeadSurvey& head, std::span<const float> x, Window::Stored* stored) const {
    std::vector<float> turned(x.size());
    for (std::size_t r = 0; r < k_rotations; ++r) {
        HeadSurvey::Rotated& rotated = head.rotations[r];
        ref::hadamard_row(turned.data(), x.data(), int64_t(x.size()),
                          plan_.at(head.layer).rotation(head.side, head.part, r), false);
        rotated.statistics.add(turned);
        for (TypeErrors& errors : rotated.errors) {
            errors.add(turned);
            append(stored->error, errors.last_error());
            const std::span<const double> law = errors.last_predicted();
            stored->predicted.insert(stored->predicted.end(), law.begin(), law.end());
            ++stored;
        }
    }
}

// Rows that no layer behind this one reads.
void Survey::forget_rows_behind(int64_t layer) {
    const int64_t source = plan_.at(layer).rows_of;
    for (std::size_t l = std::size_t(layer) + 1; l < plan_.layers.size(); ++l) {
        if (plan_.layers[l].rows_of == source) return;
    }
    keys_[std::size_t(source)].clear();
    values_[std::size_t(source)].clear();
}

const std::vector<float>& Survey::rows(What side, int64_t layer) const {
    return kept_[std::size_t(layer) * 3 + std::size_t(side)];
}

SinkFigures Survey::sinks() const {
    SinkFigures all = sinks_;
    for (const int64_t heads : sink_heads_) all.heads += heads;
    return all;
}

// Some queries of the window, evenly spread: their outputs, and what each type makes of them.
void Survey::judge_outputs(const CapturedRows& q) {
    scale_ = double(q.attention->scale);
    sink_heads_[std::size_t(q.layer)] = int64_t(q.sinks.size());
    const int64_t tokens = q.rows.n[1], step = std::max<int64_t>(1, tokens / k_queries);
    for (int64_t i = step - 1; i < tokens; i += step) {
        for (int64_t h = 0; h < q.rows.n[2]; ++h) judge_query(q, h, i);
    }
}

// Rows are a window's tokens in order: row and position are one.
void Survey::judge_query(const CapturedRows& q, int64_t head, int64_t position) {
    const SurveyLayer& layer = plan_.at(q.layer);
    const std::size_t source = std::size_t(layer.rows_of);
    const std::size_t kv = std::size_t(head / (layer.heads / layer.kv_heads));
    const Window &keys = keys_[source][kv], &values = values_[source][kv];
    int64_t begin = 0;
    while (!q.attention->takes_part(begin, position)) ++begin;
    const int64_t count = position + 1 - begin;
    const auto cells = [&](const std::vector<float>& x, int64_t d) {
        return std::span(x).subspan(std::size_t(begin * d), std::size_t(count * d));
    };
    const std::span<const float> query(q.rows.row<float>(position, head), std::size_t(layer.d_k));
    const double sink = q.sinks.empty() ? -HUGE_VAL : double(q.sinks[std::size_t(head)]);
    const QueryOutput output(query_scores(query, cells(keys.x, layer.d_k), scale_),
                             double(q.attention->softcap), cells(values.x, layer.d_v), sink);
    if (!q.sinks.empty()) {
        ++sinks_.queries;
        sinks_.probability += output.sink_share();
    }
    const std::size_t parts = layer.parts(What::k).size();
    for (std::size_t p = 0; p < parts; ++p) {
        HeadSurvey& key = heads_[first(What::k, layer.rows_of) + kv * parts + p];
        key.output_square += output.square();
        judge_keys(output, key, &keys.stored[p * k_rotations * plan_.types_k.size()],
                   query.subspan(std::size_t(key.part.first), std::size_t(key.part.d)), begin,
                   count);
    }
    HeadSurvey& value = heads_[first(What::v, layer.rows_of) + kv];
    value.output_square += output.square();
    judge_values(output, value, values.stored.data(), begin, count);
}

// Scores move by scale q.e, q rotated like the key. By law its variance is that of the blocks'
// errors, spread evenly over their channels.
void Survey::judge_keys(const QueryOutput& output, HeadSurvey& key, const Window::Stored* stored,
                        std::span<const float> q, int64_t begin, int64_t count) const {
    const int64_t d = key.part.d, blocks = (d + k_block - 1) / k_block;
    std::vector<float> turned(q.size());
    std::vector<double> noise(static_cast<std::size_t>(count)), variance(noise.size());
    for (std::size_t r = 0; r < k_rotations; ++r) {
        ref::hadamard_row(turned.data(), q.data(), d,
                          plan_.at(key.layer).rotation(What::k, key.part, r), false);
        std::vector<double> q_square;  // of each block, per channel
        for (int64_t b = 0; b < d; b += k_block) {
            const int64_t n = std::min(k_block, d - b);
            const float* part = &turned[std::size_t(b)];
            q_square.push_back(dot(part, part, n) / double(n));
        }
        for (ErrorPair& moved : key.rotations[r].moved) {
            for (int64_t t = 0; t < count; ++t) {
                const float* error = &stored->error[std::size_t((begin + t) * d)];
                const double* law = &stored->predicted[std::size_t((begin + t) * blocks)];
                double sum = 0;
                for (int64_t b = 0; b < blocks; ++b) sum += q_square[std::size_t(b)] * law[b];
                noise[std::size_t(t)] = scale_ * dot(turned.data(), error, d);
                variance[std::size_t(t)] = scale_ * scale_ * sum;
            }
            moved.predicted += output.expected_key_error(variance);
            moved.measured += output.key_error(noise);
            ++stored;
        }
    }
}

void Survey::judge_values(const QueryOutput& output, HeadSurvey& value,
                          const Window::Stored* stored, int64_t begin, int64_t count) const {
    const int64_t d = value.part.d, blocks = (d + k_block - 1) / k_block;
    std::vector<double> square(static_cast<std::size_t>(count));
    for (std::size_t r = 0; r < k_rotations; ++r) {
        for (ErrorPair& moved : value.rotations[r].moved) {
            for (int64_t t = 0; t < count; ++t) {
                square[std::size_t(t)] = 0;
                for (int64_t b = 0; b < blocks; ++b) {
                    square[std::size_t(t)] +=
                        stored->predicted[std::size_t((begin + t) * blocks + b)];
                }
            }
            moved.predicted += output.expected_value_error(square);
            moved.measured += output.value_error(
                std::span(stored->error).subspan(std::size_t(begin * d), std::size_t(count * d)));
            ++stored;
        }
    }
}

ErrorPair Survey::score_noise(const HeadSurvey& key, std::size_t type, std::size_t rotation) const {
    std::vector<double> q_square(std::size_t(key.part.d), 0.0);
    double queries = 0;  // heads of all layers that read this one's rows
    for (const HeadSurvey& q : heads_) {
        const SurveyLayer& layer = plan_.at(q.layer);
        const bool reads = q.side == What::q && layer.rows_of == key.layer &&
                           q.head / (layer.heads / layer.kv_heads) == key.head &&
                           q.part.first == key.part.first;
        if (!reads) continue;
        ++queries;
        for (int64_t j = 0; j < key.part.d; ++j) {
            q_square[std::size_t(j)] += q.rotations[rotation].statistics.mean_square(j);
        }
    }
    for (double& square : q_square) square /= queries;
    ErrorPair noise = key.rotations[rotation].errors[type].score_noise(q_square);
    noise.predicted *= scale_ * scale_;
    noise.measured *= scale_ * scale_;
    return noise;
}

SideAdvice Survey::verdict(What side, std::size_t type, std::size_t rotation) const {
    SideAdvice v;
    v.side = side;
    v.type = plan_.types(side)[type];
    v.rotation = rotation;
    std::vector<const HeadSurvey*> heads;
    std::vector<double> measured[2], predicted[2];
    const double count = double(std::ranges::count(heads_, side, &HeadSurvey::side));
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
    v.decisive_part = heads[decisive]->part.name;
    for (std::vector<double>& errors : measured) errors.erase(errors.begin() + int64_t(decisive));
    v.without = log_gain(measured[0], measured[1]).value;
    const std::optional<Advice> clear = advise_without_gain(v.plain.measured, v.rotated.measured);
    v.advice = clear ? *clear : advise(v.measured, v.predicted);
    return v;
}

}  // namespace rotkv::tools
