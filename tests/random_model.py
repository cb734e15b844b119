"""A tiny random model, built key by key and tensor by tensor into a GgufFile. Its name is its seed:
weights are drawn in the order of the calls, so that a name's weights are the same everywhere.

Keys are loud in four channels a head, so that rotation has something to do; matrices keep the size
of what they multiply, routers spread their logits by 2."""
import zlib

import numpy as np

from gguf_file import ARRAY, BOOL, F32, I32, STRING, U32, GgufFile, Tensor
from numpy_blocks import pack
from small_vocabularies import byte_level

LOUD = 6.0
BEFORE = ("attn_norm", "ffn_norm")  # most architectures' norms before a layer's two blocks
GGML_TYPES = {"f32": 0, "mxfp4": 39}


def of_layer(value, layer):
    """A list is one value a layer."""
    return value[layer] if isinstance(value, list) else value


def loud_channels(n):
    """Of a key: two that are a pair of RoPE, two single ones."""
    return [3, 3 + n // 2, 17, n - 5]


class RandomModel:
    """L layers of width E, H query and K KV heads of Dk and Dv channels, F hidden channels."""

    def __init__(self, architecture, name, layers=2, width=128, heads=4, kv_heads=2, d=64, d_v=None,
                 hidden=192, context=2048, epsilon=1e-5, base=10000.0, vocabulary=byte_level,
                 pre="llama-bpe", n_rot=None, layer_norm=False):
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.file, self.architecture = GgufFile(), architecture
        self.layers, self.width, self.heads, self.kv_heads = layers, width, heads, kv_heads
        self.d, self.d_v, self.hidden = d, d_v or d, hidden
        self.n_experts, self.expert_hidden = 0, 0  # until expert_keys
        self.file.keys["general.architecture"] = (STRING, architecture)
        self.file.keys["general.name"] = (STRING, name)
        for key, value in vocabulary(pre).items():
            self.file.keys["tokenizer.ggml." + key] = value
        self.words = len(self.file.keys["tokenizer.ggml.tokens"][1][1])
        self.counts(context_length=context, embedding_length=width, block_count=layers,
                    vocab_size=self.words, feed_forward_length=hidden)
        self.counts(**{"attention.head_count": heads, "attention.head_count_kv": kv_heads,
                       "attention.key_length": d, "attention.value_length": self.d_v,
                       "rope.dimension_count": n_rot or d})
        norm = "epsilon" if layer_norm else "rms_epsilon"
        self.numbers(**{"rope.freq_base": base, f"attention.layer_norm_{norm}": epsilon})

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

    def flags(self, **values):
        for name, value in values.items():
            self.key(name, BOOL, value)

    def yarn(self, factor, original):
        self.key("rope.scaling.type", STRING, "yarn")
        self.numbers(**{"rope.scaling.factor": factor})
        self.counts(**{"rope.scaling.original_context_length": original})

    def expert_keys(self, experts, used, hidden=None, shared=None):
        """Without `hidden` an expert is as wide as feed_forward_length says."""
        self.n_experts, self.expert_hidden = experts, hidden or self.hidden
        self.counts(expert_count=experts, expert_used_count=used)
        if hidden is not None:
            self.counts(expert_feed_forward_length=hidden)
        if shared is not None:
            self.counts(expert_shared_feed_forward_length=shared)

    # Tensors [out][in].
    def put(self, name, values, kind="f32"):
        values = np.ascontiguousarray(values, dtype=np.float32)
        self.file.tensors[name] = Tensor(list(values.shape[::-1]), GGML_TYPES[kind],
                                         pack(kind, values).tobytes())

    def normal(self, name, shape, scale=None, gain=1.0, loud_rows=None, kind="f32"):
        """Numbers of spread `scale`, or of gain / sqrt(in): rows that multiply their input's size
        by `gain`."""
        values = self.random.standard_normal(shape)
        values *= gain * shape[-1] ** -0.5 if scale is None else scale
        values = values.astype(np.float32)
        if loud_rows is not None:
            values[loud_rows] *= LOUD
        self.put(name, values, kind)

    def around_1(self, name, n, scale=1.0):
        # Whoever drew normal numbers of shape [n] first, and then these, has the same stream.
        self.put(name, scale * (1 + 0.1 * self.random.standard_normal(n)))

    def weight(self, name, n):
        self.random.standard_normal(n)
        self.around_1(name, n)

    def loud(self, name, n, also=()):
        """A norm's weight with loud channels."""
        values = (1 + 0.1 * self.random.standard_normal(n)).astype(np.float32)
        values[[*loud_channels(n), *also]] *= LOUD
        self.put(name, values)

    # Parts of a model.
    def ends(self, tied=False, embedding=0.2, output=2.0):
        self.normal("token_embd.weight", (self.words, self.width), scale=embedding)
        self.weight("output_norm.weight", self.width)
        if not tied:
            self.normal("output.weight", (self.words, self.width), gain=output)

    def norms(self, layer, *names):
        for name in names:
            self.weight(f"blk.{layer}.{name}.weight", self.width)

    def attention(self, layer, bias=False, qk_norm=None, q_norm=1.0, q=1.5, k_bias=2.0, gate=False,
                  d=None, own_keys=True, own_values=True, also_loud=()):
        """gate: Q's rows are of each head a query and a gate. d: a head size unlike the model's.
        A layer without keys reads another layer's cache; without values, its keys are values."""
        prefix, kv_heads = f"blk.{layer}.attn_", of_layer(self.kv_heads, layer)
        d, d_v = d or self.d, d or self.d_v
        q_rows, k_rows, v_rows = self.heads * d, kv_heads * d, kv_heads * d_v
        self.normal(prefix + "q.weight", (q_rows * (2 if gate else 1), self.width), gain=q)
        if own_keys:
            loud_rows = [head * d + c for head in range(kv_heads) for c in loud_channels(d)]
            self.normal(prefix + "k.weight", (k_rows, self.width), loud_rows=loud_rows)
        if own_keys and own_values:
            self.normal(prefix + "v.weight", (v_rows, self.width))
        self.normal(prefix + "output.weight", (self.width, self.heads * d_v))
        if bias:
            self.normal(prefix + "q.bias", (q_rows,), scale=0.3)
            self.normal(prefix + "k.bias", (k_rows,), scale=k_bias)
            self.normal(prefix + "v.bias", (v_rows,), scale=0.3)
        if qk_norm is not None:
            one_head = qk_norm == "heads"
            self.around_1(prefix + "q_norm.weight", d if one_head else q_rows, q_norm)
            if own_keys:
                self.loud(prefix + "k_norm.weight", d if one_head else k_rows, also_loud)

    def feed_forward(self, layer, fused=False, hidden=None, suffix=""):
        prefix, hidden = f"blk.{layer}.ffn_", hidden or of_layer(self.hidden, layer)
        if not fused:
            self.normal(f"{prefix}gate{suffix}.weight", (hidden, self.width))
        self.normal(f"{prefix}up{suffix}.weight", (hidden * (2 if fused else 1), self.width))
        self.normal(f"{prefix}down{suffix}.weight", (self.width, hidden))

    def shared_expert(self, layer, hidden, gated=False):
        self.feed_forward(layer, hidden=hidden, suffix="_shexp")
        if gated:
            self.normal(f"blk.{layer}.ffn_gate_inp_shexp.weight", (self.width,))

    def experts(self, layer, bias=False, choice_bias=False, fused=False, kind="f32"):
        """A router and what it chooses from. choice_bias: chooses, but weighs nothing."""
        prefix, n, hidden, width = f"blk.{layer}.", self.n_experts, self.expert_hidden, self.width
        self.normal(prefix + "ffn_gate_inp.weight", (n, width), gain=2.0)
        if bias:
            self.normal(prefix + "ffn_gate_inp.bias", (n,), scale=0.2)
        if choice_bias:
            self.normal(prefix + "exp_probs_b.bias", (n,), scale=0.2)
        matrices = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
        if fused:
            matrices = {"gate_up": (2 * hidden, width), "down": (width, hidden)}
        for name, (rows, columns) in matrices.items():
            self.normal(f"{prefix}ffn_{name}_exps.weight", (n, rows, columns), kind=kind,
                        gain=0.5 if name == "down" else 1.0)
            if bias:
                self.normal(f"{prefix}ffn_{name}_exps.bias", (n, rows), scale=0.2)


def llama3_factors(n):
    factors = np.ones(n, np.float32)
    factors[n // 3:2 * n // 3] = np.linspace(1, 8, 2 * n // 3 - n // 3)
    factors[2 * n // 3:] = 8
    return factors
