#!/usr/bin/env python3
"""rotkv-generate as a user meets it: the same text from every backend and every run, two caches
that part or do not, refusals in one line.

Usage: tests/test_generate_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import math
import os
import subprocess
import sys
import unittest

from test_tools import Tools, byte_tokens, write_model

PROMPT = "seven times eight"


class Generate(Tools):
    def generate(self, *arguments, code=0, model=None):
        """The JSON; the text itself may be no UTF-8 and is not read."""
        at = self.path("result.json")
        result = self.run_tool("generate", "-m", model or self.model, "-p", PROMPT, "--json", at,
                               "-t", "1", *arguments, stdout=subprocess.DEVNULL)
        self.assertEqual(result.returncode, code, result.stderr)
        with open(at) as file:
            return json.load(file)

    def against(self, *arguments, code):
        return self.generate("-ctk", "f32", "-ctv", "f32", *arguments, code=code)["against"]

    def test_version_and_help(self):
        self.assertRegex(self.good("generate", "--version").stdout,
                         r"^rotkv-generate \S+ \(.+\)\n$")
        self.assertIn("Examples:\n  rotkv-generate", self.good("generate", "--help").stdout)

    def test_errors_in_one_line(self):
        m, p = ("-m", self.model), ("-p", PROMPT)
        for arguments, says in [
                (p, "--model"), (m, "-p TEXT or -f FILE"), ((*m, "-p", ""), "empty"),
                ((*m, *p, "-f", self.text), "--file"), ((*m, *p, "--temp", "-1"), "--temp"),
                ((*m, *p, "--seed", "-1"), "seed"), ((*m, *p, "-n", "-2"), "-2"),
                ((*m, *p, "--force"), "--against"), ((*m, *p, "-ctk", "q9_0"), "q9_0"),
                ((*m, *p, "--against", "k=q9_0"), "q9_0"),
                ((*m, "-f", self.text, "-c", "100", "-n", "8"), "-c 100: expected room for"),
                ((*m, *p, "-c", "40", "-n", "8", "--against", "k=q4_0"), "24 of --after")]:
            self.assertEqual(self.bad(2, "generate", *arguments, says=says).stdout, "")
        self.bad(1, "generate", *m, "-f", self.path("missing.txt"), says="missing.txt")

    def test_nothing_to_say(self):
        self.assertEqual(self.generate("-n", "0")["tokens"], [])
        result = self.good("generate", "-m", self.model, "-p", PROMPT, "-n", "0")
        self.assertEqual(result.stdout, "\n")
        found, = self.against("-n", "0", "--against", "k=q4_0", code=0)
        self.assertIsNone(found["parting"])

    def test_greedy_text_is_the_same_on_every_backend(self):
        for cache in (("-ctk", "f32", "-ctv", "f32"), ("-ctk", "q8_0", "-ctv", "q8_0")):
            a, b = (self.generate("-n", "24", "--backend", name, *cache)["tokens"]
                    for name in ("ref", "fast"))
            self.assertEqual((a, len(a)), (b, 24))
            self.assertEqual(a[:5], self.generate("-n", "5", "--backend", "ref", *cache)["tokens"])

    def test_each_greedy_token_is_the_most_likely(self):
        """One prediction after the other, from prompts that are one byte longer each time."""
        text, tokens = self.path("longer.txt"), self.generate("-n", "6", "--backend", "ref")
        said = b""
        for token in tokens["tokens"]:
            with open(text, "wb") as file:
                file.write(PROMPT.encode() + said)
            if not (PROMPT.encode() + said).decode("utf-8", "ignore").encode().endswith(said):
                break  # no longer a text
            at = self.path("one.json")
            result = self.run_tool("generate", "-m", self.model, "-f", text, "-n", "1", "--json",
                                   at, "--backend", "ref", stdout=subprocess.DEVNULL)
            self.assertEqual(result.returncode, 0, result.stderr)
            with open(at) as file:
                self.assertEqual(json.load(file)["tokens"], [token])
            said += self.bytes_of([token])

    @staticmethod
    def bytes_of(tokens):
        names = byte_tokens()
        plain = {0x100 + i: byte for i, byte in enumerate(
            b for b in range(256) if ord(names[b]) >= 0x100)}
        return bytes(plain.get(ord(names[t]), ord(names[t]) & 0xFF) for t in tokens)

    def test_seeds(self):
        drawn = [self.generate("-n", "24", "--temp", "1", "--seed", seed)["tokens"]
                 for seed in ("3", "3", "4")]
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])
        self.assertEqual(self.generate("-n", "24", "--temp", "1e-9", "--seed", "3")["tokens"],
                         self.generate("-n", "24")["tokens"])

    def test_no_byte_is_lost(self):
        """Random bytes are rarely UTF-8; whole or broken, all of them arrive."""
        at = self.path("bytes.json")
        out = subprocess.run([os.path.join(self.folder, "rotkv-generate"), "-m", self.model, "-p",
                              PROMPT, "-n", "40", "--temp", "1", "--quiet", "--json", at],
                             stdout=subprocess.PIPE, check=True).stdout
        with open(at) as file:
            self.assertEqual(out, self.bytes_of(json.load(file)["tokens"]) + b"\n")

    def test_an_ending_token_ends(self):
        tokens = self.generate("-n", "24")["tokens"]
        for key in ("eos", "eot", "eom"):
            model = self.path(f"{key}.gguf")
            write_model(model, extra={f"tokenizer.ggml.{key}_token_id": tokens[4]})
            found = self.generate("-n", "24", model=model)
            self.assertEqual(found["tokens"], tokens[:tokens.index(tokens[4])])
            self.assertEqual(found["stopped"], "end of text")

    def test_equal_caches_never_part(self):
        found, = self.against("-n", "16", "--against", "k=f32,v=f32", "--force", code=0)
        self.assertIsNone(found["parting"])
        self.assertEqual((len(found["common"]), found["kld_max"]), (16, 0))
        self.assertEqual((found["forced"]["predictions"], found["forced"]["disagreements"]),
                         (16, 0))

    def test_a_coarse_cache_parts(self):
        coarse = ("--against", "k=q4_0,v=q4_0,rot=off", "--temp", "1", "-n", "60")
        found, = self.against(*coarse, "--after", "7", code=1)
        forced, = self.against(*coarse, "--after", "7", "--force", code=1)
        parting, at = found["parting"], len(found["common"])
        self.assertEqual((forced["common"], forced["parting"]), (found["common"], parting))
        self.assertEqual(parting["at"], at)
        self.assertEqual(len(found["kld"]), at)
        self.assertGreater(parting["kld"], 0)
        self.assertNotEqual(parting["a"]["token"], parting["b"]["token"])
        for side, cache in (("a", "f32"), ("b", "q4_0")):
            alone = self.generate("-n", str(at + 7), "--temp", "1", "--rot-k", "off", "--rot-v",
                                  "off", "-ctk", cache, "-ctv", cache)["tokens"]
            self.assertEqual(alone, found["common"] + parting[side]["after"])
            p = [word["p"] for word in parting[side]["top"]]
            self.assertEqual((len(p), p), (5, sorted(p, reverse=True)))
            self.assertLess(math.fsum(p), 1)
        text = self.generate("-n", "60", "--temp", "1", "-ctk", "f32", "-ctv", "f32")["tokens"]
        # The end of the text is predicted too.
        self.assertEqual(forced["forced"]["predictions"], min(60, len(text) + 1))
        self.assertGreaterEqual(forced["forced"]["disagreements"], 1)
        silent, = self.against(*coarse, "--after", "0", "--force", code=1)
        self.assertEqual(silent["forced"], forced["forced"])  # speaking alone left no trace


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
