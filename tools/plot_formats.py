"""The picture of a sweep of formats: KLD against true bits per value, a panel for each file, and in its
corner the formats that have no point.

Docs: docs/20-zoo.md"""
import statistics
import textwrap

from matplotlib import pyplot as plt

from plot import BLUE, ORANGE, WIDTH, Sweep, save, size_of

# A marker and a colour for each rotation; the colours differ for every eye, the markers in print.
LOOKS = [("o", BLUE), ("^", ORANGE), ("s", "#000000"), ("D", "#009E73"), ("v", "#CC79A7"),
         ("P", "#E69F00")]


def column_of(rot):
    """As rotation_columns() of tools/sweep_formats.h: the rotation without seed and file."""
    kind, *rest = rot.split(":")
    if kind not in ("signed", "dense", "calibrated"):
        return rot
    return kind if kind != "signed" or len(rest) < 2 else f"{kind}, {rest[1]} rounds"


class Point:
    """A format under rotations that differ in their seed alone."""

    def __init__(self, bits, rows):
        self.bits = bits
        seeds = [row["kld"] for row in rows]
        windows = [statistics.fmean(w) for w in zip(*(row["kld_windows"] for row in rows))]
        self.kld = statistics.fmean(seeds)
        n = len(windows)
        self.error = statistics.stdev(windows) / n ** 0.5 if n > 1 else 0
        self.seeds = (min(seeds), max(seeds)) if len(seeds) > 1 else None


class Formats(Sweep):
    """A file of rotkv-sweep --formats."""

    def __init__(self, path):
        super().__init__(path)
        if not self.header.get("same"):
            raise ValueError("the sweep has two lists of types, expected one of --formats")
        self.columns = {}
        for rot in self.rot:
            self.columns.setdefault(column_of(rot), []).append(rot)
        self.points = {}  # (format, column)
        for name in self.k:
            for column, rots in self.columns.items():
                rows = [self.cell.get((name, name, rot)) for rot in rots]
                if all(row is not None and row["kld"] > 0 for row in rows):
                    self.points[name, column] = Point(self.bits(rows[0]), rows)

    def bits_of(self, name):
        known = [p.bits for (of, _), p in self.points.items() if of == name]
        return known[0] if known else None

    def gap(self, name):
        """Why a format has no point."""
        reasons = [why for (k, _, _), why in self.reason.items() if k == name]
        return reasons[0].split(": ")[-1] if reasons else "not run"

    def front(self):
        """(format, column) that nothing of as few bits beats."""
        best = []
        for key, point in sorted(self.points.items(), key=lambda one: (one[1].bits, one[1].kld)):
            if not best or point.kld < self.points[best[-1]].kld:
                best.append(key)
        return best


def draw_point(axes, point, bits, look):
    """One marker with its error; seeds as a pale bar from the best to the worst."""
    marker, colour = look
    lower = min(point.error, 0.9 * point.kld)  # a logarithm has no zero
    axes.errorbar(bits, point.kld, yerr=[[lower], [point.error]], fmt=marker, ms=3.6, mfc="none",
                  mec=colour, ecolor=colour, elinewidth=0.6, mew=0.8, zorder=3)
    if point.seeds:
        axes.vlines(bits, *point.seeds, color=colour, alpha=0.3, lw=4, zorder=2)


def draw_against_bits(axes, sweep):
    for (name, column), point in sweep.points.items():
        if name == "f32":
            continue  # the base, or rounding alone
        look = list(sweep.columns).index(column)
        # Those of equal bits stand beside each other.
        draw_point(axes, point, point.bits * (1 + 0.008 * (look - 1.5)), LOOKS[look % len(LOOKS)])
    front = [key for key in sweep.front() if key[0] != "f32"]
    axes.step([sweep.points[key].bits for key in front], [sweep.points[key].kld for key in front],
              where="post", color="black", lw=0.7, zorder=1)
    axes.set(xscale="log", yscale="log", xlabel="bits per value, all metadata counted",
             ylabel="mean KLD from an f32 cache, nats")
    ticks = [t for t in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 16)
             if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.grid(lw=0.3, color="#bbbbbb")


def name_the_best(axes, sweep):
    """The staircase's formats by name: what a reader looks for first."""
    for key in sweep.front():
        if key[0] == "f32":
            continue
        point = sweep.points[key]
        axes.annotate(key[0], (point.bits, point.kld), xytext=(-4, -7),
                      textcoords="offset points", ha="right", fontsize=6, color="#333333")


def list_gaps(axes, sweep):
    """What has no point, and why, in the empty corner of few bits and little damage."""
    gaps = {}
    for name in sweep.k:
        if sweep.bits_of(name) is None:
            gaps.setdefault(sweep.gap(name).split("; ")[-1].split(", and ")[0], []).append(name)
    lines = []
    for why, names in gaps.items():
        lines += textwrap.wrap(f"no point, {why}: " + ", ".join(names), 42)
    axes.text(0.02, 0.02, "\n".join(lines), transform=axes.transAxes, fontsize=6, va="bottom",
              color="#555555", bbox={"facecolor": "#eeeeee", "edgecolor": "none"})


def draw_formats(paths, picture):
    sweeps = [Formats(path) for path in paths]
    figure = plt.figure(figsize=(WIDTH, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, len(sweeps), height_ratios=[0.4, 5.2])
    legend = figure.add_subplot(grid[0, :])
    for i, sweep in enumerate(sweeps):
        axes = figure.add_subplot(grid[1, i])
        title = f"{sweep.header['model']}\n{sweep.header['windows']} windows of " \
                f"{sweep.header['n_ctx']} tokens of {sweep.header['text']}"
        axes.set_title(title, loc="left", fontsize=min(8, size_of(title)))
        draw_against_bits(axes, sweep)
        name_the_best(axes, sweep)
        list_gaps(axes, sweep)
    columns = max((sweep.columns for sweep in sweeps), key=len)
    marks = [plt.Line2D([], [], marker=marker, color=colour, mfc="none", lw=0)
             for (marker, colour), _ in zip(LOOKS, columns)]
    legend.axis("off")
    legend.legend(marks, [f"rotation {c}" + (f", {len(s)} seeds: mean, bar from best to worst"
                                             if len(s) > 1 else "") for c, s in columns.items()],
                  loc="center", ncols=2, fontsize=7)
    save(figure, picture)
