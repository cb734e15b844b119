#!/usr/bin/env python3
"""What files of real models have in their metadata and weights beside what is needed: whatever a
file may say in several ways gives one perplexity, and what cannot be meant is refused.

Usage: tests/test_real_keys.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
The models are those of the folder `golden` in $ROTKV_DATA, changed; without it, all is skipped."""
import array
import os
import re
import struct
import sys
import unittest

from gguf_file import ARRAY, BOOL, F32, GgufFile, I32, STRING, Tensor, U32, floats
from test_tools import Tools

GOLDEN = os.path.join(os.environ.get("ROTKV_DATA", ""), "golden")
MODELS = ("llama-hd64", "llama-hd64-q8_0", "llama3-hd128", "qwen3-hd128", "gemma3-hd64")
GGML_F32, GGML_F16, GGML_BF16 = 0, 1, 30

# What llama.cpp writes when it saves a model, whatever its architecture.
SAVED = {"attention.causal": (BOOL, True), "attention.clamp_kqv": (F32, 0.0),
         "attention.max_alibi_bias": (F32, 0.0), "attention.scale": (F32, 0.0),
         "attention.temperature_length": (U32, 0), "attn_logit_softcapping": (F32, 50.0),
         "embedding_scale": (F32, 0.0), "expert_count": (U32, 0), "expert_used_count": (U32, 0),
         "final_logit_softcapping": (F32, 30.0), "logit_scale": (F32, 0.0),
         "residual_scale": (F32, 0.0), "rope.dimension_sections": (ARRAY, (I32, [0, 0, 0, 0])),
         "rope.freq_base_swa": (F32, 10000.0), "rope.scaling.attn_factor": (F32, 1.0),
         "rope.scaling.factor": (F32, 0.0), "rope.scaling.type": (STRING, "linear"),
         "rope.scaling.yarn_attn_factor": (F32, 1.0), "rope.scaling.yarn_beta_fast": (F32, 32.0),
         "rope.scaling.yarn_beta_slow": (F32, 1.0), "rope.scaling.yarn_ext_factor": (F32, -1.0),
         "rope.scaling.yarn_log_multiplier": (F32, 0.0), "router_logit_softcapping": (F32, 30.0),
         "swin_norm": (BOOL, False), "use_parallel_residual": (BOOL, False)}
PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length",
             "attention.key_length", "attention.value_length")


class Edited:
    """A golden model whose keys are named without their architecture."""

    def __init__(self, name="llama-hd64"):
        self.name = name
        self.file = GgufFile.read(os.path.join(GOLDEN, name + ".gguf"))
        self.architecture = self.file.keys["general.architecture"][1]
        self.layers = self["block_count"][1]

    def key(self, name):
        return f"{self.architecture}.{name}"

    def __getitem__(self, name):
        return self.file.keys.get(self.key(name))

    def __setitem__(self, name, value):
        self.file.keys[self.key(name)] = value

    def update(self, values):
        for name, value in values.items():
            self[name] = value
        return self


def as_list(value, layers, of=None):
    return ARRAY, (of or value[0], [value[1]] * layers)


