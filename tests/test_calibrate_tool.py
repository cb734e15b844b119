#!/usr/bin/env python3
"""Rotations by a matrix as a user meets them: rotkv-calibrate's files, and words wherever a
rotation is asked for.

Usage: tests/test_calibrate_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import os
import subprocess
import sys
import unittest

from test_outliers_tool import read_npy
from test_tools import Tools

LAYERS, KV_HEADS, HEAD = 2, 1, 64  # of test_tools.write_model


def write_npy(path, shape, values):
    """Little-endian f64, from the format's definition."""
    import array
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
                   + array.array("d", values).tobytes())


def identity(n):
    return [float(i == j) for i in range(n) for j in range(n)]


class Matrices(Tools):
    def on_text(self, name, *arguments, **more):
        return self.good(name, "-m", self.model, "-f", self.text, "-c", "32", "-t", "1",
                         *arguments, **more)

    def ppl(self, *arguments):
        result = self.on_text("perplexity", "--chunks", "2", *arguments, "--json", "-")
        return json.loads(result.stdout)

    def test_calibrated_matrices_are_rotations_that_change_nothing_exact(self):
        exact = self.ppl("-ctk", "f32", "-ctv", "f32")["ppl"]
        for kind in "pca", "oscar":
            out = self.path(kind)
            report = self.on_text("calibrate", "-o", out, "--kind", kind, "--chunks", "5",
                                  "--json", self.path("report.json")).stdout
            for side in "kv":
                shape, values = read_npy(f"{out}-{side}.npy")
                self.assertEqual(shape, (LAYERS, KV_HEADS, HEAD, HEAD))
                for first in range(0, len(values), HEAD * HEAD):
                    rows = [values[first + i * HEAD:first + (i + 1) * HEAD] for i in range(HEAD)]
                    for i in range(0, HEAD, 7):
                        for j in range(HEAD):
                            product = sum(a * b for a, b in zip(rows[i], rows[j]))
                            self.assertAlmostEqual(product, float(i == j), delta=1e-5)
            files = ("--rot-k", f"file:{out}-k.npy", "--rot-v", f"file:{out}-v.npy")
            self.assertIn("use: " + " ".join(files), report)
            found = self.ppl("-ctk", "f32", "-ctv", "f32", *files)
            self.assertAlmostEqual(found["ppl"] / exact, 1, delta=1e-4)
            with open(self.path("report.json")) as file:
                json_report = json.load(file)
            ways = [one["rotation"] for one in json_report["k"]["rotations"]]
            self.assertEqual(ways, ["none", "kronecker", "signed:1", "dense:1", kind])
            for side in "kv":
                for one in json_report[side]["rotations"]:
                    self.assertLess(0, one["expected"])
                    self.assertLess(one["held_out"], 0.5)

    def test_what_is_learnt_is_used(self):
        """Keys along one direction alone: its eigenvector comes first and has all of them."""
        out = self.path("learnt")
        self.on_text("calibrate", "-o", out, "--kind", "pca", "--chunks", "5")
        again = self.path("again")
        self.on_text("calibrate", "-o", again, "--kind", "pca", "--chunks", "5")
        self.assertEqual(read_npy(out + "-k.npy"), read_npy(again + "-k.npy"))
        more = self.path("more")
        self.on_text("calibrate", "-o", more, "--kind", "pca", "--chunks", "6")
        self.assertNotEqual(read_npy(out + "-k.npy"), read_npy(more + "-k.npy"))
        # The held-out windows teach nothing: five of which two, or four of which one.
        fewer = self.path("fewer")
        self.on_text("calibrate", "-o", fewer, "--kind", "pca", "--chunks", "4", "--held-out", "1")
        self.assertEqual(read_npy(out + "-k.npy"), read_npy(fewer + "-k.npy"))

    def test_words_wherever_a_rotation_is_asked_for(self):
        result = self.on_text("perplexity", "--chunks", "2", "-ctk", "q4_0", "-ctv", "tqmse3",
                              "--rot-k", "dense:7", "--rot-v", "signed:3:2")
        self.assertRegex(result.stderr,
                         r"K q4_0: rotation dense:7, matrix:[0-9a-f]{16} \(--rot-k\)")
        self.assertRegex(result.stderr, r"V tqmse3.*: rotation signed:3:2, matrix:[0-9a-f]{16} ")
        found = self.ppl("-ctk", "q4_0", "-ctv", "q4_0", "--rot-k", "kronecker")
        self.assertEqual(found["rotation"]["k"]["matrix"], "kronecker")
        plain = self.on_text("kld", "--chunks", "2", "--base", "k=f32,v=f32",
                             "--variant", "k=f32,v=f32,rot=dense:1",
                             "--variant", "k=q4_0,v=q4_0,rot=signed:1", "--by-layer", "--explain",
                             "--json", "-")
        variants = json.loads(plain.stdout)["variants"]
        self.assertLess(variants[0]["kld"]["mean"], 1e-6)
        self.assertGreater(variants[1]["kld"]["mean"], variants[0]["kld"]["mean"])
        self.on_text("sweep", "--chunks", "1", "-ctk", "q4_0", "-ctv", "q8_0", "--rot",
                     "off,kronecker,dense:3", "--out", self.path("sweep.jsonl"))
        with open(self.path("sweep.jsonl")) as file:
            text = file.read()
        self.assertIn("k=matrix:", text)
        at = self.path("generate.json")
        self.good("generate", "-m", self.model, "-p", "ab", "-n", "4", "-c", "32", "-ctk", "q8_0",
                  "-ctv", "q8_0", "--rot-k", "dense:2", "--json", at, stdout=subprocess.DEVNULL)
        with open(at) as file:
            self.assertIn("dense:2", file.read())

    def test_what_cannot_be_is_said_in_one_line(self):
        def perplexity(code, says, *arguments):
            self.bad(code, "perplexity", "-m", self.model, "-f", self.text, "-c", "32",
                     *arguments, says=says)
        perplexity(2, "signed:SEED", "--rot-k", "signed:1:9")
        perplexity(2, "dense:SEED", "--rot-k", "dense")
        perplexity(2, "kronecker, signed:SEED", "--rot-k", "hadamard")
        perplexity(1, "missing.npy", "--rot-k", "file:" + self.path("missing.npy"))
        path = self.path("m.npy")
        write_npy(path, "(64, 64)", [2 * x for x in identity(64)])
        perplexity(1, "layer 0, head 0: max |M^T M - 1| up to 1e-05, found 3", "--rot-k",
                   "file:" + path)
        write_npy(path, "(3, 64, 64)", 3 * identity(64))
        perplexity(2, "expected matrices of 2 layers, found 3", "--rot-v", "file:" + path)
        write_npy(path, "(64, 64)", identity(64))
        self.ppl("-ctk", "q8_0", "-ctv", "q8_0", "--rot-k", "file:" + path)
        self.bad(2, "calibrate", "-m", self.model, "-f", self.text, "-c", "32", "-o",
                 self.path("x"), "--chunks", "3", "--held-out", "3", says="--held-out 3")
        self.assertFalse(os.path.exists(self.path("x-k.npy")))
        self.bad(2, "kld", "-m", self.model, "-f", self.text, "-c", "32", "--rot-signs", "1",
                 says="rot-signs")


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
