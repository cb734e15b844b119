"""Tiny models whose context shift has a known answer. The attention of all layers but one adds
nothing; then what any layer stores of a token depends on that token alone, and a cache that was
shifted must predict what a fresh run over the surviving tokens predicts.

Usage: tests/shift_models.py FOLDER [NAME...]"""
import os
import random
import sys

import numpy as np

from random_model import RandomModel
from random_models import MODELS as RANDOM_MODELS

LETTERS = "bcdfgjklmpqsuvwxyz"  # of which these vocabularies merge none: a letter is its token


def dense(model, **attention):
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, "attn_norm", "ffn_norm")
        model.attention(layer, **attention)
        model.feed_forward(layer)
    return model


def llama(name):
    return dense(RandomModel("llama", name, d=128))


def qwen3_yarn(name):
    model = RandomModel("qwen3", name, d=128, base=1e6, epsilon=1e-6, pre="qwen2")
    model.yarn(4.0, 64)
    return dense(model, qk_norm="heads", q_norm=0.5)


# Of each, the layer whose attention counts.
MODELS = {"llama": (llama, 1), "qwen3-yarn": (qwen3_yarn, 1),
          "mistral3": (RANDOM_MODELS["mistral3"], 1),
          "glm4": (RANDOM_MODELS["glm4"], 1),                # half of the channels turn
          "smollm3": (RANDOM_MODELS["smollm3"], 3),          # does not turn
          "smollm3-turning": (RANDOM_MODELS["smollm3"], 0),
          "cohere2": (RANDOM_MODELS["cohere2"], 3),          # does not turn
          "cohere2-window": (RANDOM_MODELS["cohere2"], 0),
          "olmo3": (RANDOM_MODELS["olmo3"], 3),              # YaRN
          "olmo3-window": (RANDOM_MODELS["olmo3"], 0)}       # none


def values(model, name):
    tensor = model.file.tensors[name]
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.extents[::-1]).copy()


def say_letters_only(model):
    """One channel is about the same behind every word, and rules out what is no letter."""
    if "output.weight" not in model.file.tensors:
        model.normal("output.weight", (model.words, model.width), scale=2 * model.width ** -0.5)
    embedding, rows = values(model, "token_embd.weight"), values(model, "output.weight")
    letters, output = [ord(letter) for letter in LETTERS], np.zeros_like(rows)
    output[letters] = rows[letters]  # the first 256 words are the bytes
    output[:, 0] = -10
    output[letters, 0] = 0
    embedding[:, 0] = 8
    model.put("token_embd.weight", embedding)
    model.put("output.weight", output)


def write(folder, name, edit=None):
    make, counts = MODELS[name]
    model = make("shift-" + name)
    for layer in range(model.layers):
        output = f"blk.{layer}.attn_output.weight"
        if layer != counts:
            tensor = model.file.tensors[output]
            model.file.tensors[output] = tensor._replace(data=bytes(len(tensor.data)))
    if edit is not None:
        edit(model)
    path = os.path.join(folder, f"shift-{name}.gguf")
    model.file.write(path)
    return path


def letters(count, seed=1):
    return "".join(random.Random(seed).choices(LETTERS, k=count))


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(name not in MODELS for name in sys.argv[2:]):
        sys.exit(f"{__doc__}\nNames: {' '.join(MODELS)}")
    for model_name in sys.argv[2:] or MODELS:
        print(write(sys.argv[1], model_name))
