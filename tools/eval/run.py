"""A run: every model, every cache, every problem, every sample; and what is kept of it.

Docs: docs/31-tasks.md"""
import hashlib
import os
import re
import sys
import time

import rotkv

from .chat import ChatTemplate, prompt_tokens
from .draws import seed_of
from .problems import BadFile, Failed
from .streams import Request, Streams
from ..whole_file import fingerprint


def say(line):
    print(f"rotkv-eval: {line}", file=sys.stderr, flush=True)


class Progress:
    """What a run says while it runs: the attempts answered, and the time left."""

    def __init__(self, attempts, quiet):
        self.all, self.done, self.here = attempts, 0, 0
        self.start, self.quiet, self.bar = time.monotonic(), quiet, sys.stderr.isatty()

    def skip(self, attempts):
        self.done += attempts

    def answered(self, what):
        self.done, self.here = self.done + 1, self.here + 1
        if self.bar and not self.quiet:
            print(f"\r{self.line(what)}\033[K", end="", file=sys.stderr, flush=True)

    def finished(self, what):
        if self.quiet:
            return
        print("\r" if self.bar else "", end="", file=sys.stderr)
        say(self.line(what))

    def line(self, what):
        left = (time.monotonic() - self.start) / max(self.here, 1) * (self.all - self.done)
        return f"{self.done} of {self.all} answers, {left / 60:.1f} minutes left: {what}"


def read_kld_text(path):
    """The text that KL divergences are measured on, and its SHA-256."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode(), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        raise BadFile(f"--kld {path}: expected UTF-8, found byte {data[error.start]:#04x} at "
                      f"{error.start}") from None


class Plan:
    """What is asked: the settings of a run, as the command line gave them."""

    def __init__(self, asked, tasks):
        self.asked, self.tasks = asked, tasks
        self.caches = list(dict.fromkeys([asked.base, *asked.cache]))
        self.kld_text, self.kld_sha256 = read_kld_text(asked.kld) if asked.kld else (None, None)

    def header(self, backend):
        """All that answers depend on."""
        asked = self.asked
        return {"rotkv_eval": 1, "version": rotkv.__version__, "backend": str(backend),
                "models": [fingerprint(path) for path in asked.model],
                "tasks": [[task.name, task.sha256()] for task in self.tasks],
                "base": asked.base, "caches": self.caches, "samples": asked.samples,
                "temperature": asked.temp, "seed": asked.seed, "most": asked.predict,
                "ctx": asked.ctx, "keep": asked.keep, "streams": asked.streams,
                "group": asked.group, "template": asked.template_var, "today": asked.today}

    def attempts(self, task):
        """(problem, sample), group after group."""
        all_of_task = [(problem, sample) for problem in task.problems
                       for sample in range(self.asked.samples)]
        size = self.asked.group
        return [all_of_task[first:first + size] for first in range(0, len(all_of_task), size)]

    def groups(self):
        """(model, cache, task, number) in the order in which they are answered: all caches of a
        task after each other, so that a run that is stopped early compares what it has."""
        return [(model, cache, task, number) for model in self.asked.model for task in self.tasks
                for cache in self.caches for number in range(len(self.attempts(task)))]


class ModelRun:
    """One model's part: it is open as long as groups of it are asked for."""

    def __init__(self, plan, path, backend):
        self.plan, self.path = plan, path
        self.model, self.template, self.prompts = rotkv.Model(path, backend), None, {}

    def check(self):
        """What is refused before hours are spent: templates, prompts that are too long, caches.
        {cache: bytes per token}; says what was assumed of the file."""
        for line in self.model.notices.splitlines():
            say(f"{os.path.basename(self.path)}: {line}")
        for task in self.plan.tasks:
            room = self.cells(task)
            for problem in task.problems:
                if not 0 < len(self.prompt(problem)) <= room:
                    raise Failed(f"{task.name}, problem {problem.id}: a prompt of "
                                 f"{len(self.prompt(problem))} tokens, expected 1 to {room}")
        room = max(map(self.cells, self.plan.tasks))
        return {cache: bytes_per_token(self.model, cache, room) for cache in self.plan.caches}

    def require_quantized_reads(self, cache, task, rows):
        """Refuses a cache with tokens in f16 where no text was so long that anything of few bits was
        read. The rule is the cache's own: one with so many cells is not made."""
        prompts = {problem.id: len(self.prompt(problem)) for problem in task.problems}
        longest = max(self.cells(task) if row["shifts"] else
                      prompts[row["id"]] + row["tokens"] - (row["end"] != "end") for row in rows)
        self.model.cache(cache, cells=longest)

    def chat(self):
        if self.template is None:
            asked = self.plan.asked
            self.template = ChatTemplate(self.model, asked.template_var, asked.today)
        return self.template

    def prompt(self, problem):
        key = problem.task, problem.id
        if key not in self.prompts:
            self.prompts[key] = prompt_tokens(self.model, problem, self.chat)
        return self.prompts[key]

    def cells(self, task):
        """Of each stream: what the longest attempt of a task needs, or what was asked for."""
        asked = self.plan.asked
        most = max(len(self.prompt(one)) + (one.most or asked.predict) for one in task.problems)
        return min(most, asked.ctx) if asked.ctx else most

    def answer(self, cache, task, attempts, progress):
        asked = self.plan.asked
        requests = [Request(self.prompt(problem), problem.most or asked.predict,
                            tuple(stop.encode() for stop in problem.stop),
                            seed_of(asked.seed, task.name, problem.id, sample))
                    for problem, sample in attempts]
        streams = Streams(self.model, cache, min(asked.streams, len(requests)), self.cells(task),
                          asked.temp, asked.keep)
        what = f"{os.path.basename(self.path)}, {task.name}, {cache}"
        answers = streams.answer_all(requests, lambda _: progress.answered(what))
        return [row_of(problem, sample, answer)
                for (problem, sample), answer in zip(attempts, answers)]


