#!/usr/bin/env python3
"""Tiny models through `rotkv-perplexity --backend metal-emul`: as near to llama.cpp's probabilities
as ref is, and to ref's own much nearer. Three models of different kinds, or all where ROTKV_FULL is
set (`./dev test --full`), then with attention in f16 and a quantized cache too.

Usage: tests/test_metal_golden.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
ROTKV_METAL_MODELS: other names, of random_models.py and of the folder `golden`, or all.
ROTKV_TABLE: the figures as rows of a table of Markdown, each as it is found.
llama.cpp's probabilities are those of the folders `golden` and `golden2` in $ROTKV_DATA; without
them, all is skipped."""
import glob
import os
import sys
import unittest

from test_tools import NumpyTools, Tools

try:
    import numpy as np
    import random_models
    from base_rows import BaseRows
    from gguf_file import GgufFile
    from test_golden_models import bounds_of
except ModuleNotFoundError:
    np = None

DATA = os.environ.get("ROTKV_DATA", "")
FILES = sorted(os.path.basename(path)[:-len(".gguf")]
               for path in glob.glob(os.path.join(DATA, "golden", "*.gguf")))
# SentencePiece and windows; experts of mxfp4, sinks, biases; states in place of cells, experts too
SOME = ["gemma3-hd64", "gpt-oss-mxfp4", "qwen3next"]

# From ref, mean KLD: an exact pass differs by f32's sums. A choice of experts is a step, which such a
# difference tips over at some positions: of the KLD there, the middle one.
FROM_REF, FROM_REF_F16 = 1e-6, 1e-3
FULL = os.environ.get("ROTKV_FULL")

# Mean KLD in nats, of models with experts the middle one: from llama.cpp's probabilities to ref's
# and to Metal's, from ref's to Metal's in f32 and with attention in f16; with a cache of q4_0 what
# that costs ref, and from ref's to Metal's.
TITLE = ["model", "from llama.cpp: ref", "Metal", "from ref: Metal"]
MORE = ["Metal, f16", "q4_0: cost", "from ref: Metal"] if FULL else []


def row(cells):
    if os.environ.get("ROTKV_TABLE"):
        print("|", " | ".join(cells), "|", flush=True)


class MetalGolden(NumpyTools):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        row(TITLE + MORE)
        row(["---"] * len(TITLE + MORE))
        if not os.path.isdir(os.path.join(DATA, "golden2")):
            raise unittest.SkipTest("no golden2 in $ROTKV_DATA")
        if sys.platform == "darwin":
            raise unittest.SkipTest("Metal is not emulated here")

    def ours(self, model, backend, cache, *flags):
        base = self.path(f"{backend}.kld")
        self.good("perplexity", "-m", model, "-f", os.path.join(DATA, "golden", "text.txt"), "-c",
                  "256", "-b", "256", "--chunks", "1", "-ctk", cache, "-ctv", cache, "--backend",
                  backend, "--quiet", "--kl-divergence-base", base, *flags)
        return BaseRows(base)

    def compare(self, name):
        row([name] + [f"{x:.1g}" for x in self.figures(name)])

    def figures(self, name):
        """Those of TITLE as far as they were computed, within their bounds."""
        in_golden = name in FILES
        folder = os.path.join(DATA, "golden" if in_golden else "golden2")
        model = (os.path.join(folder, name + ".gguf") if in_golden
                 else random_models.write(self.temporary.name, name))
        bounds = bounds_of(name, GgufFile.read(model))
        middle = getattr(np, bounds.middle)
        theirs = BaseRows(os.path.join(folder, f"{name}.f32.f32.nofa.kld"))
        ref, metal = (self.ours(model, backend, "f32") for backend in ("ref", "metal-emul"))
        theirs.tokens = theirs.tokens[:len(ref.tokens)]  # its first window
        theirs.log_p = theirs.log_p[:len(ref.log_p)]
        self.assertEqual(list(metal.tokens), list(theirs.tokens))
        limit = max(bounds.divergence, 1.1 * abs(middle(theirs.divergences(ref))))
        self.assertLess(abs(middle(theirs.divergences(metal))), limit)
        self.assertLess(abs(middle(ref.divergences(metal))), FROM_REF)
        yield from (middle(theirs.divergences(ref)), middle(theirs.divergences(metal)),
                    middle(ref.divergences(metal)))
        if not FULL:
            return
        f16 = self.ours(model, "metal-emul", "f32", "--attention", "f16")
        self.assertLess(abs(middle(ref.divergences(f16))), FROM_REF_F16)
        self.assertGreater(abs(middle(ref.divergences(f16))), FROM_REF_F16 / 1e6)  # it was f16
        yield middle(ref.divergences(f16))
        # a quantized, rotated cache costs the same
        ref, metal = (self.ours(model, backend, "q4_0") for backend in ("ref", "metal-emul"))
        cost = middle(theirs.divergences(ref))
        self.assertLess(abs(middle(ref.divergences(metal))), 0.05 * cost)
        yield from (cost, middle(ref.divergences(metal)))


def compare(name):
    return lambda self: self.compare(name)


if np is not None:
    every = FILES + list(random_models.MODELS)
    asked = os.environ.get("ROTKV_METAL_MODELS", "").split()
    if asked == ["all"] or FULL and not asked:
        asked = every
    for model_name in asked or SOME:
        setattr(MetalGolden, f"test_{model_name}".replace("-", "_"), compare(model_name))


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
