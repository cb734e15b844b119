#!/usr/bin/env python3
"""Laws of architectures that need no other engine: two files that state one model say the same.

Usage: tests/test_model_laws.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
ROTKV_BACKENDS: "ref fast" unless set."""
import os
import sys
import unittest

from test_tools import NumpyTools, Tools

try:
    import model_edits as edits
    import random_models
    from base_rows import BaseRows
except ModuleNotFoundError:
    pass  # no numpy: all are skipped

BACKENDS = os.environ.get("ROTKV_BACKENDS", "ref fast").split()
CHANGE = 5e-4  # of log p: twice a step of the files' codes, which are 16 bits for 16 nats
DIVERGENCE = 1e-7  # mean KLD: a hundred times what these codes make


class ModelLaws(NumpyTools):
    sums = 60

    def rows(self, backend, name, edit, cache):
        model = random_models.write(self.temporary.name, name, edit)
        base = self.path("rows.kld")
        self.good("perplexity", "-m", model, "-f", self.text, "-c", "256", "--chunks", "1", "-ctk",
                  cache, "-ctv", cache, "--backend", backend, "--quiet", "--kl-divergence-base",
                  base)
        os.remove(model)
        return BaseRows(base)

    def same(self, one, other, cache="f32"):
        """Each a name and an edit, or None."""
        for backend in BACKENDS:
            with self.subTest(backend=backend, model=one[0]):
                a, b = self.rows(backend, *one, cache), self.rows(backend, *other, cache)
                self.assertLess(a.largest_change(b), CHANGE)
                self.assertLess(abs(a.divergences(b).mean()), DIVERGENCE)

    def test_values_that_are_keys_may_be_stated(self):
        for cache in ("f32", "q4_0"):
            self.same(("gemma4-256-512", None), ("gemma4-256-512", edits.state_values), cache)

    def test_layers_of_a_second_token_say_nothing(self):
        for cache in ("f32", "q4_0"):
            self.same(("glm4moe", None), ("glm4moe", edits.drop_second_token), cache)

    def test_the_order_of_experts_is_free(self):
        for name in ("gpt-oss", "qwen2moe", "granitemoe", "deepseek2-v3", "gemma4-moe", "llama4"):
            self.same((name, None), (name, edits.reverse_experts))

    def test_equal_experts_are_a_dense_block(self):
        self.same(("qwen3moe", edits.equal_experts), ("qwen3moe", edits.make_dense))

    def test_a_latent_row_is_the_keys_and_values_of_all_heads(self):
        self.same(("deepseek2-absorbed", None), ("deepseek2-legacy", None))

    def test_silent_inputs_are_none(self):
        self.same(("gemma4-e", edits.silence_inputs), ("gemma4-e", edits.drop_inputs))


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
