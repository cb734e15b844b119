#!/usr/bin/env python3
"""Random models of architectures against what llama.cpp made of them: tokens, probabilities, and
what a quantized, rotated cache does to these.

Usage: tests/test_golden_models.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
ROTKV_BACKENDS: "ref fast" unless set. llama.cpp's probabilities are those of the folder `golden2`
in $ROTKV_DATA; without it, all is skipped."""
import os
import struct
import sys
import unittest

from test_tools import Tools

try:
    import numpy as np
    import random_models
except ImportError:
    np = None

DATA = os.environ.get("ROTKV_DATA", "")
GOLDEN = os.path.join(DATA, "golden2")
BACKENDS = os.environ.get("ROTKV_BACKENDS", "ref fast").split()
LIKELY = 1e-4  # a word's probability, from which on it is compared by itself


class Base:
    """A file of --kl-divergence-base: tokens, and the scored log-probabilities [rows][words]."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        assert data[:8] == b"_logits_"
        context, words, windows = struct.unpack_from("<iii", data, 8)
        self.tokens = np.frombuffer(data, "<i4", context * windows, 20)
        codes, rows = words + words % 2, windows * (context - 1 - context // 2)
        row = np.dtype([("scale", "<f4"), ("least", "<f4"), ("code", "<u2", codes)])
        found = np.frombuffer(data, row, rows, 20 + 4 * context * windows)
        steps = found["code"][:, :words].astype(float) * found["scale"][:, None].astype(float)
        self.log_p = steps + found["least"][:, None].astype(float)
        self.log_p -= np.log(np.exp(self.log_p).sum(1, keepdims=True))  # of 16-bit codes, nearly 0

    def divergence_of(self, other):
        return float((np.exp(self.log_p) * (self.log_p - other.log_p)).sum(1).mean())

    def largest_change(self, other):
        likely = np.exp(self.log_p) > LIKELY
        return float(np.abs(self.log_p - other.log_p)[likely].max())


class GoldenModels(Tools):
    @classmethod
    def setUpClass(cls):
        if np is None or not os.path.isdir(GOLDEN):
            raise unittest.SkipTest("no numpy, or no golden2 in $ROTKV_DATA")
        super().setUpClass()
        cls.text = os.path.join(DATA, "golden", "text.txt")

    def theirs(self, name, cache, tag):
        return Base(os.path.join(GOLDEN, f"{name}.{cache}.{cache}.{tag}.kld"))

    def ours(self, model, backend, cache):
        base = self.path("ours.kld")
        self.good("perplexity", "-m", model, "-f", self.text, "-c", "256", "--chunks", "1", "-ctk",
                  cache, "-ctv", cache, "--backend", backend, "--quiet", "--kl-divergence-base",
                  base)
        return Base(base)

    def compare(self, name, backend):
        model = random_models.write(self.temporary.name, name)
        theirs, ours = self.theirs(name, "f32", "nofa"), self.ours(model, backend, "f32")
        self.assertEqual(list(ours.tokens), list(theirs.tokens))
        self.assertLess(abs(theirs.divergence_of(ours)), 1e-5)
        self.assertLess(theirs.largest_change(ours), 0.03)
        # llama.cpp rounds Q to 8 bits beside a quantized K: little beside a coarse cache, nearly as
        # much as the cache itself beside q8_0, and more the deeper a model is.
        deep = name.endswith("-64")
        for cache, share in (("q8_0", 1.0 if deep else 0.75), ("q4_0", 0.4 if deep else 0.25)):
            rounded = self.theirs(name, cache, "rot1")
            cost = rounded.divergence_of(theirs)
            self.assertLess(rounded.divergence_of(self.ours(model, backend, cache)), share * cost)
        os.remove(model)


def compare(name, backend):
    return lambda self: self.compare(name, backend)


if np is not None:
    for model_name in random_models.MODELS:
        for backend_name in BACKENDS:
            test = f"test_{model_name}_{backend_name}".replace("-", "_")
            setattr(GoldenModels, test, compare(model_name, backend_name))


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
