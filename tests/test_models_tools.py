#!/usr/bin/env python3
"""Every program on models whose layers are of several kinds: experts, sinks, latent attention,
states, heads that differ, shared caches. Figures are counted by hand from the models' extents.

Usage: tests/test_models_tools.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import json
import math
import os
import subprocess
import sys
import unittest

from test_tools import NumpyTools, Tools

try:
    import model_edits
    import random_models
    from gguf_file import GgufFile
except ModuleNotFoundError:  # no numpy
    random_models = None

NAMES = ["qwen3moe", "gpt-oss", "deepseek2-lite", "qwen35moe", "gemma4-e", "gemma4-moe"]
WIDTH = 128
BLOCKS = {"q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18}  # bytes of 32 values
VALUES = {  # of a token in all layers: layers x KV heads x (channels of K and V)
    "qwen3moe": 2 * 2 * (128 + 128), "gpt-oss": 4 * 2 * (64 + 64), "deepseek2-lite": 3 * 192,
    "qwen35moe": 256 + 256, "gemma4-e": 3 * (64 + 64) + (128 + 128),
    "gemma4-moe": 2 * 2 * (64 + 64) + (128 + 128)}
STATE = 4 * (4 * 64 * 64 + 3 * (2 * 2 + 4) * 64)  # of a layer of qwen35moe: M of 4 heads, 3 inputs
CLASSES = {  # layers, kind, H, K, Dk, Dv, window, whose rows, sinks
    "qwen3moe": [([0, 1], "attention", 4, 2, 128, 128, 0, None, False)],
    "gpt-oss": [([0, 2], "attention", 4, 2, 64, 64, 64, None, True),
                ([1, 3], "attention", 4, 2, 64, 64, 0, None, True)],
    "deepseek2-lite": [([0, 1, 2], "latent attention", 4, 1, 192, 128, 0, None, False)],
    "qwen35moe": [([0, 1, 2], "gated DeltaNet", 0, 0, 0, 0, 0, None, False),
                  ([3], "attention", 2, 1, 256, 256, 0, None, False)],
    "gemma4-e": [([0, 1, 2], "attention", 2, 1, 64, 64, 64, None, False),
                 ([3], "attention", 2, 1, 128, 128, 0, None, False),
                 ([4], "attention", 2, 1, 64, 64, 64, 2, False),
                 ([5], "attention", 2, 1, 128, 128, 0, 3, False)],
    "gemma4-moe": [([0, 1], "attention", 2, 2, 64, 64, 64, None, False),
                   ([2], "attention", 2, 1, 128, 128, 0, None, False)]}
FEED_FORWARD = {  # layers, F, X, A, Fx, Fs
    "qwen3moe": [([0, 1], 0, 8, 2, 64, 0)], "gpt-oss": [([0, 1, 2, 3], 0, 8, 2, 64, 0)],
    "deepseek2-lite": [([0], 256, 0, 0, 0, 0), ([1, 2], 0, 8, 2, 64, 128)],
    "qwen35moe": [([0, 1, 2, 3], 0, 8, 2, 64, 96)],
    "gemma4-e": [([0, 1, 2, 3], 192, 0, 0, 0, 0), ([4, 5], 384, 0, 0, 0, 0)],
    "gemma4-moe": [([0, 1, 2], 192, 8, 2, 64, 0)]}
OWN = {  # layers with keys and values of their own
    "qwen3moe": [0, 1], "gpt-oss": [0, 1, 2, 3], "deepseek2-lite": [0, 1, 2], "qwen35moe": [3],
    "gemma4-e": [0, 1, 2, 3], "gemma4-moe": [0, 1, 2]}
WITHOUT = {"qwen35moe": ["layers 0-2 keep a state, no keys and values"],
           "gemma4-e": ["layer 4 reads the keys and values of layer 2",
                        "layer 5 reads the keys and values of layer 3"]}
ONE_TYPE = "V is a part of K's rows in this model (latent attention): expected one cache type"

# Elements of matrices: of the attention of all layers, of what stands beside experts, and of one
# expert, each of them as many times as there are layers with experts.
ATTENTION = {
    "qwen3moe": 2 * WIDTH * (512 + 2 * 256 + 512),
    "gpt-oss": 4 * WIDTH * (256 + 2 * 128 + 256),
    "deepseek2-lite": 3 * (WIDTH * (4 * 192 + 192 + 4 * 128) + 2 * 4 * 128 * 128),
    "qwen35moe": 3 * (WIDTH * (512 + 256 + 2 * 4 + 256) + 512 * 4) + WIDTH * (1024 + 512 + 512),
    "gemma4-e": WIDTH * (3 * (128 + 2 * 64 + 128) + (256 + 2 * 128 + 256) + 2 * 128 + 2 * 256)}
DENSE = {
    "qwen3moe": 2 * 8 * WIDTH, "gpt-oss": 4 * 8 * WIDTH,
    "deepseek2-lite": WIDTH * (3 * 256 + 2 * (8 + 3 * 128)),
    "qwen35moe": 4 * WIDTH * (8 + 3 * 96),
    "gemma4-e": WIDTH * (4 * 3 * 192 + 2 * 3 * 384 + 6 * 2 * 32 + 6 * 32)}
EXPERT = {"qwen3moe": 2 * 3 * 64 * WIDTH, "gpt-oss": 4 * 3 * 64 * WIDTH,
          "deepseek2-lite": 2 * 3 * 64 * WIDTH, "qwen35moe": 4 * 3 * 64 * WIDTH, "gemma4-e": 0}
SCORES = {  # flops per cell that a token sees, in all layers
    "qwen3moe": 2 * 2 * 4 * 256, "gpt-oss": 4 * 2 * 4 * 128,
    "deepseek2-lite": 3 * 2 * 4 * (192 + 128), "qwen35moe": 2 * 2 * 512, "gemma4-e": 2 * 2 * (4 * 128 + 2 * 256)}
CELL = {  # values that are read of it: layers without rows of their own read others'
    **VALUES, "gemma4-e": 4 * 128 + 2 * 256}


def of_each(*names):
    """A test of each of these models, or of all."""
    def wrap(check):
        def test(self):
            for name in names or NAMES:
                with self.subTest(model=name):
                    check(self, name, self.models[name])
        return test
    return wrap


class ModelsTools(NumpyTools):
    sums = 60

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.models = {name: random_models.write(cls.temporary.name, name) for name in NAMES}

    def found(self, tool, model, *arguments):
        return json.loads(self.good(tool, *model, *arguments, "--json", "-").stdout)

    def text_of(self, model, ctx="64"):
        return ("-m", model, "-f", self.text, "-c", ctx)

    @of_each()
    def test_what_a_token_costs(self, name, model):
        kept = self.found("gguf", (model,))["cache"]
        expected = {"f32": 4 * VALUES[name], "f16": 2 * VALUES[name],
                    **{kind: VALUES[name] // 32 * size for kind, size in BLOCKS.items()}}
        self.assertEqual({kind: kept["bytes_per_token"][kind] for kind in expected}, expected)
        state = 3 * STATE if name == "qwen35moe" else 0
        self.assertEqual(kept["state_bytes_per_stream"], state)
        cache = self.found("perplexity", self.text_of(model), "--chunks", "1", "-ctk", "q4_0",
                           "-ctv", "q4_0")["cache"]
        self.assertEqual((cache["bytes_per_token"], cache["state_bytes_per_stream"]),
                         (expected["q4_0"], state))
        self.good("gguf", "--check", model)

    @of_each()
    def test_classes_of_layers(self, name, model):
        found = self.found("gguf", (model,), "-ctk", "q8_0", "-ctv", "q8_0")
        keys = ("layers", "kind", "heads", "kv_heads", "d_k", "d_v", "window", "reads", "sinks")
        self.assertEqual([tuple(one[key] for key in keys) for one in found["layers"]],
                         CLASSES[name])
        self.assertEqual(
            sum(one["bytes_per_token"] * len(one["layers"]) for one in found["layers"]),
            found["cache"]["bytes_per_token"]["q8_0"])
        for one in found["layers"]:
            rotates = one["kind"] == "attention"
            self.assertEqual(one["rotation"]["k"]["block"], one["d_k"] if rotates else 0)
            self.assertEqual(one["rotation"]["v"]["block"], 64 if rotates else 0)
        keys = ("layers", "hidden", "experts", "experts_used", "expert_hidden", "shared_hidden")
        self.assertEqual([tuple(one[key] for key in keys) for one in found["feed_forward"]],
                         FEED_FORWARD[name])

    def test_parameters(self):
        words = len(GgufFile.read(self.models["qwen3moe"]).keys["tokenizer.ggml.tokens"][1][1])
        norms = 2 * (2 * WIDTH + 2 * 128) + WIDTH
        rest = ATTENTION["qwen3moe"] + DENSE["qwen3moe"] + norms + words * WIDTH
        found = self.found("gguf", (self.models["qwen3moe"],))["parameters"]
        self.assertEqual(found, {"all": rest + 8 * EXPERT["qwen3moe"] + words * WIDTH,
                                 "per_token": rest + 2 * EXPERT["qwen3moe"] + WIDTH})

    @of_each()
    def test_all_parameters(self, name, model):
        self.assertEqual(
            self.found("gguf", (model,))["parameters"]["all"],
            sum(math.prod(tensor.extents) for tensor in GgufFile.read(model).tensors.values()))

    def test_layers_that_are_not_run_are_met_by_no_token(self):
        """glm4moe's last layer predicts a second token: with it or without, a token meets as many
        weights, and a test computes as much."""
        found = []
        for edit in (None, model_edits.drop_second_token):
            model = random_models.write(self.temporary.name, "glm4moe", edit)
            row = self.found("bench", ("-m", model), "-p", "4", "-n", "0", "-r", "1")["rows"][0]
            found.append((self.found("gguf", (model,))["parameters"], row["gflop"], row["gbyte"]))
        self.assertGreater(found[0][0]["all"], found[1][0]["all"])
        self.assertEqual(found[0][0]["per_token"], found[1][0]["per_token"])
        self.assertEqual(found[0][1:], found[1][1:])

    def test_a_latent_row_rotates_if_asked(self):
        model = self.models["deepseek2-lite"]
        cache = ("-ctk", "q4_0", "-ctv", "q4_0")
        sides = self.found("gguf", (model,), *cache)["layers"][0]["rotation"]
        self.assertEqual([sides[side]["kind"] for side in "kv"], ["none", "none"])
        self.assertEqual(sides["k"]["reason"], "policy: a latent row, as llama.cpp leaves it")
        sides = self.found("gguf", (model,), *cache, "--rot-k", "on")["layers"][0]["rotation"]
        self.assertEqual([sides[side]["block"] for side in "kv"], [64, 64])
        variants = [word for rot in ("auto", "off", "on")
                    for word in ("--variant", f"k=q4_0,v=q4_0,rot={rot}")]
        auto, off, on = (one["kld"]["mean"] for one in
                         self.found("kld", self.text_of(model), *variants)["variants"])
        self.assertEqual(auto, off)
        self.assertGreater(off, 0.05)
        self.assertLess(on, off / 2)

    def test_a_latent_row_has_one_type(self):
        model = self.models["deepseek2-lite"]
        mixed = ("-ctk", "q8_0", "-ctv", "q4_0")
        self.bad(1, "gguf", model, *mixed, says=ONE_TYPE)
        self.bad(1, "perplexity", *self.text_of(model), *mixed, says=ONE_TYPE)
        self.bad(1, "bench", "-m", model, *mixed, says=ONE_TYPE)
        self.bad(1, "kld", *self.text_of(model), "--variant", "k=q8_0", says=ONE_TYPE)
        self.bad(1, "generate", "-m", model, "-p", "x", *mixed, says=ONE_TYPE)
        note = self.good("kld", *self.text_of(model), "--variant", "k=q8_0,v=q8_0", "--by-side")
        self.assertIn("--by-side changes nothing: V is a part of K's rows", note.stderr)
        types = ("-ctk", "f16,q8_0,q4_0", "-ctv", "f16,q8_0,q4_0")
        shown = self.good("sweep", *self.text_of(model), "--chunks", "1", *types, "--rot", "off,on",
                          "--out", self.path("sweep.jsonl")).stdout
        self.assertEqual(shown.count(ONE_TYPE), 1)
        self.assertIn("12 unsupported", shown)

    @of_each()
    def test_an_exact_cache_costs_nothing(self, name, model):
        same, turned = self.found(
            "kld", self.text_of(model), "--chunks", "1", "--variant", "rot=off", "--variant",
            "rot=on", "--by-layer")["variants"]
        self.assertEqual((same["kld"]["mean"], same["kld"]["max"]), (0, 0))
        self.assertLess(abs(turned["kld"]["mean"]), 1e-6)
        layers = turned["by_layer"]["layers"]
        self.assertEqual([one["layer"] for one in layers], OWN[name])
        self.assertTrue(all(abs(one["kld"]) < 1e-6 for one in layers), layers)
        self.assertEqual(turned["by_layer"]["without_rows"], WITHOUT.get(name, []))
        self.assertIn("whole", turned["by_layer"])

    def test_a_layer_alone_and_those_that_read_it(self):
        """In a run of its own, in which nobody has stored the rows that the base would have."""
        for layer in OWN["gemma4-e"]:
            found = self.found("kld", self.text_of(self.models["gemma4-e"]), "--chunks", "1",
                               "--variant", "rot=on", "--by-layer", "--layers", str(layer))
            self.assertLess(abs(found["variants"][0]["by_layer"]["layers"][0]["kld"]), 1e-6, layer)

    @of_each()
    def test_layers_alone(self, name, model):
        run = (*self.text_of(model), "--chunks", "1", "--variant", "k=q4_0,v=q4_0",
               "--by-layer", "--layers")
        found = json.loads(self.good("kld", *run, f"0-{OWN[name][-1]}", "--json", "-").stdout)
        found = found["variants"][0]
        layers = found["by_layer"]["layers"]
        self.assertEqual([one["layer"] for one in layers], OWN[name])
        self.assertTrue(all(one["kld"] > 1e-5 for one in layers), layers)
        if len(layers) == 1:
            self.assertEqual(layers[0]["kld"], found["kld"]["mean"])
        if name in WITHOUT:
            nothing = "0,2" if name == "qwen35moe" else "4-5"
            self.bad(2, "kld", *run, nothing, says=f"--layers {nothing}: expected some with keys")

    def test_one_bit_is_changed_whatever_the_first_norm(self):
        for name in ("olmo2", "exaone4", "cohere2"):  # norms behind the blocks alone; a layer norm
            model = random_models.write(self.temporary.name, name)
            found = self.found("kld", self.text_of(model), "--chunks", "1", "--variant", "k=q8_0",
                               "--jitter", "2")
            self.assertTrue(all(x > 0 for x in found["base"]["jitter"]["kld_from_unchanged"]), name)
            self.assertGreater(found["floor"]["kld_max"], 0)
            os.remove(model)

    @of_each()
    def test_where_the_error_comes_from(self, name, model):
        found = self.found("kld", self.text_of(model), "--chunks", "1", "--variant",
                           "rot=off", "--variant", "k=q4_0,v=q4_0", "--explain")["explain"]
        attending = [(layer, one) for layers, *one in CLASSES[name] for layer in layers
                     if one[1] > 0]
        for variant in found:
            self.assertEqual(
                [(layer["layer"], len(layer["heads"]), layer["heads"][-1]["kv_head"] + 1)
                 for layer in variant["layers"]],
                [(layer, one[1], one[2]) for layer, one in sorted(attending)])
            self.assertEqual(variant["without_rows"], WITHOUT.get(name, []))
        self.assertEqual((found[0]["all"]["error"], found[0]["sentence"]), (0, "no error."))
        for layer in found[1]["layers"]:
            self.assertGreater(layer["keys"], 1e-4)
            self.assertGreater(layer["values"], 1e-4)

    @of_each()
    def test_outliers(self, name, model):
        folder = self.path("rows-" + name)
        found = self.found("outliers", self.text_of(model), "--chunks", "2", "-ctk", "q4_0",
                           "-ctv", "q4_0", "--npy", folder)
        latent = name == "deepseek2-lite"
        parts = ["latent", "rope"] if latent else [""]
        expected, files = [], []
        for layer, (_, heads, kv_heads, d_k, *_) in sorted(
                (layer, one) for layers, *one in CLASSES[name] for layer in layers):
            own = layer in OWN[name]
            sides = [("q", heads, parts)] + [("k", kv_heads, parts), ("v", kv_heads, [""])] * own
            for side, count, of in sides:
                expected += [(layer, head, side, part) for head in range(count) for part in of]
                files += [f"layer{layer:02}.{side}.npy"] * (count > 0)
        self.assertEqual([(one["layer"], one["head"], one["side"], one["part"])
                          for one in found["heads"]], expected)
        self.assertEqual(sorted(os.listdir(folder)), sorted(files))
        self.assertEqual({one["none"]["rows"] for one in found["heads"]}, {128})
        for one in found["heads"]:
            if one["side"] != "q":
                self.assertTrue(1e-5 < one["none"]["errors"]["q4_0"]["output_measured"] < 1)
        sinks = found["sinks"]
        self.assertEqual(sinks["heads"], 16 if name == "gpt-oss" else 0)
        self.assertTrue(0.01 < sinks["share"] < 0.9 if sinks["heads"] else
                        sinks["share"] is None)

    @of_each()
    def test_what_outliers_says_of_layers(self, name, model):
        said = dict(WITHOUT, **{"gpt-oss": ["16 of 16 query heads have a sink, which takes "],
                                "deepseek2-lite": ["V is the latent part of K's rows"]})
        shown = self.good("outliers", *self.text_of(model), "--chunks", "1", "--quiet").stdout
        for lines in said.values():
            for line in lines:
                self.assertEqual(line in shown, line in said.get(name, []), line)

    @of_each("qwen35moe", "deepseek2-lite", "gemma4-e")
    def test_caches_side_by_side_come_back_to_where_they_part(self, name, model):
        start = ("-m", model, "-p", "seven times seven is", "-ctk", "f32", "-ctv", "f32", "-n",
                 "24", "--temp", "1", "--seed", "1", "--json", self.path("said.json"))

        def said(*arguments):
            self.run_tool("generate", *start, *arguments, stdout=subprocess.DEVNULL)
            with open(self.path("said.json")) as file:
                found = json.load(file)
            os.remove(self.path("said.json"))
            return found
        alone = said()["tokens"]
        coarse = ("--against", "k=q4_0,v=q4_0,rot=off", "--force", "--after")
        short, = said(*coarse, "0")["against"]
        long, = said(*coarse, "9")["against"]
        self.assertGreater(long["forced"]["predictions"], long["parting"]["at"] + 9)
        self.assertEqual(short["forced"], long["forced"])
        words = long["common"] + long["parting"]["a"]["after"]
        self.assertEqual(words[:24], alone[:len(words)])

    def check_bench(self, name, row, tokens, words):
        first, state = row["n_depth"], 3 * STATE if name == "qwen35moe" else 0
        steps = [first + t + 1 for t in range(tokens)]  # cells that each token sees
        passes, batch = (1, tokens) if row["n_prompt"] else (tokens, 1)
        read = [steps[-1]] if row["n_prompt"] else steps
        logits = 1 if row["n_prompt"] else tokens
        flops = (2 * tokens * (ATTENTION[name] + DENSE[name] + 2 * EXPERT[name]) +
                 SCORES[name] * sum(steps) + 2 * words * WIDTH * logits)
        if name == "qwen35moe":
            flops += tokens * 3 * 6 * 4 * 64 * 64
        experts = 8 * (1 - 0.75 ** batch)
        bytes_read = (passes * (4 * (ATTENTION[name] + DENSE[name] + experts * EXPERT[name]) +
                                state) +
                      CELL[name] // 32 * 34 * sum(read) + 4 * words * WIDTH * logits)
        self.assertAlmostEqual(row["gflop"] * 1e9, flops, delta=1)
        self.assertAlmostEqual(row["gbyte"] * 1e9, bytes_read, delta=1)

    @of_each(*ATTENTION)
    def test_what_a_test_computes_and_reads(self, name, model):
        rotated = {"qwen3moe": "K 128, V 64", "gpt-oss": "K 64, V 64", "deepseek2-lite": "off",
                   "qwen35moe": "K 256, V 64", "gemma4-e": "K 64, V 64; K 128, V 64"}
        words = len(GgufFile.read(model).keys["tokenizer.ggml.tokens"][1][1])
        cache = ("-ctk", "q8_0", "-ctv", "q8_0")
        rows = self.found("bench", ("-m", model), "-p", "6", "-n", "3", "-d", "0,5", "-r", "1",
                          *cache)["rows"]
        self.assertEqual([row["test"] for row in rows], ["pp6", "tg3", "pp6 @ d5", "tg3 @ d5"])
        for row in rows:
            self.check_bench(name, row, row["n_prompt"] + row["n_gen"], words)
        table = self.good("bench", "-m", model, "-p", "2", "-n", "0", "-r", "1", *cache).stdout
        self.assertIn(f"| {rotated[name]} ", table)

    @of_each()
    def test_demo(self, name, model):
        result = self.good("demo", *self.text_of(model), "--chunks", "2", "--json",
                           self.path("demo.json"))
        with open(self.path("demo.json")) as file:
            found = json.load(file)
        rows = {row["type"]: row for row in found["rows"]}
        self.assertEqual(rows["q8_0"]["bytes_per_token"], VALUES[name] // 32 * 34)
        self.assertLess(rows["q8_0"]["rotated"]["kld"], rows["q4_0"]["rotated"]["kld"])
        self.assertEqual("rotated: latent rows" in result.stderr, name == "deepseek2-lite")


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
