#!/usr/bin/env python3
"""One mistake ends every program with one status: 2 for a wrong call, 1 where there is no honest
result (tools/README.md). Every program, every mistake that can be made in its call.

Usage: tests/test_exit_codes.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import glob
import json
import os
import re
import sys
import unittest

from test_tools import Tools

CASE = "hadamard/rows=3/rot=64"
# What every call has, and words that this one adds: {program: (words, where a cache is said)}.
# A cache is said by -ctk -ctv, by a flag that takes whole words, by a list, or not at all.
M, F = ("-m", "model.gguf"), ("-f", "text.txt")
CUT = (*M, *F, "-c", "32", "--chunks", "2")
CALLS = {
    "bench": (*M, "-p", "4", "-n", "0", "-r", "1", "-ctk", "q4_0"),
    "bench-ops": (CASE, "-r", "1", "--seconds", "0.001"),
    "cache": ("save", "a.rkv", *M, *F, "-n", "8", "--cache", "k=q4_0"),
    "calibrate": (*M, *F, "-c", "16", "--chunks", "2", "--held-out", "1", "-o", "m", "-ctk", "q4_0"),
    "cases": ("run", CASE, "--backend", "ref"),
    "demo": CUT,
    "eval": ("run", *M, "--task", "task.jsonl", "-n", "1", "--cache", "k=q4_0", "--quiet"),
    "fuse": (*M, "-o", "fused.gguf", "--rot-v", "64"),
    "generate": (*M, "-p", "1", "-n", "1", "-ctk", "q4_0"),
    "gguf": ("model.gguf", "-ctk", "q4_0"),
    "judge": (*M, "--program", "PYTHON ENGINE", "--caches", "q8_0", "--tokens", "8",
              "--positions", "2", "--trials", "tokens"),
    "kld": (*CUT, "--variant", "k=q4_0"),
    "outliers": (*CUT, "-ctk", "q4_0", "-ctv", "q4_0"),
    "perplexity": (*CUT, "-ctk", "q4_0"),
    "search": (*M, *F, "-c", "32", "--chunks", "4", "--held-out", "2", "--types", "q8_0", "--bits",
               "9", "--groups", "1", "--rot", "auto"),
    "sweep": (*CUT, "--out", "s.jsonl", "-ctk", "q4_0", "-ctv", "q4_0"),
}


def with_value(words, flag, value):
    """The call with another value behind a flag that it has; None where it has none."""
    if flag not in words:
        return None
    at = words.index(flag) + 1
    return (*words[:at], value, *words[at + 1:])


def with_model(words, path):
    return with_value(words, "-m", path) or (
        tuple(path if word == "model.gguf" else word for word in words)
        if "model.gguf" in words else None)


def with_cache(words, kind, **more):
    """The call with another type, or with words more, wherever it says a cache."""
    for flag in ("--variant", "--cache"):
        if flag in words:
            fields = ",".join([f"k={kind}"] + [f"{key}={value}" for key, value in more.items()])
            return with_value(words, flag, fields)
    if "rot" in more:  # a rotation has flags of its own
        for flag in ("--rot", "--rot-v"):
            if flag in words:
                return with_value(words, flag, more["rot"])
        both = words[0] == "-m" and "--out" in words or "-p" in words and "-r" in words
        takes = "-ctk" in words and "-o" not in words and "-ctv" not in words
        return (*words, "--rot" if both else "--rot-k", more["rot"]) if takes or both else None
    for flag in ("-ctk", "--types", "--caches"):
        if flag in words:
            return with_value(words, flag, kind)
    return None


def more(*flags, unless=()):
    return lambda name, words: None if name in unless else (*words, *flags)


# What is wrong: the status, and the call that it is wrong in, or None where it has no such thing.
MISTAKES = {
    "no model": (1, lambda name, words: with_model(words, "none.gguf")),
    "a folder for a model": (1, lambda name, words: with_model(words, ".")),
    "a broken model": (1, lambda name, words: with_model(words, "broken.gguf")),
    "no text": (1, lambda name, words: with_value(words, "-f", "none.txt")),
    "a model for a text": (1, lambda name, words: with_value(words, "-f", "model.gguf")),
    "too short a text": (2, lambda name, words: with_value(words, "-f", "short.txt")),
    "no task": (1, lambda name, words: with_value(words, "--task", "none.jsonl")),
    "a broken task": (1, lambda name, words: with_value(words, "--task", "broken.jsonl")),
    "an unknown type": (2, lambda name, words: with_cache(words, "q9")),
    "an unknown rotation": (2, lambda name, words: with_cache(words, "q4_0", rot="xx")),
    "a rotation that divides no head": (2, lambda name, words: with_cache(words, "q4_0", rot="48")),
    "an unknown case": (2, lambda name, words: tuple("none" if word == CASE else word
                                                     for word in words) if CASE in words else None),
    "an unknown backend": (2, lambda name, words: with_value(words, "--backend", "none")
                           or (*words, "--backend", "none")),
    "a backend that is not built": (1, lambda name, words: with_value(words, "--backend", "ABSENT") or
                                    more("--backend", "ABSENT", unless=("gguf", "judge"))(name, words)),
    "a number that is none": (2, more("-t", "4x")),
    "a number out of range": (2, more("-t", "-1")),
    "an unknown flag": (2, more("--none")),
    "an output without a folder": (1, more("--json", "none/x.json")),
    "a folder for an output": (1, more("--json", ".")),
    "an output that is an input": (2, more("--json", "model.gguf", unless=("cases",))),
    "no call": (2, lambda name, words: ("none",) if name == "bench-ops" else ()),
}


# Python starts slowly: of what its parser of flags says by itself, one mistake is enough.
OF_THE_PARSER = {"a number out of range", "an unknown flag", "no call"}


class ExitCodes(Tools):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(os.chdir, os.getcwd())
        os.chdir(cls.temporary.name)
        for name, data in (("broken.gguf", b"GGUF" + bytes(60)), ("short.txt", b"3"),
                           ("broken.jsonl", b"{"),
                           ("task.jsonl", b'{"id": "1", "prompt": "3 times", "answer": "9", '
                                          b'"check": "contains"}\n')):
            with open(name, "wb") as file:
                file.write(data)
        cls.built = {os.path.basename(path).removeprefix("rotkv-")
                     for path in glob.glob(os.path.join(cls.folder, "rotkv-*"))
                     if os.access(path, os.X_OK) and os.path.isfile(path)} & set(CALLS)
        lines = cls.good(cls(), "perplexity", "--list-backends").stdout
        cls.absent = re.search(r"^(\S+) +not built", lines, re.M)[1]  # of this build

    def call(self, name, words):
        before = set(os.listdir("."))
        engine = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake_engine.py")
        words = [word.replace("PYTHON", sys.executable).replace("ENGINE", engine)
                 .replace("ABSENT", self.absent) for word in words]
        done = self.run_tool(name, *words)
        for made in set(os.listdir(".")) - before:
            os.remove(made)
        return done

    def test_every_program_is_here(self):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../CMakeLists.txt"),
                  encoding="utf-8") as file:
            listed = re.findall(r"set\(rotkv_(?:python_)?programs ([^)]*)\)", file.read())
        names = {name.replace("_", "-") for names in listed for name in names.split()}
        self.assertEqual(names, set(CALLS))
        self.assertLessEqual(names - {"eval", "judge"}, self.built)

    def test_calls_are_good(self):
        for name in sorted(self.built - {"judge"}):  # what an engine says is its own test's
            with self.subTest(name):
                done = self.call(name, CALLS[name])
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_one_mistake_has_one_status(self):
        made = 0
        for mistake, (status, wrong) in MISTAKES.items():
            for name in sorted(self.built):
                words = wrong(name, CALLS[name])
                if words is None or mistake in OF_THE_PARSER and name in ("eval", "judge"):
                    continue
                with self.subTest(f"{mistake}: rotkv-{name} {' '.join(words)}"):
                    done = self.call(name, words)
                    self.assertEqual(done.returncode, status, done.stderr)
                    self.assertRegex(done.stderr.splitlines()[-1], rf"^rotkv-{name}( \w+)?: error: .")
                    made += 1
        self.assertGreater(made, 180)


class WithoutHonestResult(Tools):
    def test_an_empty_value_takes_no_other_flag(self):
        for flag in "--json=", "--csv=", "--out=":
            self.bad(2, "sweep", "-m", self.model, "-f", self.text, flag, "--ctx-size=64",
                     says=flag[:-1] + ": expected a value, found ''")
        self.assertFalse(os.path.exists("--ctx-size=64"))

    def test_what_was_never_read_is_not_measured(self):
        """Where all that scored tokens read is in f16, no figure speaks of the type."""
        on, says = ("-m", self.model, "-f", self.text, "-c", "32"), "nothing of few bits"
        for recent, code in (("recent=30", 0), ("recent=31", 1), ("first=10,recent=20", 0),
                             ("first=10,recent=21", 1), ("first=31", 1)):
            words = ("--chunks", "1", "--variant", f"k=q4_0,v=q4_0,{recent}")
            if code:
                self.bad(code, "kld", *on, *words, says=says)
                self.bad(code, "perplexity", *on, "-ctk", "q4_0", "--place", recent, says=says)
                self.bad(code, "sweep", *on, "-ctk", "q4_0", "-ctv", "f32", "--place", recent,
                         "--out", self.path("s.jsonl"), says=says)
                self.assertFalse(os.path.exists(self.path("s.jsonl")))
            else:
                self.good("kld", *on, *words)
        self.bad(1, "kld", *on, "--base", "k=q8_0,recent=31", "--variant", "k=q4_0", says=says)

    def test_what_was_never_read_does_not_speak(self):
        """A text of one token more than the prompt: the prompt's last is the last to read anything."""
        on, says = ("-m", self.model, "-p", "aaa", "-n", "1", "-ctk", "q4_0"), "nothing of few bits"
        prompt = len(json.loads(self.good("generate", *on, "--json", "-").stdout)["prompt"])
        for recent, bad in ((prompt - 1, False), (prompt, True), (1000, True)):
            one = ("--place", f"recent={recent}")
            other = ("--against", f"k=q8_0,recent={recent}", "--after", "0")
            for words in (one, other):
                if bad:
                    self.bad(1, "generate", *on, *words, says=says)
                else:
                    self.assertIn(self.run_tool("generate", *on, *words).returncode, (0, 1 * (words == other)))

    def test_layers_that_are_not_there_are_no_cells(self):
        on = ("-m", self.model, "-f", self.text, "-c", "32", "--chunks", "1", "--quiet")
        out = ("--out", self.path("ends.jsonl"))
        for place in ("ends=q8_0:2", "k:2=q8_0"):
            self.bad(2, "sweep", *on, "-ctk", "q4_0", "-ctv", "q4_0", "--place", place, *out,
                     says="expected")
            self.assertFalse(os.path.exists(out[1]))
        self.good("sweep", *on, "-ctk", "q4_0", "-ctv", "q4_0", "--place", "ends=q8_0:1", *out)

    def test_a_sweep_without_any_cell_is_no_sweep(self):
        on = ("-m", self.model, "-f", self.text, "-c", "32", "--chunks", "1", "--quiet")
        self.bad(2, "sweep", *on, "-ctk", "q4_0", "-ctv", "q4_0", "--rot", "48", "--out",
                 self.path("none.jsonl"), says="expected a power of two")
        self.bad(1, "sweep", *on, "--formats", "tqmse3:128", "--out", self.path("none.jsonl"),
                 says="128")
        self.assertFalse(os.path.exists(self.path("none.jsonl")))
        self.good("sweep", *on, "-ctk", "q4_0", "-ctv", "q4_0", "--rot", "48,off", "--out",
                  self.path("some.jsonl"))


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
