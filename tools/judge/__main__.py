"""rotkv-judge: an engine with a rotated cache, held against rotkv end to end. Docs: docs/29-judge.md"""
import argparse
import json
import os
import shlex
import sys

import rotkv

from . import report, survey
from ..whole_file import fingerprint, whole
from .engine import BUILT_IN, Program, adapter_command, missing_package
from .http_engine import Http, Server
from .ours import Ours
from .trials import Judge
from .verdict import Config

EXAMPLES = """examples:
  rotkv-judge -m model.gguf --engine xllamacpp
  rotkv-judge -m model.gguf --program './my_engine --serve' --caches q8_0,q4_0:f16 --json found.json
  rotkv-judge -m model.gguf --server 'llama-server -m {model} -ctk {k} -ctv {v} -fa {flash} -c {context}
      --port {port} --slot-save-path {folder}/ --context-shift --swa-full -np 1'
  rotkv-judge -m model.gguf --url http://127.0.0.1:8080 --caches q4_0 --rotation on
  rotkv-judge -m models/*.gguf --engine xllamacpp --json found.json

exit status: 0 all that was judged is right, 1 something is wrong or nothing was judged, 2 usage"""


def end(status, words):
    print(f"rotkv-judge: error: {words}", file=sys.stderr)
    sys.exit(status)


def usage(words):
    end(2, words)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        usage(message)