def row_of(problem, sample, answer):
    text = answer.text.decode(errors="replace")
    return {"task": problem.task, "id": problem.id, "sample": sample, "text": text,
            "tokens": len(answer.tokens), "end": answer.end, "shifts": answer.shifts,
            "right": problem.is_right(text)}


def run_all(plan, file, backend):
    """Answers what `file` does not have yet. Rows of answers by (model's number, cache)."""
    groups = plan.groups()
    progress = Progress(sum(len(plan.attempts(task)[number]) for _, _, task, number in groups),
                        plan.asked.quiet)
    rows, run = {}, None
    for path, cache, task, number in groups:
        key = (plan.asked.model.index(path), cache, task.name, number)
        attempts = plan.attempts(task)[number]
        in_f16 = number + 1 == len(plan.attempts(task)) and re.search(r"\b(first|recent)=", cache)
        if (key not in file.groups or in_f16) and (run is None or run.path != path):
            run = ModelRun(plan, path, backend)
        if key in file.groups:
            progress.skip(len(attempts))
        else:
            file.add(key, run.answer(cache, task, attempts, progress))
            progress.finished(f"{os.path.basename(path)}, {task.name}, {cache}")
        rows.setdefault(key[:2], []).extend(file.groups[key])
        if in_f16:
            run.require_quantized_reads(cache, task, [
                row for row in rows[key[:2]] if row["task"] == task.name])
    return rows


def divergences(plan, file, backend):
    """{(model's number, cache): KLD from the base in nats, and its error}, of the text of --kld."""
    found = {}
    others = [cache for cache in plan.caches if cache != plan.asked.base]
    for number, path in enumerate(plan.asked.model):
        key = (number, "kld", plan.asked.kld_chunks, plan.kld_sha256)
        if key not in file.groups:
            figures = rotkv.Model(path, backend).kld(plan.kld_text, others, base=plan.asked.base,
                                                     chunks=plan.asked.kld_chunks)
            file.add(key, {cache: [one["kld"], one["kld_error"]]
                           for cache, one in figures.items()})
        found.update({(number, cache): tuple(pair) for cache, pair in file.groups[key].items()})
    return found


def bytes_per_token(model, cache, cells):
    """As the cache itself says it."""
    found = re.search(r"(\d+) bytes per token", str(model.cache(cache, cells=cells)))
    return int(found[1]) if found else 0  # of a model whose layers keep states alone
