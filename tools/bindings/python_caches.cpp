// The Python module: class Cache.
#include "tools/bindings/python_cache.h"
#include "tools/bindings/python_named.h"

namespace rotkv::python {
namespace {

nb::object attend(Cache& self, int64_t layer, const Floats& q, std::optional<float> scale,
                  float softcap, int64_t window, std::size_t d_v, bool lse) {
    if (q.ndim() != 3) refuse("q: expected [T][H][D]");
    const std::size_t tokens = q.shape(0), heads = q.shape(1);
    if (d_v == 0) d_v = q.shape(2);
    const NewArray<float> output({tokens, heads, d_v}), sums({tokens, heads});
    const rotkv_array queries = array_of(q), to = array_of(output, tokens * heads * d_v);
    const rotkv_array of_sums = array_of(sums, tokens * heads);
    const float factor = scale.value_or(float(1 / std::sqrt(double(q.shape(2)))));
    must_without_gil([&] {
        return rotkv_cache_attend(self.handle, layer, &to, lse ? &of_sums : nullptr, &queries,
                                  factor, softcap, window);
    });
    return lse ? nb::object(nb::make_tuple(output.array, sums.array)) : output.array;
}

nb::object bytes(Cache& self, int64_t layer, const std::string& side, int64_t stream) {
    if (side != "k" && side != "v") refuse("side: expected k or v, found '" + side + "'");
    const int32_t number = side == "k" ? 0 : 1;
    int64_t count = 0;
    must(rotkv_cache_bytes(self.handle, layer, stream, number, nullptr, 0, &count));
    const NewArray<uint8_t> all({std::size_t(count)});
    must(rotkv_cache_bytes(self.handle, layer, stream, number, all.data, count, &count));
    return all.array;
}

nb::object positions(Cache& self, int64_t stream) {
    int64_t count = 0;
    must(rotkv_cache_positions(self.handle, stream, nullptr, 0, &count));
    const NewArray<int32_t> all({std::size_t(count)});
    must(rotkv_cache_positions(self.handle, stream, all.data, count, &count));
    return all.array;
}

void place(Cache& self, const Ints& positions, const std::optional<Ints>& streams) {
    const int32_t* of_tokens = streams ? ints_of(*streams, positions.size(), "streams") : nullptr;
    must(rotkv_cache_place(self.handle, of_tokens, positions.data(), int64_t(positions.size())));
}

void add_cells(nb::class_<Cache>& cache) {
    define(cache, "place", place, nb::arg("positions"), nb::arg("streams") = nb::none(),
           "Gives tokens [T] their cells: the batch of the calls to store() and attend() that "
           "follow.");
    define(
        cache, "store",
        [](Cache& self, int64_t layer, const Floats& k, const Floats& v) {
            const rotkv_array keys = array_of(k), values = array_of(v);
            must_without_gil([&] { return rotkv_cache_store(self.handle, layer, &keys, &values); });
        },
        nb::arg("layer"), nb::arg("k"), nb::arg("v"),
        "Rows of the batch, [T][K][D] f32, position already in.");
    define(cache, "attend", attend, nb::arg("layer"), nb::arg("q"), nb::arg("scale") = nb::none(),
           nb::arg("softcap") = 0.0F, nb::arg("window") = 0, nb::arg("d_v") = 0,
           nb::arg("lse") = false,
           "The batch's queries [T][H][D] f32 over all that is stored: [T][H][d_v] f32, with "
           "`lse` also [T][H]. d_v 0: as many channels as q.");
    define(cache, "positions", positions, nb::arg("stream") = 0,
           "Positions of a stream's cells up to the last one in use; -1: empty.");
    define(cache, "bytes", bytes, nb::arg("layer"), nb::arg("side"), nb::arg("stream") = 0,
           "What these cells hold, [cell][kv head][row bytes] in a row, u8; side 'k' or 'v'.");
}

void add_changes(nb::class_<Cache>& cache) {
    define(
        cache, "shift",
        [](Cache& self, int32_t from, int32_t to, int32_t difference, const Rope* rope,
           int64_t stream) {
            must_without_gil([&] {
                return rotkv_cache_shift(self.handle, stream, from, to, difference,
                                         rope == nullptr ? nullptr : &rope->config);
            });
        },
        nb::arg("first"), nb::arg("end"), nb::arg("difference"), nb::arg("rope") = nb::none(),
        nb::arg("stream") = 0,
        "Moves the tokens at positions first .. end - 1 and turns their keys; a model's cache "
        "knows its own RoPE.");
    define(
        cache, "remove",
        [](Cache& self, int32_t from, int32_t to, int64_t stream) {
            must(rotkv_cache_remove(self.handle, stream, from, to));
        },
        nb::arg("first"), nb::arg("end"), nb::arg("stream") = 0,
        "Empties the cells at positions first .. end - 1.");
    define(
        cache, "clear", [](Cache& self) { must(rotkv_cache_clear(self.handle)); },
        "Empties every cell.");
    define(
        cache, "save",
        [](Cache& self, const std::string& path) {
            must_without_gil([&] { return rotkv_cache_save(self.handle, c_words(path, "path")); });
        },
        nb::arg("path"), "Writes what it holds, with shape, types and rotation.");
    define(
        cache, "load",
        [](Cache& self, const std::string& path) {
            must_without_gil([&] { return rotkv_cache_load(self.handle, c_words(path, "path")); });
        },
        nb::arg("path"), "Replaces what it holds; refuses what was saved of another kind.");
}

}  // namespace

void add_caches(nb::module_& module) {
    nb::class_<Cache> cache(module, "Cache",
                            "A cache of equal layers in words such as 'k=q4_0,v=q8_0,rot=off'; one "
                            "for a model is Model.cache(). str() says types, rotations and why. "
                            "Source: docs/04-kv-cache.md");
    define(
        cache, "__init__",
        [](Cache* self, const std::string& words, int64_t cells, int64_t kv_heads, int64_t d_k,
           std::optional<int64_t> d_v, int64_t layers, int64_t streams,
           const BackendHandle* backend) {
            const rotkv_cache_shape shape{.size = sizeof shape,
                                          .streams = streams,
                                          .cells = cells,
                                          .layers = layers,
                                          .kv_heads = kv_heads,
                                          .d_k = d_k,
                                          .d_v = d_v.value_or(d_k)};
            rotkv_cache* handle = nullptr;
            must(rotkv_cache_open(handle_of(backend), &shape, c_words(words, "words"), &handle));
            new (self) Cache(handle);
        },
        nb::arg("words"), nb::arg("cells"), nb::arg("kv_heads"), nb::arg("d_k"),
        nb::arg("d_v") = nb::none(), nb::arg("layers") = 1, nb::arg("streams") = 1,
        nb::arg("backend") = nb::none());
    cache.def("__str__", [](Cache& self) {
        return text_of([&](char* text, std::size_t capacity, std::size_t* length) {
            return rotkv_cache_in_words(self.handle, text, capacity, length);
        });
    });
    add_cells(cache);
    add_changes(cache);
}

}  // namespace rotkv::python
