#include "tools/parity/mistaken_backend.h"

#include "ref/error.h"
#include "ref/quant.h"

#include <algorithm>
#include <span>
#include <vector>

namespace rotkv::tools {

namespace {

// Rows of a cache as numbers: [cells][heads][d] of one stream.
std::vector<float> rows_of(const TensorView& cache, int64_t stream, int64_t cells) {
    const int64_t heads = cache.n[2], d = cache.n[3];
    std::vector<float> rows(size_t(cells * heads * d));
    for (int64_t i = 0; i < cells * heads; ++i) {
        const auto* row = cache.row<const std::byte>(stream, i / heads, i % heads);
        ref::dequantize_row(cache.type, &rows[size_t(i * d)], row, d);
    }
    return rows;
}

// The batch's rows, [T][heads][d], rotated with the mistake.
std::vector<float> rotated(const TensorView& rows, const Rotation& rotation, Mistake mistake) {
    const int64_t heads = rows.n[2], d = rows.n[3];
    std::vector<float> result(size_t(rows.n[1] * heads * d));
    for (int64_t i = 0; i < rows.n[1] * heads; ++i) {
        mistaken_hadamard(&result[size_t(i * d)], rows.row<const float>(i / heads, i % heads), d,
                          rotation, false, mistake);
    }
    return result;
}

}  // namespace

MistakenBackend::MistakenBackend(std::unique_ptr<Backend> real, const MistakeInfo& mistake)
    : ForwardingBackend(std::move(real)), mistake_(mistake) {
    if (in_host_memory()) return;
    throw Error(ErrorCode::unsupported,
                "a mistake: expected a backend in the host's memory, found " + name());
}

std::string MistakenBackend::description() const {
    return ForwardingBackend::description() + ", with a mistake: " + mistake_.sentence;
}

Support MistakenBackend::answer(const Call& call) const {
    if (const auto* args = std::get_if<AttentionArgs>(&call); args && !args->lse.empty()) {
        return {false, "attention in parts, with a mistake"};
    }
    return ForwardingBackend::answer(call);
}

void MistakenBackend::execute(const Call& call) {
    synchronize();  // what the host reads here may be queued: products of some tokens are
    if (const auto* args = std::get_if<KvStoreArgs>(&call)) {
        store(*args);
    } else if (const auto* shifted = std::get_if<KvShiftArgs>(&call)) {
        shift(*shifted);
    } else if (const auto* attention = std::get_if<AttentionArgs>(&call)) {
        for (int32_t s = 0; s < attention->k_cache.n[0]; ++s) attend(*attention, s);
    } else {
        ForwardingBackend::execute(call);
    }
}

Rotation MistakenBackend::of_k(const Rotation& rotation) const {
    return mistake_.mistake == Mistake::k_not_rotated ? Rotation{} : rotation;
}

// Whoever gets rows that are rotated already has only to round and to scatter them.
void MistakenBackend::store(const KvStoreArgs& args) {
    KvStoreArgs plain = args;
    const std::vector<float> k = rotated(args.k, of_k(args.k_rotation), mistake_.mistake);
    const std::vector<float> v = rotated(args.v, args.v_rotation, mistake_.mistake);
    plain.k = view(k.data(), DType::f32, {args.k.n[1], args.k.n[2], args.k.n[3]});
    if (!args.v.empty()) {
        plain.v = view(v.data(), DType::f32, {args.v.n[1], args.v.n[2], args.v.n[3]});
    }
    plain.k_rotation = plain.v_rotation = Rotation{};
    real().run(plain);
    synchronize();  // before the rows go out of scope
}

void MistakenBackend::shift(const KvShiftArgs& args) {
    const TensorView& cache = args.k_cache;
    const int64_t heads = cache.n[2], d = cache.n[3], cells = cache.n[1];
    ShiftOfKeys turns{{}, {}, heads, 2 * args.table.n[2], args.pairs};
    for (int64_t r = 0; r < args.table.n[1]; ++r) {
        const auto* row = args.table.row<const float>(r, 0);
        turns.table.insert(turns.table.end(), row, row + turns.n_rot);
    }
    for (int64_t s = 0; s < cache.n[0]; ++s) {
        const int32_t* moved = ints(args.row, s);
        turns.row.assign(moved, moved + cells);
        const std::vector<float> keys =
            mistaken_shift(rows_of(cache, s, cells), d, cache.type, of_k(args.k_rotation), turns,
                           mistake_.mistake);
        for (int64_t i = 0; i < cells * heads; ++i) {
            if (moved[i / heads] < 0 || mistake_.mistake == Mistake::shift_dropped) continue;
            ref::quantize_row(cache.type, cache.row<std::byte>(s, i / heads, i % heads),
                              &keys[size_t(i * d)], d);
        }
    }
}

void MistakenBackend::attend(const AttentionArgs& args, int32_t stream) {
    const int64_t cells = std::min<int64_t>(ints(args.used)[stream], args.k_cache.n[1]);
    const int64_t heads = args.q.n[2], d_k = args.q.n[3], d_v = args.v_cache.n[3];
    RowsOfAttention in{args, heads, args.k_cache.n[2], d_k, d_v, {}, {}, {}, {}, {}, {}};
    std::vector<int64_t> tokens;
    for (int64_t t = 0; t < args.q.n[1]; ++t) {
        if (ints(args.q_stream)[t] != stream) continue;
        tokens.push_back(t);
        in.q_position.push_back(ints(args.q_position)[t]);
        for (int64_t h = 0; h < heads; ++h) {
            const auto* row = args.q.row<const float>(t, h);
            in.q.insert(in.q.end(), row, row + d_k);
        }
    }
    if (tokens.empty()) return;
    in.k = rows_of(args.k_cache, stream, cells);
    in.v = rows_of(args.v_cache, stream, cells);
    in.position.assign(ints(args.position, stream), ints(args.position, stream) + cells);
    if (!args.sinks.empty()) {
        in.sinks.assign(args.sinks.row<const float>(0), args.sinks.row<const float>(0) + heads);
    }
    const std::vector<float> result = mistaken_attention(in, mistake_.mistake);
    for (size_t i = 0; i < tokens.size() * size_t(heads); ++i) {
        const auto h = int64_t(i) % heads;
        std::copy_n(&result[i * size_t(d_v)], d_v,
                    args.dst.row<float>(tokens[i / size_t(heads)], h));
    }
}

const MistakeInfo& mistake_of_name(const std::string& name) {
    std::string names;
    for (const MistakeInfo& one : mistakes()) {
        if (one.name == name) return one;
        names += std::string(names.empty() ? "" : ", ") + one.name;
    }
    throw Error(ErrorCode::usage, "mistake '" + name + "': expected one of " + names);
}

}  // namespace rotkv::tools
