#!/usr/bin/env python3
"""Makes fork_rows.txt for tests/test_zoo_forks.cpp: rows in formats that forks ship, in numpy.

Written from the descriptions on top of ref/zoo/format_*.cpp and from the forks, apart from the C++:
numpy's own generator draws turbo's signs, NormalDist and Gauss-Legendre of numpy make the levels,
sums are scalars of numpy.float32 one after the other, and Hadamard matrices are products in f64
(decoded values) or butterflies on reshaped arrays in f32 (codes).

  NAME D ROW SIDE HEX_OF_BYTES [HEX_OF_F32_VALUES]     row as rows() below makes it

Run: python3 tests/golden/make_fork_rows.py
"""
import pathlib
from statistics import NormalDist

import numpy as np

F = np.float32


def rows(d, row):
    """Row 3 is all zeros, row 4 too small for a norm; the rest is exact in any arithmetic."""
    i = np.arange(d)
    x = ((i * i * 37 + i * (11 + 2 * row) + 5 * row) % 509 - 254) / 64 * 2.0 ** (row % 5 - 2)
    return F(x * 0 if row == 3 else x * 2.0 ** -60 if row == 4 else x)


def square_sum(x):
    total = F(0)
    for value in x:
        total = F(total + F(value * value))
    return total


def butterflies(x):
    width = 1
    while width < len(x):
        pairs = x.reshape(-1, 2, width)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        width *= 2
    return x.astype(F)


def dense(n):
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h


def bits(codes, width):
    """Codes as bytes, the lowest bit of the first code first."""
    flags = (np.asarray(codes)[:, None] >> np.arange(width) & 1).reshape(-1)
    return np.packbits(flags.astype(np.uint8), bitorder="little").tobytes()


def half(x):
    with np.errstate(over="ignore"):
        return np.float16(x).tobytes()


# turbo -------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(42)
S1, S2 = GENERATOR.choice([-1, 1], 128), GENERATOR.choice([-1, 1], 128)
TURBO = {  # the fork's six digits
    2: ([39994, 133462], [86728]),
    3: ([21460, 65717, 117832, 190685], [43589, 91775, 154259]),
    4: ([6938, 20989, 35597, 51262, 68756, 89527, 117195, 173926],
        [13963, 28293, 43430, 60009, 79142, 103361, 145560])}


def turbo(width):
    levels, borders = (F(np.array(of) / 1e6) for of in TURBO[width])
    levels = np.concatenate([-levels[::-1], levels])
    borders = np.concatenate([-borders[::-1], [F(0)], borders])

    def encode(x):
        norm = np.sqrt(square_sum(x))
        inverse = F(1) / norm if norm > 1e-10 else F(0)
        y = butterflies(x * inverse * F(S1)) * (F(0.08838834764831845) * F(S2))
        codes = np.searchsorted(borders, y, side="right")
        kept = np.sqrt(square_sum(levels[codes]))
        low = bits(codes & 3, 2) + bits(codes >> 2, 1) if width == 3 else bits(codes, width)
        scale = half(norm / kept)
        value = S1 * (dense(128) @ (S2 * levels[codes].astype(float))) / np.sqrt(128)
        return scale + (b"\0\0" if width == 4 else b"") + low, value * np.frombuffer(scale, "f2")
    return encode


# tq3_0 -------------------------------------------------------------------------------------------

def best_normal_levels(count):
    n = NormalDist()
    levels = np.array([n.inv_cdf((i + 0.5) / count) for i in range(count)])
    for _ in range(20000):
        ends = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        pdf = np.array([0 if np.isinf(e) else n.pdf(e) for e in ends])
        cdf = np.array([0 if e == -np.inf else 1 if e == np.inf else n.cdf(e) for e in ends])
        levels = (pdf[:-1] - pdf[1:]) / (cdf[1:] - cdf[:-1])
    return levels, (levels[1:] + levels[:-1]) / 2


def tq3_0(x):
    levels, borders = (F(np.round(of, 4)) for of in NORMAL)
    signs = np.array([-1 if i * 0x9E3779B9 % 2 ** 32 >= 2 ** 31 else 1 for i in range(32)])
    rms = np.sqrt(square_sum(x) / F(32))
    rms = F(1) if rms < 1e-10 else rms
    y = butterflies(x * (F(1) / rms) * F(signs)) * (F(1) / np.sqrt(F(32)))
    codes = np.searchsorted(borders, y, side="left")
    value = signs * (dense(32) @ levels[codes].astype(float)) / np.sqrt(32)
    return half(rms) + bits(codes, 3), value * np.frombuffer(half(rms), "f2")


