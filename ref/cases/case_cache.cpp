// Cases of the cache: kv_store, kv_shift, and a cache that is saved and restored.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/files/cache_file.h"
#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/kv_cache.h"
#include "ref/quant.h"

#include <filesystem>
#include <random>

namespace rotkv {

namespace {

// Which tensors a cache has, shared by the three.
struct CacheShape {
    DType type_k, type_v;
    int64_t tokens, streams, cells, kv_heads, d_k, d_v;
    Rotation k_rotation, v_rotation;
    bool dense;  ///< every token is stored, in the next cell

    explicit CacheShape(Fields& f)
        : type_k(f.type("k")),
          type_v(f.type("v")),
          tokens(f.number("T", 7, 0)),
          streams(f.number("S", 1, 1)),
          cells(f.number("C", 9, 1)),
          kv_heads(f.number("K", 2, 1)),
          d_k(f.number("D", 64, 1)),
          d_v(f.number("Dv", d_k, 1)),
          k_rotation(f.rotation("rot-k", d_k)),
          v_rotation(f.rotation("rot-v", d_v)),
          dense(is_dense(f)) {
        if (tokens > 0 && (tokens - 1) / streams >= cells) {
            f.refuse("T", "a cell for each token", std::to_string(tokens));
        }
    }

    // The stream and cell of each token: streams in turn, cells in no order.
    std::vector<int32_t> stream() const {
        std::vector<int32_t> result;
        for (int64_t t = 0; t < tokens; ++t) result.push_back(int32_t(t % streams));
        return result;
    }
    std::vector<int32_t> cell(uint64_t seed) const {
        const std::vector<int32_t> order = permutation(cells, seed);
        std::vector<int32_t> result;
        for (int64_t t = 0; t < tokens; ++t) {
            const int32_t any = t % 5 == 3 ? -1 : order[size_t(t / streams)];
            result.push_back(dense ? int32_t(t / streams) : any);
        }
        return result;
    }
};

// One head row after its rotation: what is rounded into the cache.
std::vector<float> rotated(const float* x, int64_t d, const Rotation& rotation) {
    std::vector<float> y(static_cast<size_t>(d));
    ref::hadamard_row(y.data(), x, d, rotation, false);
    return y;
}

class KvStoreCase : public CallCase {
  public:
    explicit KvStoreCase(Fields& f)
        : shape(f), view(f.flag("v-in-k")), kind(f.word("values", "channels", k_value_kinds)) {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::steps; }
    std::vector<CaseTensor> tensors() const override {
        const CacheShape& s = shape;
        std::vector<CaseTensor> all = {
            in_out("k_cache", s.type_k, {s.streams, s.cells, s.kv_heads, s.d_k}),
            in("k", DType::f32, {s.tokens, s.kv_heads, s.d_k})};
        if (!view) {
            all.push_back(in_out("v_cache", s.type_v, {s.streams, s.cells, s.kv_heads, s.d_v}));
            all.push_back(in("v", DType::f32, {s.tokens, s.kv_heads, s.d_v}));
        }
        all.push_back(in("stream", DType::i32, {s.tokens}));
        all.push_back(in("cell", DType::i32, {s.tokens}));
        return all;
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        for (CaseTensor& tensor : tensors) {
            const std::string name = tensor.name;
            if (tensor.output) {  // cells that nobody writes must keep what they hold
                tensor.bytes.assign(size_t(tensor.rows() * tensor.bytes_of_row()), std::byte(0x5A));
            } else if (name == "stream") {
                tensor.set(shape.stream());
            } else if (name == "cell") {
                tensor.set(shape.cell(seed()));
            } else {
                const uint64_t side = name == "k" ? 0 : 1;
                tensor.set(case_values(kind, tensor.rows(), tensor.extents.back(), seed() + side));
            }
        }
    }
    std::vector<float> unrounded(const std::string& name,
                                 std::span<const CaseTensor> filled) const override {
        std::vector<float> all = named(filled, name).values();
        each_row(name, filled, [&](size_t first, std::span<const float> x, const Rotation& r) {
            const std::vector<float> y = rotated(x.data(), int64_t(x.size()), r);
            std::copy(y.begin(), y.end(), all.begin() + int64_t(first));
        });
        return all;
    }
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        std::vector<double> all(size_t(named(filled, name).size()), 0.0);
        each_row(name, filled, [&](size_t first, std::span<const float> x, const Rotation& r) {
            const std::vector<double> e = hadamard_bound(x, r);
            std::copy(e.begin(), e.end(), all.begin() + int64_t(first));
        });
        return all;
    }

