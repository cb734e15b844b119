// Cases of the whole path, for engines that nobody can hand a cache: rows of q, k and v go in, are
// stored, moved and attended to, and the output comes out.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/cases/path_allowance.h"
#include "ref/cases/stored_rows.h"
#include "ref/quant.h"
#include "ref/rope_table.h"

#include <cstring>

namespace rotkv {

namespace {

// The fields of attention that the path has too.
constexpr const char* k_of_attention[] = {"k",      "v",       "T",       "C",     "H",     "K",
                                          "D",      "v-in-k",  "v-first", "Dv",    "rot-k", "rot-v",
                                          "window", "chunked", "softcap", "sinks", "loud"};

// Attention over the cache that this path has stored.
std::unique_ptr<Case> attention_of(const Fields& f) {
    std::string name = "attention";
    for (const auto& [key, value] : f.given()) {
        for (const std::string of : k_of_attention) {
            if (key == of) name.append("/").append(key).append("=").append(value);
        }
    }
    return make_case(name + "/fill=dense/sees=last");
}

PathPrecision precision_of(const std::string& word) {
    return word == "q8"    ? PathPrecision::q8
           : word == "f16" ? PathPrecision::f16
                           : PathPrecision::f32;
}

class PathCase : public Case {
  public:
    explicit PathCase(Fields& f)
        : type_k(f.type("k")),
          type_v(f.type("v")),
          tokens(f.number("T", 3, 1)),
          cells(f.number("C", 40, 1)),
          heads(f.number("H", 4, 1)),
          kv_heads(f.number("K", 2, 1)),
          d_k(f.number("D", 64, 1)),
          v_in_k(f.flag("v-in-k")),
          v_first(v_in_k ? f.number("v-first", 0, 0) : 0),
          d_v(f.number("Dv", d_k, 1)),
          k_rotation(f.rotation("rot-k", d_k)),
          v_rotation(f.rotation("rot-v", d_v)),
          window(f.number("window", 0, 0)),
          chunked(f.flag("chunked")),
          softcap(f.real("softcap", 0)),
          sinks(f.real("sinks", 0)),
          loud(f.real("loud", 1)),
          shift(f.number("shift", 0, 0)),
          keep(f.number("keep", 0, 0)),
          n_rot(f.n_rot(d_k)),
          neox(f.word("pairs", "norm", {"norm", "neox"}) == "neox"),
          precision(precision_of(f.word("precision", "f32", {"f32", "f16", "q8"}))),
          attention(attention_of(f)) {
        read_layout(f, false);
        v_rotation.first = v_first;
        if (tokens > cells)
            f.refuse("T", "at most " + std::to_string(cells), std::to_string(tokens));
        const int64_t earlier = cells - tokens;
        if (keep > earlier || shift > earlier - keep) {
            f.refuse("shift", "tokens before the last " + std::to_string(tokens),
                     std::to_string(keep) + " kept and " + std::to_string(shift) + " removed");
        }
    }
    Agreement agreement() const override { return Agreement::rounding; }
    std::vector<CaseTensor> tensors() const override;
    void fill(std::vector<CaseTensor>& tensors) const override;
    Support supports(const Backend& backend) const override;
    void run(Backend& backend, const Views& views) const override;
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float> expected) const override {
        return attention->bound(name, cached(filled), expected);
    }
    std::vector<double> foreign_allowance(const std::string& name,
                                          std::span<const CaseTensor> filled) const override;
    std::vector<float> with_mistake(const std::string& name, std::span<const CaseTensor> filled,
                                    Mistake mistake) const override;
    std::vector<std::pair<std::string, double>> constants() const override {
        std::vector<std::pair<std::string, double>> all = attention->constants();
        if (shift > 0) all.emplace_back("rope_base", RopeConfig{}.base);
        return all;
    }

