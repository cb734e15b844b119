"""rotkv-eval: does a cache change answers? Tasks under several caches, paired, with intervals.

Docs: docs/31-tasks.md"""
import argparse
import json
import os
import statistics
import sys

import rotkv

from . import known_files, shipped, speed
from .answers_file import AnswersFile
from .chat import CUT, ChatTemplate, rendered
from .figures import TESTS
from .problems import BadFile, Failed, needed, read_task
from .published import published_table
from .report import Report
from .run import ModelRun, Plan, divergences, run_all, say

EXAMPLES = """examples:
  rotkv-eval run -m model.gguf --task needle --task addition --cache k=q4_0,v=q4_0
  rotkv-eval run -m model.gguf --task aime25.jsonl --cache k=q8_0 --samples 8 --temp 0.6 -n 8192
  rotkv-eval make needle:sentences=40 --problems 100 -o needle.jsonl
  rotkv-eval convert gsm8k test.jsonl -o gsm8k.jsonl
  rotkv-eval published --problems 30 --samples 8 f16=37.9 q4_0=21.7
  rotkv-eval speed -m model.gguf
"""


def whole(least, most=1 << 20):
    def parse(text):
        if not text.lstrip("-").isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected {least} .. {most}, found {text!r}")
        return int(text)
    return parse


def real(text):
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"expected 0 .. 100, found {text!r}")
    return number


def add_model(parser, many):
    add = parser.add_argument
    if many:
        add("-m", "--model", action="append", required=True, metavar="FILE", help="once a model")
    else:
        add("-m", "--model", required=True, metavar="FILE")
    add("-t", "--threads", type=whole(0, 1024), default=0, metavar="N", help="0: all cores")
    add("--backend", default="", metavar="NAME", help="else ROTKV_BACKEND or fast")


def add_seed(parser):
    parser.add_argument("--seed", type=whole(0, 1 << 62), default=0, metavar="S",
                        help="of problems that are made and of tokens that are drawn")
    parser.add_argument("--problems", type=whole(1), metavar="N",
                        help="of each task: made ones (50), the first of a file (all)")