    std::vector<float> with_mistake(const std::string& name, std::span<const CaseTensor> filled,
                                    Mistake mistake) const override {
        std::vector<float> all = named(filled, name).values();
        const DType type = named(filled, name).type;
        each_row(name, filled, [&](size_t first, std::span<const float> x, const Rotation& r) {
            const bool bare = mistake == Mistake::k_not_rotated && name == "k_cache";
            const std::vector<float> y =
                mistaken_rows(x, int64_t(x.size()), type, bare ? Rotation{} : r, mistake);
            std::copy(y.begin(), y.end(), all.begin() + int64_t(first));
        });
        return all;
    }
    Work work() const override {  // of the caches, only the rows that tokens write
        Work work;
        const double rows = double(shape.tokens * shape.kv_heads);
        work.bytes = rows * double(4 * shape.d_k + row_bytes(shape.type_k, shape.d_k));
        if (!view) work.bytes += rows * double(4 * shape.d_v + row_bytes(shape.type_v, shape.d_v));
        return work;
    }

  protected:
    Call call(const Views& v) const override {
        return KvStoreArgs{.k_cache = v["k_cache"],
                           .v_cache = v["v_cache"],
                           .k = v["k"],
                           .v = v["v"],
                           .stream = v["stream"],
                           .cell = v["cell"],
                           .k_rotation = shape.k_rotation,
                           .v_rotation = shape.v_rotation};
    }

  private:
    // Calls visit(first element in the cache, row of the source, rotation) for each row stored.
    template <class Visit>
    void each_row(const std::string& cache, std::span<const CaseTensor> filled,
                  const Visit& visit) const {
        const bool k = cache == "k_cache";
        const int64_t d = k ? shape.d_k : shape.d_v;
        const std::vector<float> x = named(filled, k ? "k" : "v").values();
        const std::vector<int32_t> stream = shape.stream(), cell = shape.cell(seed());
        for (int64_t t = 0; t < shape.tokens; ++t) {
            if (cell[size_t(t)] < 0) continue;
            const int64_t strip = stream[size_t(t)] * shape.cells + cell[size_t(t)];
            for (int64_t h = 0; h < shape.kv_heads; ++h) {
                visit(size_t((strip * shape.kv_heads + h) * d),
                      std::span(x).subspan(size_t((t * shape.kv_heads + h) * d), size_t(d)),
                      k ? shape.k_rotation : shape.v_rotation);
            }
        }
    }

