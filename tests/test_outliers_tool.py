#!/usr/bin/env python3
"""rotkv-outliers as a user meets it: what its files hold, that they hold together, and that it
finds an outlier that somebody planted.

Usage: tests/test_outliers_tool.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import ast
import csv
import json
import math
import os
import re
import struct
import sys
import unittest

from test_tools import Tools, gguf_string, write_model

LAYERS, HEADS, HEAD, WIDTH = 2, 2, 64, 128  # of test_tools.write_model
LOUD = 37
BLOCK_TYPES = ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


def tensor_offset(path, name):
    """Where a tensor's values begin: its offset counts from the aligned end of the header."""
    with open(path, "rb") as file:
        data = file.read()

    def info(tensor):
        at = data.index(gguf_string(tensor)) + 8 + len(tensor)
        end = at + 4 + 8 * struct.unpack("<I", data[at:at + 4])[0] + 4 + 8
        return end, struct.unpack("<Q", data[end - 8:end])[0]
    end_of_header = info("blk.1.ffn_down.weight")[0]  # the last one
    return (end_of_header + 31) // 32 * 32 + info(name)[1]


def read_npy(path):
    """Shape and values of a little-endian f32 array, from the format's definition."""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:6] == b"\x93NUMPY", data[:6]
    size = struct.unpack("<H", data[8:10])[0]
    header = ast.literal_eval(data[10:10 + size].decode())
    assert header["descr"] == "<f4" and not header["fortran_order"], header
    return header["shape"], struct.unpack(f"<{math.prod(header['shape'])}f", data[10 + size:])


