"""A whole engine in numpy for the judge to judge: a tiny gpt-oss, its operations numpy_engine.py's, which
can make every known mistake. It rotates as llama.cpp does, or with signs.

FakeEngine is a Python adapter; fake_server.py speaks llama-server's HTTP in front of it.

Usage: tests/fake_engine.py MODEL.gguf    writes the model that shows every mistake"""
import math
import os
import sys

import numpy as np

from gguf_file import GgufFile
from numpy_blocks import BYTES, pack
from numpy_engine import MISTAKES, Engine as Operations
from random_model import RandomModel

# Beyond what happens to rows: what happens around them. Of these caches any file is loaded.
LOAD_ANY = ("restores-any", "restores-one-row", "restores-nan")
FAULTS = (*MISTAKES, *LOAD_ANY, "switch-ignored", "tokens-without-bos", "one-by-one-late",
          "restores-nothing", "breaks-when-restoring", "dies-when-shifting", "not-a-number")


def rms(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def write_model(path):
    """A model on which every known mistake shows but that of the softcap: heads of 128, two for each
    KV head, windows of 16, sinks."""
    model = RandomModel("gpt-oss", "judged", layers=2, width=64, d=128, hidden=32, base=150000.0,
                        context=256, pre="gpt-4o")
    model.counts(**{"attention.sliding_window": 16})
    model.expert_keys(4, 2, 32)
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, "attn_norm", "post_attention_norm")
        model.attention(layer, bias=True, q=1.0, k_bias=0.5)
        model.normal(f"blk.{layer}.attn_output.bias", (model.width,), scale=0.2)
        model.normal(f"blk.{layer}.attn_sinks.weight", (model.heads,), scale=2.0)
        model.experts(layer, bias=True)
    model.file.write(path)


