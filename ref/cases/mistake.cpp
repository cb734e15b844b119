#include "ref/cases/mistake.h"

#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>

namespace rotkv {

std::span<const MistakeInfo> mistakes() {
    static constexpr MistakeInfo all[] = {
        {Mistake::k_not_rotated, "k-not-rotated", "K is stored without the rotation that q gets"},
        {Mistake::q_not_rotated, "q-not-rotated", "q is not rotated as K is"},
        {Mistake::v_not_back, "v-not-back", "the output is not rotated back"},
        {Mistake::v_back_by_k, "v-back-by-k",
         "the output is rotated back in K's blocks, not in V's"},
        {Mistake::not_normalized, "not-normalized", "H is not multiplied by 1 / sqrt(N)"},
        {Mistake::row_sign, "row-sign", "the last row of H has the wrong sign"},
        {Mistake::strided_blocks, "strided-blocks",
         "a block is every (D / N)-th channel, not N neighbours"},
        {Mistake::signs_restarted, "signs-restarted",
         "the signs begin again in each block, instead of going on through the row"},
        {Mistake::signs_dropped, "signs-dropped", "the signs are left out"},
        {Mistake::shift_rotated, "shift-rotated",
         "a shift turns the rotated key, instead of rotating it back first"},
        {Mistake::shift_dropped, "shift-dropped", "a shift does not turn the keys"},
        {Mistake::shift_backwards, "shift-backwards", "a shift turns keys in the wrong direction"},
        {Mistake::scale_twice, "scale-twice", "scores are multiplied by the scale twice"},
        {Mistake::heads_modulo, "heads-modulo", "head h reads KV head h mod K, not h / (H / K)"},
        {Mistake::window_longer, "window-longer", "the window is one token too long"},
        {Mistake::window_shorter, "window-shorter", "the window is one token too short"},
        {Mistake::self_unseen, "self-unseen", "a token does not see its own cell"},
        {Mistake::sinks_dropped, "sinks-dropped", "the sinks are left out"},
        {Mistake::softcap_dropped, "softcap-dropped", "the softcap is left out"},
    };
    return all;
}

namespace {

// Where channel j of block b lies in the row.
int64_t channel(int64_t b, int64_t j, int64_t d, int64_t n, Mistake mistake) {
    return mistake == Mistake::strided_blocks ? j * (d / n) + b : b * n + j;
}

float sign(const Rotation& rotation, int64_t i, Mistake mistake) {
    if (rotation.kind != Rotation::Kind::signs || mistake == Mistake::signs_dropped) return 1;
    const bool again = mistake == Mistake::signs_restarted;
    return rotation_sign(rotation.seed, again ? i % rotation.block : rotation.first + i);
}

}  // namespace

void mistaken_hadamard(float* y, const float* x, int64_t d, const Rotation& rotation, bool inverse,
                       Mistake mistake) {
    std::vector<float> row(x, x + d);
    const int64_t n = rotation.on() ? rotation.block : d;
    std::vector<float> block(static_cast<size_t>(n));
    const float scale = mistake == Mistake::not_normalized ? 1.0f : rotation_scale(n);
    for (int64_t b = 0; rotation.on() && b < d / n; ++b) {
        for (int64_t j = 0; j < n; ++j) {
            const int64_t i = channel(b, j, d, n, mistake);
            block[size_t(j)] =
                inverse ? row[size_t(i)] : row[size_t(i)] * sign(rotation, i, mistake);
        }
        ref::hadamard_block(block.data(), block.data(), n, scale);
        if (mistake == Mistake::row_sign) block.back() = -block.back();
        for (int64_t j = 0; j < n; ++j) {
            const int64_t i = channel(b, j, d, n, mistake);
            row[size_t(i)] =
                inverse ? block[size_t(j)] * sign(rotation, i, mistake) : block[size_t(j)];
        }
    }
    std::copy(row.begin(), row.end(), y);
}

// What a row means after it was rounded to the type.
static void round_row(float* row, int64_t d, DType type) {
    std::vector<std::byte> bytes(size_t(row_bytes(type, d)) + sizeof(float));
    ref::quantize_row(type, bytes.data(), row, d);
    ref::dequantize_row(type, row, bytes.data(), d);
}

std::vector<float> mistaken_rows(std::span<const float> rows, int64_t d, DType type,
                                 const Rotation& rotation, Mistake mistake) {
    std::vector<float> stored(rows.begin(), rows.end());
    for (size_t first = 0; first < stored.size(); first += size_t(d)) {
        float* const row = stored.data() + first;
        mistaken_hadamard(row, row, d, rotation, false, mistake);
        round_row(row, d, type);
    }
    return stored;
}

std::vector<float> mistaken_shift(std::span<const float> keys, int64_t d, DType type,
                                  const Rotation& rotation, const ShiftOfKeys& shift,
                                  Mistake mistake) {
    std::vector<float> moved(keys.begin(), keys.end()),
        turns(shift.table.begin(), shift.table.end());
    for (size_t sine = 1; mistake == Mistake::shift_backwards && sine < turns.size(); sine += 2) {
        turns[sine] = -turns[sine];
    }
    const Rotation around = mistake == Mistake::shift_rotated ? Rotation{} : rotation;
    for (int64_t i = 0; i < int64_t(keys.size()) / d; ++i) {
        const int32_t r = shift.row[size_t(i / shift.heads)];
        if (r < 0 || mistake == Mistake::shift_dropped) continue;
        float* const key = moved.data() + i * d;
        mistaken_hadamard(key, key, d, around, true, mistake);
        ref::rope_row(key, key, d, turns.data() + r * shift.n_rot, shift.n_rot, shift.pairs);
        mistaken_hadamard(key, key, d, around, false, mistake);
        round_row(key, d, type);
    }
    return moved;
}

namespace {

// The rule of who sees what and how scores are made, with its mistake.
AttentionArgs mistaken_rule(const AttentionArgs& rule, Mistake mistake) {
    AttentionArgs changed = rule;
    if (mistake == Mistake::scale_twice) changed.scale *= rule.scale;
    if (mistake == Mistake::softcap_dropped) changed.softcap = 0;
    if (rule.window > 0 && mistake == Mistake::window_longer) ++changed.window;
    if (rule.window > 1 && mistake == Mistake::window_shorter) --changed.window;
    return changed;
}

double score(const AttentionArgs& rule, const float* q, const float* k, int64_t d) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum += double(q[j]) * double(k[j]);
    sum *= double(rule.scale);
    return rule.softcap > 0 ? double(rule.softcap) * std::tanh(sum / double(rule.softcap)) : sum;
}

// One head of one token: weights of the cells it sees, largest 1, and what they are divided by.
struct Weights {
    std::vector<double> of_cell;
    double sum = 0;
};

Weights weights(const RowsOfAttention& in, const AttentionArgs& rule, Mistake mistake, int64_t t,
                const float* q, int64_t h, int64_t kv) {
    const int32_t at = in.q_position[size_t(t)];
    const bool sink = !in.sinks.empty() && mistake != Mistake::sinks_dropped;
    double top = sink ? double(in.sinks[size_t(h)]) : -INFINITY;
    Weights w{std::vector<double>(in.position.size(), -INFINITY)};
    for (size_t c = 0; c < in.position.size(); ++c) {
        const int32_t p = in.position[c];
        if (!rule.takes_part(p, at) || (mistake == Mistake::self_unseen && p == at)) continue;
        w.of_cell[c] =
            score(rule, q, &in.k[(c * size_t(in.kv_heads) + size_t(kv)) * size_t(in.d_k)], in.d_k);
        top = std::max(top, w.of_cell[c]);
    }
    if (sink) w.sum = std::exp(double(in.sinks[size_t(h)]) - top);
    for (double& one : w.of_cell) {
        one = std::isinf(one) ? 0 : std::exp(one - top);
        w.sum += one;
    }
    return w;
}

}  // namespace

