"""The picture of rotkv-search, for plot.py. Docs: docs/26-search.md"""
import json
import os

from matplotlib import pyplot as plt

from plot import BLUE, ORANGE, WIDTH, save, size_of


def error_of(finalist):
    """JSON has null where one window has no error."""
    return finalist["kld_se"] or 0


def draw_search(path, to):
    """Measured KLD against bits: pairs and mixes, the choice of each budget, what was predicted."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    finalists = [f for f in found["finalists"] if f["kld"] is not None and f["kld"] > 0]
    if not finalists:
        raise ValueError("no finalist has a KLD above 0")
    figure, axes = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    for pair, marker, colour, name in ((True, "o", BLUE, "pair of types"),
                                       (False, "s", ORANGE, "mix of types")):
        kind = [f for f in finalists if f["pair"] == pair]
        if not kind:
            continue
        bits = [f["bits_per_value"] for f in kind]
        axes.errorbar(bits, [f["kld"] for f in kind], [error_of(f) for f in kind], fmt=marker,
                      ms=5, color=colour, lw=0.9, capsize=2, label=f"{name}, held out", zorder=3)
        axes.plot(bits, [f["predicted"] for f in kind], "x", color=colour, ms=5, lw=0.8,
                  label=f"{name}, predicted", zorder=2)
    chosen = [found["finalists"][b["choice"]] for b in found["budgets"] if b["choice"] is not None]
    chosen = [f for f in chosen if f in finalists]
    axes.plot([f["bits_per_value"] for f in chosen], [f["kld"] for f in chosen], "o", ms=12,
              mfc="none", mec="black", lw=0.8, label="choice of a budget", zorder=1)
    axes.set(yscale="log", xlabel="bits per value of the cache, K and V together",
             ylabel="mean KLD from an exact cache, nats")
    axes.grid(lw=0.3, color="#bbbbbb")
    title = (f"{os.path.basename(found['model'])}: {found['windows']['held_out']} windows of "
             f"{found['n_ctx']} tokens held out, errors by windows")
    axes.set_title(title, loc="left", fontsize=size_of(title))
    axes.legend()
    save(figure, to)
