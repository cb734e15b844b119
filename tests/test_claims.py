#!/usr/bin/env python3
"""The verdicts of docs/33-claims.md once more, at small size, on the models that ./dev fetch brings.
Verdicts are about which of two is larger, so few windows do.

Usage: tests/test_claims.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]; ROTKV_FULL asks for it."""
import json
import os
import subprocess
import sys
import unittest

from fetched_models import MODELS

PROGRAMS = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/release")
SMOLLM2, GEMMA = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"


class Claims(unittest.TestCase):
    def klds(self, model, *caches):
        """The mean KLD of each cache (a type for K and V, "/off" where it is not rotated)
        over four windows of 256 tokens."""
        files = [os.path.join(MODELS, name) for name in (model, "wiki.test.raw")]
        for path in files:
            if not os.path.exists(path):
                print(f"\nSKIPPED {self.id()}: no {path} (./dev fetch)", flush=True)
                self.skipTest("no model")
        words = ["k={0},v={0}".format(cache.removesuffix("/off")) +
                 (",rot=off" if cache.endswith("/off") else "") for cache in caches]
        run = subprocess.run(
            [os.path.join(PROGRAMS, "rotkv-kld"), "-m", files[0], "-f", files[1], "-c", "256",
             "--chunks", "4", "--json", "-"] + [part for text in words for part in ("--variant", text)],
            capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        found = json.loads(run.stdout)["variants"]
        return [row["kld"]["mean"] for row in found]

    def test_q8_0_is_no_f16(self):
        f16, plain, rotated = self.klds(SMOLLM2, "f16", "q8_0/off", "q8_0")
        self.assertGreater(rotated, 100 * f16)
        self.assertGreater(plain, 2 * rotated)

    def test_rotation_can_hurt(self):
        plain, rotated = self.klds(GEMMA, "iq4_nl/off", "iq4_nl")
        self.assertGreater(rotated, 1.15 * plain)

    def test_a_rotated_q4_0_has_turboquants_gain(self):
        plain, rotated, turbo = self.klds(SMOLLM2, "q4_0/off", "q4_0", "tqmse4")
        self.assertGreater(plain, 2 * rotated)
        self.assertLess(rotated, 1.1 * turbo)

    def test_unbiased_products_cost_more_than_they_give(self):
        mse, gaussian, orthogonal = self.klds(SMOLLM2, "tqmse4", "tqprod4", "tqprod4:orthogonal")
        self.assertGreater(orthogonal, 1.5 * mse)
        self.assertGreater(gaussian, 1.5 * orthogonal)


if __name__ == "__main__":
    if not os.environ.get("ROTKV_FULL"):
        print("SKIPPED: the claims about models, ROTKV_FULL is not set")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
