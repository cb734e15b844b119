"""Tiny random models of architectures, as GGUF files: what another engine computed of them is the
test's data. One function an architecture; a model's name is its seed, so that its weights are the
same everywhere.

Keys are loud in four channels a head, so that rotation has something to do; queries are scaled so
that scores spread by 1 to 3; windows and YaRN's original contexts are short enough for 256 tokens
to feel them; the vocabulary has some 300 words.

Usage: tests/random_models.py FOLDER [NAME...]"""
import os
import sys
import zlib

import numpy as np

from gguf_file import ARRAY, BOOL, F32, I32, STRING, U32, GgufFile, Tensor

LOUD = 6.0


# Vocabularies: [words], [types], and keys of their own.

def byte_letters():
    """The letter that byte-level vocabularies write for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, others = {b: chr(b) for b in plain}, [b for b in range(256) if b not in plain]
    letters.update({b: chr(256 + i) for i, b in enumerate(others)})
    return letters


def byte_level(pre):
    letters = byte_letters()
    merges = ["t h", "th e", "i n", "a n", "e r", "_ t", "_ a", "o n", "r e", "_t he", "an d",
              "_ and"]
    merges = [merge.replace("_", letters[ord(" ")]) for merge in merges]
    words = [letters[b] for b in range(256)] + [merge.replace(" ", "") for merge in merges]
    types = [1] * len(words) + [3, 3]
    words += ["<s>", "</s>"]
    return {"model": (STRING, "gpt2"), "pre": (STRING, pre),
            "tokens": (ARRAY, (STRING, words)), "token_type": (ARRAY, (I32, types)),
            "merges": (ARRAY, (STRING, merges)), "bos_token_id": (U32, len(words) - 2),
            "eos_token_id": (U32, len(words) - 1), "add_bos_token": (BOOL, True)}


def sentence_piece(_pre):
    pieces = ["_", *"etaoinsrhldcumfpgwyb,.vk", "_t", "_a", "he", "in", "re", "on", "_the", "er",
              "an", "nd", "_and", "_o", "_of", "ed", "ing"]
    pieces = [piece.replace("_", "\u2581") for piece in pieces]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))]
    return {"model": (STRING, "llama"), "pre": (STRING, "default"),
            "tokens": (ARRAY, (STRING, words)), "scores": (ARRAY, (F32, scores)),
            "token_type": (ARRAY, (I32, types)), "bos_token_id": (U32, 1), "eos_token_id": (U32, 2),
            "unknown_token_id": (U32, 0), "add_bos_token": (BOOL, True),
            "add_space_prefix": (BOOL, False)}


class RandomModel:
    """L layers of width E, H query and K KV heads of Dk and Dv channels, F hidden channels."""

    def __init__(self, architecture, name, layers=2, width=128, heads=4, kv_heads=2, d=64, d_v=None,
                 hidden=192, context=2048, epsilon=1e-5, base=10000.0, vocabulary=byte_level,
                 pre="llama-bpe", n_rot=None, layer_norm=False):
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.file, self.architecture = GgufFile(), architecture
        self.layers, self.width, self.heads, self.kv_heads = layers, width, heads, kv_heads
        self.d, self.d_v, self.hidden = d, d_v or d, hidden
        self.file.keys["general.architecture"] = (STRING, architecture)
        self.file.keys["general.name"] = (STRING, name)
        self.counts(context_length=context, embedding_length=width, block_count=layers)
        self.counts(**{"feed_forward_length": hidden, "attention.head_count": heads,
                       "attention.head_count_kv": kv_heads, "attention.key_length": d,
                       "attention.value_length": self.d_v,
                       "rope.dimension_count": n_rot or d})
        norm = "epsilon" if layer_norm else "rms_epsilon"
        self.numbers(**{"rope.freq_base": base, f"attention.layer_norm_{norm}": epsilon})
        for key, value in vocabulary(pre).items():
            self.file.keys["tokenizer.ggml." + key] = value
        self.words = len(self.file.keys["tokenizer.ggml.tokens"][1][1])

    # Keys: a list is one value a layer.
    def key(self, name, kind, value):
        listed = isinstance(value, list)
        self.file.keys[f"{self.architecture}.{name}"] = (
            (ARRAY, (kind, value)) if listed else (kind, value))

    def counts(self, **values):
        for name, value in values.items():
            self.key(name, I32 if isinstance(value, list) else U32, value)

    def numbers(self, **values):
        for name, value in values.items():
            self.key(name, F32, value)

    def yarn(self, factor, original):
        self.key("rope.scaling.type", STRING, "yarn")
        self.numbers(**{"rope.scaling.factor": factor})
        self.counts(**{"rope.scaling.original_context_length": original})

    # Tensors [out][in].
    def put(self, name, values):
        values = np.ascontiguousarray(values, dtype=np.float32)
        self.file.tensors[name] = Tensor(list(values.shape[::-1]), 0, values.tobytes())

    def normal(self, name, shape, scale=None, loud_rows=None):
        values = self.random.standard_normal(shape)
        values = (values * (scale if scale is not None else shape[-1] ** -0.5)).astype(np.float32)
        if loud_rows is not None:
            values[loud_rows] *= LOUD
        self.put(name, values)

    def around_1(self, name, n, scale=1.0):
        # Whoever drew normal numbers of shape [n] first, and then these, has the same stream.
        self.put(name, scale * (1 + 0.1 * self.random.standard_normal(n)))

    def weight(self, name, n):
        self.random.standard_normal(n)
        self.around_1(name, n)

    def loud(self, name, n):
        """A norm's weight with four loud channels: two that are a pair of RoPE, two single ones."""
        values = (1 + 0.1 * self.random.standard_normal(n)).astype(np.float32)
        values[[3, 3 + n // 2, 17, n - 5]] *= LOUD
        self.put(name, values)

    def loud_keys(self):
        return np.array([head * self.d + channel for head in range(self.kv_heads)
                         for channel in (3, 3 + self.d // 2, 17, self.d - 5)])

    def ends(self, tied=False, embedding=0.2, output=2.0):
        self.normal("token_embd.weight", (self.words, self.width), scale=embedding)
        self.weight("output_norm.weight", self.width)
        if not tied:
            self.normal("output.weight", (self.words, self.width), scale=output * self.width ** -0.5)

    def norms(self, layer, *names):
        for name in names:
            self.weight(f"blk.{layer}.{name}.weight", self.width)

    def attention(self, layer, bias=False, qk_norm=None, q_norm=1.0, q=1.5, k_bias=2.0):
        prefix, q_rows = f"blk.{layer}.attn_", self.heads * self.d
        k_rows, v_rows = self.kv_heads * self.d, self.kv_heads * self.d_v
        self.normal(prefix + "q.weight", (q_rows, self.width), scale=q * self.width ** -0.5)
        self.normal(prefix + "k.weight", (k_rows, self.width), loud_rows=self.loud_keys())
        self.normal(prefix + "v.weight", (v_rows, self.width))
        self.normal(prefix + "output.weight", (self.width, self.heads * self.d_v))
        if bias:
            self.normal(prefix + "q.bias", (q_rows,), scale=0.3)
            self.normal(prefix + "k.bias", (k_rows,), scale=k_bias)
            self.normal(prefix + "v.bias", (v_rows,), scale=0.3)
        if qk_norm is not None:
            one_head = qk_norm == "heads"
            self.around_1(prefix + "q_norm.weight", self.d if one_head else q_rows, q_norm)
            self.loud(prefix + "k_norm.weight", self.d if one_head else k_rows)

    def feed_forward(self, layer, fused=False):
        prefix, rows = f"blk.{layer}.ffn_", self.hidden * (2 if fused else 1)
        if not fused:
            self.normal(prefix + "gate.weight", (self.hidden, self.width))
        self.normal(prefix + "up.weight", (rows, self.width))
        self.normal(prefix + "down.weight", (self.width, self.hidden))

    def dense_layers(self, *norms, fused=False, **attention):
        for layer in range(self.layers):
            self.norms(layer, *norms)
            self.attention(layer, **attention)
            self.feed_forward(layer, fused)
        return self


BEFORE = ("attn_norm", "ffn_norm")
AFTER = ("post_attention_norm", "post_ffw_norm")


def llama3_factors(n):
    factors = np.ones(n, np.float32)
    factors[n // 3:2 * n // 3] = np.linspace(1, 8, 2 * n // 3 - n // 3)
    factors[2 * n // 3:] = 8
    return factors


def smollm3(name):
    model = RandomModel("smollm3", name, layers=4, d=128, kv_heads=1, base=5e6, epsilon=1e-6)
    model.ends(tied=True)
    return model.dense_layers(*BEFORE, q=1.0)


def ernie4_5(name):
    model = RandomModel("ernie4_5", name, d=128, base=500000.0, vocabulary=sentence_piece)
    model.ends(tied=True)
    return model.dense_layers(*BEFORE, q=1.0)


def mistral3(name):
    model = RandomModel("mistral3", name, d=128, base=1e6, pre="tekken")
    model.yarn(4.0, 64)
    model.numbers(**{"rope.scaling.yarn_log_multiplier": 1.0, "rope.scaling.yarn_beta_fast": 32.0,
                     "rope.scaling.yarn_beta_slow": 1.0, "attention.temperature_scale": 0.1})
    model.ends()
    return model.dense_layers(*BEFORE)


def olmo2(name, window=False):
    model = RandomModel("olmo2", name, layers=4 if window else 2, width=256, base=5e5, epsilon=1e-6,
                        pre="dbrx")
    if window:
        model.counts(**{"attention.sliding_window": 64})
        model.key("attention.sliding_window_pattern", BOOL, [True, True, True, False])
        model.yarn(8.0, 64)
    model.ends(embedding=0.8)
    return model.dense_layers(*AFTER, qk_norm="all", q_norm=0.5)


def olmo3(name):
    return olmo2(name, window=True)


def exaone4(name):
    model = RandomModel("exaone4", name, width=256, base=1e6, pre="exaone4")
    model.ends(embedding=0.8)
    model.dense_layers(*AFTER, qk_norm="heads", q_norm=0.5)
    model.put("rope_freqs.weight", llama3_factors(32))
    return model


def exaone4_64(name):
    """64 layers: windows in three of four, no RoPE in the fourth."""
    model = RandomModel("exaone4", name, layers=64, width=64, heads=1, kv_heads=1, hidden=64,
                        base=1e6, pre="exaone4")
    model.counts(**{"attention.sliding_window": 64})
    model.ends(embedding=3.0)
    model.dense_layers(*AFTER, qk_norm="heads", q_norm=0.5)
    model.put("rope_freqs.weight", llama3_factors(32))
    return model


def hunyuan_dense(name):
    model = RandomModel("hunyuan-dense", name, d=128, base=11158840.0, pre="hunyuan-dense")
    model.ends(tied=True)
    return model.dense_layers(*BEFORE, qk_norm="heads", q_norm=0.5)


def glm4(name):
    model = RandomModel("glm4", name, d=128, n_rot=64, pre="glm4")
    model.ends()
    return model.dense_layers("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm",
                              fused=True, bias=True, q=0.7, k_bias=0.5)


def granite(name):
    model = RandomModel("granite", name, pre="refact")
    model.numbers(**{"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.15,
                     "logit_scale": 4.0})
    model.ends(embedding=0.03, output=8.0)
    return model.dense_layers(*BEFORE)


def cohere2(name):
    model = RandomModel("cohere2", name, layers=4, width=256, base=50000.0, pre="command-r",
                        layer_norm=True)
    model.key("rope.scaling.type", STRING, "none")
    model.counts(**{"attention.sliding_window": 64})
    model.numbers(logit_scale=0.25)
    model.ends(tied=True, embedding=0.5)
    return model.dense_layers("attn_norm")


MODELS = {make.__name__.replace("_64", "-64").replace("_dense", "-dense"): make
          for make in (smollm3, ernie4_5, mistral3, olmo2, olmo3, exaone4, exaone4_64,
                       hunyuan_dense, glm4, granite, cohere2)}


def write(folder, name):
    path = os.path.join(folder, name + ".gguf")
    MODELS[name](name).file.write(path)
    return path


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(name not in MODELS for name in sys.argv[2:]):
        sys.exit(f"{__doc__}\nNames: {' '.join(MODELS)}")
    for model_name in sys.argv[2:] or MODELS:
        print(write(sys.argv[1], model_name))
