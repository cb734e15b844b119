#!/usr/bin/env python3
"""Makes group_rows.txt for tests/test_zoo_groups.cpp: rows in formats of groups, in numpy.

Written from the descriptions on top of ref/zoo/format_range.cpp and format_polar_pairs.cpp, apart
from the C++: the G rows of a group are one array [G][D], ranges are its minima and maxima along
the tokens, codes go through numpy's packbits.

  NAME D ROW HEX_OF_BYTES [HEX_OF_F32_VALUES]     [G][D] as rows() below makes them

Run: python3 tests/golden/make_group_rows.py
"""
import pathlib

import numpy as np

F = np.float32


def rows(tokens, d, row):
    """Exact in any arithmetic. Row 1 has a loud channel, row 2 is all zeros, in row 3 every token is
    the same."""
    t, i = np.arange(tokens)[:, None], np.arange(d)[None, :]
    t = t * (row != 3)
    x = ((t * t * 29 + i * i * 37 + t * i * 5 + i * 11 + t * 17 + 3 * row) % 509 - 254) / 64.0
    x[:, 1] += 100 * (row == 1)
    return F(x if row != 2 else np.zeros(x.shape))


def half(x):
    return np.asarray(x, np.float16)


def bits(codes, width):
    """Codes as bytes, the lowest bit of the first code first."""
    flags = (np.asarray(codes)[:, None] >> np.arange(width) & 1).reshape(-1)
    return np.packbits(flags.astype(np.uint8), bitorder="little").tobytes()


def kivi_keys(x, width):
    """Channel by channel: f16 scale, f16 min, codes."""
    data, value = b"", np.zeros(x.shape)
    for c in range(x.shape[1]):
        of = x[:, c]
        low = half(of.min())
        scale = half(F(of.max() - of.min()) / F(2 ** width - 1))
        codes = np.zeros(len(of), int)
        if scale > 0:
            steps = F(of - F(low)) / F(scale)
            codes = np.clip(np.floor(steps.astype(float) + 0.5), 0, 2 ** width - 1).astype(int)
        data += scale.tobytes() + low.tobytes() + bits(codes, width)
        value[:, c] = float(scale) * codes + float(low)
    return data, value


def steps(of, width):
    low, scale = half(of.min()), half(F(of.max() - of.min()) / F(2 ** width))
    codes = np.zeros(len(of), int)
    if scale > 0:
        codes = np.clip(np.floor(F(of - F(low)) / F(scale)), 0, 2 ** width - 1).astype(int)
    return scale.tobytes() + low.tobytes(), codes, float(low) + (codes + 0.5) * float(scale)


def polar_pairs(x, neox, of_radius, of_angle):
    """Pair by pair: f16 scale and min of the radius, of the angle, codes of each."""
    tokens, d = x.shape
    data, value = b"", np.zeros(x.shape)
    for p in range(d // 2):
        at = [p, p + d // 2] if neox else [2 * p, 2 * p + 1]
        pair = x[:, at].astype(float)
        angle = np.arctan2(pair[:, 1], pair[:, 0])
        angle = np.where(angle < 0, angle + 2 * np.pi, angle).astype(F)
        radius = np.hypot(pair[:, 0], pair[:, 1]).astype(F)
        r_range, r_codes, r = steps(radius, of_radius)
        a_range, a_codes, a = steps(angle, of_angle)
        data += r_range + a_range + bits(r_codes, of_radius) + bits(a_codes, of_angle)
        value[:, at[0]], value[:, at[1]] = r * np.cos(a), r * np.sin(a)
    return data, value


FORMATS = {
    "kivi_keys:2": (32, lambda x: kivi_keys(x, 2)),
    "kivi_keys:4": (32, lambda x: kivi_keys(x, 4)),
    "kivi_keys:3-64": (64, lambda x: kivi_keys(x, 3)),
    "polar_pairs:norm-3-3-32": (32, lambda x: polar_pairs(x, False, 3, 3)),
    "polar_pairs:neox-4-4-32": (32, lambda x: polar_pairs(x, True, 4, 4)),
    "polar_pairs:norm": (128, lambda x: polar_pairs(x, False, 4, 4)),
}


def main():
    lines = []
    for name, (tokens, encode) in FORMATS.items():
        for d, row in [(8, 0), (8, 1), (8, 2), (8, 3), (10, 0)]:
            data, value = encode(rows(tokens, d, row))
            data += b"\0" * (-len(data) % tokens)  # whole bytes a token
            line = f"{name} {d} {row} {data.hex()}"
            lines.append(f"{line} {value.astype('<f4').tobytes().hex()}" if d == 10 else line)
    path = pathlib.Path(__file__).with_name("group_rows.txt")
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(lines)} groups, numpy {np.__version__}")


if __name__ == "__main__":
    main()
