#!/usr/bin/env python3
"""rotkv-kld as a user meets it: its figures against those of base files and against sums made here
from its own table of positions, and what is refused.

Usage: tests/test_kld_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import csv
import io
import json
import math
import os
import re
import statistics
import sys
import unittest

from test_tools import Tools

CTX = 32
SCORED = CTX - 1 - CTX // 2
EIGHT, FOUR, PLAIN = "k=q8_0,v=q8_0", "k=q4_0,v=q4_0", "k=q4_0,v=q4_0,rot=off"


class Kld(Tools):
    sums = 60  # long enough for a test over windows

    def kld(self, *arguments, variants=(), **more):
        flags = [part for text in variants for part in ("--variant", text)]
        return self.good("kld", "-m", self.model, "-f", self.text, "-c", str(CTX), *flags,
                         *arguments, **more)

    def json_of(self, *arguments, **more):
        return json.loads(self.kld(*arguments, "--json", "-", **more).stdout)

    def from_base_file(self, base, *cache):
        """The KLD block of rotkv-perplexity as text and as JSON."""
        found = self.path("compared.json")
        result = self.good("perplexity", "-m", self.model, "--kl-divergence",
                           "--kl-divergence-base", base, *cache, "--json", found)
        with open(found) as file:
            return block_of(result.stdout), json.load(file)["kld"]

    def test_version_and_help(self):
        self.assertRegex(self.good("kld", "--version").stdout, r"^rotkv-kld \S+ \(.+\)\n$")
        self.assertIn("Examples:\n  rotkv-kld", self.good("kld", "--help").stdout)

    def test_wrong_usage_is_2(self):
        files = ("-m", self.model, "-f", self.text, "-c", str(CTX))
        for text in ("", "k", "k=", ",", "k=q4_0,", "k=q9_0", "k=q6_K", "k=q4_0,k=q8_0", "rot=48",
                     "rot=sideways", "rot-k=-1", "signs=-3", "signs=x", "sideways=1"):
            result = self.bad(2, "kld", *files, "--variant=" + text)
            self.assertEqual(result.stdout, "")
        self.bad(2, "kld", *files, "--variant", "k=q9_0", says="'k=q9_0': expected f32, f16, bf16")
        self.bad(2, "kld", *files, "--variant", "sideways=1", says="sideways")
        self.bad(2, "kld", *files, "--variant", EIGHT, "--base", "k=q9_0", says="--base")
        self.bad(2, "kld", *files, says="--variant")
        one = (*files, "--variant", EIGHT)
        self.bad(2, "kld", *one, "--stop", "99", says="two variants")
        self.bad(2, "kld", *one, "--variant", FOUR, "--stop", "100")
        self.bad(2, "kld", *one, "--jitter", "0")
        self.bad(2, "kld", *one, "--jitter", "129", says="128")
        self.bad(2, "kld", *one, "--json", "-", "--csv", "-", says="--csv")
        self.bad(2, "kld", *one, "-b", "0", says="0")
        self.bad(2, "kld", *one, "--layers", "0", says="--by-layer")
        self.bad(2, "kld", *one, "--by-layer", "--layers", "0-2", says="0 to 1")
        self.bad(1, "kld", "-m", self.model, "-f", self.path("missing.txt"), "--variant", EIGHT,
                 says="missing.txt")
        self.bad(1, "kld", "-m", self.path("missing.gguf"), "-f", self.text, "--variant", EIGHT,
                 says="missing.gguf")
        self.bad(1, "kld", *one, "--csv", self.path("no/folder.csv"), says="folder.csv")

    def test_lock_step_equals_a_base_file(self):
        base = self.path("base.kld")
        self.perplexity("-ctk", "f32", "-ctv", "f32", "--kl-divergence-base", base)
        variants = (EIGHT, FOUR, PLAIN)
        exact = self.json_of(variants=variants)["variants"]
        rounded = self.json_of("--round-base", variants=variants)["variants"]
        for i, cache in enumerate([("-ctk", "q8_0", "-ctv", "q8_0"),
                                   ("-ctk", "q4_0", "-ctv", "q4_0"),
                                   ("-ctk", "q4_0", "-ctv", "q4_0", "--rot-k", "off",
                                    "--rot-v", "off")]):
            text, file = self.from_base_file(base, *cache)
            self.assertLess(abs(exact[i]["kld"]["mean"] - file["mean"]),
                            max(0.02 * file["mean"], 2e-6))
            for key, value in file.items():
                self.assertAlmostEqual(rounded[i]["kld"][key], value, delta=1e-6 * abs(value))
            shown = self.kld("--round-base", "--full", variants=[variants[i]]).stdout
            self.assertEqual(block_of(shown), text)

    def test_paired_differences(self):
        table = list(csv.DictReader(io.StringIO(
            self.kld("--csv", "-", variants=(PLAIN, EIGHT)).stdout)))
        found = self.json_of(variants=(PLAIN, EIGHT))
        windows = found["chunks"]
        self.assertEqual(len(table), 2 * windows * SCORED)
        self.assertEqual({row["variant"] for row in table}, {PLAIN, EIGHT})
        means = {}
        for name in (PLAIN, EIGHT):
            for window in range(windows):
                means[name, window] = statistics.fmean(
                    float(row["kld"]) for row in table
                    if row["variant"] == name and row["window"] == str(window))
        gaps = [means[PLAIN, w] - means[EIGHT, w] for w in range(windows)]
        pair = found["pairs"][0]
        self.assertEqual((pair["a"], pair["b"]), (PLAIN, EIGHT))
        self.assertGreater(pair["kld"]["value"], 0)
        self.assertAlmostEqual(pair["kld"]["value"], statistics.fmean(gaps), delta=1e-8)
        self.assertAlmostEqual(pair["kld"]["se"], statistics.stdev(gaps) / math.sqrt(windows),
                               delta=1e-8)
        self.assertLess(pair["p"], 1e-3)
        a, b = found["variants"]
        self.assertAlmostEqual(a["kld"]["mean"] - b["kld"]["mean"], pair["kld"]["value"], delta=1e-8)
        self.assertAlmostEqual(math.log(a["ppl"] / b["ppl"]), pair["log_ratio"]["value"],
                               delta=1e-8)
        turned = self.json_of(variants=(EIGHT, PLAIN))["pairs"][0]
        self.assertLess(turned["kld"]["value"], 0)

    def test_every_figure_follows_from_the_table(self):
        arguments = ("--csv", self.path("all.csv"), "--json", self.path("all.json"))
        shown = self.kld(*arguments, variants=(FOUR, EIGHT)).stdout
        with open(self.path("all.json")) as file:
            found = json.load(file)
        with open(self.path("all.csv"), newline="") as file:
            table = list(csv.DictReader(file))
        with open(self.text, "rb") as file:
            text = file.read()
        for row in table:  # each byte is a token
            place = int(row["window"]) * CTX + int(row["position"]) + 1
            self.assertEqual(int(row["target"]), text[place])
        for letter, one in zip("AB", found["variants"]):
            rows = [row for row in table if row["variant"] == one["name"]]
            figures = figures_of(rows)
            for key, value in figures.items():  # a difference is as exact as what it is of
                size = figures["ppl_base"] if key == "difference" else abs(value)
                self.assertAlmostEqual(one["kld"][key], value, msg=key, delta=1e-7 * max(1, size))
            self.assertAlmostEqual(one["kld"]["se_by_windows"], error_by_windows(rows), delta=1e-8)
            self.check_overview(shown, letter, one, rows)
            for part in one["by_position"]:
                there = [row for row in rows
                         if part["first"] <= int(row["position"]) <= part["last"]]
                klds = [float(row["kld"]) for row in there]
                self.assertAlmostEqual(part["kld"], statistics.fmean(klds), delta=1e-8)
                self.assertAlmostEqual(part["se"], error_by_windows(there), delta=1e-8)
        self.check_shown_pair(shown, found["pairs"][0])
        self.check_shown_positions(shown, *found["variants"])

    def check_overview(self, shown, letter, one, rows):
        line = re.search(rf"^{letter} +(\S+) +(\S+) \u00B1 (\S+) +(\S+) +(\S+) % +"
                         + re.escape(one["name"]) + "$", shown.split("Overview")[1], re.M)
        figures = figures_of(rows)
        self.assertAlmostEqual(float(line[1]), one["ppl"], delta=5.1e-5)
        self.assertAlmostEqual(float(line[2]), figures["mean"], delta=6e-7)
        self.assertAlmostEqual(float(line[3]), figures["se"], delta=6e-7)
        self.assertAlmostEqual(float(line[4]), error_by_windows(rows), delta=6e-7)
        self.assertAlmostEqual(float(line[5]), 100 * figures["same_top"], delta=0.0051)

    def check_shown_pair(self, shown, pair):
        line = re.search(r"^A - B +(\S+) \u00B1 (\S+) +(\S+) +(\S+) \u00B1 (\S+)$", shown, re.M)
        self.assertAlmostEqual(float(line[1]), pair["kld"]["value"], delta=6e-7)
        self.assertAlmostEqual(float(line[2]), pair["kld"]["se"], delta=6e-7)
        self.assertAlmostEqual(float(line[3]), pair["p"], delta=0.06 * pair["p"])
        self.assertAlmostEqual(float(line[4]), pair["log_ratio"]["value"], delta=6e-7)
        self.assertAlmostEqual(float(line[5]), pair["log_ratio"]["se"], delta=6e-7)

    def check_shown_positions(self, shown, *variants):
        lines = re.findall(r"^(\d+) \.\. (\d+) +(\S+) \u00B1 (\S+) +(\S+) \u00B1 (\S+) *$",
                           shown.split("by position in the window")[1], re.M)
        self.assertEqual(len(lines), len(variants[0]["by_position"]))
        for line, *parts in zip(lines, *(one["by_position"] for one in variants)):
            self.assertEqual((int(line[0]), int(line[1])), (parts[0]["first"], parts[0]["last"]))
            for i, part in enumerate(parts):
                self.assertAlmostEqual(float(line[2 + 2 * i]), part["kld"], delta=6e-7)
                self.assertAlmostEqual(float(line[3 + 2 * i]), part["se"], delta=6e-7)

    def test_the_floor_lies_below_everything(self):
        for backend in ("ref", "fast"):
            found = self.json_of("-t", "1", "--backend", backend, variants=("k=f32", EIGHT))
            floor = found["floor"]
            self.assertNotEqual(floor["threads"], 1)
            self.assertLess(floor["n_batch"], CTX)
            self.assertNotEqual(floor["ppl"], found["base"]["ppl"])
            self.assertLess(abs(floor["ppl"] / found["base"]["ppl"] - 1), 1e-5)
            self.assertLess(abs(floor["kld"]), 1e-8)
            self.assertLess(floor["kld_max"], 1e-6)
            same, eight = found["variants"]
            self.assertEqual((same["kld"]["mean"], same["kld"]["max"]), (0, 0))
            self.assertEqual(same["ppl"], found["base"]["ppl"])
            self.assertGreater(eight["kld"]["mean"], 100 * abs(floor["kld"]))

    def test_jitter(self):
        arguments = ("-b", str(CTX), "--backend", "ref", "--chunks", "6")
        still = self.json_of(*arguments, variants=(EIGHT, FOUR))
        moved = self.json_of(*arguments, "--jitter", "3", variants=(EIGHT, FOUR))
        for a, b in zip([still["base"], *still["variants"]], [moved["base"], *moved["variants"]]):
            jitter = b.pop("jitter")
            self.assertEqual(a, b)  # the model was put back after every run
            self.assertEqual({len(jitter[key]) for key in jitter}, {3})
            self.assertEqual(len({*jitter["ppl"], a["ppl"]}), 4)
            for ppl in jitter["ppl"]:
                self.assertLess(abs(ppl / a["ppl"] - 1), 0.05)
            self.assertTrue(all(abs(kld) < 0.01 for kld in jitter["kld_from_unchanged"]))
            for kld in jitter["kld"] if "kld" in a else ():
                self.assertLess(abs(kld / a["kld"]["mean"] - 1), 0.2)
            for kld in jitter["kld_from_unchanged"] if "kld" in a else ():
                self.assertLess(abs(kld), a["kld"]["mean"] / 2)  # nearer to itself than to the base
        shown = self.kld(*arguments, "--jitter", "2", variants=(FOUR,)).stdout
        self.assertIn("Repeatability: 2 runs", shown)

    def test_positions(self):
        found = self.json_of(variants=(FOUR,))["variants"][0]
        bins = found["by_position"]
        self.assertEqual((bins[0]["first"], bins[-1]["last"]), (CTX // 2, CTX - 2))
        for before, after in zip(bins, bins[1:]):
            self.assertEqual(before["last"] + 1, after["first"])
        whole = sum(b["kld"] * (b["last"] - b["first"] + 1) for b in bins) / SCORED
        self.assertAlmostEqual(whole, found["kld"]["mean"], delta=1e-12)

    def test_by_side(self):
        found = self.json_of("--by-side", variants=(FOUR, "k=q8_0"))["variants"]
        self.assertEqual([v["name"] for v in found],
                         [FOUR, "k=q8_0", FOUR + " [K only]", FOUR + " [V only]"])
        self.assertEqual([(v["cache"]["k"], v["cache"]["v"]) for v in found],
                         [("q4_0", "q4_0"), ("q8_0", "f32"), ("q4_0", "f32"), ("f32", "q4_0")])
        self.assertEqual([v["rotation"]["v"]["kind"] for v in found],
                         ["sylvester", "none", "none", "sylvester"])
        alone = self.json_of(variants=("k=q4_0", "v=q4_0"))["variants"]
        self.assertEqual([v["kld"] for v in alone], [v["kld"] for v in found[2:]])

    def test_rotation_of_a_variant(self):
        found = self.json_of(variants=("k=q4_0,v=q4_0,rot=off,rot-v=32,signs=7", "k=f16,rot-k=on"),
                             env={"LLAMA_ATTN_ROT_DISABLE": "1"})["variants"]
        sides = [(v["rotation"][s]["kind"], v["rotation"][s]["block"]) for v in found for s in "kv"]
        self.assertEqual(sides, [("none", 0), ("signs", 32), ("sylvester", 64), ("none", 0)])

    def test_in_words(self):
        variants = (PLAIN, EIGHT, EIGHT)
        shown = self.kld(variants=variants).stdout
        words = shown[shown.index("In words"):shown.index("Paired")]
        lines = dict(re.findall(r"^(\S(?:, \S)?) {3,}(.*)$", words, re.M))
        self.assertEqual(list(lines), ["A", "B", "C", "A, B", "A, C", "B, C"])
        found = [one["kld"] for one in self.json_of(variants=variants)["variants"]]
        share = re.search(r"; another first choice at (\S+) %$", lines["A"])[1]
        self.assertAlmostEqual(float(share), 100 * (1 - found[0]["same_top"]), 0)
        less = re.fullmatch(r"B loses (\S+) x less than A", lines["A, B"])[1]
        self.assertAlmostEqual(float(less) * found[1]["mean"] / found[0]["mean"], 1, 1)
        self.assertEqual(lines["B, C"], "the same")
        self.assertIn("by chance alone about 0.15 of 3 pairs of equals would seem to differ\n", words)

    def test_stop(self):
        arguments = ("-b", str(CTX), "--stop", "99")
        found = self.json_of(*arguments, variants=(PLAIN, EIGHT))
        self.assertTrue(found["stop"]["stopped"])
        self.assertEqual(found["stop"]["looks"], found["chunks"] - 3)
        pair = found["pairs"][0]
        looks = found["stop"]["looks"]
        self.assertLessEqual(pair["p"], 0.01 / looks / (looks + 1))
        windows = self.json_of("-b", str(CTX), variants=(PLAIN, EIGHT))["chunks"]
        self.assertLess(found["chunks"], windows)
        self.assertEqual(found["scored"], found["chunks"] * SCORED)
        equal = self.json_of(*arguments, variants=(FOUR, FOUR))
        self.assertEqual((equal["stop"]["stopped"], equal["chunks"]), (False, windows))
        self.assertEqual(equal["pairs"][0]["kld"], {"value": 0, "se": 0})

    def test_windows_at_once_and_threads_change_nothing(self):
        def figures(batch, threads):
            found = self.json_of("-b", batch, "-t", threads, "--backend", "ref", "--chunks", "4",
                                 variants=(FOUR,))
            return found["variants"][0]["kld"], found["variants"][0]["ppl"]
        first = figures("32", "1")
        for batch, threads in (("64", "2"), ("5", "1"), ("2048", "1")):
            self.assertEqual(figures(batch, threads), first)

    def test_by_layer(self):
        names = [EIGHT, f"{EIGHT} [K only]", f"{EIGHT} [V only]"]
        found = self.json_of("--by-layer", "--by-side", variants=(EIGHT,))["variants"]
        self.assertEqual([one["name"] for one in found], names)
        for one in found:
            layers = one["by_layer"]["layers"]
            self.assertEqual([layer["layer"] for layer in layers], [0, 1])
            self.assertTrue(all(layer["kld"] > 1e-8 for layer in layers))
            self.assertAlmostEqual(one["by_layer"]["sum"], sum(x["kld"] for x in layers), 12)
            self.assertAlmostEqual(one["by_layer"]["whole"], one["kld"]["mean"], 12)
            # KLD is quadratic in small errors, and errors of two layers know little of each other.
            self.assertAlmostEqual(one["by_layer"]["whole_over_sum"], 1, delta=0.3)
        for layer in (0, 1):
            both, k, v = (one["by_layer"]["layers"][layer]["kld"] for one in found)
            self.assertAlmostEqual(both / (k + v), 1, delta=0.3)
        last = self.json_of("--by-layer", "--layers", "1", variants=(EIGHT,))["variants"][0]
        self.assertEqual(last["by_layer"]["layers"], found[0]["by_layer"]["layers"][1:])
        self.assertNotIn("whole", last["by_layer"])
        equal = self.json_of("--by-layer", "--base", EIGHT, variants=(EIGHT,))["variants"][0]
        self.assertEqual([x["kld"] for x in equal["by_layer"]["layers"]], [0, 0])
        shown = self.kld("--by-layer", variants=(EIGHT,))
        self.assertRegex(shown.stdout, r"one layer as in the variant[^$]*\nsum  [^$]*\nwhole  ")
        self.assertIn("one layer alone: 2 of 2", shown.stderr)
        self.assertNotIn("one layer", self.kld(variants=(EIGHT,)).stdout)

    def test_explain(self):
        keys, values = "k=q4_0,v=f32", "k=f32,v=q4_0"
        arguments = ("--explain", "--backend", "ref", "--chunks", "2")
        found = self.json_of(*arguments, variants=(FOUR, keys, values, "k=f32,v=f32"))["explain"]
        four, k, v, none = (one["all"] for one in found)
        self.assertEqual([one["name"] for one in found], [FOUR, keys, values, "k=f32,v=f32"])
        self.assertEqual(found[0]["queries_per_head"], 2 * SCORED)  # fewer than it would take
        # Queries, keys and values are the base's for every variant, so that sides are the same.
        self.assertAlmostEqual(four["keys"] / k["error"], 1, delta=1e-9)
        self.assertAlmostEqual(four["values"] / v["error"], 1, delta=1e-9)
        self.assertEqual((k["values"], v["keys"], v["temperature"]), (0, 0, 0))
        self.assertEqual((none["error"], found[3]["sentence"]), (0, "no error."))
        for one in (four, *found[0]["layers"], *found[0]["layers"][1]["heads"]):
            self.assertAlmostEqual(one["keys"] + one["values"] + one["product"], one["error"], 12)
            self.assertLess(one["temperature"], one["own_temperature"])
            self.assertLess(one["own_temperature"], one["keys"])
        self.assertEqual([head["kv_head"] for head in found[0]["layers"][0]["heads"]], [0, 0])
        for batch in ("64", "5"):  # windows at once, a window in pieces
            again = self.json_of(*arguments, "-b", batch, variants=(FOUR,))["explain"][0]
            self.assertEqual(again["layers"], found[0]["layers"])
        long = json.loads(self.good("kld", "-m", self.model, "-f", self.text, "-c", "256", "--chunks",
                                    "1", "--explain", "--variant", FOUR, "--json", "-").stdout)
        self.assertEqual(long["explain"][0]["queries_per_head"], 127 // 3)  # every third
        shown = self.kld("--explain", variants=(EIGHT,)).stdout
        self.assertRegex(shown, r"\nA: \d+ % of the error comes through keys ")
        self.assertNotIn("attention outputs", self.kld(variants=(EIGHT,)).stdout)

    def test_where_results_go(self):
        result = self.kld("--quiet", "--json", self.path("kld.json"), "--csv",
                          self.path("kld.csv"), variants=(EIGHT, FOUR))
        self.assertEqual(result.stderr, "")
        places = [result.stdout.index(line) for line in (
            "====== Overview", "floor", "In words", "A, B  ", "Paired differences", "A - B",
            "by position", "16 .. ")]
        self.assertEqual((places[0], places), (0, sorted(places)))
        self.assertNotIn("######", result.stdout)
        full = self.kld("--full", variants=(EIGHT, FOUR)).stdout
        self.assertTrue(full.startswith(result.stdout))
        self.assertIn("###### B: " + FOUR, full[len(result.stdout):])
        with open(self.path("kld.json")) as file:
            found = json.load(file)
        with open(self.path("kld.csv"), newline="") as file:
            table = [row for row in csv.DictReader(file) if row["variant"] == FOUR]
        self.assertEqual(len(table), found["scored"])
        self.assertAlmostEqual(statistics.fmean(float(row["kld"]) for row in table),
                               found["variants"][1]["kld"]["mean"], delta=1e-8)
        self.assertAlmostEqual(statistics.fmean(int(row["same_top"]) for row in table),
                               found["variants"][1]["kld"]["same_top"], delta=1e-8)
        ppl = math.exp(statistics.fmean(float(row["nll"]) for row in table))
        self.assertAlmostEqual(ppl / found["variants"][1]["ppl"], 1, delta=1e-6)
        self.assertEqual({int(row["position"]) for row in table}, set(range(CTX // 2, CTX - 1)))
        self.assertIn("[", self.kld(variants=(EIGHT,)).stderr)


def quantile(x, q):
    """On straight lines between the sorted values."""
    x, place = sorted(x), q * (len(x) - 1)
    below = int(place)
    above = min(below + 1, len(x) - 1)
    return x[below] + (place - below) * (x[above] - x[below])


def error_by_windows(rows):
    windows = {}
    for row in rows:
        windows.setdefault(row["window"], []).append(float(row["kld"]))
    means = [statistics.fmean(window) for window in windows.values()]
    return statistics.stdev(means) / math.sqrt(len(means))


def figures_of(rows):
    """The figures of JSON's "kld", by their definitions."""
    def mean_of(key, x):
        return {key: statistics.fmean(x), key + "_se": statistics.stdev(x) / math.sqrt(len(x))}
    kld, base, nll, top = ([float(row[key]) for row in rows]
                           for key in ("kld", "nll_base", "nll", "same_top"))
    dp = [math.exp(-b) - math.exp(-a) for a, b in zip(base, nll)]
    figures = {"mean": statistics.fmean(kld), "se": statistics.stdev(kld) / math.sqrt(len(kld))}
    for key, q in [("min", 0), ("p001", .001), ("p01", .01), ("p05", .05), ("p10", .1),
                   ("median", .5), ("p90", .9), ("p95", .95), ("p99", .99), ("p999", .999),
                   ("max", 1)]:
        figures[key] = quantile(kld, q)
    figures |= {"dp_min": min(dp), "dp_median": quantile(dp, .5), "dp_max": max(dp)}
    figures |= mean_of("same_top", top) | mean_of("dp_mean", dp)
    figures |= mean_of("log_ratio", [b - a for a, b in zip(base, nll)])
    figures["dp_rms"] = math.sqrt(statistics.fmean(x * x for x in dp))
    figures["ppl_base"] = math.exp(statistics.fmean(base))
    figures["ratio"] = math.exp(figures["log_ratio"])
    figures["difference"] = math.exp(statistics.fmean(nll)) - figures["ppl_base"]
    return figures


def block_of(text):
    """The three blocks of one comparison."""
    return re.search(r"====== Perplexity statistics.*?Same top p[^\n]*\n", text, re.S)[0]


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
