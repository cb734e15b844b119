#!/usr/bin/env python3
"""rotkv-bench, rotkv-bench-ops and tools/compare.py as a user meets them: which rows come out, what their figures
are made of, and what is refused.

Usage: tests/test_bench_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import unittest

from test_tools import ENDLESS, Tools

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "compare.py")

# The model of test_tools.write_model, all f32: what a token has to go through.
LAYERS, HEADS, HEAD, WIDTH, HIDDEN, WORDS = 2, 2, 64, 128, 96, 256
MATRICES = LAYERS * (2 * WIDTH * WIDTH + 2 * HEAD * WIDTH + 3 * HIDDEN * WIDTH)


class Bench(Tools):
    def bench(self, *arguments, repetitions=2, **more):
        return self.good("bench", "-m", self.model, "-t", "1", "-r", str(repetitions), *arguments,
                         **more)

    def json_of(self, *arguments, **more):
        return json.loads(self.bench(*arguments, "-o", "json", **more).stdout)

    def test_markdown(self):
        result = self.bench("-p", "32", "-n", "8", "-d", "0,16", "-ctk", "q8_0")
        table, _, below = result.stdout.partition("\n\n")
        names, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")]
                              for line in table.splitlines()]
        self.assertEqual(names, ["model", "size", "backend", "threads", "type_k", "type_v",
                                 "rotation", "test", "t/s", "min .. max", "GFLOP/s", "GB/s"])
        self.assertTrue(all(set(cell) <= set("-:") for cell in rule))
        self.assertEqual([row[7] for row in rows], ["pp32", "tg8", "pp32 @ d16", "tg8 @ d16"])
        for row in rows:
            self.assertEqual((row[0], row[3:7]), ("model", ["1", "q8_0", "f16", "K 64"]))
            self.assertRegex(row[2], r"^fast \(\S+\)$")
            low, high = map(float, row[9].split(" .. "))
            self.assertTrue(0 < low <= float(row[8]) <= high, row)
            self.assertRegex(row[10] + row[11], r"^\d+\.\d \(\d+ %\)\d+\.\d \(\d+ %\)$")
        self.assertRegex(below, r"sgemm \d+\.\d GFLOP/s, reading \d+\.\d GB/s")
        self.assertIn("filling a cache of q8_0, f16 with 16 tokens", result.stderr)

    def test_lists_multiply(self):
        text = self.bench("-p", "8,16", "-n", "4", "-d", "0,5", "-ctk", "f16,q8_0", "-ctv",
                          "q4_0,f32", "--rot", "auto,off,32", "-o", "csv", repetitions=1).stdout
        rows = list(csv.DictReader(io.StringIO(text)))
        keys = ("type_k", "type_v", "rot", "n_depth", "test")
        found = [tuple(row[key] for key in keys) for row in rows]
        self.assertEqual(found, [
            (k, v, rot, depth, test + (" @ d5" if depth == "5" else ""))
            for k in ("f16", "q8_0") for v in ("q4_0", "f32") for rot in ("auto", "off", "32")
            for depth in ("0", "5") for test in ("pp8", "pp16", "tg4")])
        self.assertTrue(all(None not in row and None not in row.values() for row in rows))
        words = {found: row["rotation"] for found, row in zip(found, rows)}
        self.assertEqual(words["q8_0", "q4_0", "auto", "0", "tg4"], "K 64, V 64")
        self.assertEqual(words["f16", "q4_0", "auto", "0", "tg4"], "V 64")
        self.assertEqual(words["q8_0", "q4_0", "off", "0", "tg4"], "off")
        self.assertEqual(words["f16", "f32", "32", "0", "tg4"], "K 32, V 32")

    def test_rates_come_from_work_and_median_time(self):
        found = self.json_of("-p", "32", "-n", "3", "-d", "64", "-b", "20", "-ctk", "q8_0", "-ctv",
                             "q4_0", repetitions=6)
        cell = 34 * HEAD // 32 + 18 * HEAD // 32  # bytes of a token in one layer
        score = 2 * HEADS * 2 * HEAD              # flops per visible cell and layer
        logits = 2 * WORDS * WIDTH
        visible = {"pp32 @ d64": range(65, 97), "tg3 @ d64": range(65, 68)}
        passes = {"pp32 @ d64": [84, 96], "tg3 @ d64": [65, 66, 67]}  # cells that each one reads
        outputs = {"pp32 @ d64": 1, "tg3 @ d64": 3}
        self.assertEqual([row["test"] for row in found["rows"]], list(visible))
        for row in found["rows"]:
            test = row["test"]
            flops = (2 * MATRICES * len(visible[test]) + LAYERS * score * sum(visible[test]) +
                     outputs[test] * logits)
            read = (4 * MATRICES * len(passes[test]) + LAYERS * cell * sum(passes[test]) +
                    outputs[test] * 4 * WORDS * WIDTH)
            self.assertAlmostEqual(row["gflop"] * 1e9, flops, delta=1)
            self.assertAlmostEqual(row["gbyte"] * 1e9, read, delta=1)
            self.assertEqual(len(row["seconds"]), 6)
            median = statistics.median(row["seconds"])
            rates = row["tokens_per_second"]
            tokens = row["n_prompt"] + row["n_gen"]
            for value, seconds in [(rates["median"], median), (rates["min"], max(row["seconds"])),
                                   (rates["max"], min(row["seconds"]))]:
                self.assertAlmostEqual(value * seconds / tokens, 1)
            self.assertAlmostEqual(row["gflop_per_second"] * median / row["gflop"], 1)
            self.assertAlmostEqual(row["gbyte_per_second"] * median / row["gbyte"], 1)
        self.assertEqual(found["size"], os.path.getsize(self.model))
        self.assertEqual(found["machine"]["buffer_bytes"], 1 << 26)
        self.assertGreater(found["machine"]["read_gbyte_per_second"], 0)
        self.assertGreater(found["machine"]["copy_gbyte_per_second"], 0)
        self.assertGreater(found["machine"]["sgemm_gflop_per_second"], 0)
        self.assertGreater(found["peak_resident_bytes"], found["size"])

    def test_output(self):
        quiet = self.bench("-p", "4", "-n", "0", "--quiet", "-o", "csv")
        self.assertEqual((quiet.stderr, quiet.stdout.count("\n")), ("", 2))
        both = self.bench("-p", "4", "-n", "0", "--json", self.path("bench.json"))
        self.assertIn("| pp4 ", both.stdout)
        with open(self.path("bench.json")) as file:
            self.assertEqual(json.load(file)["rows"][0]["test"], "pp4")
        piped = self.bench("-p", "0", "-n", "2", "--json", "-", "--quiet")
        self.assertEqual(json.loads(piped.stdout)["rows"][0]["n_gen"], 2)
        self.assertIn("| tg2 ", piped.stderr)

    def test_the_environment_counts_unless_a_flag_is_given(self):
        def kinds(*arguments):
            found = self.json_of("-p", "4", "-n", "0", "-ctk", "q8_0", "-ctv", "q8_0", *arguments,
                                 env={"LLAMA_ATTN_ROT_DISABLE": "1"})["rows"][0]["rotation"]
            return [found[side]["kind"] for side in "kv"]
        self.assertEqual(kinds(), ["none", "none"])
        self.assertEqual(kinds("--rot", "auto"), ["sylvester", "sylvester"])

    def test_wrong_usage_is_2(self):
        m = ("-m", self.model)
        for arguments, says in [
                ((), "--model"), ((*m, "-p", "0", "-n", "0"), "nothing to measure"),
                ((*m, "-p", "12,x"), "-p"), ((*m, "-n", "4,"), "-n"), ((*m, "-d", "2000000"), "-d"),
                ((*m, "-ctk", "f16,q9_0"), "q9_0"), ((*m, "-ctv", "q6_K"), "q6_K"),
                ((*m, "--rot", "auto,48"), "48"), ((*m, "--rot", "sideways"), "sideways"),
                ((*m, "-r", "0"), "0"), ((*m, "-b", "0"), "0"), ((*m, "-o", "sql"), "sql"),
                ((*m, "--backend", "abacus"), "abacus")]:
            self.assertEqual(self.bad(2, "bench", *arguments, says=says).stdout, "")
        self.bad(1, "bench", "-m", self.path("missing.gguf"), says="missing.gguf")


class BenchOps(Tools):
    CASES = ["hadamard/rows=64/rot=64", "attention/k=q8_0/v=q8_0/T=1/C=80", "matmul/type=q4_0/T=1"]

    def timed(self, *arguments):
        return self.good("bench-ops", *arguments, "--backend", "fast", "-t", "1", "-r", "1",
                         "--seconds", "0.001").stdout

    def test_json(self):
        result = json.loads(self.timed(*self.CASES, "--output", "json"))
        self.assertEqual(result["context"]["validated against"], "ref")
        self.assertTrue(result["context"]["backend"].startswith("fast, "))
        rows = result["benchmarks"]
        self.assertEqual([row["name"].split("/min_time")[0] for row in rows], self.CASES)
        alone = json.loads(self.timed(self.CASES[0], "--json", "-"))  # and no file of that name
        self.assertEqual(len(alone["benchmarks"]), 1)
        for row in rows:
            for figure in ("real_time", "GB/s", "GFLOP/s", "x_memcpy"):
                self.assertGreater(row[figure], 0)
        # Each f32 is read and written, 8 bytes, and passes log2(64) = 6 stages.
        self.assertAlmostEqual(rows[0]["GB/s"] / rows[0]["GFLOP/s"], 8 / 6, places=4)

    def test_other_formats_and_files(self):
        table = self.timed("--case", "quantize/type=q4_0", "--json", self.path("ops.json"),
                           "-o", "csv")
        with open(self.path("ops.json")) as file:
            names = [row["name"] for row in json.load(file)["benchmarks"]]
        self.assertTrue(names)
        for name in names:
            self.assertIn("quantize/type=q4_0", name)
            self.assertIn(f'"{name}",', table)
        self.assertIn("hadamard/rows=64/rot=64", self.timed(self.CASES[0]))

    def test_the_ladder(self):
        """Versions in their order; cuda's where a device is, elsewhere it says so."""
        on_host = json.loads(self.timed("--ladder", "--case", "q8_0/T=1/in=", "-o", "json"))
        self.assertEqual([row["name"].split("/")[1] for row in on_host["benchmarks"]],
                         ["1_floats", "2_digits"])
        self.assertGreater(min(row["GB/s"] for row in on_host["benchmarks"]), 0)
        result = self.run_tool("bench-ops", "--ladder", "--case", "hadamard/", "-o", "json",
                               "-r", "1", "--against", "fast")
        if result.returncode == 0:
            names = [row["name"].split("/")[1] for row in json.loads(result.stdout)["benchmarks"]]
            self.assertEqual(names, ["1_loops", "2_shared", "3_shuffles", "4_vectors"])
        else:
            self.bad(1, "bench-ops", "--ladder", says="CUDA")
        for arguments, says in [
                (("--backend", "ref"), "--ladder: expected --backend cuda or fast, found 'ref'"),
                ((self.CASES[0],), "CASE and --ladder: expected one of them")]:
            self.assertEqual(self.bad(2, "bench-ops", "--ladder", *arguments, says=says).stdout, "")

    def test_refusals(self):
        for arguments, says in [(["hadamard/rows=64/D=65/rot=64"], "divides 65, found 64"),
                                (["hadamard/rows=-1"], "rows"),
                                (["sort/rows=1"], "sort")]:
            self.bad(2, "bench-ops", *arguments, says=says)