@unittest.skipUnless(os.path.isdir(GOLDEN), "no folder golden in $ROTKV_DATA")
class RealKeys(Tools):
    usual = {}  # of each golden model, the notices as it is

    def write(self, model):
        at = self.path("edited.gguf")
        model.file.write(at)
        return at

    def run_text(self, model):
        """Perplexity as it is printed, and the notices that the unchanged model does not give."""
        if model.name not in self.usual:
            self.usual[model.name] = []
            _, self.usual[model.name] = self.run_text(Edited(model.name))
        result = self.good("perplexity", "-m", self.write(model), "-f",
                           os.path.join(GOLDEN, "text.txt"), "-c", "64", "--chunks", "2", "-t", "1")
        notices = re.findall(r"note: \S+: (.*)", result.stderr)
        return (re.search(r"PPL = \S+", result.stdout + result.stderr)[0],
                [notice for notice in notices if notice not in self.usual[model.name]])

    def refused(self, model, says):
        at = self.write(model)
        for name, *arguments in (("perplexity", "-f", self.text, "-c", "64"),
                                 ("generate", "-p", "a", "-n", "1"),
                                 ("bench", "-p", "1", "-n", "1")):
            self.bad(1, name, "-m", at, *arguments, says=says)
        return at

    def test_a_model_that_llama_cpp_saved_again_is_the_same_model(self):
        for name in MODELS:
            with self.subTest(name):
                model = Edited(name)
                expected, notices = self.run_text(model)
                self.assertEqual(notices, [])
                gemma = model.architecture == "gemma3"
                model.update(SAVED)
                if gemma:  # whose logits are capped where the file says so
                    model["final_logit_softcapping"] = (F32, 0.0)
                    model["attention.sliding_window_pattern"] = (
                        ARRAY, (U32, [int(layer % 6 != 5) for layer in range(model.layers)]))
                else:
                    model["attention.sliding_window"] = (U32, 0)
                found, notices = self.run_text(model)
                self.assertEqual(found, expected)
                notice, = notices
                self.assertIn("attn_logit_softcapping (f32 50)", notice)
                self.assertEqual("final_logit_softcapping (f32 30)" in notice, not gemma)

    def test_final_softcap_counts_in_gemma3(self):
        model = Edited("gemma3-hd64")
        expected = self.run_text(model)
        self.assertNotEqual(self.run_text(model.update({"final_logit_softcapping": (F32, 2.0)})),
                            expected)

    def test_yarn_takes_its_constants_from_no_key(self):
        model = Edited().update({"rope.scaling.type": (STRING, "yarn"),
                                 "rope.scaling.factor": (F32, 4.0),
                                 "rope.scaling.original_context_length": (U32, 32)})
        expected, notices = self.run_text(model)
        self.assertEqual(notices, [])
        for key, value in (("yarn_ext_factor", -1.0), ("yarn_ext_factor", 0.5),
                           ("yarn_beta_fast", 8.0), ("yarn_beta_slow", 2.0)):
            model["rope.scaling." + key] = (F32, value)
            found, notices = self.run_text(model)
            self.assertEqual(found, expected)
            if value > 0:
                self.assertIn(f"{key} (f32 {value:g})", notices[0])

    def test_scaling_of_an_unknown_type(self):
        model = Edited().update({"rope.scaling.factor": (F32, 32.0)})
        linear, notices = self.run_text(model)
        self.assertEqual(notices, ["no key llama.rope.scaling.type, linear is assumed"])
        self.assertEqual(self.run_text(model.update({"rope.scaling.type": (STRING, "linear")})),
                         (linear, []))
        self.assertEqual(self.run_text(model.update({"rope.scaling.type": (STRING, "none")})),
                         self.run_text(Edited()))
        for kind in ("llama3", "Linear"):
            self.refused(model.update({"rope.scaling.type": (STRING, kind)}),
                         "llama.rope.scaling.type: expected none, linear, yarn or longrope, "
                         f"found '{kind}'")

    def test_missing_keys(self):
        model = Edited()
        del model.file.keys[model.key("attention.layer_norm_rms_epsilon")]
        self.refused(model, "expected a metadata key 'llama.attention.layer_norm_rms_epsilon'")
        model = Edited("qwen3-hd128")
        del model.file.keys[model.key("rope.freq_base")]
        _, notices = self.run_text(model)
        self.assertEqual(notices, ["no key qwen3.rope.freq_base, 10000 is assumed"])

    def test_lists_of_equal_numbers(self):
        for name in ("llama-hd64", "gemma3-hd64"):
            model = Edited(name)
            expected = self.run_text(model)
            for key in PER_LAYER:
                if model[key] is not None:
                    model[key] = as_list(model[key], model.layers)
            self.assertEqual(self.run_text(model), expected)
        model["attention.head_count_kv"] = (ARRAY, (U32, [1]))
        self.refused(model, f"expected {model.layers} values, one a layer, found 1")

    def test_windows_as_flags_or_none(self):
        model = Edited("gemma3-hd64")
        expected = self.run_text(model)
        windowed = [layer % 6 != 5 for layer in range(model.layers)]
        for value in ((U32, 6), (ARRAY, (BOOL, windowed)), (ARRAY, (I32, windowed))):
            model["attention.sliding_window_pattern"] = value
            self.assertEqual(self.run_text(model), expected)
        every = self.run_text(model.update({"attention.sliding_window_pattern": (U32, 0)}))
        model["attention.sliding_window_pattern"] = as_list((BOOL, True), model.layers)
        self.assertEqual(self.run_text(model), every)
        without = self.run_text(model.update({"attention.sliding_window": (U32, 0)}))
        self.assertEqual(len({expected[0], every[0], without[0]}), 3)

    def test_rows_and_tokens(self):
        model = Edited()
        kind, (of, tokens) = model.file.keys["tokenizer.ggml.tokens"]
        model.file.keys["tokenizer.ggml.tokens"] = (kind, (of, tokens + ["<one more>"]))
        types = model.file.keys.get("tokenizer.ggml.token_type")
        if types is not None:
            model.file.keys["tokenizer.ggml.token_type"] = (ARRAY, (types[1][0], types[1][1] + [1]))
        says = f"token_embd.weight: expected {len(tokens) + 1} rows, one for each of " \
               f"tokenizer.ggml.tokens, found {len(tokens)}"
        checked = self.run_tool("gguf", "--check", self.refused(model, says))
        self.assertEqual(checked.returncode, 1)
        self.assertIn(says, checked.stdout)

    def test_biases(self):
        model = Edited()
        expected = self.run_text(model)
        widths = {"attn_output": "embedding_length", "ffn_gate": "feed_forward_length",
                  "ffn_up": "feed_forward_length", "ffn_down": "embedding_length"}
        found = [expected]
        for name, key in widths.items():
            n = model[key][1]
            for value in (0.0, 0.3):
                for layer in range(model.layers):
                    model.file.tensors[f"blk.{layer}.{name}.bias"] = Tensor(
                        [n], GGML_F32, floats([value * (-1) ** i for i in range(n)]))
                found.append(self.run_text(model))
            self.assertEqual(found[-2], found[-3])
            self.assertNotEqual(found[-1], found[-2])

    def test_norms_in_halves(self):
        for kind in (GGML_F16, GGML_BF16):
            wide, narrow = Edited(), Edited()
            for name, tensor in wide.file.tensors.items():
                if "norm" not in name:
                    continue
                # The upper half of an f32 is a bf16; with 3 bits of fraction it is an f16 too.
                keep = 0xFFF00000 if kind == GGML_F16 else 0xFFFF0000
                words = array.array("I", tensor.data[:4 * tensor.extents[0]])
                values = array.array("f", array.array("I", [w & keep for w in words]).tobytes())
                wide.file.tensors[name] = Tensor(tensor.extents, GGML_F32, values.tobytes())
                halves = (struct.pack(f"<{len(values)}e", *values) if kind == GGML_F16 else
                          array.array("H", [w >> 16 for w in words]).tobytes())
                narrow.file.tensors[name] = Tensor(tensor.extents, kind, halves)
            self.assertEqual(self.run_text(narrow), self.run_text(wide))


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
