#!/usr/bin/env python3
"""A sweep of formats as a user meets it: rows, seeds in one column, gaps, what is not run, the
picture; rotations made from a text; and what one window cannot say.

Usage: tests/test_formats_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import unittest

from test_tools import ENDLESS, Tools

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
FORMATS = ("q4_0", "turbo3", "tqmse2", "q8_0")  # turbo3's blocks are 128, heads here 64


class Formats(Tools):
    sums = 40

    def run_on_text(self, name, *arguments):
        return self.good(name, "-m", self.model, "-f", self.text, "-c", "32", "-t", "1",
                         "--chunks", "6", *arguments)

    def sweep(self, out, *arguments, formats=",".join(FORMATS), rot="off,64,signed:1,signed:2"):
        return self.run_on_text("sweep", "--formats", formats, "--rot", rot, "--out", out,
                                *arguments)

    def whole(self):
        """A finished sweep's file, once for all tests."""
        if not hasattr(Formats, "finished"):
            Formats.finished = self.path("whole.jsonl")
            Formats.said = self.sweep(Formats.finished).stdout
        return Formats.finished

    def rows(self, path):
        with open(path) as file:
            return [json.loads(line) for line in file][1:]

    def test_rows_and_what_is_made_of_them(self):
        rows = self.rows(self.whole())
        self.assertEqual([(r["k"], r["v"], r["rot"]) for r in rows],
                         [(f, f, rot) for f in FORMATS for rot in ("off", "64", "signed:1",
                                                                   "signed:2")])
        self.assertTrue(all(("unsupported" in r) == (r["k"] == "turbo3") for r in rows))
        found = json.loads(self.sweep(self.whole(), "--json", "-").stdout)["formats"]
        cells = {(c["format"], c["rotation"]): c for c in found["cells"]}
        self.assertEqual(len(cells), 9)
        seeds = [r for r in rows if r["k"] == "q4_0" and r["rot"].startswith("signed")]
        klds = [r["kld"] for r in seeds]
        signed = cells["q4_0", "signed"]
        self.assertEqual((signed["seeds"], signed["bits"]), (2, 4.5))
        self.assertAlmostEqual(signed["kld"], statistics.fmean(klds), delta=1e-6 * klds[0])
        self.assertAlmostEqual(signed["spread"], statistics.stdev(klds), delta=1e-6 * klds[0])
        plain = next(r for r in rows if r["k"] == "q4_0" and r["rot"] == "off")
        gaps = [statistics.fmean(two) - one for one, *two in
                zip(plain["kld_windows"], *(r["kld_windows"] for r in seeds))]
        self.assertAlmostEqual(signed["from_first"]["kld"], statistics.fmean(gaps), delta=1e-6)
        self.assertAlmostEqual(signed["from_first"]["se"],
                               statistics.stdev(gaps) / len(gaps) ** 0.5, delta=1e-6)
        self.assertIn("exl3:4", found["not_run"])
        self.assertNotIn("turbo3", found["not_run"])
        best = min((c["kld"], i) for i, c in enumerate(found["cells"]) if c["bits"] <= 4.5)[1]
        self.assertEqual([w["cell"] for w in found["wins"] if w["most_bits"] == 4.5], [best])

    def test_tables(self):
        self.whole()
        self.assertIn("| format | bits | off | 64 | signed: 2 seeds, their spread |", self.said)
        self.assertIn("| turbo3 | does not fit | - | - | - |", self.said)
        self.assertRegex(self.said, r"4 unsupported \(k=turbo3,.*multiple of 128, found 64")
        self.assertRegex(self.said, r"\| tqmse2 \| 2.25 \| \d\S+ \u00b1 \d\S+ \| ")
        self.assertIn("at most 8.5 bits: q8_0, ", self.said)
        self.assertIn("repeatability: seeds of one rotation lie ", self.said)

    def test_an_unfinished_sweep(self):
        part = self.path("part.jsonl")
        with open(self.whole()) as file, open(part, "w") as cut:
            cut.writelines(file.readlines()[:6])
        said = self.sweep(part, "--so-far").stdout
        with open(part) as file:
            self.assertEqual(len(file.readlines()), 6)  # nothing was computed
        self.assertRegex(said, r"8 not run \(k=tqmse2,v=tqmse2,rot=off, \.\.\.\)")
        self.assertIn("| q8_0 | not run | - |", said)
        self.sweep(part)
        strip = [{**row, "seconds": 0} for row in self.rows(part)]
        self.assertEqual(strip, [{**row, "seconds": 0} for row in self.rows(self.whole())])

    def test_wrong_words(self):
        files = ("-m", self.model, "-f", self.text, "-c", "32", "--out", self.path("no.jsonl"))
        self.bad(2, "sweep", *files, "--formats", "q4_0,q4_0", says="twice")
        self.bad(2, "sweep", *files, "--formats", "q9_0", says="--formats")
        self.bad(2, "sweep", *files, "--formats", "all", "-ctk", "q4_0", says="--formats")
        self.bad(1, "sweep", *files, "--formats", "q4_0", "--rot", "calibrated:" +
                 self.path("none"), says="none-k.npy")

    def test_calibrated_is_two_files(self):
        prefix, out = self.path("made"), self.path("calibrated.jsonl")
        said = self.run_on_text("calibrate", "-o", prefix).stdout
        self.assertRegex(said, r"4 windows of 32 tokens to learn from, 2 held out; 6 of \d+ in the "
                               r"text, the rest is not read \(--chunks\)")
        word = "calibrated:" + prefix
        self.sweep(out, formats="q4_0", rot="off," + word)
        both = f"rot-k=file:{prefix}-k.npy,rot-v=file:{prefix}-v.npy"
        found = json.loads(self.run_on_text(
            "kld", "--json", "-", *(part for rot in (both, "rot=" + word)
                                    for part in ("--variant", "k=q4_0,v=q4_0," + rot))).stdout)
        klds = [variant["kld"]["mean"] for variant in found["variants"]]
        self.assertEqual(klds[0], klds[1])
        self.assertEqual(self.rows(out)[1]["kld"], float(f"{klds[0]:.7g}"))
        self.run_on_text("calibrate", "-o", prefix, "--kind", "pca")  # other matrices, same names
        self.bad(1, "sweep", "-m", self.model, "-f", self.text, "-c", "32", "-t", "1", "--chunks",
                 "6", "--formats", "q4_0", "--rot", "off," + word, "--out", out, says="matrices: ")

    def test_kld_names_what_it_measures(self):
        said = self.run_on_text("kld", "--variant", "k=q4_0,v=q8_0", "--variant",
                                "k=q4_0,v=f16,rot=dense:1").stderr
        self.assertRegex(said, r"\nA k=q4_0,v=q8_0\nK q4_0: rotation sylvester, block 64 \(policy")
        self.assertRegex(said, r"\nB k=q4_0,v=f16,rot=dense:1\nK q4_0: rotation dense:1, matrix:")

    def test_one_window_has_no_error_and_says_so(self):
        files = ("-m", self.model, "-f", self.text, "-c", "32", "-t", "1", "--chunks", "1")
        two = ("--variant", "k=q4_0,v=q4_0", "--variant", "k=q8_0,v=q8_0")
        for name, *words in [("kld", *two, "--by-layer", "--by-side"),
                             ("sweep", "-ctk", "q8_0,q4_0", "-ctv", "q8_0", "--out",
                              self.path("one.jsonl")),
                             ("sweep", "--formats", "q8_0,q4_0", "--out", self.path("two.jsonl"))]:
            said = self.good(name, *files, *words).stdout
            self.assertNotRegex(said, r"\bnan\b")
            self.assertIn("no error from one window", said)

    def test_picture(self):
        if not HAS_MATPLOTLIB:
            print(f"SKIPPED {self.id()}: matplotlib is not installed")
            return
        picture = self.path("a-formats.png")
        self.sweep(self.whole(), "--plot", self.path("a"))
        self.assertGreater(os.path.getsize(picture), 10000)
        sys.path.insert(0, self.folder)
        import plot_formats
        formats = plot_formats.Formats(self.whole())
        found = json.loads(self.sweep(self.whole(), "--json", "-").stdout)["formats"]["cells"]
        self.assertEqual(list(formats.points), [(c["format"], c["rotation"]) for c in found])
        for point, cell in zip(formats.points.values(), found):
            self.assertAlmostEqual(point.kld, cell["kld"], delta=1e-6 * cell["kld"])
            self.assertAlmostEqual(point.error, cell["se"], delta=1e-6 * cell["kld"])
            self.assertEqual(point.bits, cell["bits"])
        self.assertIn("found 64", formats.gap("turbo3"))
        matrix = self.path("matrix.jsonl")
        shutil.copy(self.whole(), matrix)
        with open(matrix) as file:
            text = file.read().replace('"same":true,', "")
        with open(matrix, "w") as file:
            file.write(text)
        result = subprocess.run([sys.executable, os.path.join(self.folder, "plot.py"), "formats",
                                 matrix, self.path("no.png")], capture_output=True, text=True,
                                timeout=ENDLESS)
        self.assertEqual((result.returncode, result.stderr.count("\n")), (1, 1))
        self.assertIn("--formats", result.stderr)


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