NORMAL = best_normal_levels(8)


# q8_kv -------------------------------------------------------------------------------------------

def q8_kv(x):
    d = abs(x).max() / F(127)
    if d == 0:
        return bytes(8 + len(x)), x * 0.0
    codes = np.rint(x * (F(1) / d)).astype(np.int8)
    return (np.array([d], "<f4").tobytes() + np.array([codes.sum(dtype=np.int32)], "<i4").tobytes()
            + codes.tobytes(), codes * float(d))


# pq, tbq -----------------------------------------------------------------------------------------

def sphere_levels(n, count):
    """200 steps from the quantiles of N(0, 1 / n), by Gauss-Legendre with 64 nodes a cell."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    levels = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]) / np.sqrt(n)
    far = min(1, 10 / np.sqrt(n))
    for _ in range(200):
        ends = np.concatenate([[-far], (levels[1:] + levels[:-1]) / 2, [far]])
        middle, reach = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
        t = middle[:, None] + reach[:, None] * nodes
        mass = weights * (1 - t * t) ** ((n - 3) / 2)
        levels = (t * mass).sum(1) / mass.sum(1)
    levels = (levels - levels[::-1]) / 2
    return F(levels), F(F(levels[1:]) + F(levels[:-1])) * F(0.5)


def xoshiro(seed, count):
    mask, s = 2 ** 64 - 1, []
    for _ in range(4):
        seed = seed + 0x9E3779B97F4A7C15 & mask
        z = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        s.append(z ^ z >> 31)
    left = lambda x, k: (x << k | x >> 64 - k) & mask
    signs = []
    for _ in range(count):
        out, t = left(s[1] * 5 & mask, 7) * 9 & mask, s[1] << 17 & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = left(s[3], 45)
        signs.append(1 if out & 1 else -1)
    return np.array(signs)


LEVELS = {(n, width): sphere_levels(n, 2 ** width) for n in (64, 128) for width in (3, 4)}
SKETCH = {64: xoshiro(139, 64), 128: xoshiro(137, 128)}


def qvac(width, sketched, side):
    def encode(x):
        n = len(x)
        levels, borders = LEVELS[n, width]
        norm = np.sqrt(square_sum(x))
        small = norm < 1e-15
        y = x * 0 if small else x * (F(1) / norm)
        codes = np.searchsorted(borders, y, side="right") * (0 if small else 1)
        norm = half(0 if small else norm)
        kept = F(levels[codes] * F(np.frombuffer(norm, "f2")))
        data = bits(codes, width) + norm
        if not sketched:
            return data, kept.astype(float)
        rest = x - kept
        length = np.sqrt(square_sum(rest))
        flags = butterflies(rest * F(SKETCH[n])) > 0 if length >= 1e-15 else np.zeros(n, bool)
        back = SKETCH[n] * (dense(n) @ np.where(flags, 1.0, -1.0)) * np.sqrt(np.pi / 2) / n
        added = back * float(np.frombuffer(half(length), "f2")[0])
        return data + bits(flags.astype(int), 1) + half(length), kept + (added * (side == "k"))
    return encode


# -------------------------------------------------------------------------------------------------

def formats():
    for width in (2, 3, 4):
        yield f"turbo{width}", "k", (128, 256), lambda d: 128, turbo(width)
    yield "tq3_0", "k", (64, 128), lambda d: 32, tq3_0
    yield "q8_kv", "k", (64, 128), lambda d: d, q8_kv
    for width in (3, 4):
        for sketched in (False, True):
            for side in "kv" if sketched else "k":
                yield (f"{'tbq' if sketched else 'pq'}{width}_0", side, (64, 128, 256),
                       lambda d: 64 if d == 64 else 128, qvac(width, sketched, side))


def main():
    lines = []
    for name, side, heads, block, encode in formats():
        for d in heads:
            for row in range(6):
                parts = [encode(part) for part in rows(d, row).reshape(-1, block(d))]
                line = [name, str(d), str(row), side, b"".join(part[0] for part in parts).hex()]
                if row == 0 and d < 256:
                    values = np.concatenate([part[1] for part in parts]).astype("<f4")
                    line.append(values.tobytes().hex())
                lines.append(" ".join(line))
    path = pathlib.Path(__file__).with_name("fork_rows.txt")
    path.write_text("\n".join(lines) + "\n")
    print(f"{path}: {len(lines)} rows, numpy {np.__version__}")


if __name__ == "__main__":
    main()
