#!/usr/bin/env python3
"""rotkv-search as a user meets it: a layer whose damage is planted, figures as rotkv-kld has them on
windows that were held out, and what is refused.

Usage: tests/test_search_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import csv
import importlib.util
import json
import re
import statistics
import sys
import unittest

from test_tools import Tools, write_model

CTX = 32
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


class Search(Tools):
    sums = 60

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.planted = cls.path("planted.gguf")
        write_model(cls.planted, silent=(1,))

    def on(self, model=None):
        return ("-m", model or self.model, "-f", self.text, "-c", str(CTX), "-t", "1")

    def search(self, *arguments, model=None):
        """The JSON and what is printed."""
        at = self.path("search.json")
        result = self.good("search", *self.on(model), "--json", at, *arguments)
        with open(at) as file:
            return json.load(file), result

    def test_a_planted_layer_gets_the_bytes(self):
        found, result = self.search("--types", "q8_0,q4_0", "--rot", "auto", "--bits", "4.5,6.5,8.5",
                                    model=self.planted)
        self.assertEqual([(group["layers"], group["share_k"], group["share_v"])
                          for group in found["layers"]], [([0], 1, 1), ([1], 0, 0)])
        least, middle, most = found["budgets"]
        self.assertEqual([b["bytes"] for b in found["budgets"]], [144, 208, 272])
        mix = found["finalists"][middle["choice"]]
        self.assertEqual(middle["choice"], middle["mix"])
        # 2 layers: of as many layers the word is the first type's
        self.assertEqual(mix["cache"], "k=q8_0,v=q8_0,rot=auto,k:1=q4_0,v:1=q4_0")
        self.assertEqual(mix["bytes_per_token"], 208)
        pair = found["finalists"][middle["pair"]]
        self.assertLess(mix["kld"], pair["kld"] / 2)
        self.assertLess(middle["p"], 0.05)
        # The other layer is not heard, so that the mix is the cache in q8_0, to the bit.
        self.assertEqual(mix["kld_windows"], found["finalists"][most["choice"]]["kld_windows"])
        self.assertEqual(least["mix"], None)
        # Nor is it heard at 8.5 bits, where fewer bytes cost as much: no reason for a mix.
        self.assertEqual(most["choice"], most["pair"])
        self.assertEqual((most["difference"], most["p"]), (0, 1))
        self.assertIn("p 1: the same", result.stdout)
        self.assertIn(f"--variant {mix['cache']}", result.stdout)
        self.assertIn("llama.cpp keeps all layers in the same two types", result.stdout)
        self.assertIn("llama.cpp: -fa on -ctk q8_0 -ctv q8_0", result.stdout)
        self.assertIn("better than every pair that was run at 1 of 3 budgets", result.stdout)

    def test_figures_are_those_of_windows_held_out(self):
        found, _ = self.search("--bits", "5,7", "--chunks", "9", "--held-out", "5")
        caches = [f["cache"] for f in found["finalists"]]
        self.assertGreater(len(caches), 3)
        table = self.path("kld.csv")
        self.good("kld", *self.on(), "--chunks", "9", "--csv", table,
                  *(word for cache in caches for word in ("--variant", cache)))
        rows = {}
        with open(table) as file:
            for row in csv.DictReader(file):
                key = row["variant"], int(row["window"])
                rows.setdefault(key, []).append(float(row["kld"]))
        for finalist in found["finalists"]:
            of_kld = [statistics.fmean(rows[finalist["cache"], w]) for w in range(4, 9)]
            for mine, other in zip(finalist["kld_windows"], of_kld, strict=True):
                self.assertAlmostEqual(mine, other, delta=1e-3 * other + 1e-7)
            self.assertAlmostEqual(finalist["kld"], statistics.fmean(of_kld),
                                   delta=1e-3 * finalist["kld"])
        for budget in found["budgets"]:
            for which in ("pair", "mix"):
                if budget[which] is not None:
                    chosen = found["finalists"][budget[which]]
                    self.assertLessEqual(chosen["bytes_per_token"], budget["bytes"])

    def test_budgets(self):
        in_bits, _ = self.search("--bits", "5.3", "--types", "q8_0,q4_0")
        in_bytes, _ = self.search("--bytes", "169", "--types", "q8_0,q4_0")
        self.assertEqual(in_bits["budgets"][0]["bytes"], 169)  # 5.3 * 256 / 8 = 169.6
        same = ("bytes", "pair", "mix", "choice")
        self.assertEqual(*([search["budgets"][0][key] for key in same]
                           for search in (in_bits, in_bytes)))

    def test_zoo_formats_and_what_does_not_fit(self):
        found, result = self.search("--bits", "3.5", "--types", "q8_0,tqmse2,kivi:2-128")
        self.assertIn("left out of --types: kivi:2-128: needs a head size that is a multiple of 128",
                      result.stderr)
        for finalist in found["finalists"]:
            self.assertLessEqual(finalist["bits_per_value"], 3.5)
        self.assertIn("llama.cpp has no type tqmse2", result.stdout)

    def test_refusals(self):
        on = self.on()
        for words, says in (
                (("--bits", "3"), "--bits 3: expected at least the 144 bytes per token (4.5 bits"),
                (("--bytes", "143"), "--bytes 143: expected at least the 144 bytes"),
                (("--bits", "5", "--bytes", "200"), "--bits and --bytes: expected one of them"),
                (("--bits", "5,x"), "--bits: expected"), (("--bits", "5,5"), "stands there twice"),
                (("--bytes", ""), "--bytes: expected a list, found ''"),
                (("--types", "q8_0,q9"), "--types: expected"),
                (("--rot", "48"), "--rot: expected"),
                (("--chunks", "2000"), "windows of 32 tokens, expected 2000: 1994 to choose by and 6"),
                (("--chunks", "7"), "--held-out 6: expected at most 5"),
                (("--layer-chunks", "3"), "--layer-chunks 3: expected at most the 2 windows"),
                (("--plot", "x.png"), "--plot draws what --json FILE holds"),
                (("--json", self.model), "--json")):
            self.bad(2, "search", *on, *words, says=says)
        self.bad(1, "search", *on, "--json", self.path("none/x.json"), says="--json")

    def test_version_and_help(self):
        self.assertRegex(self.good("search", "--version").stdout, r"^rotkv-search \S+ \(.+\)\n$")
        self.assertIn("Examples:\n  rotkv-search", self.good("search", "--help").stdout)

    def test_quiet_and_standard_output(self):
        result = self.good("search", *self.on(), "--types", "q4_0", "--bits", "4.5", "--quiet",
                           "--json", "-")
        found = json.loads(result.stdout)
        self.assertNotIn("caches", re.sub(r"=+.*", "", result.stderr).split("\n")[0])
        self.assertEqual(found["budgets"][0]["mix"], None)

    @unittest.skipUnless(HAS_MATPLOTLIB, "no matplotlib")
    def test_picture(self):
        picture = self.path("search.png")
        self.search("--types", "q8_0,q4_0", "--bits", "6.5", "--plot", picture, model=self.planted)
        with open(picture, "rb") as file:
            self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")


if __name__ == "__main__":
    Tools.folder = sys.argv.pop(1)
    unittest.main()
