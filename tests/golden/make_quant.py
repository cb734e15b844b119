#!/usr/bin/env python3
"""Makes the vectors of tests/test_quant.cpp: quant_*.bin and dequant_*.bin in this folder.

The oracle is the numpy package gguf (PyPI), which was written apart from rotkv. It cannot quantize
to iq4_nl; for that type the formula is written out below and must first give ggml's own bytes
(quantize_row_iq4_nl_ref, llama.cpp 0c1e570) for the 2048 blocks in $ROTKV_DATA/golden/blocks.

  quant_input.bin     f32 values, blocks of 32
  quant_TYPE.bin      the bytes of these blocks in TYPE
  dequant_TYPE.bin    1024 values in TYPE, random bytes with finite scales, then the f32 values
  quant_versions.txt  what made them

Run: ROTKV_DATA=... python3 tests/golden/make_quant.py
"""

import os
import pathlib
from importlib.metadata import version

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

HERE = pathlib.Path(__file__).parent
F32 = np.float32
LEVELS = np.array(gguf.quants.IQ4_NL.kvalues, dtype=F32)
MIDDLES = (LEVELS[:-1] + LEVELS[1:]) / 2

# Where each format keeps its f16 fields, as offsets of 16-bit words in a block.
F16_WORDS = {
    T.Q8_0: [0], T.Q5_1: [0, 1], T.Q5_0: [0], T.Q4_1: [0, 1], T.Q4_0: [0], T.IQ4_NL: [0],
    T.Q2_K: [40, 41], T.Q3_K: [54], T.Q4_K: [0, 1], T.Q5_K: [0, 1], T.Q6_K: [104],
    T.IQ4_XS: [0], T.MXFP4: [],
}


def peak_of(x):
    """The first element of largest magnitude of every row, as a column."""
    return np.take_along_axis(x, abs(x).argmax(-1)[:, None], -1)


def iq4_nl_parts(x, regrouped=False):
    """The codes and the unrounded scale of the blocks x, every operation in f32."""
    peak = peak_of(x)
    tiny = abs(peak) < F32(1e-15)
    inverse = np.where(tiny, 0, 1 / np.where(tiny, 1, peak / F32(-127)))
    distance = abs((x * inverse)[..., None] - LEVELS)
    codes = np.where(tiny, 8, 15 - distance[..., ::-1].argmin(-1))  # of two ties the larger
    level, weight = LEVELS[codes], x * x
    sum_lx, sum_ll = np.zeros(len(x), F32), np.zeros(len(x), F32)
    for j in range(32):
        w, l, v = weight[:, j], level[:, j], x[:, j]
        sum_lx += w * (l * v) if regrouped else w * l * v
        sum_ll += w * l * l
    tiny = tiny[:, 0]
    return codes, np.where(tiny, 0, sum_lx / np.where(tiny, 1, sum_ll))


def iq4_nl(x):
    """The blocks x in iq4_nl."""
    codes, scale = iq4_nl_parts(x)
    nibbles = (codes[:, :16] | codes[:, 16:] << 4).astype(np.uint8)
    return np.hstack([scale.astype(np.float16)[:, None].view(np.uint8), nibbles])


def check_iq4_nl(folder):
    x = np.fromfile(folder / "input.f32", F32).reshape(-1, 32)
    ggml = np.fromfile(folder / "blocks.iq4_nl.bin", np.uint8).reshape(-1, 18)
    differs = (iq4_nl(x) != ggml).any(-1)
    differs[768:800] = False  # zeros: ggml leaves the previous block's codes there
    assert not differs.any(), np.flatnonzero(differs)


def ties():
    """Blocks with 1/d = 1 and values halfway between two codes, for each format."""
    half = np.arange(32) + 0.5
    rows = []
    for peak, ramp in ((8, half / 2 - 8), (16, half - 16), (127, 8 * half - 132.5)):
        for sign in (1, -1):
            row = np.clip(np.floor(ramp) + 0.5, 0.5 - peak, peak - 0.5)
            row[7] = sign * peak
            rows.append(row)
    for least, greatest in ((0, 15), (-5, 10), (0, 31), (-20, 11)):
        row = np.clip(half + least, least, greatest - 0.5)
        row[3], row[11] = least, greatest
        rows.append(row)
    for peak in (127, -127):
        rows.append(np.concatenate([[peak], MIDDLES, -MIDDLES, [0]]))
    return rows