    CacheShape shape;
    bool view;
    std::string kind;
};

class KvShiftCase : public CallCase {
  public:
    explicit KvShiftCase(Fields& f)
        : type(f.type("k")),
          streams(f.number("S", 1, 1)),
          cells(f.number("C", 9, 1)),
          kv_heads(f.number("K", 2, 1)),
          d(f.number("D", 64, 1)),
          rotation(f.rotation("rot-k", d)),
          dense(is_dense(f)),
          n_rot(f.n_rot(d)),
          neox(f.word("pairs", "norm", {"norm", "neox"}) == "neox") {
        read_layout(f, false);
    }
    Agreement agreement() const override { return Agreement::exact; }
    Agreement foreign_agreement() const override { return Agreement::steps; }
    std::vector<CaseTensor> tensors() const override {
        CaseTensor table = in("table", DType::f32, {k_differences, n_rot / 2, 2});
        table.rigid = true;
        return {in_out("k_cache", type, {streams, cells, kv_heads, d}), table,
                in("row", DType::i32, {streams, cells})};
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        RopeConfig config;
        config.n_rot = n_rot;
        const int32_t differences[k_differences] = {-256, 3};
        named(tensors, "table").set(rope_shift_table(config, differences));
        named(tensors, "row").set(rows());
        std::vector<float> keys;
        const std::vector<float> x = case_values("channels", streams * cells * kv_heads, d, seed());
        for (size_t first = 0; first < x.size(); first += size_t(d)) {
            const std::vector<float> y = rotated(x.data() + first, d, rotation);
            keys.insert(keys.end(), y.begin(), y.end());
        }
        named(tensors, "k_cache").set(keys);
    }
    std::vector<float> unrounded(const std::string& name,
                                 std::span<const CaseTensor> filled) const override {
        std::vector<float> keys = named(filled, name).values();
        const std::vector<float> table = named(filled, "table").values();
        const std::vector<int32_t> row_of_cell = rows();
        for (int64_t r = 0; r < streams * cells * kv_heads; ++r) {
            const int32_t row = row_of_cell[size_t(r / kv_heads)];
            if (row < 0) continue;
            float* k = keys.data() + r * d;
            ref::hadamard_row(k, k, d, rotation, true);
            ref::rope_row(k, k, d, table.data() + row * n_rot, n_rot,
                          neox ? RopePairs::neox : RopePairs::norm);
            ref::hadamard_row(k, k, d, rotation, false);
        }
        return keys;
    }
    std::vector<double> bound(const std::string& name, std::span<const CaseTensor> filled,
                              std::span<const float>) const override {
        // Back, turned, forward. Each is orthogonal, so that what log2 N + 2 roundings (3 for a
        // turn) do to a row stays below as many u of the row's length, in every element.
        const std::vector<float> keys = named(filled, name).values();
        const double stages = rotation.on() ? std::log2(double(rotation.block)) + 2 : 0;
        std::vector<double> bound(keys.size());
        for (size_t first = 0; first < keys.size(); first += size_t(d)) {
            double squares = 0;
            for (size_t j = first; j < first + size_t(d); ++j) {
                squares += double(keys[j]) * double(keys[j]);
            }
            std::fill_n(bound.begin() + int64_t(first), d,
                        (2 * stages + 3) * k_unit * std::sqrt(squares));
        }
        return bound;
    }

    std::vector<float> with_mistake(const std::string& name, std::span<const CaseTensor> filled,
                                    Mistake mistake) const override {
        const std::vector<float> table = named(filled, "table").values();
        return mistaken_shift(
            named(filled, name).values(), d, type, rotation,
            {table, rows(), kv_heads, n_rot, neox ? RopePairs::neox : RopePairs::norm}, mistake);
    }

  protected:
    Call call(const Views& v) const override {
        return KvShiftArgs{.k_cache = v["k_cache"],
                           .table = v["table"],
                           .row = v["row"],
                           .pairs = neox ? RopePairs::neox : RopePairs::norm,
                           .k_rotation = rotation};
    }

  private:
    static constexpr int64_t k_differences = 2;

    std::vector<int32_t> rows() const {  // -1: this cell stays
        std::vector<int32_t> all;
        for (int64_t c = 0; c < streams * cells; ++c) {
            all.push_back(dense ? int32_t(c % 2) : int32_t(c % 3) - 1);
        }
        return all;
    }

