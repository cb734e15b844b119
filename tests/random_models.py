"""Tiny random models of architectures, as GGUF files: what another engine computed of them is the
test's data. One function an architecture; a model's name is its seed.

Queries are scaled so that scores spread by 1 to 3; windows and YaRN's original contexts are short
enough for 256 tokens to feel them; the vocabulary has some 300 words.

Usage: tests/random_models.py FOLDER [NAME...]"""
import os
import sys

import random_deepseek2_models
import random_delta_models
import random_dense_models
import random_expert_models
import random_gemma4_models

MODELS = {**random_dense_models.MODELS, **random_expert_models.MODELS,
          **random_deepseek2_models.MODELS, **random_delta_models.MODELS,
          **random_gemma4_models.MODELS}


def write(folder, name, edit=None, stem=None):
    """The path of the file that now holds this model: FOLDER/NAME.gguf, or STEM.gguf. `edit` may
    change the GgufFile before it is written; the model's numbers are drawn by then."""
    file = MODELS[name](name).file
    if edit is not None:
        edit(file)
    path = os.path.join(folder, (stem or name) + ".gguf")
    file.write(path)
    return path


if __name__ == "__main__":
    if len(sys.argv) < 2 or any(name not in MODELS for name in sys.argv[2:]):
        sys.exit(f"{__doc__}\nNames: {' '.join(MODELS)}")
    for model_name in sys.argv[2:] or MODELS:
        print(write(sys.argv[1], model_name))
