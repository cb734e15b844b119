#!/usr/bin/env python3
"""rotkv-cache on our own files as a user meets it: saved, inspected, compared with another one and
with the same tokens run anew, refusals in one line. What it says of llama.cpp's files:
tests/test_llama_state.cpp.

Usage: tests/test_cache_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import os
import sys
import unittest

from test_tools import Tools, write_model

CACHE = "k=q8_0,v=q4_0"


class Cache(Tools):
    def save(self, name, cache=CACHE, tokens=24, **more):
        at = self.path(name)
        self.good("cache", "save", at, "-m", more.pop("model", self.model), "-f", self.text, "-n",
                  str(tokens), "--cache", cache, "-t", "1", **more)
        return at

    def compare(self, *arguments, code=0):
        at = self.path("beside.json")
        result = self.run_tool("cache", "compare", *arguments, "--json", at)
        self.assertEqual(result.returncode, code, result.stderr)
        with open(at) as file:
            return json.load(file)["beside"]

    def anew(self, cache=CACHE):
        return "-m", self.model, "-f", self.text, "--cache", cache, "-t", "1"

    def test_version_and_help(self):
        self.assertRegex(self.good("cache", "--version").stdout, r"^rotkv-cache \S+ \(.+\)\n$")
        self.assertIn("Examples:\n  rotkv-cache", self.good("cache", "--help").stdout)

    def test_what_is_saved_is_what_is_said(self):
        at = self.save("a.rkv")
        said = json.loads(self.good("cache", "inspect", at, "--json", "-").stdout)
        with open(at, "rb") as file:
            whole = file.read()
        self.assertEqual(said["bytes"], len(whole))
        self.assertEqual(int(said["model"], 16), int.from_bytes(whole[20:28], "little"))
        self.assertEqual(said["streams"], [{"tokens": 24, "cells": 24, "first": 0, "last": 23}])
        self.assertEqual(said["bytes_of_rows_and_states"], 24 * 2 * (68 + 36))
        for layer in said["layers"]:
            self.assertEqual((layer["type_of_K"], layer["type_of_V"]), ("q8_0", "q4_0"))
            self.assertEqual((layer["rotation_of_K"], layer["rotation_of_V"]), ("64", "64"))
        text = self.good("cache", "inspect", at).stdout
        self.assertIn("stream 0: 24 tokens in 24 cells at positions 0 .. 23\n", text)
        self.assertIn("K q8_0 [1][64], rotation 64; V q4_0 [1][64], rotation 64; 104 bytes a token",
                      text)

    def test_the_same_tokens_anew_are_the_same_bytes(self):
        for cache in (CACHE, "k=f16,v=f16", "k=tqmse3,v=q8_0", "k=q8_0,v=q8_0,signs=3"):
            beside = self.compare(self.save("a.rkv", cache), *self.anew(cache))
            self.assertEqual((beside["differ"], beside["elements"]), (0, 24 * 2 * 2 * 64))

    def test_a_byte_that_was_changed_is_found(self):
        a, b = self.save("a.rkv"), self.path("b.rkv")
        with open(a, "rb") as file:
            whole = bytearray(file.read())
        # V of layer 1, token 23: its second block's last byte, two codes of which one changes by 1.
        whole[-9] ^= 0x10
        total = 0xcbf29ce484222325
        for byte in whole[:-8]:
            total = (total ^ byte) * 0x100000001b3 % 2 ** 64
        whole[-8:] = total.to_bytes(8, "little")
        with open(b, "wb") as file:
            file.write(whole)
        beside = self.compare(a, b, code=1)
        self.assertEqual(beside["differ"], 1)
        changed, = (head for head in beside["heads"] if head["differ"])
        self.assertEqual([changed[name] for name in ("layer", "side", "head", "position",
                                                     "channel")], [1, "V", 0, 23, 63])
        self.assertAlmostEqual(changed["most"], 1, places=6)
        self.compare(a, b, "--most-steps", "1.01")
        text = self.run_tool("cache", "compare", a, b).stdout
        self.assertIn("K: 0 of 3072 elements differ, in 0 of 2 heads\n"
                      "V: 1 of 3072 elements differ, in 1 of 2 heads, from layer 1 on\n"
                      "  by 1 steps at most: layer 1, head 0, stream 0, "
                      "position 23, channel 63\nNot equal.\n", text)
        table = self.run_tool("cache", "compare", a, b, "--layers").stdout
        self.assertIn("| 1 | V | 0 | q4_0 | 1536 | 1 |", table)
        self.assertIn("| 0 | K | 0 | q8_0 | 1536 | 0 | 0 steps | 0 steps | - |", table)

    def test_another_text_differs(self):
        other = self.path("other.txt")
        with open(self.text) as file, open(other, "w") as to:
            to.write(file.read().replace("times", "minus"))
        flags = [other if flag == self.text else flag for flag in self.anew()]
        beside = self.compare(self.save("a.rkv"), *flags, code=1)
        self.assertGreater(beside["differ"], 1000)

    def test_refusals(self):
        a, model = self.save("a.rkv"), self.path("other.gguf")
        write_model(model, seed=2)
        unrotated = self.save("b.rkv", CACHE + ",rot=off")
        fewer, foreign = self.save("c.rkv", tokens=23), self.save("d.rkv", model=model)
        for other, says in ((unrotated, "layer 0: rotation of K: expected '64'"),
                            (fewer, "token 23: expected position 23"), (foreign, "model: expected")):
            self.bad(1, "cache", "compare", a, other, says=says)
        self.bad(1, "cache", "compare", a, *self.anew(CACHE + ",rot=off"),
                 says="anew: layer 0: rotation of K: expected '64'")
        self.bad(1, "cache", "compare", foreign, *self.anew(), says="model: expected")
        self.bad(2, "cache", "compare", a, says="another FILE, or -m MODEL")
        self.bad(2, "cache", "compare", a, unrotated, "-m", self.model, says="for one FILE")
        for words in (("--gemm", "bf16"), ("--attention", "f16"), ("--backend", "ref"), ("-t", "1")):
            self.bad(2, "cache", "compare", a, unrotated, *words, says="--model")
        self.bad(1, "cache", "compare", a, self.text, says="not a saved cache")
        self.bad(1, "cache", "inspect", self.path("missing"), says="missing")
        self.bad(1, "cache", "inspect", self.text, says="text.txt")
        with open(a, "rb") as file:
            whole = file.read()
        for cut in (b"", whole[:7], whole[:8], whole[:40], whole[:-1], whole + b"x"):
            with open(self.path("cut.rkv"), "wb") as file:
                file.write(cut)
            self.bad(1, "cache", "inspect", self.path("cut.rkv"), says="cut.rkv: ")

    def test_save_refuses_before_it_writes(self):
        new, flags = self.path("new.rkv"), ("-m", self.model, "-f", self.text)
        for code, more, says in [
                (2, ("--cache", "k=q9_0"), "q9_0"), (2, ("--cache", CACHE, "-n", "0"), "0"),
                (2, ("--cache", CACHE, "-n", "100000"), "at least 100000 tokens"),
                (1, ("--cache", CACHE + ",first=4", "-n", "8"), "saved caches: the rows of first")]:
            self.bad(code, "cache", "save", new, *flags, *more, says=says)
            self.bad(1, "cache", "inspect", new, says="new.rkv")
        self.bad(2, "cache", "save", self.text, *flags, "--cache", CACHE, says="text.txt")
        with open(new, "w") as file:
            file.write("a letter")
        self.bad(2, "cache", "save", new, *flags, "--cache", CACHE, says="not overwritten")


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
