#!/usr/bin/env python3
"""Cases as files, as another engine meets them: test_case_files.py FOLDER-OF-THE-PROGRAMS

An engine written in numpy takes the cases and is judged; planted mistakes must be found.
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest
import numpy as np

CASES = os.path.abspath(os.path.join(sys.argv[1] if len(sys.argv) > 1 else "build/release",
                                     "rotkv-cases"))
HERE = os.path.dirname(os.path.abspath(__file__))


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=300)


def engine(folder, *flags):
    done = run(sys.executable, os.path.join(HERE, "numpy_engine.py"), folder, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


class CaseFiles(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = os.path.join(temporary.name, "cases")

    def dump(self, pattern):
        done = run(CASES, "dump", self.folder, "--case", pattern)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(self.folder, "index.json"), encoding="utf-8") as file:
            return json.load(file)["cases"]

    def check(self, *flags):
        return run(CASES, "check", self.folder, *flags)

    def path(self, case, name):
        return os.path.join(self.folder, case["folder"], name)

    def test_numpy_engine_agrees(self):
        for pattern in ("hadamard", "rope", "quantize/", "kv_store", "attention"):
            with self.subTest(pattern):
                self.folder = self.folder + "-" + pattern.strip("/")
                self.dump(pattern)
                self.assertRegex(engine(self.folder), r"^[1-9]\d* of \d+ cases")
                done = self.check()
                self.assertEqual(done.returncode, 0, done.stdout[:3000] + done.stderr)
                self.assertIn(" 0 FAIL", done.stdout)

    def test_wrong_sign_is_found(self):
        self.dump("hadamard")
        engine(self.folder, "--wrong-sign")
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAIL hadamard/rot=64: dst: 7 of 448 elements", done.stdout)
        self.assertRegex(done.stdout, r"\n +63 +\S+ +\S+ +\d+ +\S+\n")  # the last of the block
        self.assertNotIn("FAIL hadamard/D=128\n", done.stdout)  # what does not rotate is right

    def test_wrong_sign_is_found_in_the_cache_and_in_attention(self):
        # Rotated alike, K and Q hide it from the scores: the cache's bytes tell, and V's way back.
        self.dump("k=q8_0/v=q8_0/rot-k=64/rot-v=64")
        engine(self.folder, "--wrong-sign")
        done = self.check()
        self.assertIn("FAIL kv_store/k=q8_0/v=q8_0/rot-k=64/rot-v=64", done.stdout)
        self.assertIn("FAIL attention/k=q8_0/v=q8_0/rot-k=64/rot-v=64", done.stdout)

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
        case, = self.dump("hadamard/D=192/rot=64")[:1]
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
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn(message, done.stderr)
            self.assertIn("dst.npy", done.stderr)

    def test_wrong_usage(self):
        self.assertEqual(run(CASES, "dump", self.folder, "--case", "no such case").returncode, 2)
        self.assertEqual(run(CASES).returncode, 2)
        self.assertEqual(run(CASES, "run", "--backend", "gpu").returncode, 2)
        self.assertEqual(self.check().returncode, 1)  # no such folder
        self.dump("add")
        self.assertEqual(run(CASES, "dump", self.folder).returncode, 1)  # it exists
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
        self.assertIn("1 cases: 1 ok", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