class Outliers(Tools):
    def outliers(self, *arguments, model=None, **more):
        return self.good("outliers", "-m", model or self.model, "-f", self.text, "-c", "32",
                         *arguments, **more)

    def json_of(self, *arguments, **more):
        return json.loads(self.outliers(*arguments, "--json", "-", **more).stdout)

    def test_version_and_help(self):
        self.assertRegex(self.good("outliers", "--version").stdout,
                         r"^rotkv-outliers \S+ \(.+\)\n$")
        self.assertIn("Examples:\n  rotkv-outliers", self.good("outliers", "--help").stdout)

    def test_wrong_usage_is_2(self):
        files = ("-m", self.model, "-f", self.text)
        for arguments, says in [
                ((), "--model"), (("-m", self.model), "--file"), ((*files, "-c", "2"), "2"),
                ((*files, "-ctk", "q9_0"), "q9_0"), ((*files, "-ctv", "q6_K"), "q6_K"),
                ((*files, "-c", "4096"), "4096"), ((*files, "--rot-k", "on"), "--rot-k"),
                ((*files, "--json", "-", "--csv", "-"), "standard output"),
                ((*files, "--backend", "abacus"), "abacus")]:
            self.assertEqual(self.bad(2, "outliers", *arguments, says=says).stdout, "")
        self.bad(1, "outliers", "-m", self.path("missing.gguf"), "-f", self.text, says="missing")

    def test_files_hold_together(self):
        table, folder = self.path("heads.csv"), self.path("rows")
        result = self.outliers("--chunks", "3", "--csv", table, "--npy", folder, "--json",
                               self.path("heads.json"))
        with open(self.path("heads.json")) as file:
            found = json.load(file)
        self.assertEqual((found["n_ctx"], found["chunks"], found["tokens"]), (32, 3, 96))
        self.assertEqual(found["layers"], [
            {"layer": layer, "heads": HEADS, "kv_heads": 1, "d_k": HEAD, "d_v": HEAD,
             "v_in_k": False, "block_k": 64, "block_v": 64} for layer in range(LAYERS)])
        self.assertEqual(found["sinks"], {"heads": 0, "share": None})
        with open(table) as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), LAYERS * (HEADS + 1 + 1) * 3)
        self.assertEqual(len(found["heads"]) * 3, len(rows))
        for i, row in enumerate(rows):
            head = found["heads"][i // 3]
            figures = head[row["rotation"]]
            self.assertEqual([str(head[key]) for key in ("layer", "head", "side")],
                             [row[key] for key in ("layer", "head", "side")])
            self.assertEqual(figures["rows"], 96)
            for key in ("kurtosis", "crest", "mu", "p4", "offset", "channel_ratio", "norm"):
                self.assertAlmostEqual(float(row[key]), figures[key], places=6)
            self.assertEqual(row["q4_0_measured"] == "", row["side"] == "q")
            if row["side"] != "q":
                self.assertAlmostEqual(float(row["q4_0_output_measured"]),
                                       figures["errors"]["q4_0"]["output_measured"])
        shown = {tuple(words[:4]): words for words in map(str.split, result.stdout.splitlines())
                 if len(words) > 10 and words[2] in ("q", "k", "v")}
        for row in rows:
            words = shown[tuple(row[key] for key in ("layer", "head", "side", "rotation"))]
            for word, key in zip(words[4:11], ("kurtosis", "crest", "mu", "p4", "offset",
                                               "channel_ratio", "loudest")):
                self.assertAlmostEqual(float(word), float(row[key]), delta=0.00501, msg=key)
        errors = [line for line in result.stdout.splitlines() if " none " in line]
        self.assertEqual(len(errors), len(rows) // 3 + 2 * (len(BLOCK_TYPES) + 2))
        self.check_npy(folder, rows)
        self.bad(1, "outliers", "-m", self.model, "-f", self.text, "-c", "32", "--npy", folder,
                 says="it exists")

    def check_npy(self, folder, rows):
        """The dumped rows give the figures again, by their formulas."""
        self.assertEqual(len(os.listdir(folder)), LAYERS * 3)
        for row in rows:
            if row["rotation"] != "none":
                continue
            name = f"layer{int(row['layer']):02}.{row['side']}.npy"
            shape, values = read_npy(os.path.join(folder, name))
            heads = HEADS if row["side"] == "q" else 1
            self.assertEqual(shape, (96, heads, HEAD))
            at = int(row["head"]) * HEAD
            x = [values[t * heads * HEAD + at:][:HEAD] for t in range(96)]
            squares = [sum(v * v for v in head) for head in x]
            mu = sum(max(map(abs, h)) / math.sqrt(s / HEAD) for h, s in zip(x, squares)) / 96
            p4 = sum(sum(v ** 4 for v in h) / s ** 2 for h, s in zip(x, squares)) / 96
            self.assertAlmostEqual(mu / float(row["mu"]), 1, places=9)
            self.assertAlmostEqual(p4 / float(row["p4"]), 1, places=9)
            self.assertAlmostEqual(math.sqrt(sum(squares) / 96) / float(row["norm"]), 1, places=9)

    def test_types_and_quiet(self):
        result = self.outliers("-ctk", "q4_0", "-ctv", "q5_1", "--quiet")
        self.assertNotIn("kurtosis", result.stdout)
        self.assertEqual(result.stderr, "")
        advice = result.stdout[result.stdout.index("\nK: ") + 1:]
        self.assertRegex(advice, r"\AK: \w.*\n    q4_0: output error \d+\.\d\d x (smaller|larger) "
                                 r"rotated.*\nK, plain -> rotated:\n    crest of blocks .*\n"
                                 r"    loudest channel .*\nV: \w.*\n    q5_1: output error ")
        self.assertLessEqual(max(map(len, advice.splitlines())), 100)
        verdict = self.json_of("-ctk", "q4_0", "-ctv", "q5_1")["verdicts"][0]
        words = re.search(r"q4_0: output error (\S+) x (\w+) rotated", advice)
        times = verdict["gain"] if words[2] == "smaller" else 1 / verdict["gain"]
        self.assertAlmostEqual(float(words[1]), times, delta=0.00501)
        self.assertGreaterEqual(times, 1)
        found = self.json_of("-ctk", "q4_0", "-ctv", "q5_1")
        self.assertEqual([(v["side"], v["type"], v["rotation"]) for v in found["verdicts"]],
                         [("k", "q4_0", "sylvester"), ("k", "q4_0", "signs"),
                          ("v", "q5_1", "sylvester"), ("v", "q5_1", "signs")])

    def test_every_backend_sees_the_same_rows(self):
        a, b = (self.json_of("--backend", name)["heads"] for name in ("ref", "fast"))
        for x, y in zip(a, b):
            self.assertAlmostEqual(x["none"]["crest"], y["none"]["crest"], places=3)

    def test_a_head_of_80_has_no_blocks_of_32(self):
        odd = self.path("head80.gguf")
        write_model(odd, head=80)
        found = self.json_of(model=odd)
        self.assertEqual({(one["block_k"], one["block_v"]) for one in found["layers"]}, {(16, 16)})
        self.assertEqual({v["type"] for v in found["verdicts"]}, {"f16", "bf16"})
        self.bad(1, "outliers", "-m", odd, "-f", self.text, "-c", "32", "-ctk", "q8_0", says="80")

    def test_a_planted_channel_is_found(self):
        """The weights of one channel of V in layer 1, twenty times as large."""
        loud = self.path("loud.gguf")
        write_model(loud)
        with open(loud, "r+b") as file:
            at = tensor_offset(loud, "blk.1.attn_v.weight") + LOUD * WIDTH * 4
            file.seek(at)
            weights = struct.unpack(f"<{WIDTH}f", file.read(WIDTH * 4))
            file.seek(at)
            file.write(struct.pack(f"<{WIDTH}f", *(20 * w for w in weights)))
        before, after = (self.json_of(model=model) for model in (self.model, loud))
        for head in after["heads"]:
            there = (head["layer"], head["side"]) == (1, "v")
            self.assertEqual(head["none"]["channel_ratio"] > 10, there, head)
            if there:
                self.assertEqual(head["none"]["loudest"], LOUD)
                self.assertLess(head["sylvester"]["channel_ratio"], 3)
                self.assertGreater(head["none"]["crest"], head["sylvester"]["crest"] + 0.5)

        def gains(found, side):
            return {v["type"]: v["gain"] for v in found["verdicts"]
                    if (v["side"], v["rotation"]) == (side, "sylvester")}
        for name in BLOCK_TYPES:
            self.assertGreater(gains(after, "v")[name], 1.2 * gains(before, "v")[name])
        for x, y in zip(before["heads"], after["heads"]):  # keys do not know of it
            if x["side"] == "k":
                for name in BLOCK_TYPES:
                    self.assertEqual(x["none"]["errors"][name]["measured"],
                                     y["none"]["errors"][name]["measured"])


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
