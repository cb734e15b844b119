"""What --kl-divergence-base wrote, and how far two such files are apart."""
import struct

import numpy as np

LIKELY = 1e-4  # a word's probability, from which on it is compared by itself


class BaseRows:
    """A file of --kl-divergence-base: tokens, and the scored log-probabilities [rows][words]."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        assert data[:8] == b"_logits_"
        context, words, windows = struct.unpack_from("<iii", data, 8)
        self.tokens = np.frombuffer(data, "<i4", context * windows, 20)
        codes, rows = words + words % 2, windows * (context - 1 - context // 2)
        row = np.dtype([("scale", "<f4"), ("least", "<f4"), ("code", "<u2", codes)])
        found = np.frombuffer(data, row, rows, 20 + 4 * context * windows)
        steps = found["code"][:, :words].astype(float) * found["scale"][:, None].astype(float)
        self.log_p = steps + found["least"][:, None].astype(float)
        self.log_p -= np.log(np.exp(self.log_p).sum(1, keepdims=True))  # of 16-bit codes, nearly 0

    def divergences(self, other):
        return (np.exp(self.log_p) * (self.log_p - other.log_p)).sum(1)

    def largest_change(self, other):
        likely = np.exp(self.log_p) > LIKELY
        return float(np.abs(self.log_p - other.log_p)[likely].max())
