#!/usr/bin/env python3
"""What flags name, before anything runs: files that are inputs or cannot be written, numbers that
are none, settings that change nothing; what signals leave behind; sweeps that would be mixed.

Usage: tests/test_flags.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import copy
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

from gguf_file import ARRAY, BOOL, F32, STRING, U32, GgufFile
from test_tools import ENDLESS, Tools, write_model

CTX = ("-c", "32")
CACHE = ("-ctk", "q4_0", "-ctv", "q4_0")


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Flags(Tools):
    sums = 60  # long enough for a test over windows

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.mt = ("-m", cls.model, "-f", cls.text, *CTX)
        cls.tools = {  # each with all that it needs
            "perplexity": cls.mt, "kld": (*cls.mt, "--variant", "k=q4_0"),
            "outliers": cls.mt, "demo": (*cls.mt, "--chunks", "2"),
            "generate": (*cls.mt[:4], "-n", "1", "-c", "2048"),
            "sweep": (*cls.mt, *CACHE, "--out", cls.path("sweep.jsonl")),
            "bench": ("-m", cls.model, "-p", "8", "-n", "0", "-r", "1")}

    def refused(self, name, *arguments, says, code=2, **more):
        """Before the model is loaded, which says so on standard error; nothing is left behind."""
        before = {entry: read(self.path(entry)) for entry in os.listdir(self.temporary.name)
                  if os.path.isfile(self.path(entry))}
        result = self.bad(code, name, *arguments, says=says, **more)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertEqual(before, {entry: read(self.path(entry))
                                  for entry in os.listdir(self.temporary.name)
                                  if os.path.isfile(self.path(entry))})


class Paths(Flags):
    def test_outputs_are_no_inputs(self):
        link, hard, linked = (self.path(name) for name in ("link.gguf", "hard.gguf", "linked.txt"))
        os.symlink("model.gguf", link)
        os.symlink("text.txt", linked)
        os.link(self.model, hard)
        around = os.path.join(self.temporary.name, "..", os.path.basename(self.temporary.name))
        for name, words in self.tools.items():
            for path in (self.model, link, hard, os.path.join(around, "model.gguf")):
                self.refused(name, *words, "--json", path,
                             says=f"--json {path}: expected a file of its own, found that of -m")
            for path in (self.text, linked) if "-f" in words else ():
                self.refused(name, *words, "--json", path, says=f"that of -f {self.text}")
        for name in ("kld", "outliers", "sweep"):
            self.refused(name, *self.tools[name], "--csv", self.text, says="--csv")
        self.refused("gguf", self.model, "--json", self.model, says="that of FILE")
        self.refused("gguf", "--diff", self.model, hard, "--json", hard, says="that of --diff")
        words = self.tools["sweep"]
        self.refused("sweep", *words[:-1], self.text, says=f"--out {self.text}")
        other = self.path("other.gguf")
        write_model(other, seed=2)
        self.refused("perplexity", *self.mt, "--json", other, says="found a model")
        folder = self.path("cases")
        self.good("cases", "dump", folder, "--case", "hadamard/rot=64")
        index = os.path.join(folder, "index.json")
        self.bad(2, "cases", "check", folder, "--json", index, says="index.json")
        self.assertIn(b"hadamard", read(index))

    def test_outputs_are_files_of_their_own(self):
        same, out = self.path("new.json"), self.path("new.jsonl")
        for name in ("kld", "outliers", "sweep"):
            self.refused(name, *self.tools[name], "--json", same, "--csv",
                         os.path.join(self.temporary.name, ".", "new.json"), says="that of --json")
        self.refused("outliers", *self.mt, "--npy", same, "--csv", same, says="that of --npy")
        here = os.getcwd()
        os.chdir(self.temporary.name)
        self.addCleanup(os.chdir, here)
        self.refused("kld", *self.tools["kld"], "--json", "new.json", "--csv", "./new.json",
                     says="that of --json")
        self.refused("perplexity", *self.mt, "--json", same, "--kl-divergence-base", same,
                     says="--kl-divergence-base")
        self.refused("sweep", *self.tools["sweep"][:-1], out, "--json", out, says="that of --out")
        picture = self.path("p-kld.png")
        self.refused("sweep", *self.tools["sweep"], "--json", picture, "--plot", self.path("p"),
                     says="--plot")
        printed = self.path("printed.txt")
        with open(printed, "w") as file:
            self.bad(2, "perplexity", *self.mt, "--json", printed, says="standard output",
                     stdout=file)
        self.good("kld", *self.tools["kld"], "--json", "/dev/null", "--csv", "/dev/null")

    def test_links_are_what_they_lead_to(self):
        target, link, again = (self.path(name) for name in ("led.json", "leads.json", "too.json"))
        os.symlink("led.json", link)
        os.symlink(link, again)
        for other in target, again:  # nothing is there yet
            self.refused("kld", *self.tools["kld"], "--json", link, "--csv", other,
                         says="that of --json")
        self.good("perplexity", *self.mt, "--json", link)
        self.assertTrue(os.path.islink(link))
        self.assertIn(b"notices", read(target))
        with open(target, "a") as file:
            self.bad(2, "perplexity", *self.mt, "--json", link, says="standard output", stdout=file)
        astray = self.path("astray.json")
        os.symlink(self.path("no/folder.json"), astray)
        for name, words in self.tools.items():
            self.refused(name, *words, "--json", astray, code=1,
                         says=f"--json {astray} cannot be created: No such file")
        self.refused("perplexity", *self.mt, "--kl-divergence-base", astray, code=1,
                     says="--kl-divergence-base")

    def test_what_cannot_be_written_is_found_first(self):
        folder, locked = self.path("folder"), self.path("locked")
        os.makedirs(folder, exist_ok=True)
        os.makedirs(locked, exist_ok=True)
        for name, words in self.tools.items():
            self.refused(name, *words, "--json", folder, code=1, says=f"--json {folder}")
            path = self.path("no/folder.json")
            self.refused(name, *words, "--json", path, code=1, says=f"--json {path}")
        self.refused("gguf", self.model, "--json", folder, code=1, says="--json")
        self.refused("perplexity", *self.mt, "--kl-divergence-base", folder, code=1,
                     says="--kl-divergence-base")
        for flag in ("--csv", "--plot"):
            self.refused("outliers", *self.mt, "--npy", self.path("rows"), flag,
                         self.path("no/folder"), code=1, says=f"{flag} {self.path('no/folder')}")
        self.refused("outliers", *self.mt, "--npy", folder, code=1, says="it exists")
        self.refused("outliers", *self.mt, "--npy", self.path("no/rows"), code=1, says="--npy")
        if os.geteuid() == 0:
            print("SKIPPED: permissions: root may write everywhere")
            return
        os.chmod(locked, 0o555)
        self.refused("perplexity", *self.mt, "--json", os.path.join(locked, "a.json"), code=1,
                     says="Permission denied")

    def test_base_files_that_are_replaced(self):
        base, words = self.path("old.kld"), ("--chunks", "1", "--quiet", "--kl-divergence-base")
        first = self.good("perplexity", *self.mt, *words, base)
        self.assertEqual(first.stderr, "")
        again = self.good("perplexity", *self.mt, *words, base)
        self.assertRegex(again.stderr, r"^rotkv-perplexity: note: .*old\.kld: a base file is there .*"
                                       r"--kl-divergence compares with it\n$")
        self.refused("perplexity", *self.mt, *words, self.model, says="that of -m")
        self.refused("perplexity", *self.mt, *words, self.text, says="that of -f")
        letter = self.path("letter.txt")
        with open(letter, "w") as file:
            file.write("Dear reader")
        self.refused("perplexity", *self.mt, *words, letter, says="a base file, found another")
        self.refused("perplexity", "-m", self.model, "--kl-divergence", "--kl-divergence-base", base,
                     "--json", base, says="that of --kl-divergence-base")


class Spellings(Flags):
    def test_the_other_spelling_is_refused_with_the_right_one(self):
        for name, flags, right in [
                ("sweep", ("--rot-k", "off"), "--rot-k: expected --rot LIST"),
                ("bench", ("--rot-v=off",), "--rot-v: expected --rot LIST"),
                ("sweep", ("--rot-signs", "3"), "--rot-signs: expected --rot BLOCK:SEED"),
                ("perplexity", ("--rot", "off"), "--rot: expected --rot-k WHAT and --rot-v WHAT"),
                ("generate", ("--rot", "off"), "--rot: expected --rot-k WHAT and --rot-v WHAT"),
                ("kld", ("--rot", "off"), "--rot: expected rot=WHAT in --variant"),
                ("kld", ("--rot-k", "off"), "--rot-k: expected rot-k=WHAT in --variant"),
                ("kld", ("--rot-signs", "3"), "--rot-signs: expected signs=SEED in --variant"),
                ("kld", ("-ctk", "q4_0"), "-ctk: expected k=TYPE in --variant"),
                ("demo", ("--windows", "2"), "--windows: expected --chunks N"),
                ("outliers", ("--windows", "2"), "--windows: expected --chunks N"),
                ("perplexity", ("-khad",), "-khad: expected --rot-k on"),
                ("bench", ("-vhad",), "-vhad: expected --rot on, of both sides"),
                ("kld", ("-vhad",), "-vhad: expected rot-v=on in --variant"),
                ("bench", ("--format", "csv"), "--format: expected -o FORMAT")]:
            self.refused(name, *self.tools[name], *flags, says=right)
        self.bad(2, "bench-ops", "--format", "csv", says="--format: expected -o FORMAT")
        self.bad(2, "gguf", self.model, "--rot", "off", says="--rot-k WHAT and --rot-v WHAT")

    def test_every_help_lists_the_types(self):
        for name in (*self.tools, "gguf", "cases", "bench-ops"):
            self.assertIn("\nCache types: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl\n"
                          "Rotations: auto, off, on, a block size, BLOCK:SEED, kronecker, signed:SEED, "
                          "signed:SEED:ROUNDS, dense:SEED or file:PATH.npy\n",
                          self.good(name, "--help").stdout)


class Numbers(Flags):
    def test_what_is_no_number(self):
        wholes = [("perplexity", self.mt, ("-c", "-b", "-t", "--chunks")),
                  ("kld", self.tools["kld"], ("--jitter", "--chunks")),
                  ("outliers", self.mt, ("-c", "--chunks")), ("demo", self.mt, ("--chunks",)),
                  ("generate", self.tools["generate"], ("-n", "-c", "-s", "--after")),
                  ("sweep", self.tools["sweep"], ("--base-memory",)),
                  ("bench", self.tools["bench"], ("-p", "-n", "-d", "-b", "-r", "-t")),
                  ("bench-ops", (), ("-t", "-r"))]
        for name, words, flags in wholes:
            for flag in flags:
                for text in ("1e3", "nan", "0x40", "4x", "4.5", "99999999999999999999", "-5", ""):
                    kept = [w for i, w in enumerate(words)
                            if w != flag and (i == 0 or words[i - 1] != flag)]
                    found = self.bad(2, name, *kept, flag, text, says=flag)
                    if text:
                        self.assertIn(f"found '{text}'", found.stderr)
        for flag in ("-t", "-b", "--chunks"):
            self.bad(2, "perplexity", *self.mt, flag, "0", says=f"{flag}: expected a whole number")
        reals = [("generate", self.tools["generate"], "--temp"),
                 ("kld", (*self.tools["kld"], "--variant", "k=q8_0"), "--stop"),
                 ("bench-ops", (), "--seconds")]
        for name, words, flag in reals:
            for text in ("nan", "inf", "1e999", "0x1p4", "80%", "-1", "", "1e3"):
                self.bad(2, name, *words, flag, text, says=flag)
        padded = self.json_of("--chunks", "010")  # ten, not eight
        self.assertEqual(padded["chunks"], 10)
        self.assertIn("0 to 1048576, found '8.'", self.bad(
            2, "bench", *self.tools["bench"], "-d", "0,8.").stderr)


class WithoutEffect(Flags):
    def test_signs_that_no_side_takes(self):
        kld = ("kld", *self.mt, "--variant")
        for variant in ("k=q4_0,rot=off,signs=3", "signs=3", "k=f16,v=f16,signs=3",
                        "k=q4_0,v=q4_0,rot=64:5,signs=3"):
            self.bad(2, *kld, variant, says=f"--variant '{variant}': signs: expected a rotated side")
        for words in (("--rot-signs", "3"), (*CACHE, "--rot-k", "off", "--rot-v", "off",
                                             "--rot-signs", "3")):
            self.bad(2, "perplexity", *self.mt, *words, says="--rot-signs: expected a rotated side")
        self.bad(2, "perplexity", *self.mt, *CACHE, "--rot-signs", "3", says="LLAMA_ATTN_ROT_DISABLE",
                 env={"LLAMA_ATTN_ROT_DISABLE": "1"})
        self.good(*kld, "k=q4_0,signs=3")
        self.perplexity("--rot-v", "on", "--rot-signs", "3", "--chunks", "1")

    def test_a_wrong_rotation_names_its_variant(self):
        self.bad(2, "kld", *self.mt, "--variant", "k=q8_0", "--variant", "k=q4_0,rot=of",
                 says="--variant 'k=q4_0,rot=of': expected auto, off, on")

    def test_environment(self):
        for value, says in [("true", "counts as 0"), ("yes", "not turned off"), ("on", "counts as 0"),
                            ("1x", "counts as 1"), ("1", ""), ("0", ""), ("", ""), ("off", "")]:
            result = self.perplexity("--quiet", "--chunks", "1", *CACHE,
                                     env={"LLAMA_ATTN_ROT_DISABLE": value})
            self.assertEqual(result.stderr.count("\n"), 1 if says else 0, result.stderr)
            self.assertIn(says, result.stderr)

    def test_others(self):
        words = self.tools["generate"]
        self.assertIn("note: --seed 3 changes nothing", self.good("generate", *words, "--seed",
                                                                  "3").stderr)
        self.bad(2, "generate", *words, "--after", "3", says="--after compares")
        self.bad(2, "gguf", "--check", "--diff", self.model, self.model, says="--check and --diff")
        self.bad(2, "gguf", "--check", self.model, "-ctk", "q8_0", says="no cache")
        self.bad(2, "bench-ops", "hadamard/rows=1/D=64", "--case", "hadamard", says="--case")
        alone = self.good("kld", *self.mt, "--variant", "k=q4_0", "--by-side")
        self.assertIn("note: --by-side changes nothing", alone.stderr)


class Signals(Flags):
    def test_nothing_partial_stays(self):
        folder = self.path("signals")
        os.makedirs(folder)
        program = os.path.join(self.folder, "rotkv-perplexity")
        text = self.path("long.txt")  # far more work than passes before the signal comes
        with open(text, "wb") as file:
            file.write(1000 * read(self.text))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # what nohup has ignored, children ignore too
            base = os.path.join(folder, "base.kld")
            process = subprocess.Popen(
                [program, "-m", self.model, "-f", text, "-c", "32", "--backend", "ref", "-b", "32",
                 "--kl-divergence-base", base],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            process.stdout.read(4)  # the first window is done
            self.assertEqual([name.split(".")[-1] for name in os.listdir(folder)], ["partial"])
            process.send_signal(number)
            process.communicate(timeout=ENDLESS)
            self.assertEqual(process.returncode, -number)
            self.assertEqual(os.listdir(folder), [])

    def test_results_that_come_late_appear_whole(self):
        """A signal while single operations are timed, and while cases are written."""
        folder = self.path("late")
        os.makedirs(folder)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for words in (["bench-ops", "hadamard/rows=64/rot=64", "-t", "1", "-r", "1", "--seconds", "60",
                       "--json", os.path.join(folder, "ops.json")],
                      ["cases", "dump", os.path.join(folder, "cases")]):
            process = subprocess.Popen(
                [os.path.join(self.folder, "rotkv-" + words[0]), *words[1:]],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            begun = time.monotonic() + (1 if words[0] == "bench-ops" else ENDLESS)
            while time.monotonic() < begun and len(self.below(folder)) < 20:
                time.sleep(0.01)
            self.assertFalse({"ops.json", "cases"} & set(os.listdir(folder)))
            process.terminate()
            self.assertEqual(process.wait(timeout=ENDLESS), -signal.SIGTERM)
            self.assertEqual(os.listdir(folder), [])

    @staticmethod
    def below(folder):
        return [name for _, _, names in os.walk(folder) for name in names]

    def test_two_that_write_one_file(self):
        base = self.path("twice.kld")
        words = [os.path.join(self.folder, "rotkv-perplexity"), *self.mt, "-t", "1", "--quiet",
                 "--kl-divergence-base", base]
        both = [subprocess.Popen([*words, "-ctk", k], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL) for k in ("f32", "q4_0")]
        self.assertEqual([process.wait(timeout=ENDLESS) for process in both], [0, 0])
        wanted = []
        for k in ("f32", "q4_0"):
            self.good("perplexity", *self.mt, "-t", "1", "--quiet", "--kl-divergence-base",
                      self.path(k), "-ctk", k)
            wanted.append(read(self.path(k)))
        self.assertIn(read(base), wanted)
        self.assertFalse([name for name in os.listdir(self.temporary.name) if "partial" in name])


class Elsewhere(Flags):
    def test_the_demo_finds_its_text(self):
        here = os.getcwd()
        os.chdir(self.temporary.name)
        self.addCleanup(os.chdir, here)
        words = ("-m", self.model, *CTX, "--chunks", "2")
        self.assertIn("How to read it", self.good("demo", *words).stdout)
        moved = self.path("moved")
        os.makedirs(moved)
        shutil.copy(os.path.join(self.folder, "rotkv-demo"), moved)
        result = subprocess.run([os.path.join(moved, "rotkv-demo"), *words], capture_output=True,
                                text=True, timeout=ENDLESS)
        self.assertEqual(result.returncode, 1)
        self.assertIn("demo.txt: no such file; name a text with -f FILE", result.stderr)

    def test_plot_py_runs_by_itself(self):
        result = subprocess.run([os.path.join(self.folder, "plot.py")], capture_output=True,
                                text=True, timeout=ENDLESS)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, "plot.py sweep|matplotlib is missing")


class MixedSweeps(Flags):
    def test_what_decides_the_figures_must_be_the_same(self):
        """A model that is edited in place keeps its name, and mostly its size."""
        model, out = self.path("edited.gguf"), self.path("mixed.jsonl")
        whole = GgufFile.read(self.model)
        whole.keys["tokenizer.ggml.bos_token_id"] = (U32, 7)
        whole.keys["tokenizer.ggml.add_bos_token"] = (BOOL, False)
        words = ("-m", model, *self.mt[2:], *CACHE, "--out", out, "-t", "1", "--chunks", "2",
                 "--quiet")

        def resumed_after(code, says, key=None, value=None, weights=None):
            edited = copy.deepcopy(whole)
            if key:
                edited.keys[key] = value
            if weights:
                name = "blk.1.ffn_down.weight"
                edited.tensors[name] = edited.tensors[name]._replace(data=weights)
            edited.write(model)
            if code:
                self.bad(code, "sweep", *words, says=says)
            else:
                self.good("sweep", *words)

        resumed_after(0, "")
        written = read(out)
        weights = bytearray(whole.tensors["blk.1.ffn_down.weight"].data)
        weights[-1] ^= 1  # of the last one
        another = f"{out} is of another sweep: "
        resumed_after(1, another + "model_hash", weights=bytes(weights))
        resumed_after(1, another + "tokens_hash", "tokenizer.ggml.add_bos_token", (BOOL, True))
        of, names = whole.keys["tokenizer.ggml.tokens"][1]
        names = [{"t": "s", "s": "t"}.get(name, name) for name in names]
        resumed_after(1, another + "tokens_hash", "tokenizer.ggml.tokens", (ARRAY, (of, names)))
        resumed_after(1, another + "model_hash", "llama.rope.freq_base", (F32, 5000.0))
        resumed_after(0, "", "general.name", (STRING, "a name of another length than before"))
        resumed_after(0, "", "tokenizer.ggml.eos_token_id", (U32, 9))  # no text has it
        self.assertEqual(read(out), written)


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
