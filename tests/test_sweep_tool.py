#!/usr/bin/env python3
"""rotkv-sweep as a user meets it, and interrupts it: nothing lost, nothing done twice, figures as
rotkv-kld has them; and the pictures.

Usage: tests/test_sweep_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import csv
import fcntl
import importlib.util
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import unittest

from test_tools import ENDLESS, Tools, write_model

CTX = 32
LISTS = ("-ctk", "f16,q8_0,q4_0", "-ctv", "f16,q8_0,q4_0")
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


class Sweep(Tools):
    sums = 60  # long enough for a test over windows

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.count = 0

    def fresh(self):
        type(self).count += 1
        return self.path(f"sweep{self.count}.jsonl")

    def words(self, out, *arguments, model=None):
        return ["-m", model or self.model, "-f", self.text, "-c", str(CTX), "--out", out, "-t", "1",
                *arguments]

    def sweep(self, out, *arguments, model=None, **more):
        return self.good("sweep", *self.words(out, *LISTS, *arguments, model=model), **more)

    def whole(self):
        """A sweep that nothing interrupted: its file's text and its rows, once for all tests."""
        if not hasattr(Sweep, "text_of_whole"):
            out = self.fresh()
            self.sweep(out)
            with open(out) as file:
                Sweep.text_of_whole = file.read()
        return Sweep.text_of_whole, rows_of(Sweep.text_of_whole)


def rows_of(text):
    """The rows of a file, without what time they took."""
    rows = [json.loads(line) for line in text.splitlines()[1:]]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def name_of(row):
    return f"k={row['k']},v={row['v']},rot={row['rot']}"


def read(path):
    with open(path) as file:
        return file.read()


class Usage(Sweep):
    def test_version_and_help(self):
        self.assertRegex(self.good("sweep", "--version").stdout, r"^rotkv-sweep \S+ \(.+\)\n$")
        self.assertIn("Examples:\n  rotkv-sweep", self.good("sweep", "--help").stdout)

    def test_wrong_usage_is_2(self):
        out = self.fresh()
        files = ("-m", self.model, "-f", self.text, "-c", str(CTX))
        self.bad(2, "sweep", *files, says="--out")
        for arguments, says in [
                (("-ctk", "q9_0"), "q9_0"), (("-ctv", "q8_0,q6_K"), "q6_K"),
                (("-ctk", "q8_0,,q4_0"), "-ctk"), (("-ctv", "q8_0,q4_0,q8_0"), "twice"),
                (("--rot", "sideways"), "sideways"), (("--rot", "off,off"), "twice"),
                (("--base", "k=q9_0"), "--base"), (("-b", "0"), "0"), (("--so-far",), "--so-far: expected"),
                (("--base-memory", "-1"), "--base-memory"), (("--formats", ""), "expected a list"),
                (("--json", "-", "--csv", "-"), "--csv"), (("--place", "k:9=q8_0"), "expected layers")]:
            self.assertEqual(self.bad(2, "sweep", *files, "--out", out, *arguments,
                                      says=says).stdout, "")
        self.assertFalse(os.path.exists(out))
        self.bad(1, "sweep", *files, "--out", self.path("no/folder.jsonl"), says="folder.jsonl")
        self.bad(1, "sweep", *files, "--out", "/dev/null", says="plain file")
        self.bad(1, "sweep", *files, "--out", self.temporary.name, says=self.temporary.name)


