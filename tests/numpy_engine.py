#!/usr/bin/env python3
"""An engine in numpy, as plain as one can be, that takes rotkv's cases: numpy_engine.py DIR

What to copy for another engine: answer() reads index.json and, for each operation, loads the inputs
and writes the results beside them. The rest is an engine that rotates by a matrix and computes in
f64, written from docs/10-testing-your-engine.md, with no idea how rotkv does any of this. It answers
every case that `rotkv-cases dump` writes; one that lacks something leaves those cases out, and
`check` counts them as without results.

--wrong-sign plants a mistake: the last row of the Hadamard matrix is negated. --mistake NAME plants
another one, of those that `rotkv-cases mistakes` lists.
"""
import argparse
import json
import os
import numpy as np

from numpy_blocks import pack, unpack


def matrix(n, mistake=None):
    """Sylvester's H of size n, orthogonal and symmetric."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    if mistake == "row-sign":
        h[-1] *= -1
    return h if mistake == "not-normalized" else h / np.sqrt(n)


def signs(seed, n):
    """-1 where bit 63 of the i-th output of SplitMix64 is set."""
    mask, result = (1 << 64) - 1, []
    for i in range(n):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        result.append(-1.0 if (z ^ (z >> 31)) >> 63 else 1.0)
    return np.array(result)


def turned(x, turn, pairs):
    """The first n_rot channels of x [...][D] by turn [...][n_rot / 2][2], cosines and sines."""
    c, s = turn[..., 0], turn[..., 1]
    n = 2 * c.shape[-1]
    i = np.arange(n // 2)
    a, b = (2 * i, 2 * i + 1) if pairs == "norm" else (i, i + n // 2)
    y = x.copy()
    y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., a] * s + x[..., b] * c
    return y


def log_sum_exp(x):
    top = x.max(-1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - np.where(np.isfinite(top), top, 0)).sum(-1)) + np.where(
            np.isfinite(top), top, 0)[..., 0]


MISTAKES = ("k-not-rotated", "q-not-rotated", "v-not-back", "v-back-by-k", "not-normalized", "row-sign",
            "strided-blocks", "signs-restarted", "signs-dropped", "shift-rotated", "shift-dropped",
            "shift-backwards", "scale-twice", "heads-modulo", "window-longer", "window-shorter",
            "self-unseen", "sinks-dropped", "softcap-dropped")


class Engine:
    """One method an operation: what index.json says of the case, and its inputs by name."""

    def __init__(self, mistake=None):
        self.mistake = mistake

    def has(self, mistake):
        return self.mistake == mistake

    def rotate(self, x, rotation, inverse=False, first=0):
        """rotation: "none", "64" or "64:7" (block and seed of the signs); first: the channel of
        the whole row at which x begins, for the signs."""
        if rotation == "none":
            return x
        block, _, seed = rotation.partition(":")
        n, d = int(block), x.shape[-1]
        sign = signs(int(seed), first + d)[first:] if seed else np.ones(d)
        if self.has("signs-restarted") and seed:
            sign = np.tile(signs(int(seed), n), d // n)
        if self.has("signs-dropped"):
            sign = np.ones(d)
        if not inverse:
            x = x * sign
        strided = self.has("strided-blocks")
        parts = x.reshape(x.shape[:-1] + ((n, d // n) if strided else (d // n, n)))
        parts = parts.swapaxes(-1, -2) if strided else parts
        with np.errstate(invalid="ignore"):
            y = parts @ matrix(n, self.mistake).T
        y = (y.swapaxes(-1, -2) if strided else y).reshape(x.shape)
        return y * sign if inverse else y

    def hadamard(self, case, inputs):
        x, f = unpack(case["type"], inputs["src"]), case
        return {"dst": pack(f["type"], self.rotate(x, f["rot"], f["inverse"] == 1))}

    def quantize(self, case, inputs):
        return {"dst": pack(case["type"], inputs["src"])}

    def dequantize(self, case, inputs):
        return {"dst": unpack(case["type"], inputs["src"])}

    def rope(self, case, inputs):
        turn = inputs["table"][inputs["row"]][:, None]  # [T][1][n_rot / 2][2]
        return {"dst": turned(inputs["src"].astype(np.float64), turn, case["pairs"])}

    def turn(self, case, inputs):
        matrix = inputs["matrix"].astype(np.float64).repeat(case["H"] // case["K"], 0)
        form = "hij,thi->thj" if case["inverse"] == 1 else "hij,thj->thi"
        with np.errstate(invalid="ignore"):
            return {"dst": np.einsum(form, matrix, inputs["src"].astype(np.float64))}

    def merge(self, case, inputs):
        parts = np.stack([inputs["lse_a"], inputs["lse_b"]], -1).astype(np.float64)
        lse = log_sum_exp(parts)
        with np.errstate(invalid="ignore"):
            weight = np.nan_to_num(np.exp(parts - lse[..., None]))  # of nothing: 0
        return {"lse": lse,
                "dst": weight[..., :1] * inputs["a"] + weight[..., 1:] * inputs["b"]}

    def kv_store(self, case, inputs):
        results = {}
        for side in "k" if case["v-in-k"] else "kv":
            cache = inputs[side + "_cache"].copy()
            rows = self.rotate(inputs[side].astype(np.float64), case["rot-" + side])
            packed = pack(case[side], rows)
            for token, (stream, cell) in enumerate(zip(inputs["stream"], inputs["cell"])):
                if cell >= 0:
                    cache[stream, cell] = packed[token]
            results[side + "_cache"] = cache
        return results

    def kv_shift(self, case, inputs):
        cache, row = inputs["k_cache"].copy(), inputs["row"]
        keys = self.rotate(unpack(case["k"], cache[row >= 0]), case["rot-k"], inverse=True)
        keys = turned(keys, inputs["table"][row[row >= 0]][:, None], case["pairs"])
        cache[row >= 0] = pack(case["k"], self.rotate(keys, case["rot-k"]))
        return {"k_cache": cache}

    def path(self, case, inputs):
        """Rows in, output out: an engine's own cache lies between."""
        bare = self.has("k-not-rotated")
        k_rotation = "none" if bare else case["rot-k"]
        k = pack(case["k"], self.rotate(inputs["k"].astype(np.float64), k_rotation))
        if case["shift"] and not self.has("shift-dropped"):
            row, turn = inputs["row"], inputs["table"].astype(np.float64)
            if self.has("shift-backwards"):
                turn[..., 1] *= -1
            around = "none" if self.has("shift-rotated") else k_rotation
            keys = self.rotate(unpack(case["k"], k[row >= 0]), around, inverse=True)
            keys = turned(keys, turn[row[row >= 0]][:, None], case["pairs"])
            k[row >= 0] = pack(case["k"], self.rotate(keys, around))
        v = None if case["v-in-k"] else pack(case["v"], self.rotate(
            inputs["v"].astype(np.float64), case["rot-v"]))
        stored = {"k_cache": k[None], "v_cache": None if v is None else v[None]}
        return self.attention({**case, "lse": 0, "from": 0, "to": 0, "near": 0, "far": 0},
                              {**inputs, **stored, "position": inputs["position"][None],
                               "q_stream": np.zeros_like(inputs["q_position"])})

    @np.errstate(over="ignore", invalid="ignore")
    def conv_step(self, case, inputs):
        state, result = inputs["state"].astype(np.float64), []
        weight = inputs["weight"].T.astype(np.float64)
        for u, stream in zip(inputs["src"], inputs["stream"]):
            window = np.concatenate([state[stream], u[None]])
            state[stream], y = window[1:], (window * weight).sum(0)
            result.append(y / (1 + np.exp(-y)))
        return {"dst": np.reshape(result, inputs["src"].shape), "state": state}

    @np.errstate(over="ignore", invalid="ignore")
    def delta_step(self, case, inputs):
        x = {name: value.astype(np.float64) for name, value in inputs.items() if name != "stream"}
        gate = x["alpha"] + x["dt"]
        softplus = np.where(gate > 20, gate, np.log1p(np.exp(np.minimum(gate, 20))))
        keep, gain = np.exp(x["decay"] * softplus), 1 / (1 + np.exp(-x["beta"]))
        keep, gain = [y.astype(np.float32).astype(np.float64) for y in (keep, gain)]
        heads, key_heads, d = x["v"].shape[1], x["k"].shape[1], x["v"].shape[2]
        state, result = x["state"], np.zeros(x["v"].shape)
        for t, stream in enumerate(inputs["stream"]):
            for h in range(heads):
                of = h * key_heads // heads if case["heads"] == "grouped" else h % key_heads
                m, k = keep[t, h] * state[stream, h], x["k"][t, of]
                m = m + np.outer(gain[t, h] * (x["v"][t, h] - m @ k), k)
                state[stream, h] = m
                result[t, h] = m @ x["q"][t, of] / np.sqrt(d)
        return {"dst": result, "state": state}

    def attention(self, case, inputs):
        q = inputs["q"].astype(np.float64)
        if not self.has("q-not-rotated"):
            q = self.rotate(q, case["rot-k"])
        scale = case["scale"] ** 2 if self.has("scale-twice") else case["scale"]
        softcap = 0 if self.has("softcap-dropped") else case["softcap"]
        k, first = unpack(case["k"], inputs["k_cache"]), case.get("v-first", 0)
        v = (k[..., first:first + case["Dv"]] if case["v-in-k"]
             else unpack(case["v"], inputs["v_cache"]))
        result = np.zeros(q.shape[:2] + v.shape[-1:])
        lse = np.full(q.shape[:2], -np.inf)
        for t, (stream, at) in enumerate(zip(inputs["q_stream"], inputs["q_position"])):
            seen = self.seen(case, inputs["position"][stream], at)
            for head in range(q.shape[1]):
                kv = head * k.shape[2] // q.shape[1]
                if self.has("heads-modulo"):
                    kv = head % k.shape[2]
                score = k[stream, seen, kv] @ q[t, head] * scale
                if softcap:
                    score = softcap * np.tanh(score / softcap)
                sink = inputs["sinks"][head:head + 1] if case["sinks"] else []
                if self.has("sinks-dropped"):
                    sink = []
                lse[t, head] = log_sum_exp(np.concatenate([score, sink]))
                if seen.any():
                    if not np.isneginf(lse[t, head]):  # else scores of -inf alone: 0
                        result[t, head] = np.exp(score - lse[t, head]) @ v[stream, seen, kv]
        back = case["rot-v"]
        if self.has("v-back-by-k") and back != "none" and case["rot-k"] != "none":
            back = ":".join([case["rot-k"].partition(":")[0], *back.split(":")[1:]])
        if not self.has("v-not-back"):
            result = self.rotate(result, back, inverse=True, first=first)
        result = {"dst": result}
        return {**result, "lse": lse} if case["lse"] else result

    def seen(self, case, position, at):
        """The cells that a query at `at` sees."""
        seen = (position >= 0) & (position <= at)
        window = case["window"]
        if window:
            window += self.has("window-longer") - (window > 1 and self.has("window-shorter"))
        if window and case["chunked"]:
            seen &= position >= at // window * window
        elif window:
            seen &= at - position < window
        if self.has("self-unseen"):
            seen &= position != at
        for what, first, end in (position, "from", "to"), (at - position, "near", "far"):
            seen &= (what >= case[first]) & (what < (case[end] or np.inf))
        return seen

    def rms_norm(self, case, inputs):
        x = inputs["src"].astype(np.float64)
        mean = (x * x).mean(-1, keepdims=True)
        return {"dst": x / np.sqrt(mean + case["epsilon"]) * inputs.get("weight", 1)}

    def layer_norm(self, case, inputs):
        x = inputs["src"].astype(np.float64)
        x = x - x.mean(-1, keepdims=True)
        mean = (x * x).mean(-1, keepdims=True)
        return {"dst": x / np.sqrt(mean + case["epsilon"]) * inputs["weight"]}

    def scale(self, case, inputs):
        scale = np.float32(case["scale"])
        if case["factor"]:
            scale = (scale * inputs["factor"])[inputs["row"]][:, None, None]
        return {"dst": scale * inputs["src"]}

    def act_mul(self, case, inputs):
        x, up = inputs["gate"].astype(np.float64), inputs["up"].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if case["act"] == "swiglu_oai":
                x, up = np.minimum(x, 7), np.clip(up, -7, 7) + 1
            act = {"silu": lambda: x / (1 + np.exp(-x)),
                   "gelu_tanh": lambda: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) *
                                                             (x + 0.044715 * x ** 3))),
                   "sigmoid": lambda: 1 / (1 + np.exp(-x)),
                   "swiglu_oai": lambda: x / (1 + np.exp(-1.702 * x))}[case["act"]]()
            return {"dst": act * up}

    def add(self, case, inputs):
        return {"dst": inputs["a"] + inputs["b"]}

    def matmul(self, case, inputs):
        weight = unpack(case["type"], inputs["weight"])
        return {"dst": inputs["src"].astype(np.float64) @ weight.T}

    @staticmethod
    def largest(x, order, count):
        """The first `count` of `order` by x: NaN, then down, of equals the one that came first."""
        return order[np.lexsort((np.arange(len(order)), -x[order], ~np.isnan(x[order])))][:count]

    def chosen(self, case, p, z, bias):
        """Of one token: the experts' numbers."""
        score = p if bias is None else p + bias
        order, groups = (z if bias is None else score), case["groups"]
        there = np.arange(len(z)).reshape(groups, -1)
        best = np.array([score[self.largest(order, group, 2)].sum() for group in there])
        kept = self.largest(best, np.arange(groups), case["used"])
        return self.largest(order, there[np.sort(kept)].ravel(), case["A"])

    def route(self, case, inputs):
        z, soft = inputs["logits"].astype(np.float64), case["gating"] == "softmax_chosen"
        bias, rows = inputs.get("selection_bias"), range(len(z))
        with np.errstate(over="ignore", invalid="ignore"):
            p = {"softmax": lambda: np.exp(z - z.max(-1, keepdims=True, initial=-np.inf)),
                 "sigmoid": lambda: 1 / (1 + np.exp(-z)), "softmax_chosen": lambda: z,
                 "sqrt_softplus": lambda: np.sqrt(np.logaddexp(0, z))}[case["gating"]]()
            if case["gating"] == "softmax":
                p = p / p.sum(-1, keepdims=True)
            ids = np.array([self.chosen(case, p[t], z[t], bias) for t in rows], np.int64).reshape(
                len(z), case["A"])
            w = np.take_along_axis(p, ids, -1)
            if soft:
                w = np.exp(w - w.max(-1, keepdims=True, initial=-np.inf))
                w = w / w.sum(-1, keepdims=True)
            if case["normalise"]:
                w = w / np.maximum(w.sum(-1, keepdims=True), 2.0 ** -14)
            w = w * (case["scale"] or 1) * inputs.get("expert_scale", np.ones(z.shape[-1]))[ids]
        return {"id": ids, "weight": w}

    def expert_matmul(self, case, inputs):
        weight = unpack(case["type"], inputs["weight"]).astype(np.float64)
        shape = (case["T"], case["A"])
        src = np.broadcast_to(inputs["src"].astype(np.float64), shape + inputs["src"].shape[-1:])
        ids = np.broadcast_to(inputs["id"], shape)
        y = np.zeros(shape + weight.shape[1:2])
        for at in np.ndindex(*shape):
            y[at] = weight[ids[at]] @ src[at]
        return {"dst": y + inputs["bias"].astype(np.float64)[ids] if case["bias"] else y}

    def expert_sum(self, case, inputs):
        with np.errstate(over="ignore", invalid="ignore"):
            return {"dst": (inputs["weight"].astype(np.float64)[..., None] *
                            inputs["src"].astype(np.float64)).sum(1)}

    def embed(self, case, inputs):
        return {"dst": case["scale"] * unpack(case["type"], inputs["weight"])[inputs["token"]]}

    def logits_of(self, case, inputs, hidden="hidden"):
        y = inputs[hidden].astype(np.float64) @ unpack(case["type"], inputs["weight"]).T
        return case["softcap"] * np.tanh(y / case["softcap"]) if case["softcap"] else y

    def logits(self, case, inputs):
        return {"dst": self.logits_of(case, inputs)}

    def nll(self, case, inputs, hidden="hidden"):
        y = self.logits_of(case, inputs, hidden)
        target = np.take_along_axis(y, inputs["target"][:, None], -1)[:, 0]
        return {"nll": log_sum_exp(y) - target, "top": y.argmax(-1)}

    def kld(self, case, inputs):
        result, log_p = {}, {}
        for side in "ab":
            for name, value in self.nll(case, inputs, "hidden_" + side).items():
                result[f"{name}_{side}"] = value
            y = self.logits_of(case, inputs, "hidden_" + side)
            log_p[side] = y - log_sum_exp(y)[:, None]
        return {**result, "kld": (np.exp(log_p["a"]) * (log_p["a"] - log_p["b"])).sum(-1)}


def answer(folder, mistake=None):
    """Writes the results of every case in the folder; their number."""
    engine = Engine(mistake)
    with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    for case in cases:
        tensors = {tensor["name"]: tensor for tensor in case["tensors"]}
        inputs = {name: np.load(os.path.join(folder, tensor.get("before", tensor["file"])))
                  for name, tensor in tensors.items() if tensor["role"] != "output"}
        what = {**case["fields"], **case["constants"]}
        for name, result in getattr(engine, case["op"])(what, inputs).items():
            kind = {"f32": np.float32, "f64": np.float64, "i32": np.int32}.get(
                tensors[name]["type"], np.uint8)
            with np.errstate(over="ignore"):
                np.save(os.path.join(folder, tensors[name]["file"]), result.astype(kind))
    return len(cases)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--wrong-sign", dest="mistake", action="store_const", const="row-sign")
    parser.add_argument("--mistake", choices=MISTAKES, metavar="NAME")
    flags = parser.parse_args()
    cases = answer(flags.folder, flags.mistake)
    print(f"{cases} of {cases} cases")


if __name__ == "__main__":
    main()