  private:
    // The memory between the stations, which is the backend's.
    struct Between {
        TensorView k_cache, v_cache, stream, cell, used, q_stream;
    };
    KvStoreArgs store_call(const Views& v, const Between& b) const;
    KvShiftArgs shift_call(const Views& v, const Between& b) const;
    AttentionArgs attention_call(const Views& v, const Between& b) const;
    std::vector<CaseTensor> between() const;

    ShiftOfKeys shift_of(std::span<const CaseTensor> filled) const;
    StoredRows keys_of(std::span<const CaseTensor> filled) const;
    StoredRows values_of(std::span<const CaseTensor> filled) const;
    std::vector<CaseTensor> cached(std::span<const CaseTensor> filled) const;
    RowsOfAttention rows_of(std::span<const CaseTensor> filled, std::vector<float> keys,
                            std::vector<float> values) const;

    DType type_k, type_v;
    int64_t tokens, cells, heads, kv_heads, d_k;
    bool v_in_k;
    int64_t v_first, d_v;
    Rotation k_rotation, v_rotation;
    int64_t window;
    bool chunked;
    double softcap, sinks, loud;
    int64_t shift, keep;  ///< tokens removed behind the first `keep`; later ones move up
    int64_t n_rot;
    bool neox;
    PathPrecision precision;
    std::unique_ptr<Case> attention;
};

std::vector<CaseTensor> PathCase::tensors() const {
    std::vector<CaseTensor> all = {out("dst", DType::f32, {tokens, heads, d_v}),
                                   in("q", DType::f32, {tokens, heads, d_k}),
                                   in("k", DType::f32, {cells, kv_heads, d_k})};
    if (!v_in_k) all.push_back(in("v", DType::f32, {cells, kv_heads, d_v}));
    if (shift > 0) {
        all.push_back(in("table", DType::f32, {1, n_rot / 2, 2}));
        all.back().rigid = true;
        all.push_back(in("row", DType::i32, {cells}));
    }
    all.push_back(in("position", DType::i32, {cells}));
    all.push_back(in("q_position", DType::i32, {tokens}));
    if (sinks != 0) {
        all.push_back(in("sinks", DType::f32, {heads}));
        all.back().rigid = true;
    }
    return all;
}

void PathCase::fill(std::vector<CaseTensor>& tensors) const {
    named(tensors, "q").set(case_values("normal", tokens * heads, d_k, seed() + 3));
    named(tensors, "k").set(case_values("channels", cells * kv_heads, d_k, seed()));
    if (!v_in_k) {
        named(tensors, "v").set(case_values("channels", cells * kv_heads, d_v, seed() + 1));
    }
    std::vector<int32_t> position, row, q_position;
    for (int64_t c = 0; c < cells; ++c) {
        const bool removed = c >= keep && c < keep + shift, later = c >= keep + shift;
        position.push_back(int32_t(removed ? -1 : later ? c - shift : c));
        row.push_back(later ? 0 : -1);
    }
    for (int64_t t = 0; t < tokens; ++t) q_position.push_back(position[size_t(cells - tokens + t)]);
    named(tensors, "position").set(position);
    named(tensors, "q_position").set(q_position);
    if (shift > 0) {
        RopeConfig config;
        config.n_rot = n_rot;
        const int32_t difference[] = {int32_t(-shift)};
        named(tensors, "table").set(rope_shift_table(config, difference));
        named(tensors, "row").set(row);
    }
    if (sinks == 0) return;
    std::vector<float> sink = case_values("normal", 1, heads, seed() + 4);
    for (float& one : sink) one *= float(sinks);
    named(tensors, "sinks").set(sink);
}

KvStoreArgs PathCase::store_call(const Views& v, const Between& b) const {
    return {.k_cache = b.k_cache,
            .v_cache = b.v_cache,
            .k = v["k"],
            .v = v["v"],
            .stream = b.stream,
            .cell = b.cell,
            .k_rotation = k_rotation,
            .v_rotation = v_rotation};
}

KvShiftArgs PathCase::shift_call(const Views& v, const Between& b) const {
    return {.k_cache = b.k_cache,
            .table = v["table"],
            .row = v["row"],
            .pairs = neox ? RopePairs::neox : RopePairs::norm,
            .k_rotation = k_rotation};
}

AttentionArgs PathCase::attention_call(const Views& v, const Between& b) const {
    TensorView values = b.v_cache;
    if (v_in_k) {
        values = b.k_cache;
        values.n[3] = d_v;
        if (values.data != nullptr) values.data += block_offset(type_k, v_first);
    }
    return {.dst = v["dst"],
            .q = v["q"],
            .k_cache = b.k_cache,
            .v_cache = values,
            .position = v["position"],
            .used = b.used,
            .q_stream = b.q_stream,
            .q_position = v["q_position"],
            .sinks = v["sinks"],
            .scale = float(loud / std::sqrt(double(d_k))),
            .softcap = float(softcap),
            .window = window,
            .chunked = chunked,
            .k_rotation = k_rotation,
            .v_rotation = v_rotation};
}

std::vector<CaseTensor> PathCase::between() const {
    std::vector<CaseTensor> all = {in("k_cache", type_k, {1, cells, kv_heads, d_k}),
                                   in("v_cache", type_v, {1, cells, kv_heads, d_v}),
                                   in("stream", DType::i32, {cells}),
                                   in("cell", DType::i32, {cells}),
                                   in("used", DType::i32, {1}),
                                   in("q_stream", DType::i32, {tokens})};
    std::vector<int32_t> cell;
    for (int64_t c = 0; c < cells; ++c) cell.push_back(int32_t(c));
    named(all, "stream").set(std::vector<int32_t>(size_t(cells), 0));
    named(all, "cell").set(cell);
    named(all, "used").set(std::vector<int32_t>{int32_t(cells)});
    named(all, "q_stream").set(std::vector<int32_t>(size_t(tokens), 0));
    return all;
}

Support PathCase::supports(const Backend& backend) const {
    const std::vector<CaseTensor> shapes = tensors(), inner = between();
    std::vector<TensorView> views;
    for (const CaseTensor& tensor : shapes) views.push_back(unplaced(tensor));
    const Views v(shapes, views);
    Between b{unplaced(inner[0]), unplaced(inner[1]), unplaced(inner[2]),
              unplaced(inner[3]), unplaced(inner[4]), unplaced(inner[5])};
    if (v_in_k) b.v_cache = {};
    for (const Call& call : {Call(store_call(v, b)), Call(attention_call(v, b))}) {
        const Support support = backend.supports(call);
        if (!support.yes) return support;
    }
    return shift > 0 ? backend.supports(shift_call(v, b)) : Support{};
}

void PathCase::run(Backend& backend, const Views& views) const {
    const std::vector<CaseTensor> inner = between();
    std::vector<Buffer> memory;
    std::vector<TensorView> at;
    for (const CaseTensor& tensor : inner) {
        const std::vector<int64_t>& n = tensor.extents;
        memory.emplace_back(backend, size_t(tensor.rows() * tensor.bytes_of_row()));
        if (!tensor.bytes.empty()) memory.back().upload(tensor.bytes);
        at.push_back(n.size() == 4 ? memory.back().view(tensor.type, {n[0], n[1], n[2], n[3]})
                                   : memory.back().view(tensor.type, {n[0]}));
    }
    const Between b{at[0], v_in_k ? TensorView{} : at[1], at[2], at[3], at[4], at[5]};
    backend.run(store_call(views, b));
    if (shift > 0) backend.run(shift_call(views, b));
    backend.run(attention_call(views, b));
    backend.synchronize();
}

StoredRows PathCase::keys_of(std::span<const CaseTensor> filled) const {
    const StoredRows keys = stored_rows(named(filled, "k").values(), d_k, type_k, k_rotation);
    return shift > 0 ? moved_rows(keys, k_rotation, shift_of(filled)) : keys;
}

StoredRows PathCase::values_of(std::span<const CaseTensor> filled) const {
    return stored_rows(named(filled, "v").values(), d_v, type_v, v_rotation);
}

ShiftOfKeys PathCase::shift_of(std::span<const CaseTensor> filled) const {
    return {named(filled, "table").values(), named(filled, "row").indices(), kv_heads, n_rot,
            neox ? RopePairs::neox : RopePairs::norm};
}

// attention's tensors, with the cache that the path has made.
std::vector<CaseTensor> PathCase::cached(std::span<const CaseTensor> filled) const {
    std::vector<CaseTensor> all = attention->tensors();
    for (const CaseTensor& constant : between()) {
        if (constant.type == DType::i32 && (std::strcmp(constant.name, "used") == 0 ||
                                            std::strcmp(constant.name, "q_stream") == 0)) {
            named(all, constant.name).bytes = constant.bytes;
        }
    }
    for (const char* name : {"q", "position", "q_position"}) {
        named(all, name).bytes = named(filled, name).bytes;
    }
    if (sinks != 0) named(all, "sinks").bytes = named(filled, "sinks").bytes;
    named(all, "k_cache").bytes = keys_of(filled).bytes;
    if (!v_in_k) named(all, "v_cache").bytes = values_of(filled).bytes;
    return all;
}

RowsOfAttention PathCase::rows_of(std::span<const CaseTensor> filled, std::vector<float> keys,
                                  std::vector<float> values) const {
    return {.rule = attention_call(Views({}, {}), {}),
            .heads = heads,
            .kv_heads = kv_heads,
            .d_k = d_k,
            .d_v = d_v,
            .q = named(filled, "q").values(),
            .k = std::move(keys),
            .v = std::move(values),
            .position = named(filled, "position").indices(),
            .q_position = named(filled, "q_position").indices(),
            .sinks = sinks != 0 ? named(filled, "sinks").values() : std::vector<float>{}};
}

std::vector<double> PathCase::foreign_allowance(const std::string&,
                                                std::span<const CaseTensor> filled) const {
    const StoredRows keys = keys_of(filled);
    const std::vector<float> k = keys.values(), k_reach = keys.reach();
    if (v_in_k) {
        return path_allowance(rows_of(filled, k, channels_of(k, d_k, v_first, d_v)), k_reach,
                              channels_of(k_reach, d_k, v_first, d_v), precision);
    }
    const StoredRows values = values_of(filled);
    return path_allowance(rows_of(filled, k, values.values()), k_reach, values.reach(), precision);
}

std::vector<float> PathCase::with_mistake(const std::string&, std::span<const CaseTensor> filled,
                                          Mistake mistake) const {
    const Rotation k = mistake == Mistake::k_not_rotated ? Rotation{} : k_rotation;
    std::vector<float> keys = mistaken_rows(named(filled, "k").values(), d_k, type_k, k, mistake);
    if (shift > 0) keys = mistaken_shift(keys, d_k, type_k, k, shift_of(filled), mistake);
    const std::vector<float> values =
        v_in_k ? channels_of(keys, d_k, v_first, d_v)
               : mistaken_rows(named(filled, "v").values(), d_v, type_v, v_rotation, mistake);
    return mistaken_attention(rows_of(filled, keys, values), mistake);
}

}  // namespace

std::span<const CaseOp> path_case_ops() {
    static const CaseOp ops[] = {
        {"path", "rounding: as attention, over the cache that is exact",
         "that, and what codes and scales that `steps` allows move: sum p ((exp(D + M) - 1) |v - "
         "o| "
         "+ exp(D + M) reach), D = scale sum |q| reach of K, M = log sum p exp(D), mixed by the "
         "rotation back; precision=f16, q8: q, K, V, p rounded as well",
         make<PathCase>},
    };
    return ops;
}

}  // namespace rotkv
