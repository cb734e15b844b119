"""Rows of ln p: of logits, of what an engine answers, and how far two are apart. Docs: docs/29-judge.md"""
import numpy as np


def log_softmax(logits):
    """Rows of ln p of rows of logits, in f64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def rows_of(found, words):
    """An engine's rows: arrays of ln p, or {word: ln p} of some words. Returns [rows][words] with
    NaN where nothing is said. Raises ValueError for what is none of both, what is not a number, and
    rows of whole vocabularies whose p do not sum to 1."""
    rows = np.full((len(found), words), np.nan)
    for row, one in zip(rows, found):
        if isinstance(one, dict):
            ids = np.array([int(word) for word in one], np.int64)
            keep = (ids >= 0) & (ids < words)
            row[ids[keep]] = np.array([float("-inf") if p is None else p for p in one.values()])[keep]
        elif len(one) != words:
            raise ValueError(f"a row of {len(one)} words, expected {words}")
        else:
            row[:] = [float("-inf") if p is None else p for p in one]
        values = one.values() if isinstance(one, dict) else one
        if any(p != p for p in values):
            raise ValueError("a row with what is not a number")
        total = np.exp(row[~np.isnan(row)]).sum()
        if total > 1.001 or (total < 0.999 and not np.isnan(row).any()):
            raise ValueError(f"a row whose probabilities sum to {total:.4g}, expected 1")
        if not np.isnan(row).any():
            row -= np.log(total)  # which f32 leaves at 1e-7 from 1
    return rows


def kld_rows(base, other):
    """KL divergence of other from base, row by row, in nats. Words of which `other` says nothing are
    one word: the result is then a lower bound."""
    result = np.zeros(len(base))
    for i, (p, q) in enumerate(zip(base, other)):
        said = ~np.isnan(q)
        a, b = p[said], np.maximum(q[said], -1e4)
        result[i] = (np.exp(a) * (a - b)).sum()
        rest_a, rest_b = 1 - np.exp(a).sum(), 1 - np.exp(b).sum()
        if rest_a > 1e-9 and not said.all():
            result[i] += rest_a * np.log(rest_a / max(rest_b, 1e-9))
    return result


def kld(base, other):
    return float(kld_rows(base, other).mean())
