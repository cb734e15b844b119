"""Random models whose heads are no power of two, 80, 96 and 192 channels, with four loud channels
in every key head: no real model with such heads is at hand to measure Kronecker's matrices on.

Usage: tests/head_models.py FOLDER: writes head80.gguf, head96.gguf and head192.gguf"""
import os
import sys

from random_dense_models import add_layers
from random_model import BEFORE, RandomModel

HEADS = (80, 96, 192)


def head_model(d):
    model = RandomModel("smollm3", f"heads of {d}", layers=4, width=256, kv_heads=2, d=d, base=5e6,
                        epsilon=1e-6)
    model.ends(tied=True)
    return add_layers(model, *BEFORE, q=1.0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for head in HEADS:
        head_model(head).file.write(os.path.join(sys.argv[1], f"head{head}.gguf"))
