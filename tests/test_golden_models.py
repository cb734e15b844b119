#!/usr/bin/env python3
"""Random models of architectures against what llama.cpp made of them: tokens, probabilities, and
what a quantized, rotated cache does to these.

Usage: tests/test_golden_models.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
ROTKV_BACKENDS: "ref fast" unless set; ROTKV_MODELS: all names of random_models.py unless set;
ROTKV_TABLE: the figures as a table of Markdown, at the end.
llama.cpp's probabilities are those of the folder `golden2` in $ROTKV_DATA; without it, all is
skipped."""
import collections
import os
import sys
import unittest

from test_tools import NumpyTools, Tools

try:
    import numpy as np
    import random_models
    from base_rows import BaseRows
    from gguf_file import GgufFile
except ModuleNotFoundError:
    np = None

DATA = os.environ.get("ROTKV_DATA", "")
GOLDEN = os.path.join(DATA, "golden2")
BACKENDS = os.environ.get("ROTKV_BACKENDS", "ref fast").split()

# How near ours must be to llama.cpp's.
# divergence, change: with an f32 cache, mean KLD and the largest change of a likely word's log p.
#   An exact pass differs by the codes' 16 bits, 1e-9 and 2e-4; gemma4's by 4e-7 and 0.009, since
#   llama.cpp looks its GELU up in a table of f16 values.
# q8_0, q4_0: with a quantized cache, KLD as a share of what the cache costs llama.cpp. Not 0, since
#   llama.cpp rounds Q to 8 bits beside a quantized K: little beside a coarse cache, nearly as much
#   as the cache itself beside q8_0. A side that is not rotated as llama.cpp's makes it 1 to 4 in
#   most models, and in q4_0 0.38 in the mildest.
# middle: of KLD over positions, with a quantized cache. A choice of experts is a step: rounding
#   makes it fall otherwise at up to a tenth of the positions, and a mean is little but these.
Bounds = collections.namedtuple("Bounds", "divergence change q8_0 q4_0 middle")
DENSE = Bounds(divergence=1e-5, change=0.03, q8_0=0.75, q4_0=0.25, middle="mean")
EXPERTS = DENSE._replace(q4_0=0.15, middle="median")
BOUNDS = {
    # Roundings grow from layer to layer.
    "exaone4-64": DENSE._replace(q8_0=1.0, q4_0=0.4),
    # Beside quantized weights llama.cpp rounds activations to 8 bits: choices of experts change in
    # an f32 cache too.
    "gpt-oss-mxfp4": EXPERTS._replace(divergence=1e-3, change=float("inf"), q8_0=0.85),
}


def bounds_of(name, file):
    has_experts = f"{file.keys['general.architecture'][1]}.expert_count" in file.keys
    return BOUNDS.get(name, EXPERTS if has_experts else DENSE)


# A row of the table: mean KLD from llama.cpp with an f32 cache, and what a cache costs either.
Figures = collections.namedtuple("Figures", "name backend f32 change q8_0 q4_0")
TITLE = """\
| model | backend | KLD from llama.cpp | largest change of log p | q8_0: it, we | q4_0: it, we |
|---|---|---|---|---|---|"""


class GoldenModels(NumpyTools):
    table = []

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not os.path.isdir(GOLDEN):
            raise unittest.SkipTest("no golden2 in $ROTKV_DATA")
        cls.text = os.path.join(DATA, "golden", "text.txt")

    @classmethod
    def tearDownClass(cls):
        if os.environ.get("ROTKV_TABLE"):
            print(TITLE)
            for row in cls.table:
                costs = (f"{theirs:.2g}, {ours:.2g}" for theirs, ours in (row.q8_0, row.q4_0))
                print(f"| {row.name} | {row.backend} | {row.f32:.1g} | {row.change:.1g} |",
                      " | ".join(costs), "|")
        super().tearDownClass()

    def theirs(self, name, cache, tag):
        return BaseRows(os.path.join(GOLDEN, f"{name}.{cache}.{cache}.{tag}.kld"))

    def ours(self, model, backend, cache):
        base = self.path("ours.kld")
        self.good("perplexity", "-m", model, "-f", self.text, "-c", "256", "--chunks", "1", "-ctk",
                  cache, "-ctv", cache, "--backend", backend, "--quiet",
                  "--kl-divergence-base", base)
        return BaseRows(base)

    def compare(self, name, backend):
        model = random_models.write(self.temporary.name, name)
        file = GgufFile.read(model)
        bounds = bounds_of(name, file)
        exact, ours = self.theirs(name, "f32", "nofa"), self.ours(model, backend, "f32")
        self.assertEqual(list(ours.tokens), list(exact.tokens))
        self.assertLess(abs(exact.divergences(ours).mean()), bounds.divergence)
        self.assertLess(exact.largest_change(ours), bounds.change)
        middle, costs = getattr(np, bounds.middle), {}
        figures = exact.divergences(ours).mean(), exact.largest_change(ours)
        for cache, share in (("q8_0", bounds.q8_0), ("q4_0", bounds.q4_0)):
            theirs = self.theirs(name, cache, "rot1")
            ours = self.ours(model, backend, cache)
            cost = middle(theirs.divergences(exact))
            self.assertLess(middle(theirs.divergences(ours)), share * cost, cache)
            costs[cache] = exact.divergences(theirs).mean(), exact.divergences(ours).mean()
        self.table.append(Figures(name, backend, *figures, **costs))
        os.remove(model)


def compare(name, backend):
    return lambda self: self.compare(name, backend)


if np is not None:
    asked = os.environ.get("ROTKV_MODELS", "").split() or list(random_models.MODELS)
    for model_name in asked:
        if model_name not in random_models.MODELS:
            sys.exit(f"ROTKV_MODELS: '{model_name}', expected names of random_models.py")
        for backend_name in BACKENDS:
            test = f"test_{model_name}_{backend_name}".replace("-", "_")
            setattr(GoldenModels, test, compare(model_name, backend_name))


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
