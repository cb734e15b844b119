"""What the engine is held against: the same model run by rotkv, rotated, not rotated, and with each
known mistake. Docs: docs/29-judge.md"""
import os

import numpy as np

import rotkv

ROTATES = ("LLAMA_ATTN_ROT_DISABLE", "LLAMA_ATTN_ROT_K_OVERRIDE", "LLAMA_ATTN_ROT_V_OVERRIDE")
NOT_QUANTIZED = ("f32", "f16", "bf16")
ASKED, OTHER = "as asked", "the other rotation"
HEAVY = 32 << 20  # bytes of a model that is not kept in memory once for each mistake
OF_SHIFTS = ("shift-rotated", "shift-dropped", "shift-backwards")


def cache_words(k, v, rotation, signs=None):
    """A cache in rotkv's words. rotation None: llama.cpp's rule, which is that of True."""
    words = f"k={k},v={v}"
    if k in NOT_QUANTIZED and v in NOT_QUANTIZED:
        return words
    if rotation is False:
        return words + ",rot=off"
    return words + ("" if signs is None else f",signs={signs}")


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class Ours:
    """Predictions of one model file, [rows][words] ln p in f64. Each may be with a mistake."""

    def __init__(self, path, context=256, backend="fast", threads=0):
        for name in ROTATES:  # the caches are said in words
            os.environ.pop(name, None)
        self.path, self.context, self.backend, self.threads = path, context, backend, threads
        self.models, self.heavy = {}, False
        self.plain = self.model("")
        self.heavy = os.path.getsize(path) > HEAVY
        self.rounded_keys = "k=q8_0,v=f32,rot=off"
        try:
            self.plain.cache(self.rounded_keys, 1)
        except rotkv.Error:  # of a latent row V is a part
            self.rounded_keys = "k=q8_0,v=q8_0,rot=off"

    def model(self, mistake):
        if mistake in self.models:
            return self.models[mistake]
        made = rotkv.Model(self.path, rotkv.Backend(self.backend, self.threads, mistake))
        if not mistake or not self.heavy:
            self.models[mistake] = made
        return made

    def tokenize(self, text):
        return self.plain.tokenize(text).tolist()

    def text(self, tokens):
        return self.plain.detokenize(np.array(tokens, np.int32)).decode(errors="replace")

    @staticmethod
    def read(model, cache, tokens, first):
        at = np.arange(first, first + len(tokens), dtype=np.int32)
        return model.forward(cache, np.array(tokens, np.int32), at)

    def predict(self, words, tokens, at, mistake=""):
        model = self.model(mistake)
        hidden = self.read(model, model.cache(words, self.context), tokens[:at[-1] + 1], 0)
        return log_softmax(model.logits(hidden[np.array(at)]))

    def shift(self, words, tokens, keep, drop, next, mistake=""):
        model = self.model(mistake)
        cache = model.cache(words, self.context)
        self.read(model, cache, tokens, 0)
        cache.remove(keep, keep + drop)
        cache.shift(keep + drop, len(tokens), -drop)
        hidden = [self.read(model, cache, [token], len(tokens) - drop + i)
                  for i, token in enumerate(next)]
        return log_softmax(model.logits(np.concatenate(hidden)))


def rows_of(found, words):
    """An engine's rows: arrays of ln p, or {word: ln p} of some words. Returns [rows][words] with
    NaN where nothing is said. Raises ValueError for what is none of both, what is not a number, and
    rows of whole vocabularies whose p do not sum to 1."""
    rows = np.full((len(found), words), np.nan)
    for row, one in zip(rows, found):
        if isinstance(one, dict):
            ids = np.array([int(word) for word in one], np.int64)
            keep = (ids >= 0) & (ids < words)
            row[ids[keep]] = np.array([float("-inf") if p is None else p for p in one.values()])[keep]
        elif len(one) != words:
            raise ValueError(f"a row of {len(one)} words, expected {words}")
        else:
            row[:] = [float("-inf") if p is None else p for p in one]
        values = one.values() if isinstance(one, dict) else one
        if any(p != p for p in values):
            raise ValueError("a row with what is not a number")
        total = np.exp(row[~np.isnan(row)]).sum()
        if total > 1.001 or (total < 0.999 and not np.isnan(row).any()):
            raise ValueError(f"a row whose probabilities sum to {total:.4g}, expected 1")
        if not np.isnan(row).any():
            row -= np.log(total)  # which f32 leaves at 1e-7 from 1
    return rows


def kld_rows(base, other):
    """KL divergence of other from base, row by row, in nats. Words of which `other` says nothing are
    one word: the result is then a lower bound."""
    result = np.zeros(len(base))
    for i, (p, q) in enumerate(zip(base, other)):
        said = ~np.isnan(q)
        a, b = p[said], np.maximum(q[said], -1e4)
        result[i] = (np.exp(a) * (a - b)).sum()
        rest_a, rest_b = 1 - np.exp(a).sum(), 1 - np.exp(b).sum()
        if rest_a > 1e-9 and not said.all():
            result[i] += rest_a * np.log(rest_a / max(rest_b, 1e-9))
    return result


def kld(base, other):
    return float(kld_rows(base, other).mean())