def flags():
    parser = Parser(prog="rotkv-judge", description=__doc__.split(" Docs:")[0], epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("-m", "--model", required=True, nargs="+", metavar="GGUF",
                        help="what both run; of several, one table of models and trials is printed")
    parser.add_argument("--engine-model", metavar="PATH",
                        help="the same weights as the engine reads them, where that is no GGUF")
    engine = parser.add_mutually_exclusive_group(required=True)
    engine.add_argument("--engine", metavar="NAME",
                        help=f"{', '.join(BUILT_IN)}, module:Class or file.py:Class")
    parser.add_argument("--python", metavar="PATH",
                        help="of --engine, where it is installed elsewhere; with numpy")
    engine.add_argument("--program", metavar="COMMAND", help="asks in lines of JSON")
    engine.add_argument("--server", metavar="COMMAND",
                        help="a llama-server, started for each cache; {model} {k} {v} {context} "
                             "{port} {folder} {flash} {signs} are filled in")
    engine.add_argument("--url", metavar="URL", help="a llama-server that runs with one cache: "
                        "--caches and --rotation say which")
    parser.add_argument("--caches", default="q8_0,q4_0,q4_0:f16,f16:q4_0", metavar="TYPES",
                        help="K and V, or K:V; f16 comes before them (%(default)s)")
    parser.add_argument("--rotation", default="both", choices=["both", "on", "off"])
    parser.add_argument("--signs", type=int, metavar="SEED",
                        help="of random signs before H, where the engine has them")
    parser.add_argument("--trials", default="", metavar="LIST",
                        help="tokens, predictions, one by one, shift, restore, switch (all)")
    parser.add_argument("--tokens", type=int, default=80, help="of the text that is read (%(default)s)")
    parser.add_argument("--positions", type=int, default=20, help="of them judged (%(default)s)")
    parser.add_argument("-c", "--context", type=int, default=256, help="cells (%(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=0, help="of ours (all cores)")
    parser.add_argument("--seconds", type=float, default=600, help="for one answer (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="all figures; - for standard output, alone; "
                        "of several models a list, which grows as they are judged")
    parser.add_argument("--version", action="version", version=f"rotkv-judge {rotkv.__version__}")
    return parser.parse_args()


def configs_of(given):
    """The caches, f16 first: its predictions are the floor."""
    known = rotkv.formats(128)
    rotations = {"both": [True, False], "on": [True], "off": [False]}[given.rotation]
    all = [] if given.url else [Config("f16", "f16", None, None)]
    for words in given.caches.split(","):
        k, _, v = words.partition(":")
        for kind in (k, v or k):
            if kind not in known:
                usage(f"--caches: expected types such as q8_0, found '{kind}'")
        one = Config(k, v or k, True, given.signs)
        if not one.quantized():
            all.append(Config(k, v or k, None, None))
            continue
        all += [Config(k, v or k, rotation, given.signs) for rotation in rotations]
    return list({(one.k, one.v, one.rotation): one for one in all}.values())


def words_of(flag, command):
    """The parts of a command line."""
    try:
        parts = shlex.split(command)
    except ValueError as error:
        usage(f"{flag} {command}: {error}")
    if not parts:
        usage(f"{flag}: expected a command, found '{command}'")
    return parts


def check_engine(given):
    """What of the flags the engine would never see."""
    if given.python is not None and not given.engine:
        usage("--python says where an engine's package is, expected --engine")
    given.python = given.python or sys.executable
    if given.signs is None:
        return
    if given.engine in BUILT_IN:
        usage(f"--signs: {given.engine} has no random signs")
    if given.server is not None and "{signs}" not in given.server:
        usage("--signs: expected {signs} among the words of --server")


def engine_of(given, configs):
    if given.engine:
        if given.engine in BUILT_IN and missing_package(given.engine, given.python):
            end(1, f"--engine {given.engine}: is not installed in {given.python}: pip install "
                   f"{given.engine}, or --python PATH")
        if given.engine not in BUILT_IN and ":" not in given.engine:
            usage(f"--engine {given.engine}: expected {', '.join(BUILT_IN)}, module:Class or "
                  "file.py:Class")
        return Program(adapter_command(given.engine, given.python), given.seconds)
    if given.program is not None:
        return Program(words_of("--program", given.program), given.seconds)
    if given.server is not None:
        return Server(words_of("--server", given.server), given.seconds)
    if len(configs) != 1:
        usage("--url: expected one cache of --caches, and --rotation on or off")
    one = configs[0]
    return Http(given.url, {"k": one.k, "v": one.v, "rotation": one.rotation}, given.seconds)


def check_numbers(given):
    for name, least, most in (("tokens", 4, given.context - 1), ("positions", 2, given.tokens),
                              ("context", 16, 1 << 20), ("threads", 0, 1024)):
        value = getattr(given, name)
        if not least <= value <= most:
            usage(f"--{name}: expected {least} to {most}, found {value}")
    if len(given.model) > 1 and (given.url or given.engine_model):
        usage(f"{'--url' if given.url else '--engine-model'}: expected one model")


def check_output(given):
    """Before anything runs for minutes: that what was found can be written, and over no input."""
    if given.json in (None, "-"):
        return
    real = os.path.realpath(given.json)  # of a device it may be no path: /proc/7/fd/pipe:[9]
    device = os.path.exists(given.json) and not os.path.isfile(given.json)
    if os.path.isdir(real) or not os.access(given.json if device else os.path.dirname(real), os.W_OK):
        end(1, f"--json {given.json}: expected a file that can be written")
    if real in map(os.path.realpath, given.model):
        usage(f"--json {given.json}: is the model")


def trials_of(given):
    trials = [name.strip() for name in given.trials.split(",") if name.strip()]
    if set(trials) - set(Judge.TRIALS):
        usage(f"--trials: expected some of {', '.join(Judge.TRIALS)}, found '{given.trials}'")
    return trials


def judged(given, path, engine, configs, trials):
    """One model's report. Throws: rotkv.Error"""
    name = os.path.basename(path)
    said = f"{name}: " if len(given.model) > 1 else ""

    def progress(result):
        words = " ".join(filter(None, [result.trial, result.k, result.v, result.rotation]))
        print(f"{said}{words}: {result.verdict}", file=sys.stderr, flush=True)

    judge = Judge(engine, Ours(path, given.context, threads=given.threads), rotkv.mistakes(),
                  given.tokens, given.positions, progress, given.engine_model)
    try:
        judge.run(configs, trials)
    finally:
        engine.close()
    versions = {"judge": f"rotkv {rotkv.__version__}", "machine": report.machine(),
                "model": f"SHA-256 {fingerprint(path)[1]}"}
    return report.Report(judge.identity, versions, name, judge.results, judge.blind())


def write(given, reports):
    """What --json asks for, whole at every moment."""
    found = [one.as_json() for one in reports]
    words = json.dumps(found if len(given.model) > 1 else found[0], indent=1)
    if given.json == "-":
        print(words)
    else:
        with whole(given.json) as partial, open(partial, "w", encoding="utf-8") as file:
            file.write(words + "\n")


def show(given, reports):
    """The models that were judged, on standard output."""
    if not reports:
        return
    if given.json == "-":
        write(given, reports)
    elif len(given.model) == 1:
        print(reports[0].markdown(rotkv.mistakes()))
    else:
        print(survey.markdown(reports))


def main():
    given = flags()
    check_numbers(given)
    check_engine(given)
    check_output(given)
    configs, trials, reports = configs_of(given), trials_of(given), []
    engine, failure = engine_of(given, configs), None
    try:
        for path in given.model:
            reports.append(judged(given, path, engine, configs, trials))
            if given.json not in (None, "-"):
                write(given, reports)
    except (rotkv.Error, OSError) as error:
        failure = (2 if getattr(error, "code", "") == "usage" else 1, error)
    except KeyboardInterrupt:
        failure = (130, "interrupted")
    show(given, reports)  # an hour's models are not lost with the last
    if failure:
        end(*failure)
    sys.exit(max(one.status() for one in reports))


if __name__ == "__main__":
    main()
