#!/usr/bin/env python3
"""The playground's WebAssembly, run by node, says what numpy and the Python package say.

Usage: tests/test_playground.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]; status 77: what
./dev docs makes is not there or is older than its sources, or there is no node."""
import json
import os
import shutil
import subprocess
import sys
import unittest

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
PROGRAMS = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/release")
sys.path[:0] = [os.path.join(PROGRAMS, "python")]
WASM = os.path.join(ROOT, "build", "playground")
LAST_DIGITS = ("exl3", "polar", "qjl", "tqprod", "tqmse")  # logarithms and cosines are a library's


def why_not():
    """What is missing; empty: nothing."""
    if shutil.which("node") is None:
        return "no node"
    fresh = subprocess.run([os.path.join(ROOT, "tools", "playground", "wasm.sh"), PROGRAMS, "--check"],
                           capture_output=True, text=True)
    if fresh.returncode != 0:
        return fresh.stderr.strip() or "build/playground cannot be looked at"
    try:
        import numpy  # noqa: F401
        import rotkv  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


def asked(*calls):
    """Answers to calls (function, arguments, row)."""
    lines = [json.dumps([name, ["string" if isinstance(one, str) else "number" for one in arguments],
                         arguments, [float(x) for x in row] if row is not None else None])
             for name, arguments, row in calls]
    done = subprocess.run(["node", os.path.join(ROOT, "tests", "playground.js"), WASM],
                          input="\n".join(lines), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(calls), f"{len(answers)} answers to {len(calls)} calls"
    return answers


class Playground(unittest.TestCase):
    def compare(self, found, wanted, exact):
        for name in "rotated", "cells", "back":
            np.testing.assert_allclose(np.float32(found[name]), wanted[name], rtol=0,
                                       atol=0 if exact else 1e-5)
        if exact:
            self.assertEqual(found["bytes"], wanted["bytes"].tolist())
        tight = 1e-12 if exact else 1e-4
        for name in "relative_error", "largest_score_change":
            self.assertAlmostEqual(found[name], wanted[name], delta=tight * wanted[name] + 1e-15)
        np.testing.assert_allclose(found["exact"]["score"], wanted["exact"], rtol=1e-12)
        np.testing.assert_allclose(found["cached"]["score"], wanted["score"], rtol=tight, atol=tight)
        np.testing.assert_allclose(found["cached"]["weight"], wanted["weight"], rtol=1e-6 + tight)
        self.assertAlmostEqual(found["moved_probability"], wanted["moved_probability"],
                               delta=1e-6 + tight)

    def test_every_type_and_format_as_the_package_has_it(self):
        for d, rotation in (64, "none"), (64, "64:7"), (128, "32"), (80, "16"):
            row = figures.loud_row(d, 3)
            types = [one for one in asked(("types", [d], None))[0]["types"] if not one["refusal"]]
            self.assertEqual({one["name"]: one["bits"] for one in types}, rotkv.formats(d))
            answers = asked(*[("store", [d, one["name"], rotation, 5], row) for one in types])
            for one, found in zip(types, answers):
                with self.subTest(f"{one['name']}, {d} channels, rotation {rotation}"):
                    wanted = figures.stored(row, one["name"], rotation, 5, one["group"])
                    self.compare(found, wanted, not one["name"].startswith(LAST_DIGITS))

    def test_examples_are_the_same_everywhere(self):
        for d in 64, 192:
            row, loud = asked(("example", ["normal", d, 9], None),
                              ("example", ["one loud channel", d, 9], None))
            self.assertEqual(row["row"], figures.normals(9, d).tolist())
            self.assertEqual(loud["row"], figures.loud_row(d, 9).tolist())

    def test_a_shift_ends_where_the_cache_does(self):
        row = figures.loud_row(64, 2)
        for type, rotation, difference, neox in (("q4_0", "64", -100, 0), ("q8_0", "none", 7, 1),
                                                 ("iq4_nl", "32:9", -1024, 1), ("f16", "2", -1, 0)):
            with self.subTest(f"{type}, rotation {rotation}"):
                steps = asked(("shift", [64, type, rotation, 5, difference, neox, 0], row))[0]["steps"]
                wanted = figures.shifted(row, type, rotation, 5, difference, ("norm", "neox")[neox])
                self.assertEqual(steps[-1]["row"], wanted.tolist())
                wrong = asked(("shift", [64, type, rotation, 5, difference, neox, 1], row))[0]["steps"]
                if rotation != "none":
                    self.assertGreater(wrong[-1]["error"], 3 * steps[-1]["error"])

    def test_no_answer_is_words(self):
        answers = asked(("store", [80, "q4_0", "none", 1], None), ("store", [64, "q4_9", "none", 1], None),
                        ("store", [64, "q4_0", "48", 1], None), ("store", [257, "f32", "none", 1], None),
                        ("store", [64, "q4_0", "left", 1], None), ("example", ["loud", 64, 1], None))
        for answer, word in zip(answers, ("multiple of 32", "q4_9", "found 48", "found 257", "left", "loud")):
            self.assertIn(word, answer["error"])


if __name__ == "__main__":
    if reason := why_not():
        print(f"SKIPPED: the playground's WebAssembly: {reason}")
        sys.exit(77)
    import numpy as np
    import playground_figures as figures
    import rotkv
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
