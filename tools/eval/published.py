"""Scores that others published without intervals, and the intervals that they would have had.

Of samples of one problem nobody but the author knows how alike they are. So there are two bounds:
all attempts independent, and all samples of a problem alike, which leaves as many attempts as
problems. The truth lies between.

Docs: docs/31-tasks.md"""
import itertools
import math

from .figures import wilson
from .problems import Failed


def score_of(words):
    """("q4_0", 0.217) of "q4_0=21.7"."""
    name, _, value = words.rpartition("=")
    try:
        score = float(value) / 100
    except ValueError:
        score = math.nan
    if not name or not 0 <= score <= 1:
        raise Failed(f"{words!r}: expected NAME=PERCENT")
    return name, score


def difference(one, other, attempts):
    """(low, high, p) of other - one, each a score of so many attempts of its own.
    Source: Newcombe 1998, method 10; the z test of two shares."""
    (low, high), (other_low, other_high) = wilson(one, attempts), wilson(other, attempts)
    d, mean = other - one, (one + other) / 2
    spread = math.sqrt(2 * mean * (1 - mean) / attempts)
    return (d - math.hypot(other - other_low, high - one),
            d + math.hypot(other_high - other, one - low),
            math.erfc(abs(d) / spread / math.sqrt(2)) if spread > 0 else 1.0)


def published_table(words, problems, samples):
    """The lines for people."""
    scores = [score_of(one) for one in words]
    counts = (problems * samples, problems)
    wide = max(len(f"{b} - {a}") for (a, _), (b, _) in itertools.product(scores, scores))
    heads = [f"{counts[0]} independent attempts", f"samples alike: {problems} attempts"]
    lines = [f"{'score':{wide}}  {'':>6}  {heads[0]:24}  {heads[1]}"]
    for name, score in scores:
        bounds = [wilson(score, n) for n in counts]
        spelled = [f"{100 * low:.1f} .. {100 * high:.1f}" for low, high in bounds]
        lines.append(f"{name:{wide}}  {100 * score:>6.1f}  {spelled[0]:24}  {spelled[1]}")
    lines.append("difference, not paired: nobody published which problems were solved")
    for (name, one), (other_name, other) in itertools.combinations(scores, 2):
        found = [difference(one, other, n) for n in counts]
        spelled = [f"{100 * low:+.1f} .. {100 * high:+.1f}, p {p:.3f}" for low, high, p in found]
        lines.append(f"{other_name + ' - ' + name:{wide}}  {100 * (other - one):>+6.1f}  "
                     f"{spelled[0]:24}  {spelled[1]}")
    return "\n".join(lines)
