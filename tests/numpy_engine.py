#!/usr/bin/env python3
"""An engine in numpy, as small as one can be, that takes rotkv's cases: numpy_engine.py DIR

What to copy for another engine: main() reads index.json and, for each operation the engine has,
loads the inputs and writes the results beside them. The rest is an engine that knows f32, f16 and
q8_0, rotates by a matrix, and has no idea how rotkv does any of this.

--wrong-sign plants a mistake: the last row of the Hadamard matrix is negated.
"""
import argparse
import json
import os
import numpy as np


def matrix(n, wrong_sign=False):
    """Sylvester's H of size n, orthogonal and symmetric."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    if wrong_sign:
        h[-1] *= -1
    return h / np.sqrt(n)


def signs(seed, n):
    """-1 where bit 63 of the i-th output of SplitMix64 is set."""
    mask, result = (1 << 64) - 1, []
    for i in range(n):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        result.append(-1.0 if (z ^ (z >> 31)) >> 63 else 1.0)
    return np.array(result)


class Engine:
    def __init__(self, wrong_sign):
        self.wrong_sign = wrong_sign

    def rotate(self, x, rotation, inverse=False):
        """rotation: "none", "64" or "64:7" (block and seed of the signs)."""
        if rotation == "none":
            return x
        block, _, seed = str(rotation).partition(":")
        n = int(block)
        sign = signs(int(seed), x.shape[-1]) if seed else np.ones(x.shape[-1])
        if not inverse:
            x = x * sign
        parts = x.reshape(x.shape[:-1] + (x.shape[-1] // n, n))
        y = (parts @ matrix(n, self.wrong_sign).T).reshape(x.shape)
        return y * sign if inverse else y

    def hadamard(self, fields, inputs):
        x = unpack(fields["type"], inputs["src"])
        return {"dst": pack(fields["type"], self.rotate(x, fields["rot"], fields["inverse"] == 1))}

    def rope(self, fields, inputs):
        x, n = inputs["src"].astype(np.float64), fields["n_rot"]
        turn = inputs["table"][inputs["row"]][:, None].astype(np.float64)  # [T][1][n/2][2]
        c, s = turn[..., 0], turn[..., 1]
        i = np.arange(n // 2)
        a, b = (2 * i, 2 * i + 1) if fields["pairs"] == "norm" else (i, i + n // 2)
        y = x.copy()
        y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., a] * s + x[..., b] * c
        return {"dst": y}

    def quantize(self, fields, inputs):
        return {"dst": pack(fields["type"], inputs["src"])}

    def dequantize(self, fields, inputs):
        return {"dst": unpack(fields["type"], inputs["src"])}

    def kv_store(self, fields, inputs):
        results = {}
        for side in "kv":
            cache = inputs[side + "_cache"].copy()
            rows = self.rotate(inputs[side].astype(np.float64), fields["rot-" + side])
            packed = pack(fields[side], rows.astype(np.float32))
            for token, (stream, cell) in enumerate(zip(inputs["stream"], inputs["cell"])):
                if cell >= 0:
                    cache[stream, cell] = packed[token]
            results[side + "_cache"] = cache
        return results

    def attention(self, fields, inputs):
        q = self.rotate(inputs["q"].astype(np.float64), fields["rot-k"])
        k = unpack(fields["k"], inputs["k_cache"])
        v = unpack(fields["v"], inputs["v_cache"])
        result = np.zeros(q.shape[:2] + v.shape[-1:])
        lse = np.full(q.shape[:2], -np.inf)
        for t, (stream, at) in enumerate(zip(inputs["q_stream"], inputs["q_position"])):
            position = inputs["position"][stream]
            seen = (position >= 0) & (position <= at)
            if fields["window"]:
                seen &= at - position < fields["window"]
            for what, first, end in (position, "from", "to"), (at - position, "near", "far"):
                seen &= (what >= fields[first]) & (what < (fields[end] or np.inf))
            for head in range(q.shape[1]):
                kv = head * k.shape[2] // q.shape[1]
                score = k[stream, seen, kv] @ q[t, head] / np.sqrt(q.shape[-1])
                if seen.any():
                    p = np.exp(score - score.max())
                    lse[t, head] = score.max() + np.log(p.sum())
                    result[t, head] = p / p.sum() @ v[stream, seen, kv]
        result = {"dst": self.rotate(result, fields["rot-v"], inverse=True)}
        return {**result, "lse": lse} if fields["lse"] else result


def pack(kind, x):
    """f32 [...][D] to the bytes of a row; f32 stays what it is."""
    if kind == "f32":
        return x
    if kind == "f16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).view(np.uint8)
    blocks = x.reshape(x.shape[:-1] + (x.shape[-1] // 32, 32)).astype(np.float32)  # q8_0
    d = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    scaled = blocks * np.divide(np.float32(1), d, out=np.zeros_like(d), where=d > 0)
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    packed = np.concatenate([d.astype(np.float16).view(np.uint8), codes.view(np.uint8)], -1)
    return packed.reshape(x.shape[:-1] + (x.shape[-1] // 32 * 34,))


def unpack(kind, raw):
    if kind == "f32":
        return raw.astype(np.float64)
    if kind == "f16":
        return raw.view(np.float16).astype(np.float64)
    blocks = raw.reshape(raw.shape[:-1] + (-1, 34))
    d = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float64)
    codes = np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    return (d * codes).reshape(raw.shape[:-1] + (-1,))


def known(case):
    """What this engine does not have, it leaves out; `check` counts it as without results."""
    fields = case["fields"]
    types = [fields[key] for key in ("type", "k", "v") if key in fields]
    asks = [fields.get(key) for key in ("sinks", "softcap", "v-in-k")]
    return (hasattr(Engine, case["op"]) and set(types) <= {"f32", "f16", "q8_0"}
            and not any(asks) and fields.get("values") not in ("inf", "nan", "tiny", "huge")
            and not (case["op"] == "dequantize" and fields["values"] == "bits")
            and fields.get("precision") != "f16" and fields.get("loud", 1) == 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--wrong-sign", action="store_true")
    flags = parser.parse_args()
    engine = Engine(flags.wrong_sign)
    with open(os.path.join(flags.folder, "index.json"), encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    done = 0
    for case in filter(known, cases):
        tensors = {tensor["name"]: tensor for tensor in case["tensors"]}
        inputs = {name: np.load(os.path.join(flags.folder, tensor.get("before", tensor["file"])))
                  for name, tensor in tensors.items() if tensor["role"] != "output"}
        for name, result in getattr(engine, case["op"])(case["fields"], inputs).items():
            kind = {"f32": np.float32, "f64": np.float64, "i32": np.int32}.get(
                tensors[name]["type"], np.uint8)
            np.save(os.path.join(flags.folder, tensors[name]["file"]), result.astype(kind))
        done += 1
    print(f"{done} of {len(cases)} cases")


if __name__ == "__main__":
    main()
