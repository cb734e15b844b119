#!/usr/bin/env python3
"""What was assumed of a file, and what was done otherwise than asked, is said: on stderr, under
--quiet too, and in the JSON.

Usage: tests/test_notices.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import os
import re
import struct
import subprocess
import sys
import unittest

from gguf_file import ARRAY, BOOL, I32, U32, GgufFile, floats
from test_tools import Tools, write_model

BOS = 256  # the one token that is no byte
CACHE = ("-ctk", "q8_0", "-ctv", "q8_0")
WINDOWS = {  # every program that cuts a text into windows
    "perplexity": CACHE,
    "kld": ("--variant", "k=q8_0,v=q8_0"),
    "sweep": (*CACHE, "--rot", "off"),
    "outliers": CACHE,
    "demo": (),
}


class Notices(Tools):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.path("with-bos.gguf")  # says everything, and has a token that is no byte
        write_model(cls.model, words=257, extra={"tokenizer.ggml.bos_token_id": BOS})
        cls.count = 0

    def edited(self, keys=None, without=()):
        """The model with other keys. {name: (type, value)}"""
        file = GgufFile.read(self.model)
        file.keys.update(keys or {})
        for name in without:
            del file.keys[name]
        type(self).count += 1
        path = self.path(f"edited{self.count}.gguf")
        file.write(path)
        return path

    def run_windows(self, tool, model, *arguments, ctx=32, text=None):
        """stderr and JSON of a run over windows."""
        type(self).count += 1
        at = self.path(f"found{self.count}.json")
        more = {"sweep": ("--out", at + "l"), "demo": ("--chunks", "2")}.get(tool, ())
        if "--chunks" in arguments and tool == "demo":
            arguments = ()
        quiet = () if tool == "demo" else ("--quiet",)
        result = self.good(tool, "-m", model, "-f", text or self.text, "-c", str(ctx), "--json", at,
                           *WINDOWS[tool], *more, *quiet, *arguments)
        with open(at) as file:
            return result.stderr, json.load(file)

    def generate(self, model, prompt, *arguments):
        at = self.path("generated.json")
        result = self.run_tool("generate", "-m", model, "-p", prompt, "-n", "2", "--quiet",
                               "--json", at, *arguments, stdout=subprocess.DEVNULL)
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(at) as file:
            return result.stderr, json.load(file)

    def noted(self, found, says, path=None):
        """The notice stands once on stderr and once in the JSON, and nothing else does."""
        stderr, document = found
        self.assertEqual(document["notices"], [says])
        lines = [line for line in stderr.splitlines() if "note:" in line]
        self.assertEqual(len(lines), 1, stderr)
        self.assertTrue(lines[0].endswith(f": note: {path + ': ' if path else ''}{says}"), stderr)

    def test_a_model_that_says_everything(self):
        for tool in WINDOWS:
            stderr, found = self.run_windows(tool, self.model)
            self.assertEqual(found["notices"], [])
            self.assertNotIn("note:", stderr)
        self.assertEqual(self.generate(self.model, "seven")[1]["notices"], [])

    def test_what_is_assumed_of_a_vocabulary(self):
        key = "tokenizer.ggml."
        adds = {key + "add_bos_token": (BOOL, True)}
        for keys, without, says in [
                (adds, ["bos_token_id"], r"the file names no BOS, 11 ('\x0b') is assumed"),
                ({}, ["eos_token_id"], r"the file names no EOS, 11 ('\x0b') is assumed"),
                ({}, ["pre"],
                 "the file names no pre-tokenizer (tokenizer.ggml.pre): 'default' is assumed"),
                ({}, ["token_type"],
                 "the file gives no token types: all tokens are taken for normal")]:
            model = self.edited(keys, [key + name for name in without])
            self.noted(self.run_windows("perplexity", model), says, model)
            self.noted(self.generate(model, "seven"), says, model)

    def test_what_is_no_text(self):
        """A model given as the text is refused, other bytes are taken and counted."""
        odd = self.path("odd.txt")
        with open(self.text, "rb") as file:
            text = file.read()
        with open(odd, "wb") as file:
            file.write(text[:50] + b"\xff\xe2\x82" + "\ufffd\u20ac".encode() + text[50:])
        says = f"3 of the text's {len(text) + 9} bytes are not UTF-8"
        for tool in WINDOWS:
            stderr, found = self.run_windows(tool, self.model, text=odd)
            self.assertEqual(found["notices"], [says])
            self.assertEqual(stderr.count(says), 1)
            more = {"sweep": ("--out", self.path("none.jsonl"))}.get(tool, ())
            self.bad(1, tool, "-m", self.model, "-f", self.model, *WINDOWS[tool], *more,
                     says=f"{self.model}: is a GGUF file, expected a text")
        self.bad(1, "generate", "-m", self.model, "-f", self.model, says="expected a text")

    def test_whether_windows_begin_with_bos(self):
        adds = self.edited({"tokenizer.ggml.add_bos_token": (BOOL, True)})
        ppl = {}
        for model, bos, words in [(self.model, None, "without BOS"),
                                  (adds, BOS, f"each beginning with BOS {BOS}")]:
            for tool in WINDOWS:
                found = self.run_windows(tool, model)[1]
                self.assertIn("bos", found)
                self.assertEqual(found["bos"], bos)
                if tool == "perplexity":
                    ppl[bos] = found["ppl"]
            loud = self.good("perplexity", "-m", model, "-f", self.text, "-c", "32").stderr
            self.assertRegex(loud, rf"(?m)^\d+ windows of 32 tokens, \d+ at once, {words}$")
        self.assertNotEqual(ppl[None], ppl[BOS])
        with open(self.path(f"found{self.count - 2}.jsonl")) as file:  # the sweep's own file
            self.assertEqual(json.loads(file.readline())["bos"], BOS)

    def test_a_text_goes_on(self):
        """No EOS is scored that the text does not have, and no prompt ends in one."""
        says = "the vocabulary ends texts with EOS 11, here none is added: a text or prompt goes on"
        ends = {"tokenizer.ggml.add_eos_token": (BOOL, True)}
        for adds_bos in (True, False):
            bos = {"tokenizer.ggml.add_bos_token": (BOOL, adds_bos)}
            plain, model = self.edited(bos), self.edited({**bos, **ends})
            a, b = (self.run_windows("perplexity", m) for m in (plain, model))
            self.assertEqual(a[1]["ppl"], b[1]["ppl"])
            self.noted(b, says, model)
            found = self.generate(model, "seven")
            self.noted(found, says, model)
            self.assertEqual(found[1]["prompt"], [BOS] * adds_bos + [*b"seven"])
            short = self.path("short.txt")  # a window less one token
            with open(short, "w") as file:
                file.write("q" * (63 - adds_bos))
            for m in (plain, model):
                self.bad(2, "perplexity", "-m", m, "-f", short, "-c", "32", says="63 tokens")

    def test_two_bos(self):
        control = self.edited({"tokenizer.ggml.add_bos_token": (BOOL, True),
                               "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 256 + [3]))})
        found = self.generate(control, f"<{BOS}>seven")
        self.noted(found, f"the prompt begins with BOS {BOS}, and the vocabulary adds one: now "
                          "there are two")
        self.assertEqual(found[1]["prompt"], [BOS, BOS, *b"seven"])
        self.assertEqual(self.generate(control, "seven")[1]["notices"], [])

    def test_longer_than_trained(self):
        short = self.edited({"llama.context_length": (U32, 31)})
        says = "32 tokens in a row, the model was trained on at most 31"
        for tool in WINDOWS:
            self.noted(self.run_windows(tool, short), says)
        self.noted(self.generate(short, "q" * 30), says)  # and 2 of -n
        self.assertEqual(self.generate(short, "q" * 29)[1]["notices"], [])
        just = self.edited({"llama.context_length": (U32, 32)})
        self.assertEqual(self.run_windows("perplexity", just)[1]["notices"], [])

    def test_fewer_windows_than_asked_for(self):
        there = self.run_windows("perplexity", self.model)[1]["chunks"]
        for tool in ("perplexity", "kld", "sweep", "outliers"):
            found = self.run_windows(tool, self.model, "--chunks", str(there + 1))
            self.noted(found, f"{there} of the {there + 1} windows asked for: there are no more")
            self.assertEqual(found[1]["windows" if tool == "sweep" else "chunks"], there)
            for chunks in (str(there), "-1"):
                found = self.run_windows(tool, self.model, "--chunks", chunks)
                self.assertEqual(found[1]["notices"], [])
        out = ("--out", self.path("again.jsonl"))  # the same windows are the same sweep
        for chunks in (there + 1, there, -1):
            self.good("sweep", "-m", self.model, "-f", self.text, "-c", "32", "--quiet", *CACHE,
                      *out, "--chunks", str(chunks))
        base = self.path("four.kld")
        self.run_windows("perplexity", self.model, "--chunks", "4", "--kl-divergence-base", base)
        found = self.compare(self.model, base, "--chunks", "9")
        self.noted(found, "4 of the 9 windows asked for: there are no more")
        self.assertEqual(found[1]["chunks"], 4)

    def compare(self, model, base, *arguments):
        at = self.path("compared.json")
        result = self.good("perplexity", "-m", model, "--kl-divergence", "--kl-divergence-base",
                           base, "--quiet", "--json", at, *arguments)
        with open(at) as file:
            return result.stderr, json.load(file)

    def test_a_base_that_began_otherwise(self):
        adds = self.edited({"tokenizer.ggml.add_bos_token": (BOOL, True)})
        base = self.path("base.kld")
        for writer, reader, words in [(adds, self.model, ("with", "without")),
                                      (self.model, adds, ("without", "with"))]:
            self.run_windows("perplexity", writer, "--kl-divergence-base", base)
            self.noted(self.compare(reader, base),
                       f"the text of the base file begins {words[0]} BOS {BOS}, windows here begin "
                       f"{words[1]} it: part of the difference may be that")
            self.assertEqual(self.compare(writer, base)[1]["notices"], [])

    def test_whole_windows_in_a_batch(self):
        ppl = set()
        for batch, whole in ((32, 32), (48, 32), (64, 64), (95, 64), (96, 96), (5, 5)):
            found = self.run_windows("perplexity", self.model, "-b", str(batch), "--backend",
                                     "ref")[1]
            self.assertEqual((found["n_batch"], found["notices"]), (whole, []))
            ppl.add(found["ppl"])
        self.assertEqual(len(ppl), 1)
        for tool in ("kld", "sweep"):
            self.assertEqual(self.run_windows(tool, self.model, "-b", "48")[1]["n_batch"], 32)

    TIES = (r"^at (\d+) of {} positions the base's 16 bits do not tell its most likely words apart: "
            r"'Same top p' takes the first of them, and may count a choice that never changed as "
            r"changed$")

    def with_twins(self, by):
        """A model each of whose words but the last has a twin, `by` times as loud."""
        file = GgufFile.read(self.model)
        tensor = file.tensors["token_embd.weight"]
        width = tensor.extents[0]
        rows = [struct.unpack_from(f"<{width}f", tensor.data, 4 * width * (i & ~1))
                for i in range(tensor.extents[1])]
        data = b"".join(floats([by ** (i & 1) * x for x in row]) for i, row in enumerate(rows))
        file.tensors["token_embd.weight"] = tensor._replace(data=data)
        path = self.path("twins.gguf")
        file.write(path)
        return path

    def test_words_that_a_base_file_cannot_tell_apart(self):
        twins, base = self.with_twins(1), self.path("twins.kld")
        self.run_windows("perplexity", twins, "--kl-divergence-base", base)
        found = self.compare(twins, base)
        stderr, document = found
        count = document["scored"]
        self.assertEqual(len(document["notices"]), 1, stderr)
        tied = re.match(self.TIES.format(count), document["notices"][0])
        self.assertTrue(tied, document["notices"])
        self.assertIn(document["notices"][0], stderr)
        self.assertGreaterEqual(int(tied[1]), count - 3)  # 256 is alone

    def test_a_base_in_16_bits_without_a_file(self):
        """A cache against itself: its choice never changes, and codes that cannot tell it say so."""
        twins = self.with_twins(1 + 2**-18)
        for rounded in (), ("--round-base",):
            stderr, document = self.run_windows("kld", twins, "--variant", "k=f32,v=f32", *rounded)
            itself, same = document["variants"][1], document["variants"][1]["kld"]["same_top"]
            self.assertEqual(itself["kld"]["mean"] == 0, not rounded)
            if not rounded:
                self.assertEqual((same, stderr, document["notices"]), (1, "", []))
                continue
            tied = re.match(self.TIES.format(document["scored"]), document["notices"][0])
            self.assertTrue(tied, document["notices"])
            self.assertIn(document["notices"][0], stderr)
            self.assertLess(same, 1)
            self.assertGreaterEqual(int(tied[1]), (1 - same) * document["scored"])


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
