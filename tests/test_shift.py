#!/usr/bin/env python3
"""Texts that go on behind the end of their cache. In the models of shift_models.py a key depends on
its own token alone, so that what a shifted cache predicts is known: what a fresh run over the
surviving tokens does, to rounding in f32 and within a quantized cache's own cost.

Usage: tests/test_shift.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
ROTKV_BACKENDS: "ref fast" unless set. Without numpy, which makes the models, all is skipped."""
import collections
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import unittest

from test_tools import NumpyTools, Tools

try:
    import random_models
    import shift_models
except ModuleNotFoundError:
    shift_models = None

BACKENDS = os.environ.get("ROTKV_BACKENDS", "ref fast").split()
CTX, SHIFTS, WINDOWS = 128, 2, 2
DROPPED = (CTX - 1) // 2  # BOS stays
LENGTH = CTX + SHIFTS * DROPPED
ROTATED = "k=f32,v=f32,rot=on"
COARSE = [f"k={kind},v={kind},rot={rotation}" for kind in ("q8_0", "q4_0")
          for rotation in ("auto", "off", "32", "64:7")]
FINE = ("-ctk", "f32", "-ctv", "f32")
Row = collections.namedtuple("Row", "target kld nll_base nll")


def fresh_windows(text):
    """A text whose windows of CTX hold what survives each shift, and what is read behind it: each
    stretch of the text that fits, its first token replaced by BOS. The text itself begins with it."""
    tokens = "." + text
    starts = [window * LENGTH + shift * DROPPED
              for window in range(WINDOWS) for shift in range(1, SHIFTS + 1)]
    return "".join(tokens[start:start + CTX] for start in starts)[1:]


def fresh_place(window, position):
    """Where a scored token of a shifted window is in fresh_windows()."""
    shift = (position - CTX) // DROPPED + 1
    return window * SHIFTS + shift - 1, position - shift * DROPPED


def seed_behind(seed, draws):
    """SplitMix64 adds a constant for each number: from here on it gives what it would give."""
    return (seed + draws * 0x9E3779B97F4A7C15) % (1 << 64)


