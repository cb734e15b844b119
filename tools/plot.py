#!/usr/bin/env python3
"""Pictures of what the programs write.

  plot.py sweep FILE.jsonl PREFIX      rotkv-sweep --out: PREFIX-ppl.png, PREFIX-kld.png,
                                       PREFIX-pareto.png
  plot.py formats FILE.jsonl... PICTURE.png
                                       rotkv-sweep --formats --out: a column for each file
  plot.py outliers DIR PREFIX BK BV    rotkv-outliers --npy: PREFIX-outliers.png; BK and BV are the
                                       blocks in which K and V are rotated, one a layer (64,128)
                                       where layers differ
  plot.py search FILE.json FILE.png    rotkv-search --json (plot_search.py)

Needs matplotlib and the numpy that comes with it. What goes wrong is one line and exit code 1.
Docs: docs/12-sweeps.md, docs/20-zoo.md, docs/11-outliers.md, docs/26-search.md"""
import glob
import json
import math
import os
import statistics
import sys

try:
    import matplotlib
    import numpy as np
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
except ImportError:
    sys.exit("matplotlib is missing: apt install python3-matplotlib, or python3 -m pip install "
             "matplotlib")

from whole_file import whole

# Made to be read at 800 pixels across, with pixels to spare. Blue and orange differ for every eye.
WIDTH, DPI = 8, 130
BLUE, ORANGE = "#0072B2", "#D55E00"
STYLE = {"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False,
         "axes.spines.right": False, "legend.frameon": False, "hatch.linewidth": 0.4}


def size_of(title):
    """In points, so that names of any length stay inside the picture."""
    return min(10, 10 * 95 / len(title))


def save(figure, path):
    """The picture appears under its name when it is whole."""
    with whole(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI, pil_kwargs={"optimize": True})
    plt.close(figure)


# ---- the matrix of a sweep ----

