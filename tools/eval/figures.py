"""What so many answers say: scores, differences to a base, and how far either can be trusted.

Attempts at one problem are not independent, so intervals of differences, and p, are over problems.

Docs: docs/31-tasks.md"""
import dataclasses
import math
import statistics

import numpy as np

from .problems import needed

TESTS = "scipy.stats"  # takes half a second to load: where it is used
RESAMPLES = 10_000
LEVEL = 0.95
SEEN = 0.8  # how often a difference of the stated size is found
NORMAL = statistics.NormalDist()
Z = NORMAL.inv_cdf((1 + LEVEL) / 2)


def wilson(score, attempts):
    """The interval of a share, as if all attempts were independent. Source: Wilson 1927."""
    middle = (score + Z * Z / (2 * attempts)) / (1 + Z * Z / attempts)
    half = Z / (1 + Z * Z / attempts) * math.sqrt(
        score * (1 - score) / attempts + Z * Z / (4 * attempts * attempts))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def resampled(rows, strata):
    """Means [RESAMPLES] of rows [problems] drawn with replacement, each task as often as it is
    there. Always the same draws: differences between caches are not differences between draws."""
    random = np.random.default_rng(20200113)
    sums = np.zeros(RESAMPLES)
    for task in dict.fromkeys(strata):
        own = rows[[one == task for one in strata]]
        sums += own[random.integers(len(own), size=(RESAMPLES, len(own)))].sum(axis=1)
    return sums / len(rows)


def bootstrap(rows, strata):
    """Of the mean of rows [problems], by percentiles. Where all are alike that would be a point;
    then it is Wilson's, of problems. Source: Efron 1979."""
    if np.ptp(rows) == 0 and rows[0] in (0, 1):
        return wilson(float(rows[0]), len(rows))
    low, high = np.percentile(resampled(rows, strata), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def difference_interval(differences, strata):
    """By bootstrap. Where no problem differs that would be a point; then it is as wide as the
    largest share of differing problems of which none would be met in so many (Clopper and Pearson
    1934)."""
    if np.any(differences):
        return bootstrap(differences, strata)
    found = needed(TESTS, "an interval").binomtest(0, len(differences))
    most = float(found.proportion_ci(LEVEL).high)
    return -most, most


def mcnemar(differences):
    """p of its exact test: a problem speaks for whoever had more of its samples right.
    Source: McNemar 1947."""
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    if better + worse == 0:
        return 1.0
    return float(needed(TESTS, "p").binomtest(better, better + worse).pvalue)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Shares are 0 .. 1, differences to the base likewise; None: this is the base."""
    problems: int
    attempts: int
    right: int
    score: float
    wilson: tuple
    bootstrap: tuple
    difference: float | None
    difference_interval: tuple | None
    better: int | None  # problems of which more samples were right
    worse: int | None
    p: float | None
    changed: int | None  # attempts whose text is another
    tokens: float        # of an answer, mean
    not_ended: int       # attempts


def figures_of(rows, base=None):
    """rows: of a cache, {"task", "id", "sample", "right", "text", "tokens", "end"} each, in the
    base's order."""
    problems = list(dict.fromkeys((row["task"], row["id"]) for row in rows))
    place = {one: number for number, one in enumerate(problems)}
    strata = [task for task, _ in problems]

    def by_problem(of):
        sums = np.zeros(len(problems))
        for row in of:
            sums[place[row["task"], row["id"]]] += row["right"]
        return sums * len(problems) / len(rows)

    right, mean = sum(row["right"] for row in rows), by_problem(rows)
    found = dict(problems=len(problems), attempts=len(rows), right=right,
                 score=right / len(rows), wilson=wilson(right / len(rows), len(rows)),
                 bootstrap=bootstrap(mean, strata), difference=None, difference_interval=None,
                 better=None, worse=None, p=None, changed=None,
                 tokens=sum(row["tokens"] for row in rows) / len(rows),
                 not_ended=sum(row["end"] in ("most", "full") for row in rows))
    if base is not None:
        differences = mean - by_problem(base)
        found.update(difference=float(differences.mean()),
                     difference_interval=difference_interval(differences, strata),
                     better=int((differences > 0).sum()), worse=int((differences < 0).sum()),
                     p=mcnemar(differences),
                     changed=sum(one["text"] != other["text"] for one, other in zip(rows, base)))
    return Figures(**found)


def least_difference(problems, discordant):
    """The paired difference that is found SEEN of the time at p = 1 - LEVEL, where a share of
    problems differs. Normal approximation; never below what a sign test needs at all: so many
    problems, all on one side, that p can fall below 1 - LEVEL."""
    least = 1 + math.ceil(math.log2(1 / (1 - LEVEL)))
    wanted = (Z + NORMAL.inv_cdf(SEEN)) * math.sqrt(discordant / problems)
    return max(wanted, least / problems)


def what_can_be_seen(base, others):
    """A sentence: base and others are Figures of the same problems."""
    width = (base.wilson[1] - base.wilson[0]) / 2
    shares = [(one.better + one.worse) / one.problems for one in others]
    share = float(np.median(shares)) if shares else 0.0
    samples, least = base.attempts // base.problems, least_difference(base.problems, share)
    return (f"{base.problems} problems{f', {samples} samples each' if samples > 1 else ''}: the "
            f"base's score is known to about {100 * width:.0f} points either way. Against the base "
            f"{100 * share:.0f} % of the problems change (the median of the caches); then " +
            (f"a difference below {100 * least:.0f} points will mostly not be found." if least < 1
             else "no difference at all can be found."))