def special():
    """Blocks that decide what a formula leaves open."""
    rows = [np.zeros(32)]
    for first, second in ((5, -5), (-5, 5)):  # two peaks of equal size: the first one counts
        row = np.linspace(-3, 3, 32)
        row[4], row[20] = first, second
        rows.append(row)
    rows.append(np.full(32, 0.75))  # max = min
    rows.append(np.full(32, -3.25))
    rows.append(np.linspace(1000, 1001, 32))  # offset much larger than the spread
    rows.append(np.linspace(0, 65504, 32))  # the largest f16 as a value
    rows.append(np.linspace(-65504, 0, 32))
    rows.append(np.linspace(-6e-8, 6e-8, 32))  # scales that are subnormal f16 or underflow to 0
    rows.append(np.linspace(-3e-6, 2e-6, 32))
    rows.append(np.linspace(-1e-8, 1e-8, 32))
    for place in (0, 15, 16, 31):  # one outlier, at each end of each half
        row = np.full(32, 0.01)
        row[place] = -40
        rows.append(row)
    return rows


def delicate(rng):
    """Blocks whose bytes change when the formula is rounded in another place."""
    rows = []

    def keep(mask, peak, other):
        for values in zip(peak[mask][:4], other[mask][:4]):
            rows.append(np.zeros(32))
            rows[-1][[3, 9]] = values

    p = rng.uniform(1, 4, 4_000_000).astype(F32)  # the peak, or max with min = 0
    for n in (F32(15), F32(31), F32(127)):
        d = p / n
        v = d * (rng.integers(0, 14, p.size).astype(F32) + F32(0.5))  # beside a tie
        keep(d.astype(np.float16) != (p * (1 / n)).astype(np.float16), p, v)
        keep(np.trunc(v * (1 / d) + F32(0.5)) != np.trunc(v / d + F32(0.5)), p, v)
    middle = MIDDLES[rng.integers(0, 15, p.size)]
    d = p / F32(-127)
    v = d * middle
    keep((v * (1 / d) < middle) != (v * (F32(-127) / p) < middle), p, v)
    for _ in range(8):  # iq4_nl: the unrounded scale lies in or beside the middle between two f16
        x = rng.standard_normal((50_000, 32)).astype(F32)
        scale, regrouped = iq4_nl_parts(x)[1], iq4_nl_parts(x, regrouped=True)[1]
        rows += list(x[scale.view(np.uint32) & 0x1FFF == 0x1000])
        rows += list(x[scale.astype(np.float16) != regrouped.astype(np.float16)])
    return rows


def inputs(rng):
    rows = [rng.standard_normal(32) for _ in range(40)]
    rows += [rng.standard_t(2, 32) for _ in range(20)]
    for scale in (1e-3, 1e3):
        rows += [scale * rng.standard_normal(32) for _ in range(8)]
    for _ in range(16):
        row = rng.standard_normal(32)
        row[rng.integers(32)] *= 40
        rows.append(row)
    rows += [rng.standard_normal(32) + 4 for _ in range(8)]
    return np.array(rows + ties() + special() + delicate(rng), dtype=F32)


def random_blocks(rng, qtype):
    elements, size = gguf.GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, (1024 // elements, size), dtype=np.uint8)
    for word in F16_WORDS[qtype]:
        bits = rng.integers(0, 0x7C00, len(blocks)) | rng.integers(0, 2, len(blocks)) << 15
        blocks[:, 2 * word] = bits & 255
        blocks[:, 2 * word + 1] = bits >> 8
    if qtype == T.MXFP4:
        blocks[:4, 0] = 0, 1, 254, 255  # both subnormal scales, the largest two
    return blocks


def write(name, *arrays):
    (HERE / name).write_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))


def name_of(qtype):
    """The type as ggml prints it: q8_0, q2_K."""
    return qtype.name.lower().replace("_k", "_K")


def main():
    check_iq4_nl(pathlib.Path(os.environ["ROTKV_DATA"]) / "golden" / "blocks")
    rng = np.random.default_rng(21038)
    x = inputs(rng)
    write("quant_input.bin", x)
    for qtype in (T.Q8_0, T.Q5_1, T.Q5_0, T.Q4_1, T.Q4_0):
        write(f"quant_{name_of(qtype)}.bin", gguf.quantize(x, qtype))
    write("quant_iq4_nl.bin", iq4_nl(x))
    for qtype in F16_WORDS:
        blocks = random_blocks(rng, qtype)
        with np.errstate(over="ignore"):  # mxfp4 with the largest scale reaches inf
            write(f"dequant_{name_of(qtype)}.bin", blocks, gguf.dequantize(blocks, qtype))
    (HERE / "quant_versions.txt").write_text(
        f"made by make_quant.py with numpy {np.__version__}, gguf {version('gguf')}\n")


main()
