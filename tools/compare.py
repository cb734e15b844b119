#!/usr/bin/env python3
"""rotkv beside llama.cpp, on one model and one machine, in one run: the table of
docs/performance.md.

The programs take turns, A B A B, so that whatever else the machine does falls on both. Figures are
medians over the turns, ratios too: of the ratios of single turns. llama-bench and llama-perplexity
are taken from the PATH; without them the table says what was not compared."""
import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from whole_file import whole

BEGIN, END = "<!-- compare.py: begin -->", "<!-- compare.py: end -->"
ALONE = ("Rows about rotation, depth and our own f16 need no other program: nothing in llama.cpp "
         "stands beside them.")
MB = 1e6
ROOM = 300 * MB  # what perplexity may take beside the file and the cache


class Failed(Exception):
    pass


def say(line):
    print(f"compare.py: {line}", file=sys.stderr, flush=True)


def run(command):
    """Runs to the end; (what it printed, seconds from outside, peak resident bytes)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        text = out.read().decode(errors="replace")
        complaint = err.read().decode(errors="replace").strip().splitlines()[-1:]
    if process.returncode != 0:
        how = f"exit code {process.returncode}" if process.returncode > 0 else \
            f"signal {-process.returncode}"
        raise Failed(f"{os.path.basename(command[0])}: {how} {' '.join(complaint)}".strip())
    return text, wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Rotkv:
    """Our programs, with the settings of this run."""

    def __init__(self, asked):
        self.asked = asked
        self.common = ["-m", asked.model]

    def program(self, name):
        return os.path.join(self.asked.programs, "rotkv-" + name)

    def version(self):
        return run([self.program("bench"), "--version"])[0].strip()

    def perplexity(self, cache):
        """Tokens per second of the whole program, loading included; peak and allowed memory."""
        text, wall, peak = run(
            [self.program("perplexity"), *self.common, "-t", str(self.asked.threads), "-f",
             self.asked.file, "-c", str(self.asked.ctx), "--chunks", str(self.asked.chunks), "-ctk", cache, "-ctv", cache,
             "--json", "-"])
        found = json.loads(text)
        cells = max(found["n_batch"], found["n_ctx"])
        allowed = (os.path.getsize(self.asked.model) + ROOM +
                   cells * found["cache"]["bytes_per_token"])
        return {"rate": found["tokens"] / wall, "peak": peak, "allowed": allowed}

    def bench(self, cache, *flags, repetitions=1):
        threads = [] if "-t" in flags else ["-t", str(self.asked.threads)]
        text, _, _ = run([self.program("bench"), *self.common, *threads, "-ctk", cache, "-ctv",
                          cache, "-r", str(repetitions), "-o", "json", "--quiet", *flags])
        return json.loads(text)

    def test(self, cache, prompt, generated, depth, threads=None):
        found = self.bench(cache, "-p", str(prompt), "-n", str(generated), "-d", str(depth), "-t",
                           str(threads or self.asked.threads))
        row, machine = found["rows"][0], found["machine"]
        return {"rate": row["tokens_per_second"]["median"], "gbyte": row["gbyte_per_second"],
                "read": machine["read_gbyte_per_second"]}


class Llama:
    """llama.cpp's programs with what suits them best: flash attention, 2048 tokens in pieces of 512."""

    def __init__(self, asked):
        self.asked = asked
        self.common = ["-m", asked.model, "-b", "2048", "-ub", "512"]
        self.missing = {}  # program: why it cannot be run

    def program(self, name):
        found = shutil.which(name)
        if not found:
            raise Failed(f"no {name} on the PATH")
        return found

    def version(self):
        try:
            found = subprocess.run([self.program("llama-bench"), "--version"], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except Failed as failed:
            return str(failed)
        line = re.search(r"version: *(.*)", found.stdout)
        return "llama.cpp " + (line[1] if line else "of an unknown version")

    def perplexity(self, cache):
        text, wall, peak = run(
            [self.program("llama-perplexity"), *self.common, "-t", str(self.asked.threads), "-fa",
             "on", "-f", self.asked.file, "-c", str(self.asked.ctx), "--chunks",
             str(self.asked.chunks), "-ctk", cache, "-ctv", cache])
        windows = len(re.findall(r"\[\d+\]\d", text))
        return {"rate": windows * self.asked.ctx / wall, "peak": peak}

    def test(self, cache, prompt, generated, depth, threads=None):
        text, _, _ = run([self.program("llama-bench"), *self.common, "-t",
                          str(threads or self.asked.threads), "-fa", "1", "-p", str(prompt), "-n",
                          str(generated), "-d", str(depth), "-ctk", cache, "-ctv", cache, "-r",
                          "1", "-o", "json"])
        return {"rate": json.loads(text)[-1]["avg_ts"]}


class Turns:
    """What both sides measured, turn after turn: ours[name] and theirs[name] are lists."""

    def __init__(self):
        self.ours, self.theirs, self.refused = {}, {}, {}

    def take(self, name, ours, theirs=None):
        say(f"  {name}, rotkv")
        self.ours.setdefault(name, []).append(ours())
        if theirs is None or name in self.refused:
            return
        say(f"  {name}, llama.cpp")
        try:
            self.theirs.setdefault(name, []).append(theirs())
        except Failed as failed:
            self.refused[name] = str(failed)
            self.theirs.pop(name, None)


def measure(asked, rotkv, llama):
    turns = Turns()
    for turn in range(asked.rounds):
        say(f"round {turn + 1} of {asked.rounds}")
        for cache in ("f16", "q4_0"):
            turns.take(f"ppl {cache}", lambda: rotkv.perplexity(cache),
                       lambda: llama.perplexity(cache))
        prompt = (asked.prompt, 0, asked.depth)
        for cache in ("q4_0", "q8_0"):
            turns.take(f"pp {cache}", lambda: rotkv.test(cache, *prompt),
                       lambda: llama.test(cache, *prompt))
        turns.take("pp f16", lambda: rotkv.test("f16", *prompt))
        for depth in (0, asked.depth):
            turns.take(f"tg {depth}", lambda: rotkv.test("q8_0", 0, asked.generate, depth),
                       lambda: llama.test("q8_0", 0, asked.generate, depth))
    return turns


def measure_generation(asked, rotkv, llama):
    """Tokens one at a time, with one thread and with all that were asked for."""
    turns = Turns()
    for turn in range(asked.rounds):
        say(f"round {turn + 1} of {asked.rounds}")
        for threads in sorted({1, asked.threads}):
            for depth in (0, asked.depth):
                test = ("q8_0", 0, asked.generate, depth, threads)
                turns.take(f"tg {depth} -t {threads}", lambda: rotkv.test(*test),
                           lambda: llama.test(*test))
    return turns


def spread(values, digits=1):
    """The median, with the range where there is one."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) < 2:
        return middle
    return f"{middle} ({min(values):.{digits}f} .. {max(values):.{digits}f})"


def row(work, theirs, ours, ratios, target, good):
    """A line of the table; `good` says whether a ratio reaches the target."""
    if ratios is None:
        return f"| {work} | {theirs} | {ours} | not compared | {target} | |"
    met = "yes" if good(statistics.median(ratios)) else "**no**"
    return f"| {work} | {theirs} | {ours} | {spread(ratios, 3)} | {target} | {met} |"


def at_least(least):
    return f">= {least} x", lambda ratio: ratio >= least


def against_llama(turns, work, name, least, note=""):
    ours = [turn["rate"] for turn in turns.ours[name]]
    theirs = [turn["rate"] for turn in turns.theirs.get(name, [])]
    ratios = [a / b for a, b in zip(ours, theirs)] or None
    return row(work, spread(theirs) if theirs else "", spread(ours) + note, ratios,
               *at_least(least))


def against_ours(turns, work, name, base, least):
    ratios = [a["rate"] / b["rate"] for a, b in zip(turns.ours[name], turns.ours[base])]
    return row(work, "", spread([turn["rate"] for turn in turns.ours[name]]), ratios,
               *at_least(least))


def bandwidth(turns, name):
    gbyte = statistics.median(turn["gbyte"] for turn in turns.ours[name])
    read = statistics.median(turn["read"] for turn in turns.ours[name])
    return f"; {gbyte:.1f} GB/s where reading alone does {read:.1f}"


def rows_of_rates(asked, turns):
    pp, tg = f"pp{asked.prompt} @ d{asked.depth}", f"tg{asked.generate}"
    deep = f"tg {asked.depth}"
    return [
        against_llama(turns, "perplexity, f16 cache", "ppl f16", 2.2),
        against_llama(turns, "perplexity, q4_0 cache, rotated", "ppl q4_0", 3.5),
        against_ours(turns, "the same, beside our f16", "ppl q4_0", "ppl f16", 0.9),
        against_llama(turns, f"{pp}, q4_0", "pp q4_0", 6),
        against_llama(turns, f"{pp}, q8_0", "pp q8_0", 4),
        against_ours(turns, f"{pp}, q4_0, beside our f16", "pp q4_0", "pp f16", 0.85),
        against_ours(turns, f"{pp}, q8_0, beside our f16", "pp q8_0", "pp f16", 0.85),
        against_llama(turns, f"{tg}, q8_0", "tg 0", 1.3, bandwidth(turns, "tg 0")),
        against_llama(turns, f"{tg} @ d{asked.depth}, q8_0", deep, 1.8, bandwidth(turns, deep)),
    ]


def rows_of_generation(asked, turns):
    lines = []
    for threads in sorted({1, asked.threads}):
        for depth, least in ((0, 1.3), (asked.depth, 1.8)):
            name = f"tg {depth} -t {threads}"
            lines.append(against_llama(turns, f"tg{asked.generate} @ d{depth}, q8_0, -t {threads}",
                                       name, least, bandwidth(turns, name)))
    return lines


def rows_of_rotation(asked, rotkv):
    """On and off take turns inside one program; a per cent wants many."""
    say("rotation on and off")
    tests = rotkv.bench("q8_0", "-p", str(asked.prompt), "-n", str(asked.generate), "--rot",
                        "on,off", repetitions=max(15, asked.rounds))["rows"]
    lines = []
    for on, off, least in zip(tests[:2], tests[2:], (0.99, 0.98)):
        ratios = [b / a for a, b in zip(on["seconds"], off["seconds"])]
        rates = [(on["n_prompt"] + on["n_gen"]) / seconds for seconds in on["seconds"]]
        lines.append(row(f"{on['test']}, q8_0, rotation on beside off", "", spread(rates), ratios,
                         *at_least(least)))
    return lines


def row_of_memory(turns):
    peak = max(turn["peak"] for turn in turns.ours["ppl f16"])
    allowed = turns.ours["ppl f16"][0]["allowed"]
    theirs = [turn["peak"] for turn in turns.theirs.get("ppl f16", [])]
    return row("peak memory of perplexity, f16", f"{max(theirs) / MB:.0f} MB" if theirs else "",
               f"{peak / MB:.0f} MB", [peak / allowed], f"<= {allowed / MB:.0f} MB",
               lambda ratio: ratio <= 1)


def rows_of_depth(asked, rotkv):
    """Does a token cost the same more for every token in the cache? The slope of the seconds over
    the deeper half, beside that over the first half."""
    say("depths " + ", ".join(map(str, asked.depths)))
    tests = rotkv.bench("q8_0", "-p", str(asked.prompt), "-n", "16", "-d",
                        ",".join(map(str, asked.depths)), repetitions=asked.rounds)["rows"]
    depths, middle, lines = asked.depths, len(asked.depths) // 2, []
    for kind, of in (("tg", "n_gen"), ("pp", "n_prompt")):
        costs = [1 / test["tokens_per_second"]["median"] for test in tests if test[of] > 0]
        slopes = [(costs[b] - costs[a]) / (depths[b] - depths[a])
                  for a, b in ((0, middle), (middle, len(depths) - 1))]
        listed = ", ".join(f"{depth}: {1e3 * cost:.2f}" for depth, cost in zip(depths, costs))
        lines.append(row(f"ms per token of {kind} at depth, q8_0; deeper slope beside first slope",
                         "", listed, [slopes[1] / slopes[0]], "<= 1.25 x",
                         lambda ratio: 0 < ratio <= 1.25))
    return lines


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def rows_of_everything(asked, rotkv, turns):
    lines = rows_of_rates(asked, turns) + rows_of_rotation(asked, rotkv)
    return lines + [row_of_memory(turns)] + rows_of_depth(asked, rotkv)


def page(asked, rotkv, llama):
    load = os.getloadavg()[0]
    turns = (measure_generation if asked.generation else measure)(asked, rotkv, llama)
    lines = (rows_of_generation(asked, turns) if asked.generation else
             rows_of_everything(asked, rotkv, turns))
    model = os.path.basename(asked.model)
    threads = "-t as said" if asked.generation else f"-t {asked.threads}"
    read = "" if asked.generation else (
        f"{os.path.basename(asked.file)}, {asked.chunks} windows of {asked.ctx}; ")
    head = [
        f"{datetime.date.today()}, {processor()}, {os.cpu_count()} processors, "
        f"{platform.system()}; {threads} on both sides; load before the run {load:.1f}. "
        f"{rotkv.version()}; {llama.version()}. {model}; {read}{asked.rounds} rounds. "
        "Rates in tokens/s: median (min .. max).", ""]
    if load > 0.5:
        head += ["**The machine was not idle: believe the ratios before the rates, and neither "
                 "much.**", ""]
    reasons = [f"Not compared: {name}: {why}." for name, why in turns.refused.items()]
    alone = [] if asked.generation else [ALONE, ""]
    return "\n".join(
        head + ["| work | llama.cpp | rotkv | ratio | target | met |", "|---|---|---|---|---|---|"]
        + lines + [""] + reasons + alone)


def write_between(path, text):
    """Replaces what stands between the two markers; the page is whole at every moment."""
    with open(path) as file:
        before, rest = file.read().split(BEGIN)
    with whole(path) as partial, open(partial, "w") as file:
        file.write(before + BEGIN + "\n" + text + END + rest.split(END)[1])


def depths_of(text):
    depths = [count(part) for part in text.split(",")]
    if len(depths) < 3 or depths != sorted(set(depths)):
        raise argparse.ArgumentTypeError("expected at least three depths, growing")
    return depths


def count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found '{text}'")
    return int(text)


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--programs", required=True, metavar="DIR", help="the folder with rotkv-bench")
    add("-m", "--model", required=True, metavar="FILE")
    add("-f", "--file", metavar="FILE", help="text of the perplexity rows")
    add("-t", "--threads", type=count, default=os.cpu_count(), metavar="N")
    add("--rounds", type=count, default=3, metavar="N", help="turns of every pair (3)")
    add("--ctx", type=count, default=512, metavar="N")
    add("--chunks", type=count, default=4, metavar="N", help="windows of the text (4)")
    add("--prompt", type=count, default=512, metavar="N")
    add("--generate", type=count, default=64, metavar="N")
    add("--depth", type=count, default=2048, metavar="N")
    add("--depths", type=depths_of, default="512,1024,2048,4096,8192", metavar="N,...")
    add("--generation", action="store_true",
        help="only tokens one at a time, with one thread and with N; no --file is needed")
    add("--write", metavar="PAGE", help=f"put the table into PAGE, between {BEGIN} and {END}")
    asked = parser.parse_args()
    if not asked.file and not asked.generation:
        parser.error("--file: expected the text of the perplexity rows")
    if asked.write:
        try:
            with open(asked.write, "r+") as file:  # or it would be found out after the last round
                text = file.read()
        except OSError as error:
            parser.error(f"--write: {error}")
        if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
            parser.error(f"{asked.write}: expected {BEGIN} and then {END}, once each")
    return asked


def main():
    asked = parse()
    try:
        text = page(asked, Rotkv(asked), Llama(asked))
        if asked.write:
            write_between(asked.write, text)
    except (Failed, OSError) as failed:
        print(f"compare.py: error: {failed}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