class FakeModel:
    """gpt-oss without YaRN: windows in every other layer, sinks, experts. One sequence."""

    def __init__(self, path, k, v, rotation, signs=None, fault=None):
        if fault not in (None, *FAULTS):
            raise ValueError(f"FAKE_FAULT: expected one of {', '.join(FAULTS)}, found '{fault}'")
        file = GgufFile.read(path)
        self.keys = {name.partition(".")[2]: value for name, (_, value) in file.keys.items()}
        self.w = {name: np.frombuffer(t.data, np.float32)[:math.prod(t.extents)].reshape(
            t.extents[::-1]) for name, t in file.tensors.items()}
        self.epsilon = self.keys["attention.layer_norm_rms_epsilon"]
        self.layers, self.d = self.keys["block_count"], self.keys["attention.key_length"]
        self.kinds, self.fault = (k, v), fault
        if fault == "switch-ignored":
            rotation = True
        self.run = Operations(fault if fault in MISTAKES else None)
        seed = "" if signs is None else f":{signs}"
        block = self.d & -self.d
        on = [rotation is not False and kind in BYTES for kind in (k, v)]
        self.rotations = (f"{block}{seed}" if on[0] else "none", f"64{seed}" if on[1] else "none")
        self.stored = "none" if fault == "k-not-rotated" else self.rotations[0]
        self.clear()

    def clear(self):
        self.position = np.zeros(0, np.int64)
        self.cache = [[None, None] for _ in range(self.layers)]

    def mul(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w.get(name + ".bias", 0)

    def turn(self, positions):
        n = self.keys["rope.dimension_count"]
        angle = positions[:, None] * self.keys["rope.freq_base"] ** (-2.0 * np.arange(n // 2) / n)
        return np.stack([np.cos(angle), np.sin(angle)], -1)

    def case(self, layer):
        window = 0 if layer % 2 else self.keys["attention.sliding_window"]
        return {"k": self.kinds[0], "v": self.kinds[1], "rot-k": self.rotations[0],
                "rot-v": self.rotations[1], "v-in-k": 0, "Dv": self.d, "scale": self.d ** -0.5,
                "softcap": 0, "window": window, "chunked": 0, "sinks": 1, "lse": 0, "from": 0,
                "to": 0, "near": 0, "far": 0}

    def attend(self, layer, x, positions):
        prefix = f"blk.{layer}.attn_"
        q, k, v = (self.mul(x, prefix + name).reshape(len(x), -1, self.d) for name in "qkv")
        table = {"table": self.turn(positions), "row": np.arange(len(x))}
        q, k = (self.run.rope({"pairs": "neox"}, {"src": y, **table})["dst"] for y in (q, k))
        cache = self.cache[layer]
        for side, rows, rotation in (0, k, self.stored), (1, v, self.rotations[1]):
            packed = pack(self.kinds[side], self.run.rotate(rows, rotation))
            cache[side] = packed if cache[side] is None else np.concatenate([cache[side], packed])
        found = self.run.attention(self.case(layer), {
            "q": q, "k_cache": cache[0][None], "v_cache": cache[1][None],
            "position": self.position[None], "q_stream": np.zeros(len(x), int),
            "q_position": positions, "sinks": self.w[prefix + "sinks.weight"]})["dst"]
        return self.mul(found.reshape(len(x), -1), prefix + "output")

    def experts(self, layer, x):
        prefix, count = f"blk.{layer}.ffn_", self.keys["expert_used_count"]
        case = {"gating": "softmax_chosen", "groups": 1, "used": 1, "A": count, "normalise": 0,
                "scale": 0, "T": len(x), "shared": 0, "ids": "tokens", "bias": 1, "type": "f32",
                "act": "swiglu_oai"}
        chosen = self.run.route(case, {"logits": self.mul(x, prefix + "gate_inp")})

        def product(name, src):
            return self.run.expert_matmul(case, {
                "src": src, "id": chosen["id"], "weight": self.w[f"{prefix}{name}_exps.weight"],
                "bias": self.w[f"{prefix}{name}_exps.bias"]})["dst"]

        gate, up = product("gate", x[:, None]), product("up", x[:, None])
        down = product("down", self.run.act_mul(case, {"gate": gate, "up": up})["dst"])
        return self.run.expert_sum(case, {"src": down, "weight": chosen["weight"]})["dst"]

    def read(self, tokens):
        """Rows of ln p behind these tokens, which follow what was read."""
        first = int(self.position.max()) + 1 if len(self.position) else 0
        positions = first + np.arange(len(tokens))
        if self.fault == "one-by-one-late" and len(tokens) == 1 and first % 8 == 7:
            positions += 1  # a token at a time, every eighth stands one too far
        self.position = np.concatenate([self.position, positions])
        x = self.w["token_embd.weight"][tokens].astype(np.float64)
        for layer in range(self.layers):
            norm = [self.w[f"blk.{layer}.{name}.weight"]
                    for name in ("attn_norm", "post_attention_norm")]
            x = x + self.attend(layer, rms(x, norm[0], self.epsilon), positions)
            x = x + self.experts(layer, rms(x, norm[1], self.epsilon))
        logits = rms(x, self.w["output_norm.weight"], self.epsilon) @ self.w["output.weight"].T
        logits -= logits.max(-1, keepdims=True)
        rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return rows * np.nan if self.fault == "not-a-number" else rows

    def shift(self, keep, drop):
        if self.fault == "dies-when-shifting":
            os.abort()
        moved = self.position >= keep + drop
        turn = -drop * (-1 if self.fault == "shift-backwards" else 1)
        inputs = {"table": self.turn(np.array([turn])), "row": np.where(moved, 0, -1)[None]}
        around = "none" if self.fault == "shift-rotated" else self.stored
        case = {"k": self.kinds[0], "rot-k": around, "pairs": "neox"}
        for layer in self.cache:
            if self.fault != "shift-dropped":
                layer[0] = self.run.kv_shift(case, {"k_cache": layer[0][None], **inputs})["k_cache"][0]
        self.position = np.where(moved, self.position - drop, self.position)
        kept = ~((np.arange(len(moved)) >= keep) & (np.arange(len(moved)) < keep + drop))
        self.position = self.position[kept]
        self.cache = [[rows[kept] for rows in layer] for layer in self.cache]

    def save(self, path):
        rows = {f"{layer}{side}": self.cache[layer][side]
                for layer in range(self.layers) for side in (0, 1)}
        with open(path, "wb") as file:
            np.savez(file, position=self.position, rotations=self.rotations, **rows)

    def load(self, path):
        if self.fault == "breaks-when-restoring":
            raise KeyError("no such part")
        with np.load(path) as file:
            if tuple(file["rotations"]) != self.rotations and self.fault not in LOAD_ANY:
                raise ValueError(f"the file's rotations are {' and '.join(file['rotations'])}, "
                                 f"this cache's are {' and '.join(self.rotations)}")
            if self.fault == "restores-nothing":
                return
            self.position = file["position"]
            self.cache = [[file[f"{layer}{side}"] for side in (0, 1)]
                          for layer in range(self.layers)]


class FakeEngine:
    """A Python adapter; its fault is FAKE_FAULT of the environment."""

    def open(self, model, k, v, rotation, signs, context, folder):
        self.fault, self.path = os.environ.get("FAKE_FAULT") or None, model
        self.model = FakeModel(model, k, v, rotation, signs, self.fault)
        return {"name": "a fake", "version": "1"}

    def tokenize(self, text):
        # Its tokens are rotkv's but for a fault: that part is no fake of the way through a cache.
        import rotkv
        tokens = rotkv.Model(self.path).tokenize(text).tolist()
        return tokens[1:] if self.fault == "tokens-without-bos" else tokens

    def logprobs(self, tokens, one_by_one=False):
        self.model.clear()
        if one_by_one:
            return np.concatenate([self.model.read([token]) for token in tokens])
        return self.model.read(tokens)

    def predict(self, tokens, at, one_by_one=False):
        return self.logprobs(tokens[:at[-1] + 1], one_by_one)[at]

    def shift(self, tokens, keep, drop, next):
        self.logprobs(tokens)
        self.model.shift(keep, drop)
        return np.concatenate([self.model.read([token]) for token in next])

    def save(self, tokens, file):
        self.logprobs(tokens)
        self.model.save(file)

    def restore(self, file, tokens, next):
        self.model.clear()
        self.model.load(file)
        rows = np.concatenate([self.model.read([token]) for token in next])
        if self.fault == "restores-nan":
            rows = rows * np.nan
        return rows[:1] if self.fault == "restores-one-row" else rows


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_model(sys.argv[1])