def add_run(commands):
    parser = commands.add_parser("run", help="answers of every cache, and what they say",
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add_model(parser, many=True)
    add("--task", action="append", required=True, metavar="TASK",
        help=f"a .jsonl file, or one that is made: {', '.join(shipped.TASKS)}, with settings "
        "behind a colon; once a task")
    add("--base", default="k=f16,v=f16", metavar="CACHE", help="what the others are compared with")
    add("--cache", action="append", default=[], metavar="CACHE",
        help="k=TYPE,v=TYPE,rot=WHAT,..., as rotkv-kld --variant; once a cache")
    add("-n", "--predict", type=whole(1), default=256, metavar="N",
        help="tokens of an answer at most, where the problem does not say")
    add("-c", "--ctx", type=whole(0), default=0, metavar="N",
        help="cells of a stream; 0: what the longest attempt needs")
    add("--shift", action="store_true", help="a full stream is shifted; else its text ends there")
    add("--keep", type=whole(-1), default=-1, metavar="N",
        help="of --shift: tokens that stay; -1: the prompt")
    add("--samples", type=whole(1, 10_000), default=1, metavar="N", help="attempts at each problem")
    add("--temp", type=real, default=0.0, metavar="T", help="0: the likeliest token")
    add_seed(parser)
    add("--streams", type=whole(1, 4096), default=16, metavar="N", help="texts at once")
    add("--group", type=whole(1), default=256, metavar="N",
        help="attempts that are kept together: a run goes on behind the last whole group")
    add("--template-var", action="append", default=[], metavar="KEY=VALUE",
        help="for the chat template: reasoning_effort=low; JSON or a text")
    add("--today", default="2025-01-01", metavar="DATE", help="for templates that name one")
    add("--print-prompt", action="store_true", help="of each task the first, as text; no run")
    add("--out", metavar="FILE", help="answers, as JSON lines; a run that ended goes on there")
    add("--kld", metavar="TEXT", help="measure KL divergences too, on this text")
    add("--kld-chunks", type=whole(1), metavar="N", help="windows of 512 tokens of it (8)")
    add("--json", metavar="FILE", help="-: standard output, and nothing else there")
    add("--csv", metavar="FILE")
    add("--plot", metavar="FILE", help="a PNG: scores with intervals by bytes per token")
    add("--quiet", action="store_true", help="no word of progress")
    parser.set_defaults(body=run)


def add_others(commands):
    make = commands.add_parser("make", help="a file of problems, made from a seed")
    make.add_argument("task")
    add_seed(make)
    make.add_argument("-o", "--out", required=True, metavar="FILE")
    make.set_defaults(body=lambda asked: shipped.write_task(asked.task, asked.problems or 50,
                                                            asked.seed, asked.out))
    convert = commands.add_parser("convert", help="a published problem set as a file of ours")
    convert.add_argument("kind", choices=sorted(known_files.KNOWN))
    convert.add_argument("file")
    convert.add_argument("--seed", type=whole(0, 1 << 62), default=0, metavar="S",
                         help="of the order of choices")
    convert.add_argument("-o", "--out", required=True, metavar="FILE")
    convert.set_defaults(body=lambda asked: known_files.write_known(asked.kind, asked.file,
                                                                    asked.out, asked.seed))
    others = commands.add_parser("published", help="intervals of scores that had none")
    others.add_argument("score", nargs="+", metavar="NAME=PERCENT")
    others.add_argument("--problems", type=whole(1), required=True, metavar="N")
    others.add_argument("--samples", type=whole(1), default=1, metavar="N")
    others.set_defaults(body=lambda asked: print(published_table(asked.score, asked.problems,
                                                                 asked.samples)))
    timed = commands.add_parser("speed", help="tokens per second of many streams beside one",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_model(timed, many=False)
    timed.add_argument("--cache", default="k=q8_0,v=q8_0", metavar="CACHE")
    timed.add_argument("--streams", type=whole(1, 4096), nargs="+", default=[1, 4, 16], metavar="N")
    timed.add_argument("--prompt", type=whole(1), default=16, metavar="N", help="its tokens")
    timed.add_argument("-n", "--predict", type=whole(1), default=48, metavar="N")
    timed.add_argument("--rounds", type=whole(1, 1000), default=3, metavar="N")
    timed.set_defaults(body=measure_speed)


def measure_speed(asked):
    model = rotkv.Model(asked.model, rotkv.Backend(asked.backend, threads=asked.threads))
    rates, ratios = speed.speeds(model, asked.cache, asked.streams, asked.predict, asked.rounds,
                                 asked.prompt, say)
    for count, wall, processor in rates:
        print(f"{count:>4} streams  {wall:8.1f} tokens/s  {processor:8.1f} per processor second")
    for unit, of in zip(("tokens/s", "tokens per processor second"), ratios):
        print(f"{asked.streams[-1]} streams to {asked.streams[0]}, {unit}: "
              f"{statistics.median(of):.2f} (rounds {' '.join(f'{one:.2f}' for one in of)})")


def variables(words):
    found = {}
    for one in words:
        key, equals, value = one.partition("=")
        if not equals or not key.isidentifier():
            raise Failed(f"--template-var {one!r}: expected KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def tasks_of(asked):
    tasks = [read_task(words, asked.problems) if words.endswith(".jsonl") else
             shipped.made_task(words, asked.problems or 50, asked.seed) for words in asked.task]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise Failed("--task: expected every task once, found two of one name")
    return tasks


def check(asked):
    """What contradicts itself, before anything runs."""
    if asked.samples > 1 and asked.temp == 0:
        raise Failed("--samples: at --temp 0 all of a problem's are alike, expected 1")
    if asked.keep != -1 and not asked.shift:
        raise Failed("--keep says what stays at a shift, expected --shift")
    if asked.shift and not asked.ctx:
        raise Failed("--shift: expected -c, or no stream is ever full")
    asked.keep = asked.keep if asked.shift else None
    if asked.kld_chunks is not None and not asked.kld:
        raise Failed("--kld-chunks says how much of a text is read, expected --kld")
    asked.kld_chunks = asked.kld_chunks or 8
    if asked.print_prompt and any((asked.out, asked.json, asked.csv, asked.plot, asked.kld)):
        raise Failed("--print-prompt runs nothing, expected no --out, --json, --csv, --plot or --kld")
    if not asked.cache and not asked.print_prompt:
        raise Failed("--cache: expected at least one beside the base")
    inputs = [*asked.model, *(one for one in asked.task if one.endswith(".jsonl")), asked.kld]
    outputs = [path for path in (asked.out, asked.json, asked.csv, asked.plot)
               if path not in (None, "-")]
    paths = [os.path.realpath(path) for path in [*filter(None, inputs), *outputs]]
    if any(paths.count(os.path.realpath(path)) > 1 for path in outputs):
        raise Failed("a file that is written is named twice, or is one that is read")
    for flag, path in (("--kld", asked.kld), ("--out", asked.out), ("--json", asked.json),
                       ("--csv", asked.csv), ("--plot", asked.plot)):
        if path == "":
            raise Failed(f"{flag}: expected a file, found ''")
    if asked.kld and not os.path.exists(asked.kld):
        raise BadFile(f"--kld {asked.kld}: no such file")
    for path in outputs:
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise BadFile(f"{path}: no such folder")
        if os.path.isdir(path):
            raise BadFile(f"{path}: is a folder, expected a file")
    if asked.plot:
        needed("matplotlib", "--plot")
    if not asked.print_prompt:
        needed(TESTS, "a run")  # at its end, which may be hours away
    if len(set(asked.model)) < len(asked.model):
        raise Failed("-m: expected every model once")


def print_prompts(asked, tasks, backend):
    for path in asked.model:
        model = rotkv.Model(path, backend)
        for task in tasks:
            print(f"---- {os.path.basename(path)}, {task.name}, problem {task.problems[0].id}")
            text = rendered(task.problems[0],
                            lambda: ChatTemplate(model, asked.template_var, asked.today))
            print(text.replace(CUT, ""))


def run(asked):
    check(asked)
    asked.template_var = variables(asked.template_var)
    tasks = tasks_of(asked)
    backend = rotkv.Backend(asked.backend, threads=asked.threads)
    if asked.print_prompt:
        print_prompts(asked, tasks, backend)
        return
    plan = Plan(asked, tasks)
    sizes, notices = {}, {}
    for number, path in enumerate(asked.model):
        one = ModelRun(plan, path, backend)
        sizes.update({(number, cache): size for cache, size in one.check().items()})
        notices[os.path.basename(path)] = one.model.notices.splitlines()
    header = plan.header(backend)
    file = AnswersFile(asked.out, header)
    if file.torn:
        say(f"{asked.out}: {file.torn} bytes of a torn last line are dropped")
    rows = run_all(plan, file, backend)
    klds = divergences(plan, file, backend) if asked.kld else {}
    file.close()
    report = Report(plan, rows, sizes, klds)
    print(report.json(header, notices) if asked.json == "-" else report.text(), end="")
    if asked.json not in (None, "-"):
        report.write_json(header, notices, asked.json)
    if asked.csv:
        report.write_csv(asked.csv)
    if asked.plot:
        report.plot(asked.plot)


def main(arguments=None):
    """The exit code. arguments None: the command line's."""
    parser = argparse.ArgumentParser(prog="rotkv-eval", description=__doc__.split("\n")[0],
                                     epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=rotkv.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_run(commands)
    add_others(commands)
    asked = parser.parse_args(arguments)
    try:
        asked.body(asked)
    except KeyboardInterrupt:
        return 130
    except (Failed, rotkv.Error, OSError) as error:
        print(f"rotkv-eval: error: {error}", file=sys.stderr)
        if isinstance(error, rotkv.Error):
            return 2 if error.code == "usage" else 1
        return error.code if isinstance(error, Failed) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