class Figures(Sweep):
    def test_rows_are_those_of_rotkv_kld(self):
        _, rows = self.whole()
        types = ("f16", "q8_0", "q4_0")
        self.assertEqual([name_of(row) for row in rows],
                         [f"k={k},v={v},rot={rot}" for k in types for v in types
                          for rot in ("off", "auto")])
        self.check_against_kld(rows)
        for base_memory, said in (("1", False), ("0", True)):  # several groups of windows
            out = self.fresh()
            result = self.sweep(out, "-b", "64", "--base-memory", base_memory)
            self.assertEqual("computed for every cell" in result.stderr, said)
            self.check_against_kld(rows_of(read(out)), "-b", "64")

    def check_against_kld(self, rows, *arguments):
        flags = [part for row in rows for part in ("--variant", name_of(row))]
        found = json.loads(self.good("kld", "-m", self.model, "-f", self.text, "-c", str(CTX), "-t",
                                     "1", *arguments, *flags, "--json", "-").stdout)
        for row, variant in zip(rows, found["variants"], strict=True):
            kld = variant["kld"]
            for key, value in [
                    ("ppl", variant["ppl"]), ("log_ratio", kld["log_ratio"]),
                    ("log_ratio_se", kld["log_ratio_se"]), ("kld", kld["mean"]),
                    ("kld_se", kld["se"]), ("kld_se_window", kld["se_by_windows"]),
                    ("kld_median", kld["median"]), ("kld_99", kld["p99"]),
                    ("same_top", kld["same_top"])]:
                self.assertEqual(row[key], float(f"{value:.7g}"), (row, key))
            self.assertEqual(row["bytes_per_token"], variant["cache"]["bytes_per_token"])
            spec = " ".join(
                f"{side}={r['kind']}" + (f"/{r['block']}" if r["block"] else "")
                for side, r in ((s, variant["rotation"][s]) for s in "kv"))
            self.assertEqual(row["rotation"], spec)
            self.assertEqual(len(row["kld_windows"]), found["chunks"])
            self.assertAlmostEqual(sum(row["kld_windows"]) / found["chunks"], row["kld"],
                                   delta=1e-6 * row["kld"])

    def test_cells_that_are_equal_are_computed_once(self):
        result = self.sweep(self.fresh(), "--rot", "off,auto,64,on")
        text = result.stdout
        self.assertRegex(text, r"36 cells; 14 with the types and rotations of an earlier one, "
                               r"computed once \(k=f16,v=f16,rot=auto, \.\.\.\)")
        # auto leaves f16 as it is, on and 64 do not; for two quantized sides all three are one.
        self.assertIn("k=q8_0,v=q4_0,rot=on: KLD", result.stderr)
        self.assertIn("as k=q8_0,v=q4_0,rot=auto", result.stderr)
        _, rows = self.whole()
        same = [row for row in rows if "same_as" in row]
        self.assertEqual([(row["rot"], row["same_as"]) for row in same],
                         [("auto", "k=f16,v=f16,rot=off")])
        first = next(row for row in rows if row["rot"] == "off")
        self.assertEqual({**same[0], "rot": "off"}, {**first, "same_as": "k=f16,v=f16,rot=off"})

    def test_impossible_cells_are_rows(self):
        odd, out = self.path("head80.gguf"), self.fresh()
        write_model(odd, head=80)
        result = self.sweep(out, "--rot", "auto,on", model=odd)
        rows = rows_of(read(out))
        self.assertEqual(len(rows), 18)
        good = [row for row in rows if "kld" in row]
        self.assertEqual([(r["k"], r["v"], r["rot"]) for r in good], [("f16", "f16", "auto")])
        for row in rows:
            if row not in good:
                self.assertIn("80", row["unsupported"])
                self.assertNotIn("ppl", row)
        self.assertRegex(result.stdout, r"unsupported \(k=q8_0,.*\): .* multiple of 32, found 80")
        before = read(out)
        self.sweep(out, "--rot", "auto,on", model=odd)
        self.assertEqual(read(out), before)

    def test_where_results_go(self):
        text, rows = self.whole()
        out = self.fresh()
        with open(out, "w") as file:
            file.write(text)
        table, document = self.path("cells.csv"), self.path("cells.json")
        result = self.sweep(out, "--csv", table, "--json", document, "--quiet")
        self.assertEqual(result.stderr, "")
        self.assertEqual(read(out), text)  # it was complete
        found = json.loads(read(document))
        self.assertEqual([{k: v for k, v in cell.items() if k != "seconds"}
                          for cell in found["cells"]], rows)
        self.assertEqual(found["n_ctx"], CTX)
        cells = list(csv.DictReader(read(table).splitlines()))
        for row, cell in zip(rows, cells, strict=True):
            self.assertEqual((cell["k"], cell["rot"]), (row["k"], row["rot"]))
            self.assertEqual(float(cell["kld"]), row["kld"])
            self.assertAlmostEqual(float(cell["bits"]), row["bytes_per_token"] / 32, places=4)
        for row in rows:  # each figure stands in the tables
            self.assertIn(f"{row['kld']:.6f}" if row["kld"] >= 1e-5 else f"{row['kld']:.1e}",
                          result.stdout)
        self.check_front(found, rows, result.stdout)
        only = self.sweep(out, "--json", "-")
        json.loads(only.stdout)
        self.assertIn("Pareto front", only.stderr)

    def check_front(self, found, rows, shown):
        def beaten(row):
            return any(other["bytes_per_token"] <= row["bytes_per_token"] and
                       other["kld"] <= row["kld"] and
                       (other["bytes_per_token"], other["kld"]) !=
                       (row["bytes_per_token"], row["kld"]) for other in rows)
        front = {name_of(r) for r in rows if "same_as" not in r and not beaten(r)}
        self.assertEqual({cell["cell"] for cell in found["front"]}, front)
        self.assertEqual([cell["bytes_per_token"] for cell in found["front"]],
                         sorted(cell["bytes_per_token"] for cell in found["front"]))
        for name in front:
            self.assertIn(name, shown.split("Pareto front")[1])


