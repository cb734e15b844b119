#!/usr/bin/env python3
"""Cases as files, as another engine meets them: test_case_files.py FOLDER-OF-THE-PROGRAMS

An engine written in numpy takes the cases and is judged; planted mistakes must be found. Without
ROTKV_FULL it takes the small cases, four of five, and of what only larger ones show one each.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import numpy as np

import numpy_engine

CASES = os.path.abspath(os.path.join(sys.argv[1] if len(sys.argv) > 1 else "build/release",
                                     "rotkv-cases"))
HERE = os.path.dirname(os.path.abspath(__file__))


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=300)


def listed(*flags):
    done = run(CASES, "list", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def words_of(name):
    """What a case shows besides extents: operation, types, rotations, values, flags."""
    op, *fields = name.split("/")
    return {op} | {f"{op} {field}" for field in fields
                   if field.startswith("rot") or not re.fullmatch(r"[-0-9.e]+", field.split("=")[-1])}


def most_cases():
    """The small ones, and one more for each word that no small one shows."""
    names = listed("--small")
    small, seen = set(names), set().union(*map(words_of, names))
    others = [name for name in listed() if name not in small]
    for name in others:
        if words_of(name) - seen:
            names.append(name)
            seen |= words_of(name)
    print(f"left out: {len(small) + len(others) - len(names)} large cases, ROTKV_FULL is not set",
          flush=True)
    return names


def engine(folder, *flags):
    done = run(sys.executable, os.path.join(HERE, "numpy_engine.py"), folder, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


class CaseFiles(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = os.path.join(temporary.name, "cases")

    def dump(self, pattern, *names):
        done = run(CASES, "dump", self.folder, *(names or ["--case", pattern]))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(self.folder, "index.json"), encoding="utf-8") as file:
            return json.load(file)["cases"]

    def check(self, *flags):
        return run(CASES, "check", self.folder, *flags)

    def path(self, case, name):
        return os.path.join(self.folder, case["folder"], name)

    def test_numpy_engine_agrees(self):
        # Tiny, huge, infinite, NaN and in f16 precision too: whatever is dumped has an answer.
        cases = self.dump("", *([] if os.environ.get("ROTKV_FULL") else most_cases()))
        self.assertGreater(len(cases), 1400)
        self.assertEqual(engine(self.folder), f"{len(cases)} of {len(cases)} cases\n")
        done = self.check("--quiet")
        self.assertEqual(done.returncode, 0, done.stdout[:3000] + done.stderr)
        self.assertIn(" 0 FAIL, 0 without results", done.stdout)
        self.assertEqual(done.stdout.count("\n"), 1)

    def test_bounds_are_written_for_every_agreement(self):
        cases = self.dump("attention/k=q8_0/v=q8_0/T=9/rot-k=64/rot-v=64/loud=8")
        case, = [case for case in cases if case["fields"]["precision"] == "f16"]
        dst = case["tensors"][0]
        self.assertEqual((case["agreement"], dst["name"]), ("nmse", "dst"))
        self.assertTrue(0 < dst["nmse"] < 1e-2, dst)
        self.assertNotIn("bound", dst)
        self.assertEqual(case["constants"], {"scale": 1.0})  # loud / sqrt(D)
        self.assertEqual(case["fields"]["rot-v"], "64")
        right = np.load(self.path(case, "dst.expected.npy"))
        for much, code in (0.9, 0), (1.1, 1):
            off = right * (1 + much * np.sqrt(dst["nmse"]))
            np.save(self.path(case, "dst.npy"), off.astype(np.float32))
            self.assertEqual(self.check().returncode, code, much)

    def test_wrong_sign_is_found(self):
        self.dump("hadamard")
        engine(self.folder, "--wrong-sign")
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAIL hadamard/rot=64: dst: 7 of 448 elements", done.stdout)
        self.assertRegex(done.stdout, r"\n +127 \[1\]\[63\] +\S+ +\S+ +\d+ +\S+\n")  # the last of a block
        with open(os.path.join(HERE, "../docs/10-testing-your-engine.md"), encoding="utf-8") as file:
            page = file.read().split("## A worked example")[1]
        printed = [line for block in page.split("```\n")[3:6:2] for line in block.splitlines()]
        self.assertGreater(len(printed), 5)
        for line in printed:
            self.assertIn(line + "\n", done.stdout)
        self.assertIn("\nhadamard: every case with rot fails, every other one passes\n", done.stdout)
        lines = [line for line in done.stdout.split("\n") if line.startswith("FAIL ")]
        fails = int(done.stdout.split(" FAIL, ")[0].split()[-1])
        self.assertEqual(len(lines), 20)
        self.assertIn(f"... and {fails - 20} cases more that fail", done.stdout)
        self.assertEqual(done.stdout.count("  expected  "), 3)  # the first few in full
        self.assertNotIn("FAIL hadamard/D=128\n", done.stdout)  # what does not rotate is right

    def test_wrong_sign_is_found_in_the_cache_and_in_attention(self):
        # Rotated alike, K and Q hide it from the scores: the cache's bytes tell, and V's way back.
        self.dump("k=q8_0/v=q8_0/rot-k=64/rot-v=64")
        engine(self.folder, "--wrong-sign")
        done = self.check()
        self.assertIn("FAIL kv_store/k=q8_0/v=q8_0/rot-k=64/rot-v=64", done.stdout)
        self.assertIn("FAIL attention/k=q8_0/v=q8_0/rot-k=64/rot-v=64", done.stdout)

    def test_known_mistakes_are_caught_and_named(self):
        # What the table of mistakes says of each is what an engine that makes it finds out.
        asked = "path/k=q8_0/v=q8_0/"
        table = run(CASES, "mistakes", "--case", asked)
        self.assertEqual(table.returncode, 0, table.stderr)
        rows = [[cell.strip() for cell in line.split("|")[1:-1]]
                for line in table.stdout.splitlines()[2:]]
        self.assertGreater(len(rows), 15)
        cases = self.dump(asked)
        for name, sentence, caught, within, nothing, _ in rows:
            self.assertEqual(int(caught) + int(within) + int(nothing), len(cases), name)
            self.assertGreater(int(caught), 0, name)
            numpy_engine.answer(self.folder, name)
            done = self.check("--quiet")
            self.assertIn(f" {caught} FAIL, ", done.stdout, name)
            likely = [line for line in done.stdout.split("\n") if line.startswith("likely: ")]
            self.assertIn(f"{sentence} [{name}]", likely[0])
            self.assertIn(f": {caught} of the {caught} results that fail", likely[0])
            self.assertLessEqual(likely[0].count(" ["), 2)  # K not rotated is q not rotated

    def test_the_page_has_the_table_of_mistakes(self):
        with open(os.path.join(HERE, "../docs/10-testing-your-engine.md"), encoding="utf-8") as file:
            page = file.read()
        table = run(CASES, "mistakes").stdout
        self.assertGreater(len(table), 1000)
        self.assertIn("\n" + table + "\n", page)

    def test_what_failing_cases_have_in_common(self):
        # V not rotated back, sums of H heads over another head's cells, scores without their scale.
        small = listed("--small", "--case", "attention/k=q4_0/v=q4_0/")
        all_cases = [case for case in self.dump("", *small)
                     if case["fields"]["precision"] == "f32" and case["fields"]["T"] > 0
                     and case["fields"]["sees"] != "nothing" and not case["fields"]["lse"]]
        for spoil, sentence in (
                (lambda f: f["rot-v"] != "none",
                 "attention: every case with rot-v fails, every other one passes"),
                (lambda f: ":" in f["rot-v"],
                 "attention: every case with signs in rot-k (also signs in rot-v) fails, "
                 "every other one passes"),
                (lambda f: f["rot-v"] != "none" and f["T"] != 1,
                 "attention: every case with rot-v and without T=1 fails, every other one passes"),
                (lambda f: f["rot-v"] != "none" and f["T"] != 1 and f["C"] > 40, None),
                (lambda f: True, "attention: all 20 cases fail")):
            few = sentence is not None and "all" in sentence
            cases = all_cases[:20] if few else all_cases
            for case in all_cases[len(cases):]:
                os.remove(self.path(case, "dst.npy"))
            for case in cases:
                right = np.load(self.path(case, "dst.expected.npy"))
                np.save(self.path(case, "dst.npy"), -right if spoil(case["fields"]) else right)
            said = [line for line in self.check().stdout.split("\n")
                    if line.startswith("attention: ")]
            self.assertEqual(len(said), 1)
            if sentence is None:
                # No two words tell them apart: the one that leaves the fewest others.
                self.assertRegex(said[0], r": all \d+ that fail are (with C|with rot-v|without T=1), "
                                          r"and so are \d+ of \d+")
            else:
                self.assertEqual(said, [sentence])

    def test_a_pipe_is_no_result(self):
        case, = self.dump("hadamard/D=192/rot=64")[:1]
        os.mkfifo(self.path(case, "dst.npy"))
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertIn("dst.npy: expected a regular file", done.stdout)

    def test_agreement_to_the_bit_is_told_apart(self):
        case, = self.dump("hadamard/D=192/rot=64")[:1]
        right = np.load(self.path(case, "dst.expected.npy"))
        np.save(self.path(case, "dst.npy"), right)
        self.assertIn("1 ok (1 to the bit)", self.check().stdout)
        self.assertIn("1 ok (1 to the bit)", self.check("--exact").stdout)
        np.save(self.path(case, "dst.npy"), np.asfortranarray(right))
        self.assertIn("1 ok (1 to the bit)", self.check().stdout)
        bound = np.load(self.path(case, "dst.bound.npy"))
        np.save(self.path(case, "dst.npy"), (right + 0.9 * bound).astype(np.float32))
        self.assertIn("1 ok (0 to the bit)", self.check().stdout)
        self.assertEqual(self.check("--exact").returncode, 1)
        np.save(self.path(case, "dst.npy"), (right + 1.2 * bound).astype(np.float32))
        self.assertEqual(self.check().returncode, 1)

    def test_dump_says_what_each_file_is(self):
        cases = self.dump("kv_store/k=f16/v=q4_0/rot-k=64/rot-v=64")
        self.assertEqual(len(cases), 1)
        case = cases[0]
        self.assertEqual(case["fields"]["k"], "f16")
        self.assertEqual(case["fields"]["C"], 9)
        self.assertEqual(case["agreement"], "steps")
        tensors = {tensor["name"]: tensor for tensor in case["tensors"]}
        self.assertEqual(tensors["k_cache"]["role"], "changed")
        self.assertEqual(tensors["v_cache"]["extents"], [1, 9, 2, 64])
        rows = np.load(self.path(case, "v_cache.before.npy"))
        self.assertEqual((rows.dtype, rows.shape), (np.dtype(np.uint8), (1, 9, 2, 36)))
        self.assertEqual(np.load(self.path(case, "cell.npy")).dtype, np.dtype(np.int32))

    def test_results_that_are_no_arrays_of_the_case(self):
        case, *rest = self.dump("hadamard/D=192/rot=64")
        others = len(rest) - 1
        engine(self.folder)
        path = self.path(case, "dst.npy")
        right = np.load(self.path(case, "dst.expected.npy"))
        with open(self.path(case, "dst.expected.npy"), "rb") as file:
            whole = file.read()
        for content, message in (
                (right.astype(np.float64), "expected elements of type f32"),
                (right[:3], "expected the shape [7, 192], found [3, 192]"),
                (b"not an array", "expected an .npy file"),
                (whole[:200], "expected 5376 bytes"),
                (whole.replace(b"(7, 192)", b"(9999999999999, 192)"), "expected the shape"),
                (b"", "expected an .npy file")):
            if isinstance(content, bytes):
                with open(path, "wb") as file:
                    file.write(content)
            else:
                np.save(path, content)
            done = self.check()
            self.assertEqual(done.returncode, 1, (content, done.stdout))
            self.assertEqual(done.stderr, "")
            self.assertIn(message, done.stdout)
            self.assertIn("dst.npy", done.stdout)
            self.assertRegex(done.stdout, rf"\n{2 + others} cases of rotkv \S+ \(\w+\): {1 + others} ok")  # the rest is judged

    def test_wrong_usage(self):
        self.assertEqual(run(CASES, "dump", self.folder, "--case", "no such case").returncode, 2)
        for nothing in "restore", "layout=padded", "D=80/values=normal/layout":
            self.assertEqual(run(CASES, "dump", self.folder, "--case", nothing).returncode, 2)
        self.assertFalse(os.path.exists(self.folder))
        self.assertEqual(run(CASES).returncode, 2)
        self.assertEqual(run(CASES, "run", "--backend", "gpu").returncode, 2)
        self.assertEqual(self.check().returncode, 1)  # no such folder
        self.dump("add")
        self.assertEqual(run(CASES, "dump", self.folder).returncode, 1)  # it exists
        done = self.check("--case", "rope")
        self.assertEqual(done.returncode, 2)
        self.assertIn("'rope' is part of no case's name in ", done.stderr)
        self.assertEqual(self.check().returncode, 1)  # nothing to judge
        for text in ("{", "[]", '{"version": 2, "cases": []}', '{"version": 1, "cases": [3]}'):
            with open(os.path.join(self.folder, "index.json"), "w", encoding="utf-8") as file:
                file.write(text)
            done = self.check()
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"^rotkv-cases: error: .*index.json")

    def test_run_and_list(self):
        name = "hadamard/D=192/rot=64"
        self.assertEqual(run(CASES, "list", "--case", name).stdout, name + "\n")
        done = run(CASES, "run", "--case", name, "--backend", "ref")
        self.assertEqual(done.stdout.splitlines()[0], name + " on ref: ok")
        self.assertEqual(done.returncode, 0)
        for backend, code in ("ref", 0), ("gpu", 2):
            asked = subprocess.run([CASES, "run", "--case", name], capture_output=True, text=True,
                                   env={**os.environ, "ROTKV_BACKEND": backend})
            self.assertEqual(asked.returncode, code)
            self.assertEqual(asked.stdout.count(" on ref: ok"), 1 - code // 2)
            self.assertNotIn("fast", asked.stdout)
        done = run(CASES, "list", "--case", name, "--refused-by", "ref")
        self.assertEqual(done.stdout, "")
        self.assertIn("ref refuses none of the 1 cases", done.stderr)
        refused = run(CASES, "run", "--case", "attention/k=q4_0/v=q4_0/D=80")
        self.assertIn("unsupported, K: q4_0 needs rows of a multiple of 32", refused.stdout)
        self.assertEqual(refused.returncode, 1)  # nothing was proven

    def test_json_has_standard_output_for_itself(self):
        name = "hadamard/D=192/rot=64"
        done = run(CASES, "run", "--case", name, "--json", "-")
        self.assertEqual({cell["case"] for cell in json.loads(done.stdout)}, {name})
        self.assertIn(" cells: ", done.stderr)
        self.dump(name)
        engine(self.folder)
        done = self.check("--json", "-")
        self.assertIn(name, json.dumps(json.loads(done.stdout)))
        self.assertRegex(done.stderr, r"1 cases of rotkv [^:]*: 1 ok")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
