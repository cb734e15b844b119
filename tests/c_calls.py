"""One good call of every function of tools/bindings/rotkv.h, and what makes it a bad one."""
import ctypes as c
import os

import numpy as np

from c_header import Header
from random_model import BEFORE, RandomModel

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
HEADER = Header(os.path.join(ROOT, "tools/bindings/rotkv.h"))
T, D, CELLS, WORDS = 4, 64, 8, 11


def write_model(path):
    model = RandomModel("llama", "bindings", layers=2, width=64, heads=2, kv_heads=1, hidden=96,
                        context=256)
    model.ends()
    for layer in range(2):
        model.norms(layer, *BEFORE)
        model.attention(layer)
        model.feed_forward(layer)
    model.file.write(path)


class Calls:
    """One good call of every function; what they need lives as long as this."""

    def __init__(self, library, folder):
        self.library, self.kept, self.folder = library, [], folder
        self.random = np.random.default_rng(1)
        self.backend, self.cache, self.model, self.model_cache = (c.c_void_p() for _ in range(4))

    def keep(self, value):
        self.kept.append(value)
        return value

    def struct(self, name, **fields):
        one = self.keep(HEADER.structs[name]())
        if hasattr(one, "size"):
            one.size = c.sizeof(one)
        for field, value in fields.items():
            setattr(one, field, value)
        return one

    def at(self, array):
        return self.keep(array).ctypes.data

    def array(self, values, kind="ROTKV_F32", d=None):
        one = self.struct("rotkv_array", data=self.at(values), bytes=values.nbytes,
                          type=HEADER.constants[kind])
        shape = list(values.shape[:-1]) + [d or values.shape[-1]]
        one.n = (c.c_int64 * 4)(*[1] * (4 - len(shape)), *shape)
        return one

    def floats(self, *shape):
        return self.random.standard_normal(shape).astype(np.float32)

    def ints(self, values):
        return self.at(np.array(values, np.int32))

    def room(self, n=4096):
        return self.at(np.zeros(n, np.uint8))

    def must(self, name, *arguments):
        status = getattr(self.library, name)(*self.passed(arguments))
        assert status == 0, f"{name}: {self.library.rotkv_last_error()}"

    @staticmethod
    def passed(arguments):
        return [c.addressof(a) if isinstance(a, c.Structure) else a for a in arguments]

    def open(self):
        model = os.path.join(self.folder, "model.gguf")
        write_model(model)
        self.path = model.encode()
        self.must("rotkv_backend_open", b"ref", 1, c.addressof(self.backend))
        self.must("rotkv_cache_open", None, self.shape(), b"k=q8_0", c.addressof(self.cache))
        self.must("rotkv_model_open", self.backend, self.path, c.addressof(self.model))
        self.must("rotkv_model_cache", self.model, b"k=q8_0", 1, CELLS,
                  c.addressof(self.model_cache))

    def words_of_model(self):
        figures = self.struct("rotkv_model_figures")
        self.must("rotkv_model_describe", self.model, figures)
        return figures.words

    def shape(self):
        return self.struct("rotkv_cache_shape", streams=1, cells=CELLS, layers=2, kv_heads=1,
                           d_k=D, d_v=D)

    def rope(self):
        return self.struct("rotkv_rope_config", n_rot=D)

    def rotation(self):
        return self.struct("rotkv_rotation", kind=1, block=64)

    def words(self):
        return [self.room(), 4096, self.at(np.zeros(1, np.uint64))]

    def attention(self):
        return self.struct(
            "rotkv_attention_args", dst=self.array(self.floats(T, 2, D)),
            q=self.array(self.floats(T, 2, D)), scale=0.125,
            k_cache=self.array(self.floats(1, CELLS, 1, D)),
            v_cache=self.array(self.floats(1, CELLS, 1, D)),
            position=self.ints(range(CELLS)), q_position=self.ints(range(T)))

    def store(self):
        return self.struct("rotkv_kv_store_args", k_cache=self.array(self.floats(1, CELLS, 1, D)),
                           v_cache=self.array(self.floats(1, CELLS, 1, D)),
                           k=self.array(self.floats(T, 1, D)), v=self.array(self.floats(T, 1, D)),
                           cell=self.ints(range(T)))

    def rows(self):
        return self.struct("rotkv_rows", rows=T, d=D)

    def handle(self):
        return c.addressof(self.keep(c.c_void_p()))

    def callback(self, kind):
        types = {"progress": [c.c_void_p, c.c_int64, c.c_int64],
                 "visit": [c.c_void_p, c.c_int64, c.c_int32, c.c_void_p, c.c_int64, c.c_int64,
                           c.c_int64],
                 "matrix": [c.c_void_p, c.c_int64, c.c_int32, c.c_void_p, c.c_int64, c.c_int64]}
        made = c.CFUNCTYPE(c.c_int32, *types[kind])(lambda *_: 0)
        return c.cast(self.keep(made), c.c_void_p)

    def texts(self, *texts):
        return c.addressof(self.keep((c.c_char_p * len(texts))(*texts)))

    def table(self):
        """Every function that gives a status, with arguments that are good."""
        x, y = self.array(self.floats(T, D)), self.array(self.floats(T, D))
        codes = self.array(np.zeros((T, D // 32 * 34), np.uint8), "ROTKV_Q8_0", D)
        hidden, weight = self.array(self.floats(T, D)), self.array(self.floats(WORDS, D))
        heads, other = self.array(self.floats(T, 1, D)), self.array(self.floats(T, 1, D))
        keys = self.array(self.floats(1, CELLS, 1, D))
        backend, text, one = self.backend, self.words, self.room
        ids, long_text = [1, 2, 3, 4], b"some letters of a text " * 12
        windows = self.struct("rotkv_windows", ctx=32, chunks=2)
        saved = os.path.join(self.folder, "cache").encode()
        progress = [self.callback("progress"), None]
        return {
            "rotkv_type_number": [b"q8_0", one()],
            "rotkv_row_bytes": [b"q8_0", D, one()],
            "rotkv_bits_per_value": [b"tqmse3", D, one()],
            "rotkv_encode": [b"tqmse3", self.rows(), self.at(self.floats(T, D)), one(), 4096],
            "rotkv_decode": [b"tqmse3", self.rows(), one(), 4096, self.at(self.floats(T, D))],
            "rotkv_rotation_of_words": [b"64:7", self.rotation()],
            "rotkv_words_of_rotation": [self.rotation(), *text()],
            "rotkv_policy": [b"k=q8_0", D, D, self.rotation(), self.rotation(), *text()],
            "rotkv_backends_in_words": text(),
            "rotkv_backend_open": [b"fast", 1, self.handle()],
            "rotkv_mistakes_in_words": text(),
            "rotkv_backend_open_mistaken": [b"fast", 1, b"v-not-back", self.handle()],
            "rotkv_backend_in_words": [backend, *text()],
            "rotkv_case_run": [backend, b"hadamard/rot=64", one(), one(), *text()],
            "rotkv_hadamard": [backend, self.rotation(), 0, y, x],
            "rotkv_quantize": [backend, codes, x],
            "rotkv_dequantize": [backend, y, codes],
            "rotkv_rope": [backend, self.rope(), other, heads, self.ints(ids), T],
            "rotkv_kv_store": [backend, self.store()],
            "rotkv_attention": [backend, self.attention()],
            "rotkv_kv_shift": [backend, keys, self.ints([1] * CELLS), self.rope(), self.rotation()],
            "rotkv_nll": [backend, hidden, weight, 0.0, self.ints(ids), one(), one()],
            "rotkv_kld": [backend, hidden, y, weight, 0.0, one()],
            "rotkv_nll_of_logits": [self.at(self.floats(T, WORDS)), T, WORDS, self.ints(ids), one()],
            "rotkv_kld_of_logits": [self.at(self.floats(T, WORDS)), self.at(self.floats(T, WORDS)),
                                    T, WORDS, one()],
            "rotkv_cache_open": [backend, self.shape(), b"k=q4_0,v=q8_0", self.handle()],
            "rotkv_cache_in_words": [self.cache, *text()],
            "rotkv_cache_clear": [self.cache],
            "rotkv_cache_place": [self.cache, None, self.ints(range(T)), T],
            "rotkv_cache_store": [self.cache, 1, heads, other],
            "rotkv_cache_attend": [self.cache, 1, other, None, heads, 0.125, 0.0, 0],
            "rotkv_cache_positions": [self.cache, 0, one(), CELLS, one()],
            "rotkv_cache_bytes": [self.cache, 0, 0, 1, one(), 4096, one()],
            "rotkv_cache_save": [self.cache, saved],
            "rotkv_cache_load": [self.cache, saved],
            "rotkv_cache_shift": [self.cache, 0, 1, 3, 1, self.rope()],
            "rotkv_cache_remove": [self.cache, 0, 0, 1],
            "rotkv_model_open": [backend, self.path, self.handle()],
            "rotkv_model_open_in": [backend, self.path, b"gemm=f32,attention=f32", self.handle()],
            "rotkv_model_describe": [self.model, self.struct("rotkv_model_figures")],
            "rotkv_model_notices": [self.model, *text()],
            "rotkv_model_ends": [self.model, one(), 64, one()],
            "rotkv_model_text": [self.model, b"general.name", *text()],
            "rotkv_tokenize": [self.model, long_text, len(long_text), 1, 0, one(), 1024, one()],
            "rotkv_detokenize": [self.model, self.ints(ids), T, *text()],
            "rotkv_model_cache": [self.model, b"k=q8_0", 1, CELLS, self.handle()],
            "rotkv_model_forward": [self.model_cache, self.ints(ids), None, self.ints(range(T)), T,
                                    self.array(self.floats(T, D))],
            "rotkv_model_next_tokens": [self.model_cache, self.ints(ids), None,
                                        self.ints(range(T)), T, self.ints([3, 0]), 2, 0.5,
                                        self.at(np.array([0.25, 0.75])), one()],
            "rotkv_model_logits": [self.model, self.array(self.floats(T, D)),
                                   self.array(self.floats(T, self.words_of_model()))],
            "rotkv_logprobs": [self.model, b"k=q4_0", self.ints(ids), T, one(), one()],
            "rotkv_perplexity": [self.model, long_text, len(long_text), b"k=q8_0", windows,
                                 *progress, self.struct("rotkv_perplexity_figures")],
            "rotkv_kld_of_caches": [self.model, long_text, len(long_text), None,
                                    self.texts(b"k=q8_0"), 1, windows, *progress,
                                    self.struct("rotkv_kld_figures")],
            "rotkv_generate": [self.model, b"k=q8_0", self.ints(ids), T, 3, 0.0, 1, *progress,
                               one(), one()],
            "rotkv_program_run": [
                self.model, b"calibrate", self.texts(b"-c", b"16", b"--chunks", b"2", b"--held-out",
                                                     b"1"), 6, long_text, len(long_text),
                *progress, self.callback("matrix"), None, self.handle()],
            "rotkv_capture": [self.model, b"k=q8_0", self.ints(ids), T, self.callback("visit"),
                              None],
        }


HUGE = 2 ** 62
BAD_NUMBERS = {c.c_int32: [-1, 2 ** 31 - 1, -2 ** 31], c.c_int64: [-1, HUGE, -HUGE, -2 ** 63],
               c.c_size_t: [HUGE, 2 ** 64 - 1], c.c_uint64: [HUGE, 2 ** 64 - 1],
               c.c_float: [float("nan"), float("inf"), -1.0],
               c.c_double: [float("nan"), float("inf"), -1.0]}
BAD_TEXTS = [None, b"", b"no such thing", b"k=,v", b"\xff\xfe", b"k=q8_0,rot=on," * 50, b"exl3:99"]
# What a function may do without, and numbers that are taken as they are.
MAY_BE_NULL = {"length", "text", "top", "bound_used", "windows", "base_words", "progress", "user",
               "streams", "lse", "backend", "hidden", "bytes", "positions", "tokens", "name", "visit",
               "visitor"}


def bad_structs(one):
    """Copies of a struct, each with one field that is bad: (field, copy)."""
    for field, kind in one._fields_:
        values = BAD_NUMBERS.get(kind, [])
        if kind is c.c_void_p:
            values = [None]
        for value in values:
            copy = type(one).from_buffer_copy(one)
            setattr(copy, field, value)
            yield f"{field} {value}", copy
        if isinstance(getattr(one, field), c.Array):
            for i in range(len(getattr(one, field))):
                for value in BAD_NUMBERS[c.c_int64] + [0, 3]:
                    copy = type(one).from_buffer_copy(one)
                    getattr(copy, field)[i] = value
                    yield f"{field}[{i}] {value}", copy
        if isinstance(getattr(one, field), c.Structure):
            for name, part in bad_structs(getattr(one, field)):
                copy = type(one).from_buffer_copy(one)
                setattr(copy, field, part)
                yield f"{field}.{name}", copy


def bad_values(parameter, good):
    if parameter.kind == "number":
        return [(str(v), v) for v in BAD_NUMBERS[parameter.type]]
    if parameter.kind == "text" and parameter.name != "text":  # that one has a length
        return [(repr(v), v) for v in BAD_TEXTS]
    null = [("null", None)]
    if parameter.kind == "struct" and isinstance(good, c.Structure):
        return null + list(bad_structs(good))
    return null