class Shift(NumpyTools):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.letters = shift_models.letters(WINDOWS * LENGTH)
        cls.long, cls.fresh = cls.path("long.txt"), cls.path("fresh.txt")
        for path, text in ((cls.long, cls.letters), (cls.fresh, fresh_windows(cls.letters))):
            with open(path, "w") as file:
                file.write(text)

    def kld(self, model, text, variants, *arguments):
        """{variant: {(window, position): Row}}, and the JSON."""
        flags = [part for name in variants for part in ("--variant", name)]
        at = self.path("result.json")
        table = self.good("kld", "-m", model, "-f", text, "-c", str(CTX), "-t", "1", "--quiet",
                          "--csv", "-", "--json", at, *flags, *arguments).stdout
        rows = collections.defaultdict(dict)
        for row in csv.DictReader(io.StringIO(table)):
            rows[row["variant"]][int(row["window"]), int(row["position"])] = Row(
                int(row["target"]), *(float(row[key]) for key in ("kld", "nll_base", "nll")))
        with open(at) as file:
            return rows, json.load(file)

    def compare(self, name, backend):
        model = shift_models.write(self.temporary.name, name)
        variants = [ROTATED, *(COARSE if backend == "fast" else ())]
        shifted, said = self.kld(model, self.long, variants, "--shift", str(SHIFTS), "--backend",
                                 backend)
        fresh, _ = self.kld(model, self.fresh, variants, "--backend", backend)
        self.assertEqual(said["shift"], {"times": SHIFTS, "kept": 1, "dropped": DROPPED,
                                         "tokens_per_window": LENGTH})
        self.assertEqual((said["chunks"], said["scored"]),
                         (WINDOWS, WINDOWS * (SHIFTS * DROPPED - 1)))
        places = [(at, fresh_place(*at)) for at in shifted[ROTATED]]
        places = [(at, there) for at, there in places if there in fresh[ROTATED]]
        self.assertEqual(len(places), WINDOWS * SHIFTS * (DROPPED - 1))  # but the last of a window
        for at, there in places:
            one, other = shifted[ROTATED][at], fresh[ROTATED][there]
            self.assertEqual(one.target, other.target)
            self.assertAlmostEqual(one.nll_base, other.nll_base, delta=1e-4)
            self.assertAlmostEqual(one.nll, other.nll, delta=1e-4)
            self.assertLess(abs(one.kld), 1e-6)
        for variant in variants[1:]:  # a key that moves is rounded twice
            cost = statistics.fmean(fresh[variant][there].kld for _, there in places)
            found = statistics.fmean(shifted[variant][at].kld for at, _ in places)
            self.assertGreater(found, 0.5 * cost, variant)
            self.assertLess(found, 2.5 * cost, variant)
        os.remove(model)

    def generate(self, model, prompt, *arguments):
        at = self.path("generated.json")
        result = self.run_tool("generate", "-m", model, "-p", prompt, "--json", at, "-t", "1",
                               *arguments, stdout=subprocess.DEVNULL)
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(at) as file:
            return json.load(file), result.stderr

    def check_text(self, model, cells, keep, *arguments):
        """Behind each shift the text is that of a fresh run over what survived, whose draws go on
        where the others were."""
        prompt, dropped = shift_models.letters(20, seed=3), (cells - keep) // 2
        for times in (1, 2, 3):
            drawn = cells - len(prompt) + dropped * (times - 1)
            seed = next(seed for seed in (1, (1 << 63) - 1) if seed_behind(seed, drawn) < 1 << 63)
            found, says = self.generate(model, prompt, "-c", str(cells), "-n", str(drawn + dropped),
                                        "--shift", "--temp", "1", "--seed", str(seed), *arguments)
            self.check_words(found, says, cells, keep, dropped, times)
            text = "".join(map(chr, found["tokens"]))
            cache = "." + prompt + text[:drawn]
            for _ in range(times):
                cache = cache[:keep] + cache[keep + dropped:]
            fresh, _ = self.generate(model, cache[1:], "-n", str(dropped), "--temp", "1", "--seed",
                                     str(seed_behind(seed, drawn)), *FINE)
            self.assertEqual("".join(map(chr, fresh["tokens"])), text[drawn:])

    def check_words(self, found, says, cells, keep, dropped, times):
        self.assertEqual(found["shift"], {"kept": keep, "times": times, "dropped": dropped})
        notice = (f"{times} shift{'s' if times > 1 else ''}: the cache was full with {cells} tokens, "
                  f"of which the first {keep} stayed and {dropped} behind them were dropped")
        self.assertIn(f"rotkv-generate: note: {notice}\n", says)
        self.assertEqual(found["notices"][-1], notice)

    def test_text_behind_a_shift_is_that_of_a_fresh_run(self):
        for name in ("llama", "glm4", "qwen3-yarn", "smollm3"):
            model = shift_models.write(self.temporary.name, name, shift_models.say_letters_only)
            self.check_text(model, 48, 1, *FINE)
            self.check_text(model, 33, 6, *FINE, "--keep", "5", "--rot-k", "on")
            self.check_text(model, 40, 21, *FINE, "--keep", "-1")

    def test_every_cache_goes_on_and_begins_as_without_a_shift(self):
        model = shift_models.write(self.temporary.name, "smollm3")
        for cache in (("-ctk", "q8_0", "-ctv", "q8_0"),
                      ("-ctk", "q4_0", "-ctv", "f16", "--rot-signs", "3"),
                      ("-ctk", "iq4_nl", "-ctv", "q5_1", "--rot-k", "off", "--rot-v", "32")):
            found, _ = self.generate(model, "abc", "-c", "24", "-n", "64", "--shift", *cache)
            before, _ = self.generate(model, "abc", "-n", "21", *cache)
            self.assertEqual(found["tokens"][:21], before["tokens"])
            self.assertEqual((len(found["tokens"]), found["shift"]["times"]), (64, 4))
            self.assertIsNone(before["shift"])

    def test_usage(self):
        text = ("-m", self.model, "-p", "seven times eight")  # 17 tokens, no BOS
        for arguments, says in [
                (("--keep", "4"), "--keep says what stays at a shift, expected --shift"),
                (("--shift", "--against", "k=q4_0"), "expected one of them"),
                (("--shift", "--keep", "-2"), "--keep: expected a whole number from -1"),
                (("--shift", "-c", "16", "-n", "8"), "-c 16: expected room for the 17 tokens"),
                (("--shift", "-c", "18", "-n", "8", "--keep", "-1"),
                 "-c 18: expected at least 2 tokens more than the 17 that stay"),
                (("-c", "20", "-n", "8"), "-c 20: expected room for 25 tokens")]:
            self.assertEqual(self.bad(2, "generate", *text, *arguments, says=says).stdout, "")
        _, says = self.generate(self.model, "abc", "-n", "4", "--context-shift", "--quiet")
        self.assertEqual(says, "rotkv-generate: note: --shift changes nothing: the prompt and -n fit "
                               "into -c\n")
        text = ("-m", self.model, "-f", self.text, "--variant", "k=q8_0")
        for arguments, says in [
                (("--shift", "0"), "--shift: expected a whole number from 1"),
                (("--keep", "4"), "--keep says what stays at a shift, expected --shift"),
                (("--shift", "1", "--keep", "29", "-c", "32"), "expected at least 33"),
                (("--shift", "1", "--by-layer"), "--shift moves the keys of whole caches, expected "
                                                 "no --by-layer"),
                (("--shift", "1", "--explain"), "expected no --explain"),
                (("--shift", "1000", "-c", "32"), "expected at least two windows of 16032"),
                (("--shift", "1", "-c", "3"), "expected at least 4")]:
            self.assertEqual(self.bad(2, "kld", *text, *arguments, says=says).stdout, "")
        # A base file's rows are of windows that end with their cache.
        self.bad(2, "perplexity", "-m", self.model, "--kl-divergence", "--kl-divergence-base",
                 self.path("base.kld"), "--shift", "1", says="--shift")

    def test_states_are_refused_before_the_text(self):
        if shift_models is None:
            self.skipTest("no numpy")
        model = random_models.write(self.temporary.name, "qwen35")
        says = "context shift: some layers keep a state, which holds all tokens in one"
        shown = self.bad(1, "generate", "-m", model, "-p", "the", "-c", "16", "-n", "4", "--shift",
                         says=says)
        self.assertEqual(shown.stdout, "")
        shown = self.bad(1, "kld", "-m", model, "-f", self.text, "-c", "32", "--variant", "k=q8_0",
                         "--shift", "1", says=says)
        self.assertEqual(shown.stdout, "")

    def test_what_is_said(self):
        text = ("-m", self.model, "-f", self.text, "-c", "32", "--variant", "k=q8_0")
        shown = self.good("kld", *text, "--shift", "2")
        words = ("shifted 2 times: of 32 tokens the oldest 16 are dropped, and 16 more are read; "
                 "scored is what is read behind a shift\n")
        self.assertRegex(shown.stdout, r"^====== Overview: \d+ windows, \d+ scored tokens ======\n"
                                       "each window " + words)
        self.assertIn("3 windows of 32 tokens, 3 at once, without BOS, each " + words, shown.stderr)
        self.assertRegex(shown.stdout, r"\nbase .* k=f32,v=f32\n")
        plain = json.loads(self.good("kld", *text, "--json", "-").stdout)
        self.assertIsNone(plain["shift"])


def compare(name, backend):
    return lambda self: self.compare(name, backend)


if shift_models is not None:
    for model_name in shift_models.MODELS:
        for backend_name in BACKENDS:
            test = f"test_{model_name}_{backend_name}".replace("-", "_")
            setattr(Shift, test, compare(model_name, backend_name))


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
