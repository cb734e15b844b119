"""Tables, JSON, CSV and a picture of a run's answers.

Docs: docs/31-tasks.md"""
import csv
import dataclasses
import json
import os

from .figures import LEVEL, RESAMPLES, TESTS, figures_of, what_can_be_seen
from .problems import needed
from ..whole_file import whole

ALL = "all tasks"


def percent(share):
    return f"{100 * share:.1f}"


def interval(pair):
    return f"{percent(pair[0])} .. {percent(pair[1])}"


def signed_interval(pair):
    return f"{100 * pair[0]:+.1f} .. {100 * pair[1]:+.1f}"


@dataclasses.dataclass
class Cell:
    """One model, task and cache."""
    model: str
    task: str
    cache: str
    bytes_per_token: int
    figures: object
    kld: tuple | None  # of the cache, whatever the task; and its standard error


class Report:
    """rows: {(model's number, cache): answers}; sizes: {the same: bytes per token}; klds likewise,
    or empty."""

    def __init__(self, plan, rows, sizes, klds):
        self.plan, self.klds = plan, klds
        self.models = [os.path.basename(path) for path in plan.asked.model]
        names = [task.name for task in plan.tasks]
        self.tasks = names + [ALL] * (len(names) > 1)
        self.cells = [self.cell(rows, sizes, number, task, cache)
                      for number in range(len(self.models)) for task in self.tasks
                      for cache in plan.caches]

    def cell(self, rows, sizes, number, task, cache):
        def of_task(name):
            return [row for row in rows[number, name] if task in (ALL, row["task"])]

        base = None if cache == self.plan.asked.base else of_task(self.plan.asked.base)
        return Cell(self.models[number], task, cache, sizes[number, cache],
                    figures_of(of_task(cache), base), self.klds.get((number, cache)))

    def of(self, model, task):
        return [one for one in self.cells if (one.model, one.task) == (model, task)]

    # For people.
    def text(self):
        parts = [self.table(model, task) for model in self.models for task in self.tasks]
        parts += [self.summary(model) for model in self.models] if len(self.tasks) > 1 else []
        return "\n".join(parts + self.orders())

    def table(self, model, task):
        cells = self.of(model, task)
        wide = max(len(one.cache) for one in cells)
        lines = [f"{model}, {task}", f"{'cache':{wide}}  {'score':>5}  {'Wilson':14}  "
                 f"{'bootstrap':14}  {'difference':>10}  {'interval':14}  {'+':>3} {'-':>3}  "
                 f"{'p':>6}  {'changed':>7}  {'tokens':>6}  {'no end':>6}"]
        for one in cells:
            of = one.figures
            line = (f"{one.cache:{wide}}  {percent(of.score):>5}  {interval(of.wilson):14}  "
                    f"{interval(of.bootstrap):14}  ")
            line += (f"{'base':>10}  {'':14}  {'':>3} {'':>3}  {'':>6}  {'':>7}  "
                     if of.difference is None else
                     f"{100 * of.difference:>+10.1f}  {signed_interval(of.difference_interval):14}"
                     f"  {of.better:>3} {of.worse:>3}  {of.p:>6.3f}  {of.changed:>7}  ")
            lines.append(line + f"{of.tokens:>6.1f}  {of.not_ended:>6}")
        others = [one.figures for one in cells if one.figures.difference is not None]
        lines.append(what_can_be_seen(cells[0].figures, others))
        return "\n".join(lines) + "\n"

    def order(self, model):
        """Caches by score over all tasks and by KLD, and Kendall's tau of the two; nothing where
        there is no order."""
        cells = [one for one in self.of(model, self.tasks[-1]) if one.kld is not None]
        if len({one.kld[0] for one in cells}) < 2 or len({one.figures.score for one in cells}) < 2:
            return None
        found = needed(TESTS, "an order").kendalltau([-one.kld[0] for one in cells],
                                                     [one.figures.score for one in cells])
        by_kld = sorted(cells, key=lambda one: one.kld[0])
        by_score = sorted(cells, key=lambda one: -one.figures.score)
        return {"tau": float(found.statistic), "p": float(found.pvalue),
                "by_kld": [[one.cache, *one.kld] for one in by_kld],
                "by_score": [[one.cache, one.figures.score] for one in by_score]}

    def summary(self, model):
        """A line a cache: the scores of every task, and the difference over all of them."""
        names = [task.partition(":")[0][:12] for task in self.tasks[:-1]]
        wide = max(len(cache) for cache in self.plan.caches)
        lines = [f"{model}: scores, %", f"{'cache':{wide}}  {'bytes':>6}  " +
                 "  ".join(f"{name:>{max(5, len(name))}}" for name in names) +
                 f"  {'all':>5}  {'difference, interval':>24}  {'p':>6}  {'changed':>7}"]
        for cache in self.plan.caches:
            *single, whole_of_it = [one for one in self.cells
                                    if (one.model, one.cache) == (model, cache)]
            of = whole_of_it.figures
            line = f"{cache:{wide}}  {whole_of_it.bytes_per_token:>6}  " + "  ".join(
                f"{percent(one.figures.score):>{max(5, len(name))}}"
                for one, name in zip(single, names)) + f"  {percent(of.score):>5}  "
            if of.difference is not None:
                line += (f"{100 * of.difference:>+7.1f}  "
                         f"{signed_interval(of.difference_interval):>15}  {of.p:>6.3f}  "
                         f"{of.changed:>7}")
            lines.append(line.rstrip())
        return "\n".join(lines) + "\n"

    def orders(self):
        """A table for each model of which KL divergences are known."""
        tables = []
        for model in self.models:
            order = self.order(model)
            if order is None:
                continue
            lines = [f"{model}, {self.tasks[-1]}: the order by KLD and the order by score, "
                     f"Kendall's tau {order['tau']:+.2f} (p {order['p']:.3f})"]
            wide = max(len(one[0]) for one in order["by_kld"])
            for (cache, kld, error), (other, score) in zip(order["by_kld"], order["by_score"]):
                lines.append(f"{cache:{wide}}  {kld:8.5f} +- {error:7.5f}   {other:{wide}}  "
                             f"{percent(score):>5}")
            tables.append("\n".join(lines) + "\n")
        return tables

    # For programs.
    def json(self, header, notices):
        """notices: {model: what was assumed of the file}."""
        orders = {model: self.order(model) for model in self.models} if self.klds else {}
        return json.dumps({**header, "notices": notices, "level": LEVEL, "resamples": RESAMPLES,
                           "cells": [self.record(one) for one in self.cells], "orders": orders},
                          indent=1) + "\n"

    @staticmethod
    def record(cell):
        return {"model": cell.model, "task": cell.task, "cache": cell.cache,
                "bytes_per_token": cell.bytes_per_token,
                "kld": cell.kld and cell.kld[0], "kld_error": cell.kld and cell.kld[1],
                **dataclasses.asdict(cell.figures)}

    def write_json(self, header, notices, path):
        with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.write(self.json(header, notices))

    def write_csv(self, path):
        records = []
        for cell in self.cells:
            record = self.record(cell)
            for name in ("wilson", "bootstrap", "difference_interval"):
                pair = record.pop(name) or (None, None)
                record[name + "_low"], record[name + "_high"] = pair
            records.append(record)
        with whole(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)

    def plot(self, path):
        """Score with its interval by bytes per token: a row a model, a column a task."""
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
        figure, axes = plt.subplots(len(self.models), len(self.tasks), squeeze=False, sharey=True,
                                    figsize=(2 + 1.9 * len(self.tasks), 2.6 * len(self.models)),
                                    layout="constrained")
        for row, model in zip(axes, self.models):
            row[0].set_ylabel(f"{model}\nscore, %", fontsize=7)
            for axis, task in zip(row, self.tasks):
                axis.set_title(task, fontsize=8)
                draw(axis, self.of(model, task))
        figure.supxlabel("bytes per token", fontsize=8)
        axes[0][0].legend(fontsize=6, loc="lower right")
        with whole(path) as partial:
            figure.savefig(partial, format="png", dpi=130)
        plt.close(figure)


def draw(axis, cells):
    """Blue and orange differ for every eye; so do the marks."""
    for rotated, colour, mark, label in ((True, "#0072B2", "o", "rotation as the cache says"),
                                         (False, "#D55E00", "x", "rot=off")):
        some = [one for one in cells if ("rot=off" not in one.cache) == rotated]
        if not some:
            continue
        scores = [100 * one.figures.score for one in some]
        low = [100 * max(0, one.figures.score - one.figures.wilson[0]) for one in some]
        high = [100 * max(0, one.figures.wilson[1] - one.figures.score) for one in some]
        at = [one.bytes_per_token * (1 if rotated else 1.03) for one in some]  # side by side
        axis.errorbar(at, scores, yerr=[low, high], fmt=mark, color=colour, markersize=4,
                      elinewidth=0.8, label=label)
    axis.set_xscale("log", base=2)
    axis.set_ylim(-2, 102)
    axis.minorticks_off()
    sizes = sorted({one.bytes_per_token for one in cells})
    axis.set_xticks(sizes, [f"{size}" for size in sizes], rotation=45)
    axis.tick_params(labelsize=6)