    DType type;
    int64_t streams, cells, kv_heads, d;
    Rotation rotation;
    bool dense;  ///< every cell moves
    int64_t n_rot;
    bool neox;
};

// Stored, saved, restored into a cache of other memory: the file is part of the path.
class RestoreCase : public Case {
  public:
    explicit RestoreCase(Fields& f) : shape(f) {}
    Agreement agreement() const override { return Agreement::exact; }
    bool for_other_engines() const override { return false; }
    std::vector<CaseTensor> tensors() const override {
        const CacheShape& s = shape;
        std::vector<CaseTensor> all = {
            out("k_cache", s.type_k, {s.streams, s.cells, s.kv_heads, s.d_k}),
            out("v_cache", s.type_v, {s.streams, s.cells, s.kv_heads, s.d_v}),
            in("k", DType::f32, {s.tokens, s.kv_heads, s.d_k}),
            in("v", DType::f32, {s.tokens, s.kv_heads, s.d_v})};
        for (CaseTensor& tensor : all) tensor.rigid = true;
        return all;
    }
    void fill(std::vector<CaseTensor>& tensors) const override {
        for (const char* name : {"k", "v"}) {
            CaseTensor& tensor = named(tensors, name);
            tensor.set(case_values("channels", tensor.rows(), tensor.extents.back(), seed()));
        }
    }
    Support supports(const Backend& backend) const override {
        const CaseTensor k = out("k_cache", shape.type_k, {shape.d_k});
        const CaseTensor v = out("v_cache", shape.type_v, {shape.d_v});
        return backend.supports(KvStoreArgs{.k_cache = unplaced(k),
                                            .v_cache = unplaced(v),
                                            .k = {},
                                            .v = {},
                                            .stream = {},
                                            .cell = {},
                                            .k_rotation = shape.k_rotation,
                                            .v_rotation = shape.v_rotation});
    }
    void run(Backend& backend, const Views& views) const override {
        const KvShape kv{.streams = shape.streams,
                         .cells = shape.cells,
                         .layers = {{.kv_heads = shape.kv_heads,
                                     .d_k = shape.d_k,
                                     .d_v = shape.d_v,
                                     .type_k = shape.type_k,
                                     .type_v = shape.type_v}}};
        const RotationSpec spec = RotationSpec::of(shape.k_rotation, shape.v_rotation);
        const std::string path = (std::filesystem::temp_directory_path() /
                                  ("rotkv-case-" + std::to_string(std::random_device()())))
                                     .string();
        KvCache stored(backend, kv, spec), restored(backend, kv, spec);
        std::vector<int32_t> position;
        for (int64_t t = 0; t < shape.tokens; ++t) position.push_back(int32_t(t / shape.streams));
        const KvBatch batch = stored.place(shape.stream(), position);
        backend.run(KvStoreArgs{.k_cache = stored.k(0),
                                .v_cache = stored.v(0),
                                .k = views["k"],
                                .v = views["v"],
                                .stream = batch.stream,
                                .cell = batch.cell,
                                .k_rotation = shape.k_rotation,
                                .v_rotation = shape.v_rotation});
        for (int64_t s = 0; s < kv.streams; ++s) {  // what was never written is compared too
            for (const Side side : {Side::k, Side::v}) {
                const TensorView all = side == Side::k ? restored.k(0) : restored.v(0);
                restored.write_cells(0, s, side, std::vector<std::byte>(size_t(all.stride[0])));
            }
        }
        save_cache(stored, 1, path);
        load_cache(restored, 1, path);
        std::filesystem::remove(path);
        const auto copy = [&](const TensorView& to, const TensorView& from) {
            std::vector<std::byte> bytes(size_t(span_bytes(from)));
            backend.download(bytes, from.data);
            backend.upload(to.data, bytes);
        };
        copy(views["k_cache"], restored.k(0));
        copy(views["v_cache"], restored.v(0));
    }

  private:
    CacheShape shape;
};

}  // namespace

std::span<const CaseOp> cache_case_ops() {
    static const CaseOp ops[] = {
        {"kv_store", "exact", "steps", make<KvStoreCase>},
        {"kv_shift", "exact", "steps", make<KvShiftCase>},
        {"restore", "exact", "not asked: the file is ours", make<RestoreCase>},
    };
    return ops;
}

}  // namespace rotkv