class Resuming(Sweep):
    def interrupted(self, out, seen, delay):
        """Starts a slow sweep and kills it some time after its file has `seen` lines."""
        program = os.path.join(self.folder, "rotkv-sweep")
        process = subprocess.Popen([program, *self.words(out, *LISTS, "--backend", "ref")],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + ENDLESS
        while not os.path.exists(out) or read(out).count("\n") < seen:
            self.assertIsNone(process.poll(), "it ended before it could be killed")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1]
        self.assertEqual(process.returncode, -signal.SIGKILL, "it ended before it was killed")
        return said

    def test_killed_three_times(self):
        undisturbed = self.fresh()
        self.sweep(undisturbed, "--backend", "ref")
        expected = rows_of(read(undisturbed))
        out, rng, done = self.fresh(), random.Random(time.time_ns()), 0
        for kill in range(3):
            said = self.interrupted(out, done + rng.randint(1, 4), rng.uniform(0, 0.05))
            # It begins with the first that was missing; a row may be written and not yet said.
            self.assertIn(re.findall(r"\n\[(\d+)/18\]", said)[:1], ([str(max(done, 1))], []))
            text = read(out)[:read(out).rfind("\n") + 1]  # the rest is torn
            self.assertGreaterEqual(text.count("\n"), done)
            done = text.count("\n")
            self.assertEqual(rows_of(text), expected[:done - 1])
        self.sweep(out, "--backend", "ref")
        self.assertEqual(rows_of(read(out)), expected)
        self.assertEqual(read(out).splitlines()[0], read(undisturbed).splitlines()[0])

    def test_a_torn_last_line(self):
        text, rows = self.whole()
        lines = text.splitlines(keepends=True)
        behind = [sum(map(len, lines[:n])) for n in range(len(lines) + 1)]
        cuts = [0, 1, behind[1] - 1, behind[1], behind[1] + 1, behind[5], behind[7] - 1,
                behind[7] + 40, len(text) - 1, len(text)]
        for cut in cuts:
            out = self.fresh()
            with open(out, "w") as file:
                file.write(text[:cut])
            said = self.sweep(out).stderr
            self.assertEqual(rows_of(read(out)), rows, cut)
            self.assertEqual("torn" in said, cut not in behind, cut)
            if cut not in behind:
                torn = cut - max(b for b in behind if b < cut)
                self.assertIn(f"{torn} bytes dropped", said)

    def test_files_of_other_sweeps_are_refused(self):
        text, _ = self.whole()
        other, longer, out = self.path("other.gguf"), self.path("longer.txt"), self.fresh()
        write_model(other, seed=2)
        with open(longer, "w") as file:
            file.write(read(self.text) + "more.\n")
        with open(out, "w") as file:
            file.write(text)
        for arguments, says in [
                (("-m", other), "model_hash"), (("-f", longer), "text_bytes"),
                (("-c", "16"), "n_ctx: the file has 32, this run 16"), (("-b", "64"), "n_batch"),
                (("--chunks", "4"), "windows"), (("--backend", "ref"), "backend"),
                (("-t", "2"), "device"), (("--gemm", "bf16"), "precision"),
                (("--base", "k=f16,v=f16"), "base"), (("-ctk", "f16,q8_0"), "k: "),
                (("--rot", "auto,off"), "rot: ")]:
            words = self.words(out, *LISTS)
            for flag, value in zip(arguments[::2], arguments[1::2]):
                if flag in words:
                    words[words.index(flag) + 1] = value
                else:
                    words += [flag, value]
            self.bad(1, "sweep", *words, says=says)
            self.assertEqual(read(out), text, arguments)
        moved = self.path("moved.txt")
        with open(moved, "w") as file:
            file.write(read(self.text))
        words = self.words(out, *LISTS)
        words[words.index("-f") + 1] = moved
        self.good("sweep", *words)  # the same text under another name

    def test_files_that_are_no_sweeps_are_refused(self):
        text, _ = self.whole()
        lines = text.splitlines(keepends=True)
        for broken, says in [
                ("some notes", "not the file of a sweep"), ("some notes\n", ":1:"),
                ("{}\n", ":1:"), ("".join(lines[:3] + ["[]\n"] + lines[4:]), ":4:"),
                ("".join(lines[:3] + [lines[3][:30] + "\n"] + lines[4:]), ":4:"),
                ("".join(lines[:3] + lines[4:]), ":4: expected k=f16,v=q8_0,rot=off, found "
                                                 "k=f16,v=q8_0,rot=auto"),
                ("".join(lines[:3]) + lines[3].replace('"kld_windows":[', '"kld_windows":[1,'),
                 ":4: expected 37 windows, found 38"),
                (text + lines[-1], "expected no more")]:
            out = self.fresh()
            with open(out, "w") as file:
                file.write(broken)
            self.bad(1, "sweep", *self.words(out, *LISTS), says=says)
            self.assertEqual(read(out), broken)

    def test_two_at_once(self):
        text, _ = self.whole()
        out = self.fresh()
        with open(out, "w") as file:
            file.write(text)
        with open(out) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.bad(1, "sweep", *self.words(out, *LISTS), says="another process")
        self.sweep(out)