class Sweep:
    """A file of rotkv-sweep, finished or not; a torn last line counts as not written."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")[:-1]
        self.header, *rows = map(json.loads, lines)
        self.k, self.v, self.rot = (self.header[key] for key in ("k", "v", "rot"))
        self.cell = {(row["k"], row["v"], row["rot"]): row for row in rows
                     if row.get("kld") is not None}
        self.reason = {(row["k"], row["v"], row["rot"]): row["unsupported"] for row in rows
                       if "unsupported" in row}
        if not self.cell:
            raise ValueError("no cell is measured")

    def matrix(self, rot, figure):
        """[K][V], NaN where there is no figure."""
        return np.array([[figure(self.cell[k, v, rot]) if (k, v, rot) in self.cell else np.nan
                          for v in self.v] for k in self.k])

    def bits(self, row):
        return 8 * row["bytes_per_token"] / self.header["values_per_token"]

    def title(self):
        h = self.header
        return f"{h['model']}, {h['windows']} windows of {h['n_ctx']} tokens of {h['text']}"

    def base(self):
        logs = [math.log(row["ppl"]) - row["log_ratio"] for row in self.cell.values()
                if row["ppl"] is not None]
        ppl = f"{math.exp(logs[0]):.4g}" if logs and logs[0] < 709 else "not a number"
        return f"Base: K {self.header['base']['k']}, V {self.header['base']['v']}, PPL {ppl}"

    def front(self):
        """As pareto_front() of tools/sweep_report.h."""
        front = []
        for row in sorted(self.cell.values(), key=lambda r: (r["bytes_per_token"], r["kld"])):
            if "same_as" not in row and (not front or row["kld"] < front[-1]["kld"]):
                front.append(row)
        return front

    def uncertain(self, plain, rotated):
        """[K][V]: the KLDs differ by less than two standard errors, paired by windows."""
        def cell(k, v):
            a, b = (self.cell.get((k, v, rot)) for rot in (plain, rotated))
            if a is None or b is None or "same_as" in b or len(a["kld_windows"]) < 2:
                return True
            gaps = [y - x for x, y in zip(a["kld_windows"], b["kld_windows"])]
            return abs(statistics.fmean(gaps)) < 2 * statistics.stdev(gaps) / len(gaps) ** 0.5
        return np.array([[cell(k, v) for v in self.v] for k in self.k])


def three_digits(x):
    """1e+06, 134, 39.7, 5.13, 0.15, <.01"""
    if x >= 1e6:
        return f"{x:.0e}"
    if x < 0.01:
        return "<.01"
    return f"{x:.{max(0, min(2, 2 - math.floor(math.log10(x))))}f}"


def ratio_words(log):
    """exp(log), which may be more than a number holds: 1.023, e^812"""
    return f"{math.exp(log):.3f}" if abs(log) < 10 else f"e^{log:.0f}"


RATIOS = (1.001, 1.002, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 5, 10, 100, 1e3, 1e4)


def draw_panel(axes, sweep, title, values, colours, words):
    """One heat map: `values` choose the colours, words(i, j) stand in the cells."""
    colour_map, norm = colours
    axes.set_facecolor("#dddddd")
    axes.imshow(np.ma.masked_invalid(values), cmap=colour_map, norm=norm, aspect="auto")
    for i, j in np.ndindex(values.shape):
        known = not np.isnan(values[i, j])
        red, green, blue, _ = colour_map(norm(values[i, j])) if known else (1, 1, 1, 1)
        light = 0.2126 * red ** 2.2 + 0.7152 * green ** 2.2 + 0.0722 * blue ** 2.2 > 0.18
        axes.text(j, i, words(i, j) if known else "\u2013", ha="center", va="center",
                  color="black" if light else "white")
    axes.set_xticks(range(len(sweep.v)), sweep.v)
    axes.set_yticks(range(len(sweep.k)), sweep.k)
    axes.set(xlabel="type of V", ylabel="type of K")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_scale(axes, colours, ticks, words, label):
    colour_map, norm = colours
    bar = plt.colorbar(matplotlib.cm.ScalarMappable(norm, colour_map), cax=axes,
                       orientation="horizontal")
    bar.set_ticks(ticks, labels=[words(t) for t in ticks])
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    axes.set_title(label, loc="left")


def draw_sweep(sweep, path, what):
    """A panel for each rotation, one for the ratio of two, and beside them what they mean."""
    values = [sweep.matrix(rot, what["figure"]) for rot in sweep.rot]
    two = len(values) == 2
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = known.min(), max(known.max(), known.min() + 1e-9)
    colours = (plt.get_cmap("cividis"), what["norm"](low, high))
    height = -(-(len(values) + two + 1) // 2)
    figure = plt.figure(figsize=(WIDTH, 0.5 + 3.5 * height), layout="constrained")
    title = f"{what['name']}: {sweep.title()}"
    figure.suptitle(title, fontsize=size_of(title))
    grid = figure.add_gridspec(height, 2)
    places = iter([grid[i // 2, i % 2] for i in range(2 * height)])
    for rot, v in zip(sweep.rot, values):
        draw_panel(figure.add_subplot(next(places)), sweep, f"rotation {rot}", v, colours,
                   lambda i, j, v=v: what["words"](v[i, j]))
    legend = [what["legend"], sweep.base() + "."]
    scales = [(colours, what["ticks"](colours[1]), what["tick_words"], what["label"])]
    if two:
        with np.errstate(all="ignore"):
            ratio = what["ratio"](values[1], values[0])
        most = max(np.nanmax(np.abs(ratio), initial=0), 1e-3)
        ratio_colours = (plt.get_cmap("PuOr_r"), plt.Normalize(-most, most))
        brackets = what["uncertain"](*sweep.rot)

        def words(i, j):
            text = what["ratio_words"](ratio[i, j])
            return f"({text})" if brackets[i, j] else text
        draw_panel(figure.add_subplot(next(places)), sweep,
                   f"rotation {sweep.rot[1]} / {sweep.rot[0]}", ratio, ratio_colours, words)
        most_tick = math.log(max(r for r in RATIOS if math.log(r) <= most))
        scales.append((ratio_colours, (-most_tick, 0, most_tick), lambda t: f"{math.exp(t):.3g}",
                       f"{sweep.rot[1]} / {sweep.rot[0]}; above 1, rotation hurts"))
        legend.append(what["ratio_legend"])
    draw_legend(figure.add_subfigure(next(places)), scales, legend)
    save(figure, path)


def draw_legend(figure, scales, lines):
    for i, scale in enumerate(scales):
        draw_scale(figure.add_axes([0.12, 0.78 - 0.27 * i, 0.84, 0.07]), *scale)
    figure.text(0.12, 0.68 - 0.27 * (len(scales) - 1), "\n\n".join(filter(None, lines)), va="top",
                linespacing=1.4)


def draw_ppl(sweep, path):
    draw_sweep(sweep, path, {
        "name": "PPL / PPL of the base", "label": "PPL / PPL of the base",
        "figure": lambda row: row["log_ratio"],
        "norm": lambda low, high: matplotlib.colors.PowerNorm(0.5, low, high),
        "words": ratio_words, "tick_words": ratio_words,
        "ticks": lambda norm: norm.inverse(np.linspace(0, 1, 5)),
        "legend": "How much more surprised the model is\nby the text: 1.02 is 2 % more perplexity.",
        "ratio": lambda a, b: a - b, "ratio_words": ratio_words,
        "uncertain": lambda a, b: np.zeros((len(sweep.k), len(sweep.v)), bool),
        "ratio_legend": "PPL mixes luck into the answer:\nread the picture of the KLD beside it."})


def draw_kld(sweep, path):
    draw_sweep(sweep, path, {
        "name": "Mean KLD", "label": "mean KLD from the base, in 0.001 nats",
        "figure": lambda row: 1000 * row["kld"] if row["kld"] > 0 else np.nan,
        "norm": lambda low, high: matplotlib.colors.LogNorm(max(low, high / 3e3), high, clip=True),
        "words": three_digits, "tick_words": lambda x: f"{x:g}",
        "ticks": lambda norm: [10.0 ** e for e in range(-6, 6) if norm.vmin <= 10.0 ** e <= norm.vmax],
        "legend": "How far the predictions moved from the base's,\nin 0.001 nats.",
        "ratio": lambda a, b: np.log(a / b), "ratio_words": lambda log: f"{math.exp(log):.2f}",
        "uncertain": sweep.uncertain,
        "ratio_legend": "In brackets: less than two standard errors\n"
                        "(by windows) away from 1."})


# ---- the Pareto front ----

def place_labels(figure, axes, points):
    """Writes (x, y, text) beside their points, below the front, where nothing is written yet."""
    figure.canvas.draw()
    taken = []
    for x, y, text in points:
        for step in range(48):
            label = axes.annotate(text, (x, y), (-8 - 5 * (step // 12), -4 - 9 * (step % 12)),
                                  textcoords="offset points", ha="right", va="top",
                                  arrowprops={"arrowstyle": "-", "lw": 0.4, "shrinkB": 3,
                                              "relpos": (1, 0.5)})
            label.get_window_extent()  # moves it to its place
            box = matplotlib.text.Text.get_window_extent(label)  # without the line
            line = matplotlib.transforms.Bbox([(box.x1, box.y0), axes.transData.transform((x, y))])
            if axes.bbox.x0 < box.x0 and axes.bbox.y0 < box.y0 and not any(
                    new.overlaps(old) for new in (box, line) for old in taken):
                break
            label.remove()
        taken += [box, line]


def draw_pareto(sweep, path):
    figure, axes = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    looks = [("o", "none", BLUE), ("^", ORANGE, ORANGE), ("s", "none", "black"),
             ("D", "none", "#009E73")]
    for i, rot in enumerate(sweep.rot):
        marker, face, edge = looks[i % len(looks)]
        rows = [r for r in sweep.cell.values() if r["rot"] == rot and r["kld"] > 0]
        axes.scatter([sweep.bits(r) for r in rows], [r["kld"] for r in rows], 22, marker=marker,
                     facecolors=face, edgecolors=edge, linewidths=0.9, label=f"rotation {rot}",
                     zorder=3)
    front = [r for r in sweep.front() if r["kld"] > 0]
    axes.step([sweep.bits(r) for r in front], [r["kld"] for r in front], where="post",
              color="black", lw=0.8, label="Pareto front", zorder=2)
    axes.set(xscale="log", yscale="log", xlabel="bits per value of the cache, K and V together",
             ylabel="mean KLD from the base, nats")
    bits = sorted({sweep.bits(r) for r in sweep.cell.values()})
    ticks = [t for t in (4.5, 5, 5.5, 6, 6.5, 7, 8.5, 10, 12, 16, 24, 32) if bits[0] <= t <= bits[-1]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.grid(lw=0.3, color="#bbbbbb")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.25, high)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 5, high * 2.5)
    title = f"Error against bits: {sweep.title()}"
    axes.set_title(title, loc="left", fontsize=size_of(title))
    axes.legend(loc="upper right", ncols=len(sweep.rot) + 1)  # in the room above the points
    place_labels(figure, axes, [(sweep.bits(r), r["kld"], f"{r['k']} {r['v']} {r['rot']}")
                                for r in front])
    axes.text(0.01, 0.01, "labels: type of K, type of V, rotation", transform=axes.transAxes)
    save(figure, path)


# ---- rows of rotkv-outliers ----

EDGES = np.linspace(-40.05, 40.05, 802)  # in units of a head's rms; what lies outside counts in


def rotated(x, block):
    """H x, block by block of the last axis: butterflies, then 1 / sqrt(block)."""
    y = x.reshape(*x.shape[:-1], -1, block)
    size = 1
    while size < block:
        pairs = y.reshape(*y.shape[:-1], -1, 2, size)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([a + b, a - b], -2).reshape(y.shape)
        size *= 2
    return y.reshape(x.shape) / np.float32(math.sqrt(block))


class SideRows:
    """Histograms over all heads of a side, and the head with the loudest channel."""

    def __init__(self, folder, side, blocks):
        def layer_of(path):
            return int(os.path.basename(path).split(".")[0].removeprefix("layer"))
        files = sorted(glob.glob(os.path.join(glob.escape(folder), f"layer*.{side}.npy")),
                       key=layer_of)
        if not files:
            raise ValueError(f"no layer*.{side}.npy in it")
        self.before, self.after = (np.zeros(len(EDGES) - 1) for _ in range(2))
        self.ratio = 0
        blocks = blocks * len(files) if len(blocks) == 1 else blocks
        if len(blocks) != len(files):
            raise ValueError(f"{len(blocks)} blocks, expected one for each of {len(files)} files")
        for block, path in zip(blocks, files):
            layer = layer_of(path)
            x = np.load(path)
            y = rotated(x, block)
            rms = np.sqrt(np.mean(x ** 2, axis=(0, 2), keepdims=True))
            for counts, values in ((self.before, x), (self.after, y)):
                counts += np.histogram(np.clip(values / rms, -40, 40), EDGES)[0]
            for head in range(x.shape[1]):
                channels = np.sqrt(np.mean(x[:, head] ** 2, axis=0))
                ratio = channels.max() / np.median(channels)
                if ratio > self.ratio:
                    self.ratio, self.layer, self.head, self.channels = ratio, layer, head, channels
                    self.turned = np.sqrt(np.mean(y[:, head] ** 2, axis=0))


def draw_histogram(axes, name, rows):
    centre, width = (EDGES[1:] + EDGES[:-1]) / 2, EDGES[1] - EDGES[0]
    inside = np.nonzero(rows.before + rows.after)[0]
    for counts, colour, label, fill in ((rows.before, BLUE, "as it is", True),
                                        (rows.after, ORANGE, "rotated", False)):
        axes.stairs(counts / counts.sum() / width, EDGES, color=colour, label=label, fill=fill,
                    alpha=0.45 if fill else 1, lw=1.2)
    axes.plot(centre, np.exp(-centre ** 2 / 2) / math.sqrt(2 * math.pi), "k--", lw=0.8,
              label="Gaussian")
    lowest = 0.5 / rows.before.sum() / width
    most = max(abs(centre[inside[0]]), abs(centre[inside[-1]])) + 0.5
    axes.set(yscale="log", ylim=(lowest, 3), xlim=(-most, most),
             xlabel="value / rms of its head", ylabel="density")
    axes.set_title(f"{name}, all heads and layers", loc="left", fontweight="bold")
    axes.legend(loc="upper left", handlelength=1.2)


def draw_channels(axes, name, rows):
    x = np.arange(len(rows.channels))
    axes.vlines(x, 0, rows.channels, color=BLUE, lw=max(1, 200 / len(x)), alpha=0.45,
                label="as it is")
    axes.plot(x, rows.turned, ".", color=ORANGE, ms=4, label="rotated")
    axes.set(xlabel="channel", ylabel="rms over the text", ylim=(0, 1.25 * rows.channels.max()))
    axes.set_title(f"{name}, layer {rows.layer}, head {rows.head}, with the loudest channel:\n"
                   f"{rows.ratio:.1f} x the median", loc="left", fontweight="bold")
    axes.legend(loc="upper right", ncols=2, handlelength=1.2)


def draw_outliers(folder, path, blocks):
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6), layout="constrained")
    words = [" or ".join(map(str, sorted(set(of_side)))) for of_side in blocks]
    figure.suptitle("Keys and values on their way into the cache, "
                    f"rotated in blocks of {words[0]} (K) and {words[1]} (V)", fontsize=10)
    for column, (side, block) in enumerate(zip("kv", blocks)):
        rows = SideRows(folder, side, block)
        draw_histogram(axes[0, column], side.upper(), rows)
        draw_channels(axes[1, column], side.upper(), rows)
    save(figure, path)


def main(words):
    plt.rcParams.update(STYLE)
    if len(words) == 3 and words[0] == "sweep":
        sweep = Sweep(words[1])
        for name, draw in (("ppl", draw_ppl), ("kld", draw_kld), ("pareto", draw_pareto)):
            draw(sweep, f"{words[2]}-{name}.png")
    elif len(words) > 2 and words[0] == "formats":
        from plot_formats import draw_formats  # which draws with what stands above
        draw_formats(words[1:-1], words[-1])
    elif len(words) == 5 and words[0] == "outliers":
        blocks = [[int(block) for block in word.split(",")] for word in words[3:]]
        draw_outliers(words[1], f"{words[2]}-outliers.png", blocks)
    elif len(words) == 3 and words[0] == "search":
        from plot_search import draw_search  # likewise
        draw_search(words[1], words[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split()) if str(error) else type(error).__name__
        sys.exit(f"{' '.join(sys.argv[1:3])}: {text}")
