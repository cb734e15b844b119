#!/usr/bin/env python3
"""Random models with experts, of some hundred MB, to time generation on: a small one would fit into the
processor's cache. Matrices repeat 256 random rows in a random order: how fast they are multiplied
does not depend on it, and packing takes seconds.

Usage: tests/large_expert_models.py FOLDER
  qwen3moe-like.gguf  20 layers, 8 of 64 experts of 384 channels, q4_0
  gpt-oss-like.gguf   12 layers, 4 of 32 experts of 1024 channels in mxfp4, the rest q8_0"""
import os
import sys

import numpy as np

from gguf_file import Tensor
from numpy_blocks import pack
from random_model import BEFORE, RandomModel

NUMBERS = {"q4_0": 2, "q8_0": 8, "mxfp4": 39}
WIDTH = 1024


class LargeModel(RandomModel):
    def packed(self, name, shape, kind):
        some = self.random.standard_normal((256, shape[-1])) * shape[-1] ** -0.5
        rows = pack(kind, some.astype(np.float32)).reshape(256, -1)
        order = self.random.integers(0, 256, int(np.prod(shape[:-1])))
        self.file.tensors[name] = Tensor(list(shape[::-1]), NUMBERS[kind], rows[order].tobytes())

    def large_ends(self):
        self.normal("token_embd.weight", (self.words, WIDTH), scale=0.2)
        self.weight("output_norm.weight", WIDTH)
        self.normal("output.weight", (self.words, WIDTH), scale=2 * WIDTH ** -0.5)


def qwen3moe(name):
    model = LargeModel("qwen3moe", name, layers=20, width=WIDTH, heads=16, kv_heads=4, d=128,
                       hidden=3072, context=4096, epsilon=1e-6, base=1e6, pre="qwen2")
    model.counts(expert_count=64, expert_used_count=8, expert_feed_forward_length=384)
    model.large_ends()
    for layer in range(model.layers):
        block = f"blk.{layer}."
        model.norms(layer, *BEFORE)
        for matrix, shape in (("q", (2048, WIDTH)), ("k", (512, WIDTH)), ("v", (512, WIDTH)),
                              ("output", (WIDTH, 2048))):
            model.packed(block + f"attn_{matrix}.weight", shape, "q4_0")
        model.weight(block + "attn_q_norm.weight", 128)
        model.weight(block + "attn_k_norm.weight", 128)
        model.normal(block + "ffn_gate_inp.weight", (64, WIDTH), scale=2 / 32)
        for matrix, rows, columns in (("gate", 384, WIDTH), ("up", 384, WIDTH), ("down", WIDTH, 384)):
            model.packed(block + f"ffn_{matrix}_exps.weight", (64, rows, columns), "q4_0")
    return model


def gpt_oss(name):
    model = LargeModel("gpt-oss", name, layers=12, width=WIDTH, heads=16, kv_heads=4, d=64,
                       hidden=WIDTH, context=4096, base=150000.0, pre="gpt-4o")
    model.counts(**{"attention.sliding_window": 128, "expert_count": 32, "expert_used_count": 4,
                    "expert_feed_forward_length": WIDTH})
    model.yarn(32.0, 4096)
    model.large_ends()
    for layer in range(model.layers):
        block = f"blk.{layer}."
        model.norms(layer, "attn_norm", "post_attention_norm")
        for matrix, rows in (("q", 1024), ("k", 256), ("v", 256), ("output", WIDTH)):
            model.packed(block + f"attn_{matrix}.weight", (rows, WIDTH), "q8_0")
            model.normal(block + f"attn_{matrix}.bias", (rows,), scale=0.2)
        model.normal(block + "attn_sinks.weight", (16,), scale=2.0)
        model.normal(block + "ffn_gate_inp.weight", (32, WIDTH), scale=2 / 32)
        model.normal(block + "ffn_gate_inp.bias", (32,), scale=0.2)
        for matrix in ("gate", "up", "down"):
            model.packed(block + f"ffn_{matrix}_exps.weight", (32, WIDTH, WIDTH), "mxfp4")
            model.normal(block + f"ffn_{matrix}_exps.bias", (32, WIDTH), scale=0.2)
    return model


def main():
    for name, build in (("qwen3moe-like", qwen3moe), ("gpt-oss-like", gpt_oss)):
        build(name).file.write(os.path.join(sys.argv[1], name + ".gguf"))


if __name__ == "__main__":
    main()
