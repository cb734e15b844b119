#!/usr/bin/env python3
"""rotkv-fuse: every architecture with V's rotation in its weights is the model it was, the cache
holds what a rotated one holds, and the policy knows.

Usage: tests/test_fuse_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import os
import sys
import unittest

from test_tools import NumpyTools, Tools

try:
    import numpy
    import random_models
    from gguf_file import STRING, GgufFile, U32
except ModuleNotFoundError:  # no numpy
    random_models = None

F32 = 0
V_KEY, LATENT_KEY = "rotkv.rotation.v", "rotkv.rotation.latent"
GATED = ["qwen3next", "qwen35", "qwen35moe"]
NO_OWN_V = {"gemma4-256-512", "gemma4-moe"}  # layers without a window have no W_v


def sylvester(n):
    h = numpy.ones((1, 1))
    while len(h) < n:
        h = numpy.block([[h, h], [h, -h]])
    return h / numpy.sqrt(n)


def values_of(file, name):
    tensor = file.tensors[name]
    return numpy.frombuffer(tensor.data, numpy.float32 if tensor.type == F32 else numpy.float16,
                            count=int(numpy.prod(tensor.extents))).reshape(tensor.extents[::-1])


class FuseTool(NumpyTools):
    sums = 60

    def fused(self, model, *arguments):
        """The report on a fused file, and its path."""
        out = self.path("fused.gguf")
        if os.path.exists(out):
            os.remove(out)
        report = self.good("fuse", "-m", model, "-o", out, "-f", self.text, "-n", "48", "--verify",
                           "--json", "-", *arguments)
        return json.loads(report.stdout), out

    def rotation(self, model, *arguments, env=None):
        found = json.loads(self.good("gguf", model, "-ctk", "q4_0", "-ctv", "q4_0", *arguments,
                                     "--json", "-", env=env).stdout)
        return [layer["rotation"] for layer in found["layers"] if layer["rotation"]]

    def test_every_architecture_stays_the_model_it_was(self):
        for name in random_models.MODELS:
            if name in GATED or name in NO_OWN_V:
                continue
            with self.subTest(model=name):
                model = random_models.write(self.temporary.name, name)
                report, out = self.fused(model, "--rot-v", "32")
                self.assertTrue(report["verified"]["same"], report)
                self.assertGreater(report["tensors"], 0)
                for rotation in self.rotation(out):
                    self.assertEqual(rotation["v"]["block"], 0)
                    self.assertIn("32 in the weights", rotation["v"]["reason"])

    def test_signs_too(self):
        model = random_models.write(self.temporary.name, "qwen3moe")
        report, out = self.fused(model, "--rot-v", "64:7")
        self.assertTrue(report["verified"]["same"], report)
        self.assertEqual(GgufFile.read(out).keys[V_KEY], (STRING, "64:7"))

    def test_the_weights_are_products_with_h(self):
        model = random_models.write(self.temporary.name, "qwen3moe")
        _, out = self.fused(model)
        old, new = GgufFile.read(model), GgufFile.read(out)
        turn = numpy.kron(numpy.eye(2), sylvester(64))  # of a head of 128
        self.assertEqual(set(old.tensors), set(new.tensors))
        for name in old.tensors:
            if ".attn_v.weight" in name:
                expected = numpy.kron(numpy.eye(2), turn) @ values_of(old, name)
            elif ".attn_output.weight" in name:
                expected = values_of(old, name) @ numpy.kron(numpy.eye(4), turn).T
            else:
                self.assertEqual(old.tensors[name], new.tensors[name])
                continue
            self.assertEqual(new.tensors[name].type, F32)
            numpy.testing.assert_allclose(values_of(new, name), expected, rtol=0, atol=1e-6)
        self.assertEqual({key: value for key, value in new.keys.items() if key != V_KEY}, old.keys)

    def kld(self, model, cache):
        found = json.loads(self.good("kld", "-m", model, "-f", self.text, "-c", "64", "--json", "-",
                                     "--variant", cache).stdout)
        return found["variants"][0]["kld"]["mean"]

    def test_the_cache_costs_what_a_rotated_one_costs(self):
        model = random_models.write(self.temporary.name, "qwen3moe")
        _, out = self.fused(model)
        rotated = self.kld(model, "k=f16,v=q4_0")
        plain = self.kld(model, "k=f16,v=q4_0,rot=off")
        fused = self.kld(out, "k=f16,v=q4_0")
        twice = self.kld(out, "k=f16,v=q4_0,rot-v=64")
        self.assertLess(abs(fused / rotated - 1), 1e-4, (fused, rotated))
        self.assertLess(abs(twice / plain - 1), 1e-4, (twice, plain))  # H H = 1
        self.assertGreater(abs(plain / rotated - 1), 0.02, (plain, rotated))

    def test_what_is_asked_for_comes_on_top_and_says_so(self):
        model = random_models.write(self.temporary.name, "qwen3moe")
        _, out = self.fused(model)
        for rotation in self.rotation(out, "--rot-v", "on"):
            self.assertEqual(rotation["v"]["block"], 64)
            self.assertIn("beside 64 in the weights", rotation["v"]["reason"])
        self.assertIn("values are rotated in the weights",
                      self.good("perplexity", "-m", out, "-f", self.text, "-c", "64").stderr)

    def test_refused(self):
        out = self.path("refused.gguf")
        for name, why in [(name, "a gate multiplies the output") for name in GATED] + [
                (name, "values are keys before their norm") for name in sorted(NO_OWN_V)]:
            with self.subTest(model=name):
                model = random_models.write(self.temporary.name, name)
                self.bad(1, "fuse", "-m", model, "-o", out, "--rot-v", "32", says=why)
                self.assertFalse(os.path.exists(out))
        model = random_models.write(self.temporary.name, "qwen3moe")
        self.bad(2, "fuse", "-m", model, "-o", out, "--rot-v", "256",
                 says="expected blocks of a power of two that divides D = 128, found 256")
        self.bad(2, "fuse", "-m", model, "-o", out, "--rot-v", "off", says="BLOCK:SEED")
        self.bad(2, "fuse", "-m", model, "-o", model, says="-o")
        for words in (("-n", "16"), ("-f", self.text), ("--gemm", "bf16"), ("--attention", "f16")):
            self.bad(2, "fuse", "-m", model, "-o", out, *words, says="--verify")
        _, fused = self.fused(model)
        self.bad(1, "fuse", "-m", fused, "-o", out, says="turned already, by 64")
        self.assertFalse(os.path.exists(out))

    def test_a_key_that_says_nothing_is_an_error(self):
        for key, value, says in [(V_KEY, (STRING, "none"), "expected BLOCK or BLOCK:SEED"),
                                 (V_KEY, (STRING, "256"), "expected a block that divides 128"),
                                 (V_KEY, (U32, 64), V_KEY),
                                 (LATENT_KEY, (STRING, "64"), "expected " + V_KEY)]:
            with self.subTest(key=key, value=value):
                model = random_models.write(self.temporary.name, "qwen3moe",
                                            lambda file: file.keys.update({key: value}), "keyed")
                self.bad(1, "perplexity", "-m", model, "-f", self.text, says=says)


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
