#!/usr/bin/env python3
"""Formats of the zoo wherever a program takes a cache type: by name, with their true bits.

Usage: tests/test_zoo_tools.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import csv
import json
import subprocess
import sys
import unittest

from test_tools import Tools

# The model of write_model: 2 layers, one KV head of 64.
ROWS = 2


class Zoo(Tools):
    sums = 40

    def on_text(self, name, *arguments, json_too=True, **more):
        result = self.good(name, "-m", self.model, "-f", self.text, "-c", "32", "-t", "1",
                           *(("--json", "-") if json_too else ()), *arguments, **more)
        return json.loads(result.stdout) if json_too else result

    def kld(self, *arguments, **more):
        return self.on_text("kld", "--chunks", "3", *arguments, **more)

    def test_perplexity(self):
        found = self.on_text("perplexity", "--chunks", "2", "-ctk", "exl3:4", "-ctv", "tqmse3:lsq")
        # 64 values: 2 groups of 2 + 16 bytes, and 2 + 24
        self.assertEqual(found["cache"], {"k": "exl3:4", "v": "tqmse3:lsq",
                                          "bytes_per_token": ROWS * (36 + 26),
                                          "bits_per_value": 8 * (36 + 26) / 128,
                                          "state_bytes_per_stream": 0})
        result = self.on_text("perplexity", "--chunks", "2", "-ctk", "exl3:4", "-ctv",
                              "tqmse3:lsq", json_too=False)
        self.assertIn("K exl3:4, 4.5 bits per value: rotation off (policy: exl3:4 rotates "
                      "rows itself)", result.stderr)
        self.assertIn("V tqmse3:lsq, 3.25 bits per value: rotation", result.stderr)

    def test_kld_and_what_is_exact(self):
        result = self.kld("--variant", "k=fp8_e4m3:32,v=fp8_e4m3:32", "--variant",
                          "k=tqmse2,v=tqmse2", "--variant", "k=tqmse4,v=f32,rot=64:7", "--variant",
                          "k=f32,v=f32", json_too=False)
        self.assertIn("k=tqmse2,v=tqmse2 (2.25 bits per value)", result.stdout)
        self.assertIn("k=tqmse4,v=f32,rot=64:7 (18.125 bits per value)", result.stdout)
        self.assertNotIn("k=f32,v=f32 (", result.stdout)
        found = {one["name"]: one for one in self.kld(
            "--variant", "k=fp8_e4m3:32,v=fp8_e4m3:32", "--variant", "k=tqmse2,v=tqmse2",
            "--variant", "k=tqmse4,v=tqmse4")["variants"]}
        klds = [found[f"k={name},v={name}"]["kld"]["mean"]
                for name in ("fp8_e4m3:32", "tqmse4", "tqmse2")]
        self.assertEqual(klds, sorted(klds))
        self.assertGreater(klds[0], 0)

    def test_every_backend_of_the_host_has_the_same_cells(self):
        # Cells are equal to the bit, so that figures differ by what attention rounds, and no more.
        of = [self.kld("--variant", "k=q6_0,v=nvfp4", "--backend", backend)["variants"][0]["kld"]
              for backend in ("ref", "fast")]
        self.assertAlmostEqual(of[0]["mean"] / of[1]["mean"], 1, places=2)

    def test_by_layer_by_side_and_explain(self):
        found = self.kld("--variant", "k=tqmse2,v=sign", "--by-layer", "--by-side", "--explain")
        layers = found["variants"][0]["by_layer"]["layers"]
        self.assertEqual(len(layers), 2)
        for layer in layers:  # each of them is lossy by itself, so that both were encoded
            self.assertGreater(layer["kld"], 1e-4)
        self.assertEqual([one["name"] for one in found["variants"][1:]],
                         ["k=tqmse2,v=sign [K only]", "k=tqmse2,v=sign [V only]"])
        for one in found["variants"][1:]:
            self.assertGreater(one["kld"]["mean"], 0)

    def test_shifted_windows(self):
        found = self.kld("--variant", "k=exl3:6,v=exl3:6", "--variant", "k=exl3:3,v=exl3:3",
                         "--shift", "2")
        fine, coarse = (one["kld"]["mean"] for one in found["variants"])
        self.assertLess(0, fine)
        self.assertLess(fine, coarse)

    def test_sweep(self):
        out, table = self.path("sweep.jsonl"), self.path("sweep.csv")
        words = ("--chunks", "3", "-ctk", "q8_0,mxfp4,kivi:2-128", "-ctv", "polar", "--rot",
                 "off,auto", "--out", out)
        first = self.on_text("sweep", *words, "--csv", table)
        with open(table) as file:
            rows = {(row["k"], row["rot"]): row for row in csv.DictReader(file)}
        self.assertEqual(float(rows["mxfp4", "off"]["bits"]), (4.25 + 3.875) / 2)
        self.assertGreater(float(rows["mxfp4", "auto"]["kld"]), 0)
        with open(out) as file:
            lines = file.read().splitlines()
        refused = [json.loads(line) for line in lines if '"kivi:2-128"' in line and '"rot"' in line]
        self.assertIn("needs a head size that is a multiple of 128, found 64", str(refused))
        self.assertEqual(self.on_text("sweep", *words), first)  # continued: nothing is done twice

    def test_outliers(self):
        found = self.on_text("outliers", "--chunks", "1", "-ctk", "tqmse3", "-ctv", "q4_0")
        errors = [head["sylvester"]["errors"]["tqmse3"] for head in found["heads"]
                  if head["side"] == "k"]
        self.assertEqual(len(errors), 2)
        for error in errors:
            self.assertIsNone(error["predicted"])  # no law is known
            self.assertLess(abs(error["measured"] - 0.034), 0.02)
        result = self.on_text("outliers", "--chunks", "1", "-ctk", "tqmse3", json_too=False)
        self.assertIn("K: tqmse3, 3.25 bits per value; no law is known", result.stdout)

    def test_bench(self):
        found = json.loads(self.good("bench", "-m", self.model, "-t", "1", "-r", "1", "-p", "16",
                                     "-n", "0", "-ctk", "f16,exl3:2", "-ctv", "nvfp4", "-o",
                                     "json", "--quiet").stdout)
        rows = found["rows"] if isinstance(found, dict) else found
        self.assertEqual([(row["type_k"], row["type_v"], row["bits_per_value"]) for row in rows],
                         [("f16", "nvfp4", 10.25), ("exl3:2", "nvfp4", 3.5)])

    def test_generate(self):
        at = self.path("generate.json")
        self.good("generate", "-m", self.model, "-p", "3 times 3", "-n", "8", "-t", "1", "-ctk",
                  "fp8_e4m3", "-ctv", "fp8_e5m2:head", "--json", at, stdout=subprocess.DEVNULL)
        with open(at) as file:
            text = file.read()
        self.assertIn('"fp8_e4m3"', text)
        self.assertIn('"fp8_e5m2:head"', text)

    def test_gguf(self):
        found = json.loads(self.good("gguf", self.model, "-ctk", "polar", "-ctv", "q6_0",
                                     "--json", "-").stdout)
        self.assertEqual(found["layers"][0]["bytes_per_token"], 31 + 52)
        self.assertEqual(found["cache"]["bytes_per_token_of_formats"]["exl3:2"], ROWS * 2 * 20)
        self.assertIsNone(found["cache"]["bytes_per_token_of_formats"]["tqmse3:128"])
        text = self.good("gguf", self.model, "-ctk", "polar").stdout
        self.assertRegex(text, r"\n  exl3:2 +2\.500 +80\n")
        self.assertRegex(text, r"\n  tqmse3:128 +- +-\n")
        self.assertIn("K polar, 3.875 bits per value: rotation", text)

    def test_placements(self):
        words = ("k=polar,v=polar", "k=polar,v=polar,first=2,recent=4", "k=polar,v=polar,recent=30",
                 "k=f16,v=f16", "k=polar,v=polar,ends=f16:1")
        variants = [part for word in words for part in ("--variant", word)]
        plain, some, nearly_all, f16, ends = (
            one["kld"]["mean"] for one in self.kld(*variants)["variants"])
        self.assertLess(some, plain)
        self.assertLess(10 * f16, some)
        self.assertLess(nearly_all, some)  # one cell is left, which one scored token reads
        self.assertLess(f16, nearly_all)
        self.assertAlmostEqual(ends / f16, 1, places=2)  # both layers are ends
        text = self.kld(*variants[:4], json_too=False).stdout
        # 64 values: 31 bytes of 64 tokens' polar, and 6 of 32 tokens have 2 x 128 in f16 besides
        self.assertIn("k=polar,v=polar,first=2,recent=4 (6.875 bits per value)", text)

        place = ("--chunks", "2", "-ctk", "polar", "-ctv", "f16", "--place", "first=2,recent=4")
        self.assertEqual(self.on_text("perplexity", *place)["cache"], {
            "k": "polar", "v": "f16", "bytes_per_token": ROWS * (31 + 128),
            "bits_per_value": (8 * 31 + 6 / 32 * 8 * 128) / 128 + 8, "state_bytes_per_stream": 0,
            "f16_tokens": {"first": 2, "recent": 4, "bytes_per_stream": ROWS * 6 * 128}})
        result = self.on_text("perplexity", *place, json_too=False)
        self.assertIn("318 bytes per token in 2 layers, and 1536 bytes per stream for the first 2 "
                      "and 4 recent tokens in f16", result.stderr)
        out = self.path("placed.jsonl")
        sweep = ("--chunks", "3", "-ctk", "polar,f16", "-ctv", "polar", "--rot", "auto", "--out", out)
        self.on_text("sweep", *sweep, "--place", "first=2,recent=4,ends=q8_0:1")
        self.bad(1, "sweep", "-m", self.model, "-f", self.text, "-c", "32", "-t", "1", *sweep,
                 says="is of another sweep: place: ")
        self.good("generate", "-m", self.model, "-p", "3 times 3", "-n", "8", "-t", "1", "-ctk",
                  "polar", "--place", "first=1,recent=3", stdout=subprocess.DEVNULL)

        on = ("-m", self.model, "-f", self.text, "-c", "32")
        for words, says in (
                ("k=polar,first=-1", "first: expected"), ("k=polar,ends=q8_0", "expected TYPE:N"),
                ("k=polar,ends=q8_0:0", "ends: expected"), ("k=polar,ends=q9:1", "ends: expected"),
                ("k=f16,v=f16,first=4", "first and recent change nothing")):
            self.bad(2, "kld", *on, "--variant", words, says=says)
        self.bad(2, "kld", *on, "--variant", "k=polar,recent=3", "--explain",
                 says="--explain and --by-layer: not for caches with first or recent tokens")
        self.bad(2, "perplexity", *on, "-ctk", "polar", "--place", "last=3",
                 says="expected first, recent, ends, k:LAYERS or v:LAYERS, found 'last'")
        self.bad(1, "kld", *on, "--variant", "k=polar,first=9", "--shift", "1",
                 says="the first 9 tokens are kept in f16")

    def test_layers_with_types_of_their_own(self):
        """The same cache in two spellings; and a layer's own type makes bytes and a difference."""
        plain, ends, layers, one = self.kld(
            "--variant", "k=q4_0,v=q4_0", "--variant", "k=q4_0,v=q4_0,ends=q8_0:1",
            "--variant", "k=q4_0,v=q4_0,k:0-1=q8_0,v:1+0=q8_0", "--variant",
            "k=q4_0,v=q4_0,k:1=q8_0")["variants"]
        self.assertEqual(ends["kld"], layers["kld"])
        self.assertEqual(layers["cache"]["bytes_per_token"], ROWS * 2 * 68)
        self.assertEqual(one["cache"]["bytes_per_token"], ROWS * 2 * 36 + 32)
        self.assertLess(layers["kld"]["mean"], one["kld"]["mean"])
        self.assertLess(one["kld"]["mean"], plain["kld"]["mean"])
        self.good("generate", "-m", self.model, "-p", "3 times 3", "-n", "8", "-t", "1", "-ctk",
                  "q4_0", "--place", "k:0=q8_0", stdout=subprocess.DEVNULL)
        on = ("-m", self.model, "-f", self.text, "-c", "32")
        for words, says in (
                ("k=q4_0,k:2=q8_0", "k:2: expected layers 0 to 1"),
                ("k=q4_0,k:0=q8_0,k:0-1=q8_0", "k:0-1: layer 0 stands there twice"),
                ("k=q4_0,v:1-0=q8_0", "v:1-0: expected"), ("k=q4_0,v:=q8_0", "v:: expected"),
                ("k=q4_0,v:0+=q8_0", "v:0+: expected"), ("k=q4_0,k:0=q9", "k:0: expected")):
            self.bad(2, "kld", *on, "--variant", words, says=says)

    def test_help_lists_them(self):
        for name in ("perplexity", "kld", "sweep", "outliers", "bench", "generate", "gguf"):
            self.assertRegex(self.good(name, "--help").stdout,
                             r"\nFormats without kernels: .*exl3:4, .*tqmse3, ")

    def test_wrong_names(self):
        on = ("-m", self.model, "-f", self.text, "-c", "32")
        self.bad(2, "perplexity", *on, "-ctk", "exl3:9",
                 says="-ctk: format exl3: expected exl3:BITS, 2 to 8, found 'exl3:9'")
        self.bad(2, "perplexity", *on, "-ctk", "exl4",
                 says="or iq4_nl, or a format that --help lists, found 'exl4'")
        self.bad(2, "kld", *on, "--variant", "k=tqmse3:wild",
                 says="--variant 'k=tqmse3:wild': format tqmse3: expected tqmse3:128, raw")
        self.bad(1, "perplexity", *on, "-ctv", "tqmse3:128",
                 says="cache V of type tqmse3:128: needs a head size that is a multiple of 128, "
                      "found 64")


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
