#!/usr/bin/env python3
"""rotkv-gguf as a user meets it: listings, checks and differences of models that are right, odd and
broken. The models are made here.

Usage: tests/test_gguf_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import os
import struct
import sys
import unittest

from gguf_file import ARRAY, BOOL, F32, F64, I32, STRING, U16, U32, GgufFile, Tensor
from test_tools import Tools, write_model

NAN, OTHER_NAN = struct.unpack("<2f", b"\0\0\xc0\x7f" b"\1\0\xc0\x7f")


class Gguf(Tools):
    def edited(self, name, change):
        """The path of a copy of the model that `change` has changed."""
        file = GgufFile.read(self.model)
        change(file)
        file.write(self.path(name))
        return self.path(name)

    def not_ok(self, path, *last_lines):
        """--check fails without an error line, and says so last; returns its JSON."""
        result = self.run_tool("gguf", "--check", path)
        self.assertEqual((result.returncode, result.stderr), (1, ""))
        self.assertEqual(result.stdout.splitlines()[-len(last_lines):], list(last_lines))
        found = self.run_tool("gguf", "--check", path, "--json", "-")
        self.assertEqual(found.returncode, 1)
        found = json.loads(found.stdout)
        self.assertEqual((found["result"], found["notices"]), (last_lines[-1], []))
        return found

    def test_show(self):
        shown = self.good("gguf", self.model, "-ctk", "q8_0").stdout
        for part in ("GGUF version 3", "llama.block_count = u32 2", "array of 256 string",
                     "blk.1.ffn_down.weight", "96 x 128", "K q8_0: rotation sylvester, block 64",
                     "V f16: rotation off (policy: f16 is not quantized)"):
            self.assertIn(part, shown)
        self.assertRegex(shown, r"(?m)^  q8_0 +8\.5 +272$")  # 2 layers * (K 68 + V 68)
        found = json.loads(self.good("gguf", self.model, "--json", "-").stdout)
        self.assertEqual(found["metadata"]["llama.attention.head_count_kv"], 1)
        self.assertEqual(found["cache"]["bytes_per_token"]["f16"], 512)
        self.assertEqual(found["tensors"][0]["shape"], [128, 256])

    def test_nothing_in_a_file_reaches_the_terminal_as_a_command(self):
        evil = self.path("evil.gguf")
        write_model(evil, extra={"a\x1b[2Jb": "c\x1b[2Jd\r\n"})
        self.assertNotRegex(self.good("gguf", evil).stdout, r"[\x00-\x09\x0b-\x1f\x7f]")

    def test_check(self):
        self.assertTrue(self.good("gguf", "--check", self.model).stdout.endswith("\nok\n"))
        with open(self.model, "rb") as file:
            data = bytearray(file.read())
        data[-4:] = struct.pack("<f", NAN)
        broken = self.path("nan.gguf")
        with open(broken, "wb") as file:
            file.write(data)
        self.bad(1, "gguf", "--check", broken, says="blk.1.ffn_down.weight")

    def test_diff(self):
        self.assertEqual(self.good("gguf", "--diff", self.model, self.model).stdout,
                         "no difference\n")
        other = self.path("other.gguf")
        write_model(other, seed=2, extra={"general.name": "another", "new.key": 5})
        result = self.run_tool("gguf", "--diff", self.model, other)
        self.assertEqual(result.returncode, 1)
        self.assertIn("general.name: string 'made by a test' | string 'another'", result.stdout)
        self.assertIn("new.key: absent | u32 5", result.stdout)
        self.assertRegex(result.stdout, r"token_embd\.weight: .* bytes differ")

    def test_a_tensor_without_elements_hides_nothing(self):
        empty = self.edited("empty.gguf", lambda f: f.tensors.update(none=Tensor([96, 0], 0, b"")))
        self.assertRegex(self.good("gguf", empty).stdout, r"(?m)^  none +f32 +96 x 0 +0 +\d+$")
        listed = json.loads(self.good("gguf", empty, "--json", "-").stdout)
        self.assertEqual(listed["tensors"][-1]["bytes"], 0)
        both = self.edited("both.gguf", lambda f: f.tensors.update(none=Tensor([96, 0], 43, b"")))
        shown = self.good("gguf", both).stdout
        self.assertRegex(shown, r"(?m)^  none +type 43, not readable here +96 x 0 +0 +\d+$")
        self.assertEqual(self.good("gguf", "--diff", empty, empty).stdout, "no difference\n")
        self.not_ok(empty, "tokenizer: ok", f"model: refused: {empty}: tensor none has no place in "
                    "architecture 'llama' as it is known here", "format ok, model refused")
        for name in ("blk.0.attn_k.weight", "output_norm.weight", "blk.1.attn_q.bias"):
            bad = self.edited("bad.gguf", lambda f, n=name: f.tensors.update(
                {n: Tensor([128, 0], 0, b"")}))
            self.assertRegex(self.good("gguf", bad).stdout, rf"(?m)^  {name} +f32 +128 x 0 +0 ")
            says = f"{bad}: tensor '{name}': expected a weight, found a tensor without elements"
            self.bad(1, "perplexity", "-m", bad, "-f", self.text, "-c", "32", says=says)
            self.not_ok(bad, f"model: refused: {says}", "format ok, model refused")

    def test_a_type_that_is_not_readable_hides_nothing(self):
        def leave_out(name, kind):
            return lambda file: file.tensors.update({name: Tensor([256], kind, bytes(110))})
        for kind, words in ((21, "type 21 (IQ3_S)"), (40, "type 40 (NVFP4)"),
                            (42, "type 42 (Q2_0)"), (105, "type 105")):
            odd = self.edited("odd.gguf", leave_out("x", kind))
            shown = self.good("gguf", odd).stdout
            line = next(line for line in shown.splitlines() if line.startswith("  x "))
            self.assertIn(f"{words}, not readable here", line)
            self.assertIn("at most 128", line)
            for part in ("llama.block_count = u32 2", "blk.1.ffn_down.weight",
                         "together 512 bytes"):
                self.assertIn(part, shown)
            listed = json.loads(self.good("gguf", odd, "--json", "-").stdout)
            self.assertEqual(listed["cache"]["bytes_per_token"]["f16"], 512)
            self.assertEqual({k: v for k, v in listed["tensors"][-1].items() if k != "offset"},
                             {"name": "x", "type": words, "readable": False, "shape": [256],
                              "bytes_at_most": 128})
            self.assertEqual(self.good("gguf", "--diff", odd, odd).stdout, "no difference\n")
            found = self.not_ok(odd, "format ok, weights not checked, model refused")
            self.assertRegex(found["weights"], r"^not checked: 1 of 21 tensors, first 'x': type \d+"
                             r".*, not readable here; \d+ finite values in the others$")
            self.bad(1, "perplexity", "-m", odd, "-f", self.text, "-c", "32",
                     says=f"{odd}: tensor x has no place")
        # How many words there are is known even so: the cache's figures do not wait for a weight.
        whole = GgufFile.read(self.model).tensors["token_embd.weight"].extents
        words = self.edited("words.gguf", lambda file: file.tensors.update(
            {"token_embd.weight": Tensor(whole, 21, bytes(110 * whole[0] * whole[1] // 256))}))
        shown = self.good("gguf", words).stdout
        for part in ("token_embd.weight         type 21 (IQ3_S), not readable here", "together 512 bytes",
                     "K f16: rotation off", "blk.1.ffn_down.weight"):
            self.assertIn(part, shown)
        listed = json.loads(self.good("gguf", words, "--json", "-").stdout)
        whole = json.loads(self.good("gguf", self.model, "--json", "-").stdout)
        self.assertEqual((listed["cache"], len(listed["tensors"])),
                         (whole["cache"], len(whole["tensors"])))
        self.bad(1, "perplexity", "-m", words, "-f", self.text, "-c", "32",
                 says=f"{words}: tensor 'token_embd.weight': type 21 (IQ3_S) is not readable here")
        weight = self.edited("weight.gguf", leave_out("blk.1.ffn_up.weight", 21))
        says = f"{weight}: tensor 'blk.1.ffn_up.weight': type 21 (IQ3_S) is not readable here"
        for name in ("perplexity", "kld"):
            variant = ("--variant", "k=q4_0,v=q4_0") if name == "kld" else ()
            self.bad(1, name, "-m", weight, "-f", self.text, "-c", "32", *variant, says=says)
        self.assertIn("together 512 bytes", self.good("gguf", weight).stdout)

    def test_the_unreadable_is_compared_byte_by_byte(self):
        paths = [self.edited(f"{byte}.gguf", lambda f, b=byte: f.tensors.update(
            x=Tensor([256], 21, bytes([b]) + bytes(109)))) for byte in (1, 2)]
        result = self.run_tool("gguf", "--diff", *paths)
        self.assertEqual((result.returncode, result.stdout), (1,
                         "x: type 21 (IQ3_S) 256, at most 128 bytes | 1 of 128 bytes differ\n"))

    def test_a_part_of_a_split_model(self):
        def split(file):
            file.keys.update({"split.count": (U16, 2), "split.no": (U16, 0)})
            for name in [name for name in file.tensors if name.startswith("blk.1.")]:
                del file.tensors[name]
        part = self.edited("part.gguf", split)
        shown = self.good("gguf", part).stdout
        self.assertIn("\none of 2 parts of a split model\n", shown)
        self.assertIn("llama.block_count = u32 2", shown)
        self.assertEqual(json.loads(self.good("gguf", part, "--json", "-").stdout)["parts"], 2)
        self.bad(1, "perplexity", "-m", part, "-f", self.text, "-c", "32",
                 says=f"{part}: one of 2 parts of a split model")
        self.not_ok(part, "model: not checked: one of 2 parts of a split model",
                    "format ok, model not checked")

    def test_check_is_ok_only_where_all_was_checked(self):
        bare = self.edited("bare.gguf", lambda f: f.tensors.clear())
        self.not_ok(bare, "weights: ok, 0 finite values", "tokenizer: ok",
                    "model: not checked: the file has no tensors", "format ok, model not checked")

        def other(file):
            file.keys["general.architecture"] = (STRING, "clip")
            for name in [name for name in file.keys if name.startswith("tokenizer.")]:
                del file.keys[name]
        found = self.not_ok(self.edited("clip.gguf", other),
                            "format ok, tokenizer not checked, model not checked")
        self.assertRegex(found["model"], "^not checked: .* architecture 'clip' is unknown")
        self.assertEqual(found["tokenizer"], "not checked: the file has no vocabulary")

        short = self.edited("short.gguf", lambda f: f.tensors.update(
            {"output_norm.weight": Tensor([64], 30, bytes(128))}))
        found = self.not_ok(short, "format ok, model refused")
        self.assertIn("output_norm.weight: expected [1][128], found", found["model"])
        words = self.edited("words.gguf", lambda f: f.keys.update(
            {"tokenizer.ggml.pre": (STRING, "nobody's")}))
        found = self.not_ok(words, "format ok, tokenizer refused")
        self.assertIn("nobody's", found["tokenizer"])

        rows = self.path("rows.gguf")
        write_model(rows)
        file = GgufFile.read(rows)
        file.keys["tokenizer.ggml.tokens"][1][1].append("one more")
        file.keys["tokenizer.ggml.token_type"][1][1].append(1)
        file.write(rows)
        found = self.not_ok(rows, "format ok, model refused")
        self.assertIn("expected 257 rows, one for each of tokenizer.ggml.tokens, found 256",
                      found["model"])

    def test_what_is_assumed_of_a_file_is_said(self):
        """The same words as from a program that runs the model."""
        silent = self.edited("silent.gguf", lambda f: [f.keys.pop(name, None) for name in (
            "tokenizer.ggml.pre", "llama.rope.freq_base", "tokenizer.ggml.bos_token_id")])
        def notices(result):
            return [line.partition(": note: ")[2] for line in result.stderr.splitlines()
                    if ": note: " in line]
        said = notices(self.good("perplexity", "-m", silent, "-f", self.text, "-c", "32"))
        for arguments in ((silent,), ("--check", silent)):
            result = self.good("gguf", *arguments, "--json", self.path("notices.json"))
            self.assertEqual(notices(result), said)
            self.assertRegex(result.stdout, r"\n(ok|together 512 bytes per token)\n$")
            with open(self.path("notices.json")) as file:
                found = json.load(file)
            self.assertEqual([f"{silent}: {notice}" for notice in found["notices"]], said)

    def test_empty_arrays_are_of_every_type(self):
        empty = self.edited("merges.gguf", lambda f: f.keys.update(
            {"tokenizer.ggml.merges": (ARRAY, (I32, []))}))
        self.assertIn("merges = array of 0 i32", self.good("gguf", empty).stdout)
        self.good("gguf", "--check", empty)

    def test_diff_compares_bits(self):
        def with_values(name, **values):
            return self.edited(name, lambda f: f.keys.update(values))
        nan = with_values("nans.gguf", x=(F32, NAN), y=(ARRAY, (F64, [1.0, NAN])))
        self.assertEqual(self.good("gguf", "--diff", nan, nan).stdout, "no difference\n")
        long = 100 * "a"
        for one, other, says in (
                ((F32, 0.0), (F32, -0.0), "f32 0 | f32 -0"),
                ((F32, NAN), (F32, OTHER_NAN),
                 "f32 nan, bits 0x7fc00000 | f32 nan, bits 0x7fc00001"),
                ((F32, 1.0), (U32, 1), "f32 1 | u32 1"),
                ((STRING, long + "b"), (STRING, long + "c"),
                 f"string '{80 * 'a'}...', at byte 100 'b' | at byte 100 'c'"),
                ((ARRAY, (F32, [1.0, 0.0, NAN, 2.0])), (ARRAY, (F32, [1.0, -0.0, NAN, 3.0])),
                 "array of 4 f32 | 2 of 4 values differ, the first in place 1: f32 0 | f32 -0"),
                ((ARRAY, (BOOL, [True])), (ARRAY, (BOOL, [False])), "array of 1 bool | "
                 "1 of 1 values differ, the first in place 0: bool true | bool false"),
                ((ARRAY, (STRING, ["a"])), (ARRAY, (STRING, ["a", "b"])),
                 "array of 1 string | array of 2 string"),
                ((ARRAY, (I32, [])), (ARRAY, (F32, [])), "array of 0 i32 | array of 0 f32")):
            result = self.run_tool("gguf", "--diff", with_values("a.gguf", x=one),
                                   with_values("b.gguf", x=other))
            self.assertEqual((result.returncode, result.stdout), (1, f"x: {says}\n"))


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