def size_of_png(path):
    with open(path, "rb") as file:
        head = file.read(24)
    assert head[:8] == b"\x89PNG\r\n\x1a\n", head
    return struct.unpack(">II", head[16:])


class Pictures(Sweep):
    def skips(self):
        if not HAS_MATPLOTLIB:
            print(f"SKIPPED {self.id()}: matplotlib is not installed")
        return not HAS_MATPLOTLIB

    def test_without_python_or_matplotlib(self):
        empty, broken = self.path("empty"), self.path("broken")
        os.makedirs(empty)
        os.makedirs(os.path.join(broken, "matplotlib"))
        with open(os.path.join(broken, "matplotlib", "__init__.py"), "w") as file:
            file.write("raise ImportError\n")
        for env, says in [({"PATH": empty, "PYTHONPATH": broken}, "expected a Python 3 that imports"),
                          ({"ROTKV_PLOT": self.path("nowhere.py")}, "nowhere.py")]:
            out = self.fresh()
            result = self.bad(1, "sweep", *self.words(out, *LISTS, "--plot", self.path("none")),
                              says=says, env=env)
            self.assertEqual((result.stdout, result.stderr.count("\n")), ("", 1))
            self.assertFalse(os.path.exists(out))  # nothing was begun

    def test_sweep(self):
        if self.skips():
            return
        text, _ = self.whole()
        out, prefix = self.fresh(), self.path("a b'$(touch x)\"")
        for part in (text, "\n".join(text.split("\n")[:5]) + "\n"):  # whole, and not yet
            with open(out, "w") as file:
                file.write(part)
            self.sweep(out, "--plot", prefix)
            for name in ("ppl", "kld", "pareto"):
                width, height = size_of_png(f"{prefix}-{name}.png")
                self.assertGreaterEqual(width, 800)
                self.assertGreater(height, 400)
                os.remove(f"{prefix}-{name}.png")
        with open(out, "w") as file:
            file.write("no sweep\n")
        result = subprocess.run([sys.executable, os.path.join(self.folder, "plot.py"), "sweep", out,
                                 prefix], capture_output=True, text=True, timeout=ENDLESS)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)

    def test_numbers_behind_the_pictures(self):
        if self.skips():
            return
        sys.path.insert(0, self.folder)
        import numpy
        import plot
        text, rows = self.whole()
        out = self.fresh()
        with open(out, "w") as file:
            file.write(text + '{"k":"torn')
        sweep = plot.Sweep(out)
        found = json.loads(self.sweep(out, "--json", "-").stdout)
        self.assertEqual([name_of(row) for row in sweep.front()],
                         [cell["cell"] for cell in found["front"]])
        for size in (2, 16):
            h = numpy.array([[(-1) ** (i & j).bit_count() for i in range(size)]
                             for j in range(size)]) / size ** 0.5
            x = numpy.random.default_rng(1).normal(size=(3, 2, 32)).astype(numpy.float32)
            expected = (x.reshape(3, 2, -1, size) @ h.T).reshape(x.shape)
            self.assertLess(abs(plot.rotated(x, size) - expected).max(), 1e-5)
        self.assertEqual([plot.three_digits(x) for x in (134.2, 39.66, 5.132, 0.1527, 1e-4)],
                         ["134", "39.7", "5.13", "0.15", "<.01"])

    def test_outliers(self):
        words = ("-m", self.model, "-f", self.text, "-c", str(CTX), "--quiet")
        prefix = self.path("model")
        self.bad(2, "outliers", *words, "--plot", prefix, says="--npy")
        self.bad(1, "outliers", *words, "--npy", self.path("rows"), "--plot", prefix,
                 says="nowhere.py", env={"ROTKV_PLOT": self.path("nowhere.py")})
        self.assertFalse(os.path.exists(self.path("rows")))
        if self.skips():
            return
        os.symlink(self.path("picture.png"), prefix + "-outliers.png")
        self.good("outliers", *words, "--npy", self.path("rows"), "--plot", prefix)
        self.assertGreaterEqual(size_of_png(self.path("picture.png"))[0], 800)


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
