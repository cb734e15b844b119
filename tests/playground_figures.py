"""What the playground must show: its rows made again in numpy, its stages by the package rotkv.
Docs: docs/34-playground.md"""
import numpy as np

import rotkv

FIRST_POSITION, KEYS, QUERY_SEED = 1024, 16, 1000  # of tools/playground/exports.cpp


def uniforms(seed, count):
    """SplitMix64's outputs as numbers in [0, 1)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0 ** -53


def normals(seed, count):
    total = np.full(count, -6.0)
    for one in uniforms(seed, 12 * count).reshape(count, 12).T:
        total += one
    return total.astype(np.float32)


def loud_row(d, seed):
    """The example "one loud channel"."""
    row = normals(seed, d)
    row[d // 8 + 1] = 12
    return row


def keys_like(row, count, seed):
    random = normals(seed, 2 * (count - 1) * len(row)).reshape(count - 1, len(row), 2)
    share = (np.float32(3) + random[..., 0]) / np.float32(4)
    return np.concatenate([row[None], row * share + random[..., 1] / np.float32(2)])


def in_order(terms):
    """Their sum in f64, one after the other."""
    return float(np.cumsum(np.asarray(terms, np.float64), axis=-1)[..., -1])


def parts(rotation):
    """"none", "64", "64:7" as hadamard's arguments."""
    block, _, seed = rotation.partition(":")
    return {"block": 0 if rotation == "none" else int(block), "signs": int(seed) if seed else None}


def relative_error(x, exact):
    x, exact = x.astype(np.float64), exact.astype(np.float64)
    return in_order((x - exact) ** 2) / in_order(exact ** 2)


def stored(row, type, rotation, seed, group=1):
    """The answer of rotkv_playground_store, as far as it is figures."""
    d = len(row)
    keys = keys_like(row, max(KEYS, group), seed)
    rotated = rotkv.hadamard(keys, **parts(rotation))
    positions = FIRST_POSITION + np.arange(len(keys), dtype=np.int32)
    codes = rotkv.encode(rotated[:, None], type, positions=positions)
    cells = rotkv.decode(codes, type, d, positions=positions)[:, 0]
    back = rotkv.hadamard(cells, inverse=True, **parts(rotation))
    q = normals(QUERY_SEED + seed, d)

    def attended(k, turned):
        score = np.array([in_order(one.astype(np.float64) * turned) for one in k[:KEYS]]) / np.sqrt(float(d))
        weight = np.exp(score - score.max())
        return score, weight / weight.sum()

    exact, exact_weight = attended(keys, q)
    score, weight = attended(cells, rotkv.hadamard(q[None], **parts(rotation))[0])
    return {"rotated": rotated[0], "bytes": codes[0].ravel(), "cells": cells[0], "back": back[0],
            "relative_error": relative_error(back[0], keys[0]), "score": score, "weight": weight,
            "exact": exact, "exact_weight": exact_weight,
            "largest_score_change": np.abs(score - exact).max(),
            "moved_probability": np.abs(weight - exact_weight).sum() / 2}


def shifted(row, type, rotation, seed, difference, pairs):
    """The first key's cell behind a shift, by the package's cache, which is another way there."""
    d = len(row)
    keys = keys_like(row, KEYS, seed)[:, None]
    words = f"k={type},v=f32,rot-k={'off' if rotation == 'none' else rotation},rot-v=off"
    cache = rotkv.Cache(words, cells=KEYS, kv_heads=1, d_k=d)
    cache.place(FIRST_POSITION + np.arange(KEYS, dtype=np.int32))
    cache.store(0, keys, keys)
    cache.shift(0, 4096, difference, rotkv.Rope(d, pairs))
    codes = cache.bytes(0, "k").reshape(KEYS, -1)
    positions = FIRST_POSITION + difference + np.arange(KEYS, dtype=np.int32)
    return rotkv.decode(codes[:, None], type, d, positions=positions)[0, 0]
