"""What the engine is held against: the same model run by rotkv, rotated, not rotated, and with each
known mistake. Docs: docs/29-judge.md"""
import os

import numpy as np

import rotkv

from .engine import Unsupported
from .rows import log_softmax

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


class Ours:
    """Predictions of one model file, [rows][words] ln p in f64. Each may be with a mistake."""

    def __init__(self, path, context=256, backend="fast", threads=0):
        for name in ROTATES:  # the caches are said in words
            os.environ.pop(name, None)
        self.path, self.context, self.backend, self.threads = path, context, backend, threads
        self.models, self.heavy, self.known = {}, False, {}
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
        """Rows of ln p behind tokens[i], for each i of `at`. A text is read once; what is kept of it
        are hidden rows, which are shorter than those of a vocabulary."""
        asked = (words, tuple(tokens), mistake)
        if asked not in self.known:
            model = self.model(mistake)
            self.known[asked] = self.read(model, model.cache(words, self.context), tokens, 0)
        return log_softmax(self.plain.logits(self.known[asked][np.array(at)]))

    def shift(self, words, tokens, keep, drop, next, mistake=""):
        """Rows of ln p behind each token of `next`, as Engine.shift. Throws: Unsupported where a model
        keeps what no token can be taken out of."""
        model = self.model(mistake)
        cache = model.cache(words, self.context)
        self.read(model, cache, tokens, 0)
        try:
            cache.remove(keep, keep + drop)
            cache.shift(keep + drop, len(tokens), -drop)
        except rotkv.Error as error:
            if error.code != "unsupported":
                raise
            raise Unsupported(f"rotkv does not shift this model: {error}") from None
        hidden = [self.read(model, cache, [token], len(tokens) - drop + i)
                  for i, token in enumerate(next)]
        return log_softmax(model.logits(np.concatenate(hidden)))
