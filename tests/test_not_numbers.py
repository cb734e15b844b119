#!/usr/bin/env python3
"""What is not a number: a cache that its model's keys do not fit, and base files with holes. Every
figure that rests on such a position is one no more, whoever prints it, and the program says so.

Usage: tests/test_not_numbers.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import csv
import importlib.util
import io
import json
import os
import struct
import sys
import unittest

from gguf_file import GgufFile, Tensor, floats
from test_tools import Tools

CTX = 32
SCORED = CTX - 1 - CTX // 2
HEAD = 64
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
BROKEN, WHOLE = "k=f16,v=f16,rot=off", "k=q8_0,v=q8_0"
CAUSE = "layer 0, kv_store: K does not fit f16"


class NotNumbers(Tools):
    sums = 40  # long enough for a test over windows

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        file = GgufFile.read(cls.model)
        norm = file.tensors["output_norm.weight"]
        file.tensors["blk.0.attn_k.bias"] = Tensor([HEAD], 0, floats([7e4] + [0.0] * (HEAD - 1)))
        cls.loud = cls.path("loud.gguf")  # f16 ends at 65504
        file.write(cls.loud)
        del file.tensors["blk.0.attn_k.bias"]
        weights = struct.unpack(f"<{2 * HEAD}f", norm.data)
        file.tensors["output_norm.weight"] = norm._replace(data=floats([2e3 * w for w in weights]))
        cls.sure = cls.path("sure.gguf")  # of nearly every word, wrongly: exp() ends at 709.8 nats
        file.write(cls.sure)

    def ends_badly(self, name, *arguments, says="are not numbers", model=None):
        """Status 1, one line of error, no signs on any NaN."""
        result = self.bad(1, name, "-t", "1", "-m", model or self.loud, *arguments, says=says)
        self.assertNotIn("-nan", result.stdout + result.stderr)
        return result

    def over_text(self, name, *arguments, **more):
        return self.ends_badly(name, "-f", self.text, "-c", str(CTX), *arguments, **more)

    def file_of(self, name):
        with open(self.path(name)) as file:
            return file.read()

    def test_perplexity(self):
        out = self.path("ppl.json")
        result = self.over_text("perplexity", "--chunks", "3", "--json", out, says=CAUSE)
        self.assertIn("Final estimate: PPL = nan +/- nan\n", result.stdout)
        self.assertIn(f"{3 * SCORED} of {3 * SCORED} positions are not numbers, the first at token "
                      f"{CTX // 2} of window 0 (both from 0): {CAUSE}\n", result.stdout)
        found = json.loads(self.file_of("ppl.json"))
        self.assertEqual((found["ppl"], found["ppl_err"]), (None, None))
        self.assertEqual(found["not_numbers"], {
            "count": 3 * SCORED, "scored": 3 * SCORED,
            "first": {"window": 0, "position": CTX // 2, "cause": CAUSE}})
        fine = self.good("perplexity", "-m", self.loud, "-f", self.text, "-c", str(CTX), "-ctk",
                         "f32", "--json", "-")
        self.assertEqual(json.loads(fine.stdout)["not_numbers"]["count"], 0)

    def no_ppl(self, name, *arguments):
        """Every position is a number, and the perplexity is none: that is said."""
        out = self.path(name + "-sure.json")
        result = self.over_text(name, *arguments, "--json", out, model=self.sure,
                                says="the PPL is not a number: the mean NLL of ")
        self.assertRegex(result.stdout, r"the PPL is not a number: the mean NLL of \d+(\.\d+)? nats "
                                        r"is more than exp\(\) holds\n")
        self.assertNotRegex(result.stdout, r"\binf\b")
        return result, json.loads(self.file_of(name + "-sure.json"))

    def test_perplexities_beyond_exp(self):
        base = self.path("sure.kld")
        for more in ((), ("--kl-divergence-base", base)):
            result, found = self.no_ppl("perplexity", "--chunks", "3", *more)
            self.assertIn("Final estimate: PPL = nan +/- nan\n", result.stdout)
            self.assertEqual((found["ppl"], found["ppl_err"]), (None, None))
            self.assertEqual(list(found["not_numbers"]), ["count", "scored", "overflow"])
            self.assertEqual(found["not_numbers"]["count"], 0)
        self.ends_badly("perplexity", "--kl-divergence", "--kl-divergence-base", base,
                        model=self.sure, says="the PPL is not a number: the mean NLL of ")
        found = self.no_ppl("kld", "--variant", WHOLE, "--jitter", "1")[1]
        for part in (found["base"], found["variants"][0]):
            self.assertIsNone(part["ppl"])
            self.assertIn("overflow", part["not_numbers"])
        self.assertGreater(found["variants"][0]["kld"]["mean"], 0)
        found = self.no_ppl("demo", "--chunks", "2")[1]
        self.assertIn("overflow", found["rows"][0]["plain"]["not_numbers"])

    def test_a_sweep_without_perplexities(self):
        out, prefix = self.path("sure.jsonl"), self.path("sure")
        arguments = ["--chunks", "3", "-ctk", "q8_0,q4_0", "-ctv", "q8_0", "--quiet", "--out", out,
                     "--csv", self.path("sure.csv")]
        if HAS_MATPLOTLIB:
            arguments += ["--plot", prefix]
        result, found = self.no_ppl("sweep", *arguments)
        self.assertIn("4 cells are without a PPL (k=q8_0,v=q8_0,rot=off, ...): ", result.stdout)
        for cell in found["cells"]:
            self.assertIsNone(cell["ppl"])
            self.assertGreater(cell["kld"], 0)
        rows = list(csv.DictReader(io.StringIO(self.file_of("sure.csv"))))
        self.assertEqual([row["ppl"] for row in rows], ["nan"] * 4)
        self.assertEqual(self.no_ppl("sweep", *arguments)[0].stdout, result.stdout)  # from the file
        if not HAS_MATPLOTLIB:
            print(f"SKIPPED {self.id()}: no pictures, matplotlib is not installed")
            return
        for picture in ("ppl", "kld", "pareto"):
            self.assertTrue(os.path.exists(f"{prefix}-{picture}.png"), picture)
        sys.path.insert(0, self.folder)
        import plot
        self.assertTrue(plot.Sweep(out).base().endswith("PPL not a number"))
        self.assertEqual([plot.ratio_words(x) for x in (0, 0.5, -800, 1234.5)],
                         ["1.000", "1.649", "e^-800", "e^1234"])

    def test_base_files_with_holes(self):
        base, holes = self.path("base.kld"), self.path("holes.kld")
        windows = 3
        self.perplexity("-t", "1", "--chunks", str(windows), "--kl-divergence-base", base)
        with open(base, "rb") as file:
            data = file.read()
        ctx, words, count = struct.unpack_from("<iii", data, 8)
        self.assertEqual((ctx, count), (CTX, windows))
        row, first = 8 + 2 * (words + words % 2), 20 + 4 * count * ctx
        arguments = ("--kl-divergence", "--kl-divergence-base", holes, "-ctk", "q4_0", "-ctv",
                     "q4_0", "--json", self.path("holes.json"))
        with open(holes, "wb") as file:
            file.write(data)
        self.good("perplexity", "-t", "1", "-m", self.model, *arguments)
        whole = json.loads(self.file_of("holes.json"))
        for hole in (0, windows * SCORED // 2, windows * SCORED - 1):
            spoilt = bytearray(data)
            spoilt[first + hole * row:first + hole * row + 4] = struct.pack("<I", 0x7FC00000)
            with open(holes, "wb") as file:
                file.write(spoilt)
            self.ends_badly("perplexity", *arguments, model=self.model,
                            says=f"1 of {windows * SCORED} positions")
            found = json.loads(self.file_of("holes.json"))
            self.assertEqual({key: value for key, value in found["kld"].items()
                              if value is not None}, {})
            self.assertEqual(found["ppl"], whole["ppl"])  # the run's own, which is whole
            self.assertEqual(found["not_numbers"]["first"]["window"], hole // SCORED)
            self.assertEqual(found["not_numbers"]["first"]["position"],
                             CTX // 2 + hole % SCORED)
            self.assertIn("holes.kld", found["not_numbers"]["first"]["cause"])

    def test_base_files_with_rows_that_are_no_probabilities(self):
        base, broken, windows = self.path("sound.kld"), self.path("broken.kld"), 3
        self.perplexity("-t", "1", "--chunks", str(windows), "--kl-divergence-base", base)
        with open(base, "rb") as file:
            data = file.read()
        words = struct.unpack_from("<i", data, 12)[0]
        row, first = 8 + 2 * (words + words % 2), 20 + 4 * windows * CTX
        for hole in (0, windows * SCORED // 2, windows * SCORED - 1):
            at = first + hole * row
            scale, minimum = struct.unpack_from("<ff", data, at)
            for fault, says in (
                    (bytes(row), f"probabilities with the sum {words}, expected 1"),
                    (struct.pack("<ff", scale, minimum + 5), "probabilities with the sum 148.4"),
                    (struct.pack("<ff", -scale, minimum), f"scale {-scale:.6g}, least"),
                    (struct.pack("<ff", scale, float("-inf")), f"scale {scale:.6g}, least log-prob")):
                with open(broken, "wb") as file:
                    file.write(data[:at] + fault + data[at + len(fault):])
                self.bad(1, "perplexity", "-t", "1", "-m", self.model, "--kl-divergence",
                         "--kl-divergence-base", broken, "--quiet",
                         says=f"broken.kld: offset {at}: row {hole} (token "
                              f"{CTX // 2 + hole % SCORED} of window {hole // SCORED}, all from "
                              f"0): {says}")

    def test_a_base_file_without_numbers_is_written_and_read(self):
        base = self.path("none.kld")
        self.over_text("perplexity", "--chunks", "3", "--kl-divergence-base", base, says=CAUSE)
        result = self.ends_badly("perplexity", "--kl-divergence", "--kl-divergence-base", base,
                                 "-ctk", "f16", says="none.kld holds none there")
        self.assertRegex(result.stdout, r"Same top p: +nan")

    def kld(self, *variants, more=()):
        flags = [part for text in variants for part in ("--variant", text)]
        result = self.over_text("kld", *flags, *more, "--json", self.path("kld.json"), "--csv",
                                self.path("kld.csv"))
        return result, json.loads(self.file_of("kld.json"))

    def test_lock_step(self):
        result, found = self.kld(BROKEN, WHOLE, "k=q4_1,v=f32,rot=off", "k=q4_1,v=f32",
                                 more=("--by-layer", "--explain", "--jitter", "1"))
        scored = found["scored"]
        self.assertIn(f"A {BROKEN}: {scored} of {scored} positions are not numbers", result.stdout)
        self.assertIn("K does not fit q4_1", result.stdout)
        self.assertIn("A, layer 0 alone: ", result.stdout)
        self.assertNotIn("A, layer 1 alone: ", result.stdout)
        self.assertIn("A: the error is not a number, by layer 0.", result.stdout)
        self.assertEqual([v["not_numbers"]["count"] for v in found["variants"]],
                         [scored, 0, scored, 0])
        self.assertEqual(found["variants"][0]["not_numbers"]["first"]["cause"], CAUSE)
        self.assertEqual({key: value for key, value in found["variants"][0]["kld"].items()
                          if value is not None and key != "ppl_base"
                          and key != "ppl_base_se"}, {})
        self.assertGreater(found["variants"][0]["kld"]["ppl_base"], 1)
        self.assertEqual(found["base"]["not_numbers"]["count"], 0)
        for pair in found["pairs"]:
            numbers = {pair["a"], pair["b"]} == {WHOLE, "k=q4_1,v=f32"}
            self.assertEqual(pair["p"] is not None, numbers, pair)
            self.assertEqual(pair["kld"]["value"] is not None, numbers, pair)
        by_layer = found["variants"][0]["by_layer"]
        self.assertEqual([layer["kld"] is None for layer in by_layer["layers"]], [True, False])
        self.assertEqual((by_layer["sum"], by_layer["whole"]), (None, None))
        explained = found["explain"][0]
        self.assertEqual([layer["error"] is None for layer in explained["layers"]], [True, False])
        self.assertEqual([explained["all"][key] for key in ("error", "temperature", "slope")],
                         [None] * 3)
        for row in csv.DictReader(io.StringIO(self.file_of("kld.csv"))):
            broken = row["variant"] in (BROKEN, "k=q4_1,v=f32,rot=off")
            for key in ("kld", "nll", "same_top"):
                self.assertEqual(row[key] == "nan", broken, row)
            self.assertNotIn("nan", row["nll_base"])

    def test_a_broken_base(self):
        result, found = self.kld("k=q4_1,v=q4_1,rot=off", more=("--base", "k=f16,v=f16"))
        variant = found["variants"][0]
        self.assertEqual((variant["kld"]["same_top"], variant["kld"]["max"]), (None, None))
        self.assertEqual(variant["not_numbers"]["first"]["cause"], "the base is none there")
        self.assertEqual(found["base"]["not_numbers"]["first"]["cause"], CAUSE)
        self.assertEqual((found["floor"]["kld"], found["floor"]["kld_max"]), (None, None))
        self.assertIn(f"base k=f16,v=f16: {found['scored']} of ", result.stdout)

    def test_stop_ends_at_once(self):
        result, found = self.kld(BROKEN, WHOLE, more=("--stop", "99", "-b", str(CTX)))
        self.assertIn("A - B at 99 %: not a number, stopped after 1 of ", result.stdout)
        self.assertEqual(found["chunks"], 1)
        self.assertEqual(found["stop"]["not_a_number"], True)
        self.assertEqual(found["stop"]["stopped"], False)

    def test_sweep(self):
        files = ("--out", self.path("sweep.jsonl"), "--json", self.path("sweep.json"), "--csv",
                 self.path("sweep.csv"))
        arguments = ("--chunks", "4", "-ctk", "f16,q8_0,q4_1", "-ctv", "q8_0", "--quiet", *files)
        result = self.over_text("sweep", *arguments)
        self.assertIn("rescued by rotation: 1 (plain is not a number); broken by rotation: 0; not "
                      "a number either way: 1\n", result.stdout)
        self.assertRegex(result.stdout, r"\nrescued: k=q4_1,v=q8_0,rot=auto +KLD 0\.\d+ instead of "
                                        r"nan\n")
        self.assertNotIn("\nhurts: k=q4_1", result.stdout)
        self.assertIn("left out, as it is not a number: 3 cells\n", result.stdout)
        self.assertIn(CAUSE, result.stdout)
        found = json.loads(self.file_of("sweep.json"))
        kinds = {change["rotated"]: change["kind"] for change in found["rotation"]}
        self.assertEqual(kinds, {"k=f16,v=q8_0,rot=auto": "neither",
                                 "k=q8_0,v=q8_0,rot=auto": "compared",
                                 "k=q4_1,v=q8_0,rot=auto": "rescued"})
        self.assertEqual([c["p"] for c in found["rotation"] if c["kind"] != "compared"],
                         [None, None])
        for cell in found["cells"]:
            broken = cell["k"] == "f16" or (cell["k"], cell["rot"]) == ("q4_1", "off")
            self.assertEqual("not_numbers" in cell, broken, cell)
            for key in ("kld", "kld_median", "kld_99", "same_top", "ppl"):
                self.assertEqual(cell[key] is None, broken, cell)
        self.assertNotIn("f16", " ".join(line["cell"] for line in found["front"]))
        rows = list(csv.DictReader(io.StringIO(self.file_of("sweep.csv"))))
        self.assertEqual([row["kld"] == "nan" for row in rows], [True, True, False, False, True,
                                                                 False])
        again = self.over_text("sweep", *arguments)  # from the file alone
        self.assertEqual(again.stdout, result.stdout)
        self.over_text("sweep", "--chunks", "2", "-ctk", "f16", "-ctv", "f16", "--quiet", "--out",
                       self.path("none.jsonl"), "--plot", self.path("none"), says=CAUSE)

    def test_outliers(self):
        result = self.over_text("outliers", "--chunks", "2", "--quiet", "-ctk", "q4_1", "-ctv", "q8_0",
                                "--json", self.path("outliers.json"), "--csv",
                                self.path("outliers.csv"), says="K in q4_1")
        self.assertIn("\nK: only rotated is finite\n    q4_1: not a number: 1 plain, 0 rotated of 2 "
                      "heads\n", result.stdout)
        self.assertNotIn("no clear difference\n    q4_1", result.stdout)
        verdicts = {(v["side"], v["type"], v["rotation"]): v for v in
                    json.loads(self.file_of("outliers.json"))["verdicts"]}
        self.assertEqual(verdicts["k", "q4_1", "sylvester"]["advice"], "only_rotated")
        self.assertIsNone(verdicts["k", "q4_1", "sylvester"]["decisive"])
        self.assertIn(verdicts["v", "q8_0", "sylvester"]["advice"],
                      ("rotate", "indifferent", "hurts"))
        for row in csv.DictReader(io.StringIO(self.file_of("outliers.csv"))):
            broken = (row["layer"], row["side"], row["rotation"]) == ("0", "k", "none")
            self.assertEqual(row["q4_1_output_measured"] == "nan", broken, row)

    def test_demo(self):
        result = self.over_text("demo", "--chunks", "2", "--json", self.path("demo.json"))
        rows = {line.split()[0]: line for line in result.stdout.splitlines() if "|" in line}
        self.assertIn("nan", rows["f16"])
        self.assertIn(" rescued |", rows["q4_1"])
        self.assertRegex(rows["q8_0"], r"\d x( \?)? +\|")
        self.assertIn(f"\nf16, plain: {2 * SCORED} of {2 * SCORED} positions", result.stdout)
        found = {row["type"]: row for row in json.loads(self.file_of("demo.json"))["rows"]}
        self.assertEqual(found["q4_1"]["plain"]["not_numbers"]["count"], 2 * SCORED)
        self.assertIsNone(found["q4_1"]["plain"]["same_top"])

    def test_generation_names_the_token(self):
        self.ends_badly("generate", "-p", "12 times", "-n", "4",
                        says="not finite numbers behind token 7 (from 0), id 115, cache k=f16,v=f16")
        self.ends_badly("generate", "-p", "12 times", "-n", "4", "-ctk", "f32", "-ctv", "f32",
                        "--against", "k=f16,v=f16", says="cache k=f16,v=f16")


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