class Compare(Tools):
    def compare(self, *arguments, llama=None, model=None):
        """`llama`: what a stand-in for llama-bench does, a line of sh."""
        programs = self.path("bin")
        os.makedirs(programs, exist_ok=True)
        for name, line in [("llama-bench", llama), ("llama-perplexity", "echo '[1]9.5,[2]9.4,'")]:
            file = os.path.join(programs, name)
            if os.path.exists(file):
                os.remove(file)
            if llama is None:
                continue
            with open(file, "w") as script:
                script.write(f"#!/bin/sh\n{line}\n")
            os.chmod(file, 0o755)
        return subprocess.run(
            [sys.executable, COMPARE, "--programs", self.folder, "-m", model or self.model, "-f",
             self.text, "-t", "1", "--rounds", "1", "--ctx", "32", "--chunks", "2", "--prompt",
             "16", "--generate", "4", "--depth", "16", "--depths", "8,16,32", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=ENDLESS,
            env={**os.environ, "PATH": programs})

    @staticmethod
    def rows(text):
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
                 if line.startswith("| ")]
        return {row[0]: row[1:] for row in cells[1:]}

    def test_beside_llama_cpp(self):
        speed = "echo '[{\"avg_ts\": 0.5}, {\"avg_ts\": 2.0}]'"
        result = self.compare("--rounds", "2", llama=speed)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = self.rows(result.stdout)
        self.assertEqual(len(rows), 14)
        theirs, ours, ratio, target, met = rows["pp16 @ d16, q8_0"]
        self.assertEqual((theirs, target, met), ("2.0 (2.0 .. 2.0)", ">= 4 x", "yes"))
        self.assertAlmostEqual(float(ours.split()[0]) / 2 / float(ratio.split()[0]), 1, places=2)
        self.assertTrue(all(row[2] != "not compared" for row in rows.values()))
        self.assertNotIn("Not compared", result.stdout)
        self.assertRegex(rows["tg4, q8_0"][1], r"GB/s where reading alone does \d+\.\d")
        slow = self.rows(self.compare(llama=speed.replace("2.0", "1e12")).stdout)
        self.assertEqual(slow["pp16 @ d16, q8_0"][4], "**no**")

    def test_what_cannot_be_compared_is_said(self):
        alone = self.compare()
        self.assertEqual(alone.returncode, 0, alone.stderr)
        self.assertIn("pp q8_0: no llama-bench on the PATH", alone.stdout)
        self.assertIn("ppl f16: no llama-perplexity on the PATH", alone.stdout)
        row = self.rows(alone.stdout)["pp16 @ d16, q8_0"]
        self.assertEqual((row[0], row[2], row[4]), ("", "not compared", ""))
        broken = self.compare(llama="echo no such flag >&2; exit 3")
        self.assertEqual(broken.returncode, 0, broken.stderr)
        self.assertIn("pp q8_0: llama-bench: exit code 3 no such flag", broken.stdout)

    def test_generation_alone(self):
        """Each row hands its number of threads and its depth to both sides."""
        asked = ('while [ $# -gt 0 ]; do case $1 in -t) t=$2;; -d) d=$2;; esac; shift; done; '
                 'echo "[{\\"avg_ts\\": $t$d.0}]"')
        result = self.compare("--generation", "-t", "2", llama=asked)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = self.rows(result.stdout)
        self.assertEqual({name: row[0] for name, row in rows.items()},
                         {"tg4 @ d0, q8_0, -t 1": "10.0", "tg4 @ d16, q8_0, -t 1": "116.0",
                          "tg4 @ d0, q8_0, -t 2": "20.0", "tg4 @ d16, q8_0, -t 2": "216.0"})
        self.assertNotIn("windows of", result.stdout)

    def test_the_page(self):
        page, named = self.path("page.md"), self.path("named.md")
        os.symlink(page, named)
        begin, end = "<!-- compare.py: begin -->", "<!-- compare.py: end -->"
        with open(page, "w") as file:
            file.write(f"above\n{begin}\nold\n{end}\nbelow\n")
        result = self.compare("--write", named)
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(page) as file:
            text = file.read()
        self.assertTrue(text.startswith(f"above\n{begin}\n20"))
        self.assertTrue(text.endswith(f"\n{end}\nbelow\n"))
        self.assertTrue(os.path.islink(named))
        self.assertIn("| work |", text)
        self.assertNotIn("old", text)
        with open(page, "w") as file:
            file.write("no markers\n")
        refused = self.compare("--write", page)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("begin", refused.stderr)

    def test_a_page_that_cannot_be_written_stays(self):
        sys.path.insert(0, os.path.dirname(COMPARE))
        import compare
        page, text = self.path("kept.md"), f"above\n{compare.BEGIN}\nold\n{compare.END}\nbelow\n"
        with open(page, "w") as file:
            file.write(text)
        with self.assertRaises(UnicodeEncodeError):
            compare.write_between(page, "\ud800")
        with open(page) as file:
            self.assertEqual(file.read(), text)
        self.assertFalse([name for name in os.listdir(os.path.dirname(page)) if "partial" in name])

    def test_wrong_usage_is_found_first(self):
        missing = self.path("missing.md")
        for arguments, says in [(("--write", missing), missing), (("--rounds", "0"), "--rounds"),
                                (("--chunks", "-1"), "--chunks"),
                                (("--depths", "0,1,2"), "--depths")]:
            refused = self.compare(*arguments)
            self.assertEqual((refused.returncode, refused.stdout), (2, ""))
            self.assertIn(says, refused.stderr.splitlines()[-1])

    def test_our_own_failure_is_one(self):
        result = self.compare(model=self.path("missing.gguf"))
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr.splitlines()[-1], r"^compare\.py: error: .*missing\.gguf")


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