std::vector<float> mistaken_attention(const RowsOfAttention& in, Mistake mistake) {
    const AttentionArgs rule = mistaken_rule(in.rule, mistake);
    const int64_t tokens = int64_t(in.q_position.size()), d_v = in.d_v;
    const Rotation of_q = mistake == Mistake::q_not_rotated ? Rotation{} : rule.k_rotation;
    Rotation back = mistake == Mistake::v_not_back ? Rotation{} : rule.v_rotation;
    if (mistake == Mistake::v_back_by_k && back.on()) back.block = rule.k_rotation.block;
    if (!back.fits(d_v)) back = rule.v_rotation;  // nobody can do that
    std::vector<float> result(size_t(tokens * in.heads * d_v)), q(static_cast<size_t>(in.d_k));
    for (int64_t i = 0; i < tokens * in.heads; ++i) {
        const int64_t h = i % in.heads, group = in.heads / in.kv_heads;
        const int64_t kv = mistake == Mistake::heads_modulo ? h % in.kv_heads : h / group;
        mistaken_hadamard(q.data(), &in.q[size_t(i * in.d_k)], in.d_k, of_q, false, mistake);
        const Weights w = weights(in, rule, mistake, i / in.heads, q.data(), h, kv);
        std::vector<double> sum(size_t(d_v), 0.0);
        for (size_t c = 0; c < w.of_cell.size(); ++c) {
            if (w.of_cell[c] == 0) continue;  // what lies in empty cells does not matter
            const float* const v = &in.v[(c * size_t(in.kv_heads) + size_t(kv)) * size_t(d_v)];
            for (int64_t j = 0; j < d_v; ++j) sum[size_t(j)] += w.of_cell[c] * double(v[j]);
        }
        float* const out = &result[size_t(i * d_v)];
        for (int64_t j = 0; j < d_v; ++j) {
            out[j] = w.sum == 0 ? 0.0f : float(sum[size_t(j)] / w.sum);
        }
        mistaken_hadamard(out, out, d_v, back, true, mistake);
    }
    return result;
}

}  // namespace rotkv
