#!/usr/bin/env python3
"""A model whose matrices are all of one type: what another file of the same model would hold, if it were
packed from this one. For speed alone: what the first packing lost is not brought back.

Usage: tests/repacked_model.py MODEL TYPE OUT    TYPE: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl"""
import sys

import numpy as np

import numpy_blocks
from gguf_file import GgufFile, Tensor

NUMBERS = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_K": 10,
           "q3_K": 11, "q4_K": 12, "q5_K": 13, "q6_K": 14, "iq4_nl": 20, "iq4_xs": 23, "bf16": 30,
           "mxfp4": 39}
NAMES = {number: name for name, number in NUMBERS.items()}


def repacked(tensor, kind):
    *_, rows = tensor.extents
    raw = np.frombuffer(tensor.data, np.uint8)[:len(tensor.data) // rows * rows].reshape(rows, -1)
    values = numpy_blocks.unpack(NAMES[tensor.type], raw)
    values = values[:, :tensor.extents[0]].astype(np.float32)
    return Tensor(tensor.extents, NUMBERS[kind], numpy_blocks.pack(kind, values).tobytes())


def main():
    source, kind, target = sys.argv[1:]
    file = GgufFile.read(source)
    for name, tensor in file.tensors.items():
        if len(tensor.extents) == 2:  # norms and biases stay as they are
            file.tensors[name] = repacked(tensor, kind)
    file.write(target)


if __name__ == "__main__":
    main()
