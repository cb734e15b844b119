#!/usr/bin/env python3
"""Each known fault, planted in an engine that has no other, and who finds it: the kit's files, and the
judge by a Python adapter, by lines of JSON and by llama-server's HTTP. Prints the table of
docs/29-judge.md, with a clock for each way without a fault; exit status 1 where a fault is not named.

Usage: tests/fault_routes.py FOLDER_WITH_THE_PROGRAMS"""
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit(__doc__)
    sys.path.insert(0, os.path.join(os.path.abspath(sys.argv[1]), "python"))
sys.path.insert(0, HERE)

import fake_engine  # noqa: E402
import rotkv  # noqa: E402
from numpy_engine import MISTAKES  # noqa: E402
from rotkv.judge import engine as engines  # noqa: E402
from rotkv.judge import http_engine, report, trials, verdict  # noqa: E402
from rotkv.judge.ours import OF_SHIFTS, Ours  # noqa: E402

CASES = "path/k=q8_0/v=q8_0/"
CELLS, TOKENS, POSITIONS = 40, 28, 6
FLOOR = 1e-8  # nats: of the fake engine from ours with an f16 cache
F16 = verdict.Config("f16", "f16", None, None)
Q4 = verdict.Config("q4_0", "q4_0", True, None)
SIGNED = verdict.Config("q4_0", "q4_0", True, 3)
WITHOUT_CACHE = ("scale-twice", "heads-modulo", "window-longer", "window-shorter", "self-unseen",
                 "sinks-dropped")  # which f16 shows too
NOT_IN_MODEL = ("softcap-dropped",)  # gpt-oss has none
JUDGED = tuple(name for name in MISTAKES if name not in NOT_IN_MODEL)
SERVER = ("{python} {here}/fake_server.py -m {{model}} -ctk {{k}} -ctv {{v}} -c {{context}} "
          "--port {{port}} --slot-save-path {{folder}} --signs {{signs}}").format(
              python=sys.executable, here=HERE).split()
ROUTES = {
    "Python": lambda: engines.Program(engines.adapter_command("fake_engine:FakeEngine")),
    "lines of JSON": lambda: engines.Program(
        [sys.executable, os.path.join(os.path.dirname(trials.__file__), "example_adapter.py")]),
    "HTTP": lambda: http_engine.Server(SERVER)}


def set_environment(environment, fault=""):
    """What the fake engine's processes read."""
    paths = [HERE, os.path.dirname(os.path.dirname(rotkv.__file__)),
             *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    environment.update(FAKE_FAULT=fault, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


def judged(ours, route, configs, only):
    """(the judge, its results) of the fake engine with FAKE_FAULT of the environment."""
    one = trials.Judge(ROUTES[route](), ours, rotkv.mistakes(), TOKENS, POSITIONS)
    if configs[0] is not F16:
        one.floor = FLOOR  # it is not asked again for each fault
    try:
        return one, one.run(configs, only)
    finally:
        one.engine.close()


def judged_with(ours, route, fault):
    """The same, asked what shows this fault."""
    config = F16 if fault in WITHOUT_CACHE else SIGNED if fault.startswith("signs") else Q4
    return judged(ours, route, [config], ["shift" if fault in OF_SHIFTS else "predictions"])


def cell_of_judge(results, fault):
    """The trial that names the fault, and how far its predictions are from ours."""
    wrong = [one for one in results if one.verdict == verdict.WRONG]
    if not wrong or any(one.nearest != fault for one in wrong):
        return "NOT NAMED"
    return f"{wrong[0].trial}, {wrong[0].kld:.2g}"


class Kit:
    """Cases as files, answered by tests/numpy_engine.py."""

    def __init__(self, programs, folder):
        self.cases, self.folder = os.path.join(programs, "rotkv-cases"), folder
        subprocess.run([self.cases, "dump", folder, "--case", CASES], check=True,
                       capture_output=True)

    def checked(self, fault=None):
        """What `check` says of the engine with this fault."""
        flags = ["--mistake", fault] if fault else []
        subprocess.run([sys.executable, os.path.join(HERE, "numpy_engine.py"), self.folder, *flags],
                       check=True, capture_output=True)
        return subprocess.run([self.cases, "check", self.folder, "--quiet"], capture_output=True,
                              text=True).stdout

    @staticmethod
    def cell(said, fault):
        """How many of the results that fail the fault explains, and who else would."""
        likely = re.search(r"^likely: (.*): (\d+ of the \d+) results", said, re.M)
        names = re.findall(r"\[(.*?)\]", likely[1]) if likely else []
        if fault not in names:
            return "NOT NAMED"
        others = [name for name in names if name != fault]
        return likely[2] + "".join(f", or {name}" for name in others)


def row(ours, kit, fault):
    set_environment(os.environ, fault)
    cells = [Kit.cell(kit.checked(fault), fault)]
    for route in ROUTES:
        cells.append("-" if fault in NOT_IN_MODEL else
                     cell_of_judge(judged_with(ours, route, fault)[1], fault))
    return [fault, *cells]


def clocks(ours, programs, folder):
    """Seconds to a verdict on the engine without a fault, by each way."""
    set_environment(os.environ)
    begun = time.monotonic()
    said = Kit(programs, os.path.join(folder, "clock")).checked()
    assert " 0 FAIL, 0 without results" in said, said
    cells = [f"{time.monotonic() - begun:.0f} s"]
    for route in ROUTES:
        begun = time.monotonic()
        _, results = judged(ours, route, [F16, Q4], ())
        assert report.status(results) == 0, results
        cells.append(f"{time.monotonic() - begun:.0f} s")
    return ["none: right in", *cells]


def main():
    programs = os.path.abspath(sys.argv[1])
    lines = [["fault", "kit's files", *ROUTES]]
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "judged.gguf")
        fake_engine.write_model(model)
        kit, ours = Kit(programs, os.path.join(folder, "cases")), Ours(model, CELLS, threads=1)
        lines.append(clocks(Ours(model, CELLS, threads=1), programs, folder))
        for fault in MISTAKES:
            lines.append(row(ours, kit, fault))
            print(fault, file=sys.stderr, flush=True)
    table = [f"| {' | '.join(cells)} |" for cells in lines]
    print("\n".join([table[0], "|---" * (2 + len(ROUTES)) + "|", *table[1:]]))
    sys.exit(any("NOT NAMED" in line for line in lines))


if __name__ == "__main__":
    main()
