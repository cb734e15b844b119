// The Python module: operations on arrays.
#include "tools/bindings/python_named.h"

#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace rotkv::python {
namespace {

using Backend = const BackendHandle*;

// The shape with another last extent.
std::vector<std::size_t> with_last(std::vector<std::size_t> shape, std::size_t last) {
    if (shape.empty()) refuse("an array: expected at least one extent, found a number");
    shape.back() = last;
    return shape;
}

std::size_t row_bytes_of(const std::string& type, std::size_t d) {
    int64_t bytes = 0;
    must(rotkv_row_bytes(c_words(type, "type"), int64_t(d), &bytes));
    return std::size_t(bytes);
}

nb::object hadamard(const Floats& x, uint64_t block, std::optional<uint64_t> signs, bool inverse,
                    Backend backend) {
    rotkv_rotation rotation{ROTKV_NOT_ROTATED, int64_t(std::min<uint64_t>(block, INT64_MAX)), 0, 0};
    if (block > 0) rotation.kind = ROTKV_SYLVESTER;
    if (signs) {
        if (block == 0) refuse("signs: expected a block that they are of, found block 0");
        rotation.kind = ROTKV_SIGNS;
        rotation.seed = *signs;
    }
    const NewArray<float> y(shape_of(x));
    const rotkv_array src = array_of(x), dst = array_of(y, x.size());
    must_without_gil(
        [&] { return rotkv_hadamard(handle_of(backend), &rotation, inverse, &dst, &src); });
    return y.array;
}

nb::object quantize(const Floats& x, const std::string& type, Backend backend) {
    const std::vector<std::size_t> shape = shape_of(x);
    const std::size_t d = shape.empty() ? 0 : shape.back();
    const NewArray<uint8_t> codes(with_last(shape, row_bytes_of(type, d)));
    const std::size_t bytes = d == 0 ? 0 : x.size() / d * codes.shape.back();
    const rotkv_array src = array_of(x);
    const rotkv_array dst = array_of(codes.data, bytes, type_number(type), shape, int64_t(d));
    must_without_gil([&] { return rotkv_quantize(handle_of(backend), &dst, &src); });
    return codes.array;
}

nb::object dequantize(const Bytes& codes, const std::string& type, int64_t d, Backend backend) {
    const std::vector<std::size_t> shape = shape_of(codes);
    if (d < 1 || d > (1 << 20)) {
        refuse("d: expected 1 to 1048576 channels, found " + std::to_string(d));
    }
    const NewArray<float> x(with_last(shape, std::size_t(d)));
    const std::size_t rows = shape.back() == 0 ? 0 : codes.size() / shape.back();
    const rotkv_array src = array_of(codes.data(), codes.nbytes(), type_number(type), shape, d);
    const rotkv_array dst = array_of(x, rows * std::size_t(d));
    must_without_gil([&] { return rotkv_dequantize(handle_of(backend), &dst, &src); });
    return x.array;
}

rotkv_rows rows_of(std::size_t rows, std::size_t d, int64_t layer, int64_t kv_head,
                   const std::string& side, const std::optional<Ints>& positions) {
    if (side != "k" && side != "v") refuse("side: expected k or v, found '" + side + "'");
    return {.size = sizeof(rotkv_rows),
            .rows = int64_t(rows),
            .d = int64_t(d),
            .layer = layer,
            .kv_head = kv_head,
            .side = side == "k" ? 0 : 1,
            .positions = positions ? ints_of(*positions, rows, "positions") : nullptr};
}

nb::object encode(const Floats& x, const std::string& type, int64_t layer, int64_t kv_head,
                  const std::string& side, const std::optional<Ints>& positions) {
    const std::vector<std::size_t> shape = shape_of(x);
    const std::size_t d = shape.empty() ? 0 : shape.back();
    const NewArray<uint8_t> codes(with_last(shape, row_bytes_of(type, d)));
    const std::size_t n = d == 0 ? 0 : x.size() / d;
    const rotkv_rows rows = rows_of(n, d, layer, kv_head, side, positions);
    must_without_gil([&] {
        return rotkv_encode(c_words(type, "type"), &rows, x.data(), codes.data,
                            n * codes.shape.back());
    });
    return codes.array;
}

nb::object decode(const Bytes& codes, const std::string& type, int64_t d, int64_t layer,
                  int64_t kv_head, const std::string& side, const std::optional<Ints>& positions) {
    const std::vector<std::size_t> shape = shape_of(codes);
    const std::size_t bytes = row_bytes_of(type, std::size_t(d));
    const std::vector<std::size_t> of_values = with_last(shape, std::size_t(d));
    if (shape.back() != bytes) {
        refuse("codes: expected rows of " + std::to_string(bytes) + " bytes, found " +
               std::to_string(shape.back()));
    }
    const NewArray<float> x(of_values);
    const rotkv_rows rows =
        rows_of(codes.size() / bytes, std::size_t(d), layer, kv_head, side, positions);
    must_without_gil([&] {
        return rotkv_decode(c_words(type, "type"), &rows, codes.data(), codes.nbytes(), x.data);
    });
    return x.array;
}

nb::object rope(const Floats& x, const Ints& positions, const Rope& config, Backend backend) {
    const NewArray<float> y(shape_of(x));
    const rotkv_array src = array_of(x), dst = array_of(y, x.size());
    must_without_gil([&] {
        return rotkv_rope(handle_of(backend), &config.config, &dst, &src, positions.data(),
                          positions.size());
    });
    return y.array;
}

void kv_store(const WritableBytes& k_cache, const WritableBytes& v_cache, const Floats& k,
              const Floats& v, const Ints& cell, const std::string& k_type,
              const std::string& v_type, const GivenRotation& k_rotation,
              const GivenRotation& v_rotation, const std::optional<Ints>& stream, Backend backend) {
    if (k.ndim() != 3 || v.ndim() != 3) refuse("k, v: expected [T][K][D]");
    const std::size_t tokens = k.shape(0);
    rotkv_kv_store_args args{};
    args.size = sizeof args;
    args.k_cache = array_of(k_cache.data(), k_cache.nbytes(), type_number(k_type),
                            shape_of(k_cache), int64_t(k.shape(2)));
    args.v_cache = array_of(v_cache.data(), v_cache.nbytes(), type_number(v_type),
                            shape_of(v_cache), int64_t(v.shape(2)));
    args.k = array_of(k);
    args.v = array_of(v);
    args.cell = ints_of(cell, tokens, "cell");
    args.stream = stream ? ints_of(*stream, tokens, "stream") : nullptr;
    args.k_rotation = rotation_of(k_rotation, "k_rotation");
    args.v_rotation = rotation_of(v_rotation, "v_rotation");
    must_without_gil([&] { return rotkv_kv_store(handle_of(backend), &args); });
}

nb::object attention(const Floats& q, const Bytes& k_cache, const Bytes& v_cache,
                     const Ints& position, const Ints& q_position, const std::string& k_type,
                     const std::string& v_type, const GivenRotation& k_rotation,
                     const GivenRotation& v_rotation, std::optional<float> scale, float softcap,
                     int64_t window, bool chunked, const std::optional<Floats>& sinks,
                     const std::optional<Ints>& q_stream, bool lse, const std::string& precision,
                     Backend backend) {
    if (q.ndim() != 3 || k_cache.ndim() != 4 || v_cache.ndim() != 4) {
        refuse("attention: expected q [T][H][D], caches [S][C][K][row bytes]");
    }
    const std::size_t tokens = q.shape(0), heads = q.shape(1);
    const int64_t d_v = elements_of_row(v_type, v_cache.shape(3));
    const NewArray<float> output({tokens, heads, std::size_t(d_v)}), sums({tokens, heads});
    rotkv_attention_args args{};
    args.size = sizeof args;
    args.dst = array_of(output, tokens * heads * std::size_t(d_v));
    if (lse) args.lse = array_of(sums, tokens * heads);
    args.q = array_of(q);
    args.k_cache = array_of(k_cache.data(), k_cache.nbytes(), type_number(k_type),
                            shape_of(k_cache), int64_t(q.shape(2)));
    args.v_cache =
        array_of(v_cache.data(), v_cache.nbytes(), type_number(v_type), shape_of(v_cache), d_v);
    if (sinks) args.sinks = array_of(*sinks);
    args.position = ints_of(position, k_cache.shape(0) * k_cache.shape(1), "position");
    args.q_position = ints_of(q_position, tokens, "q_position");
    args.q_stream = q_stream ? ints_of(*q_stream, tokens, "q_stream") : nullptr;
    args.scale = scale.value_or(float(1 / std::sqrt(double(q.shape(2)))));
    args.softcap = softcap;
    args.window = window;
    args.chunked = chunked;
    args.k_rotation = rotation_of(k_rotation, "k_rotation");
    args.v_rotation = rotation_of(v_rotation, "v_rotation");
    if (precision != "f32" && precision != "f16") {
        refuse("precision: expected f32 or f16, found '" + precision + "'");
    }
    args.f16 = precision == "f16" ? 1 : 0;
    must_without_gil([&] { return rotkv_attention(handle_of(backend), &args); });
    return lse ? nb::object(nb::make_tuple(output.array, sums.array)) : output.array;
}

void kv_shift(const WritableBytes& k_cache, const std::string& k_type, int64_t d,
              const Ints& difference, const Rope& config, const GivenRotation& given,
              Backend backend) {
    if (k_cache.ndim() != 4) refuse("k_cache: expected [S][C][K][row bytes]");
    const rotkv_rotation rotation = rotation_of(given, "rotation");
    const rotkv_array keys =
        array_of(k_cache.data(), k_cache.nbytes(), type_number(k_type), shape_of(k_cache), d);
    const int32_t* moves = ints_of(difference, k_cache.shape(0) * k_cache.shape(1), "difference");
    must_without_gil([&] {
        return rotkv_kv_shift(handle_of(backend), &keys, moves, &config.config, &rotation);
    });
}

std::tuple<nb::object, nb::object> nll(const Floats& hidden, const Floats& weight,
                                       const Ints& target, float softcap, Backend backend) {
    const std::size_t rows = hidden.ndim() == 2 ? hidden.shape(0) : 0;
    const NewArray<double> y({rows});
    const NewArray<int32_t> top({rows});
    const rotkv_array x = array_of(hidden), w = array_of(weight);
    const int32_t* words = ints_of(target, rows, "target");
    must_without_gil(
        [&] { return rotkv_nll(handle_of(backend), &x, &w, softcap, words, y.data, top.data); });
    return {y.array, top.array};
}

nb::object kld(const Floats& a, const Floats& b, const Floats& weight, float softcap,
               Backend backend) {
    const NewArray<double> y({a.ndim() == 2 ? a.shape(0) : 0});
    const rotkv_array of_a = array_of(a), of_b = array_of(b), w = array_of(weight);
    if (a.ndim() != 2) refuse("hidden_a: expected [T][E]");
    must_without_gil(
        [&] { return rotkv_kld(handle_of(backend), &of_a, &of_b, &w, softcap, y.data); });
    return y.array;
}

nb::object nll_of_logits(const Floats& logits, const Ints& target) {
    if (logits.ndim() != 2) refuse("logits: expected [rows][words]");
    const NewArray<double> y({logits.shape(0)});
    const int32_t* words = ints_of(target, logits.shape(0), "target");
    must_without_gil([&] {
        return rotkv_nll_of_logits(logits.data(), int64_t(logits.shape(0)),
                                   int64_t(logits.shape(1)), words, y.data);
    });
    return y.array;
}

nb::object kld_of_logits(const Floats& a, const Floats& b) {
    if (a.ndim() != 2 || shape_of(a) != shape_of(b)) refuse("a, b: expected [rows][words] alike");
    const NewArray<double> y({a.shape(0)});
    must_without_gil([&] {
        return rotkv_kld_of_logits(a.data(), b.data(), int64_t(a.shape(0)), int64_t(a.shape(1)),
                                   y.data);
    });
    return y.array;
}

void add_rope(nb::module_& module) {
    nb::class_<Rope> rope(
        module, "Rope",
        "How positions become angles, as ggml_rope_ext has it. n_rot channels turn, "
        "in pairs 'norm' (2i, 2i + 1) or 'neox' (i, i + n_rot / 2). Source: Su et "
        "al. 2021; YaRN: Peng et al. 2023.");
    define(
        rope, "__init__",
        [](Rope* self, int64_t n_rot, const std::string& pairs, double base,
           const std::vector<float>& factors, double linear, double ext, double attn, double fast,
           double slow, int64_t original) {
            if (pairs != "norm" && pairs != "neox") {
                refuse("pairs: expected norm or neox, found '" + pairs + "'");
            }
            if (!factors.empty() && int64_t(factors.size()) != n_rot / 2) {
                refuse("frequency_factors: expected n_rot / 2 of them");
            }
            new (self) Rope{{.size = sizeof(rotkv_rope_config),
                             .pairs = pairs == "norm" ? ROTKV_PAIRS_NORM : ROTKV_PAIRS_NEOX,
                             .n_rot = n_rot,
                             .base = base,
                             .frequency_factors = nullptr,
                             .linear_factor = linear,
                             .yarn_ext_factor = ext,
                             .yarn_attn_factor = attn,
                             .yarn_beta_fast = fast,
                             .yarn_beta_slow = slow,
                             .original_context = original},
                            factors};
            if (!factors.empty()) self->config.frequency_factors = self->factors.data();
        },
        nb::arg("n_rot"), nb::arg("pairs") = "norm", nb::arg("base") = 10000.0,
        nb::arg("frequency_factors") = std::vector<float>(), nb::arg("linear_factor") = 1.0,
        nb::arg("yarn_ext_factor") = 0.0, nb::arg("yarn_attn_factor") = 1.0,
        nb::arg("yarn_beta_fast") = 32.0, nb::arg("yarn_beta_slow") = 1.0,
        nb::arg("original_context") = 0);
}

void add_rows(nb::module_& module) {
    const auto backend = nb::arg("backend") = nb::none();
    define(module, "hadamard", hadamard, nb::arg("x"), nb::arg("block") = 64,
           nb::arg("signs") = nb::none(), nb::arg("inverse") = false, backend,
           "y = H S x on blocks of so many channels of each row, or x = S H y with `inverse`: H "
           "the normalized Hadamard matrix, S the signs of the seed `signs`, None: no signs. x "
           "[...][D] f32; block: a power of two that divides D, or 0: y = x. Exact: the same "
           "bits on every backend. Source: docs/02-hadamard.md");
    define(module, "quantize", quantize, nb::arg("x"), nb::arg("type"), backend,
           "Rows as ggml's bytes. x [...][D] f32, one of nine cache types; result [...][row "
           "bytes] u8. Exact. Source: docs/03-quantization.md");
    define(module, "dequantize", dequantize, nb::arg("codes"), nb::arg("type"), nb::arg("d"),
           backend,
           "The rows [...][d] f32 that bytes [...][row bytes] of any cache or weight type "
           "stand for. Exact.");
    const auto layer = nb::arg("layer") = 0;
    const auto kv_head = nb::arg("kv_head") = 0;
    const auto side = nb::arg("side") = "k";
    const auto positions = nb::arg("positions") = nb::none();
    define(module, "encode", encode, nb::arg("x"), nb::arg("type"), layer, kv_head, side, positions,
           "Rows in any cache type or format of the zoo, by name. x [...][D] f32; result "
           "[...][row bytes] u8. Some formats treat rows differently by layer, head, side and "
           "position, some take rows in groups of tokens. Source: docs/20-zoo.md");
    define(module, "decode", decode, nb::arg("codes"), nb::arg("type"), nb::arg("d"), layer,
           kv_head, side, positions, "The rows [...][d] f32 that encode() made codes of.");
    define(module, "rope", rope, nb::arg("x"), nb::arg("positions"), nb::arg("config"), backend,
           "Turns the first n_rot channels of x [T][heads][D] f32 by positions [T]. Exact. "
           "Source: docs/05-attention.md");
}

void add_cells(nb::module_& module) {
    const auto backend = nb::arg("backend") = nb::none();
    define(module, "kv_store", kv_store, nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("k"),
           nb::arg("v"), nb::arg("cell"), nb::arg("k_type"), nb::arg("v_type"),
           nb::arg("k_rotation") = "none", nb::arg("v_rotation") = "none",
           nb::arg("stream") = nb::none(), backend,
           "Rotates, quantizes and scatters k, v [T][K][D] f32 into caches [S][C][K][row "
           "bytes] u8, in place. cell, stream [T]; cell -1: not stored. Exact. Source: "
           "docs/04-kv-cache.md");
    define(module, "attention", attention, nb::arg("q"), nb::arg("k_cache"), nb::arg("v_cache"),
           nb::arg("position"), nb::arg("q_position"), nb::arg("k_type"), nb::arg("v_type"),
           nb::arg("k_rotation") = "none", nb::arg("v_rotation") = "none",
           nb::arg("scale") = nb::none(), nb::arg("softcap") = 0.0F, nb::arg("window") = 0,
           nb::arg("chunked") = false, nb::arg("sinks") = nb::none(),
           nb::arg("q_stream") = nb::none(), nb::arg("lse") = false, nb::arg("precision") = "f32",
           backend,
           "sum_c p_c v_c with p = softmax(scale q . k_c) over cells that q [T][H][D] f32 "
           "sees: 0 <= position_c <= q_position, and within the window. Caches [S][C][K][row "
           "bytes] u8, position [S][C] (-1: empty), q_position, q_stream [T], sinks [H]. "
           "scale None: 1 / sqrt(D). Result [T][H][Dv] f32, with `lse` also [T][H]: the log of "
           "what softmax divides by. precision 'f16': where the backend has it. Source: "
           "docs/05-attention.md");
    define(module, "kv_shift", kv_shift, nb::arg("k_cache"), nb::arg("k_type"), nb::arg("d"),
           nb::arg("difference"), nb::arg("config"), nb::arg("rotation") = "none", backend,
           "Moves cached keys [S][C][K][row bytes] u8 by difference [S][C] positions, in "
           "place. Exact. Source: docs/04-kv-cache.md");
}

}  // namespace

void add_arrays(nb::module_& module) {
    add_rope(module);
    add_rows(module);
    add_cells(module);
    const auto backend = nb::arg("backend") = nb::none();
    define(module, "nll", nll, nb::arg("hidden"), nb::arg("weight"), nb::arg("target"),
           nb::arg("softcap") = 0.0F, backend,
           "(nll [T] f64 in nats, the likeliest word [T]) of hidden [T][E] f32 times weight "
           "[V][E] f32, without a T x V matrix. Source: docs/07-measuring.md");
    define(module, "kld", kld, nb::arg("hidden_a"), nb::arg("hidden_b"), nb::arg("weight"),
           nb::arg("softcap") = 0.0F, backend,
           "sum_v p_a (log p_a - log p_b) of each row [T] f64, in nats; a is the reference.");
    define(module, "nll_of_logits", nll_of_logits, nb::arg("logits"), nb::arg("target"),
           "Of logits [rows][words] f32, in f64 nats; NaN where a row is not all numbers.");
    define(module, "kld_of_logits", kld_of_logits, nb::arg("a"), nb::arg("b"),
           "Of logits [rows][words] f32, in f64 nats; a is the reference.");
}

}  // namespace rotkv::python
