"""rotkv-judge on a fake engine: right without a fault, and each planted fault found and named by a
Python adapter, by lines of JSON and by llama-server's HTTP. All routes are timed together."""
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import rotkv
from rotkv.judge import engine as engines
from rotkv.judge import http_engine, report, trials, verdict
from rotkv.judge.ours import Ours
from rotkv.judge.rows import kld, rows_of

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import fake_engine  # noqa: E402

PROGRAMS = os.environ["ROTKV_PROGRAMS"]
JUDGE = os.path.dirname(trials.__file__)
CELLS, TOKENS, POSITIONS = 40, 28, 6
FLOOR = 1e-8
FULL = bool(os.environ.get("ROTKV_FULL"))
F16 = verdict.Config("f16", "f16", None, None)
Q4 = verdict.Config("q4_0", "q4_0", True, None)
PLAIN = verdict.Config("q4_0", "q4_0", False, None)
SIGNED = verdict.Config("q4_0", "q4_0", True, 3)
SERVER = ("{python} {here}/fake_server.py -m {{model}} -ctk {{k}} -ctv {{v}} -c {{context}} "
          "--port {{port}} --slot-save-path {{folder}} --signs {{signs}}").format(
              python=sys.executable, here=HERE).split()
ROUTES = {"adapter": lambda: engines.Program(engines.adapter_command("fake_engine:FakeEngine")),
          "lines": lambda: engines.Program([sys.executable, JUDGE + "/example_adapter.py"]),
          "http": lambda: http_engine.Server(SERVER)}
# Each fault: the trial that must name it.
PREDICTED = ("k-not-rotated", "q-not-rotated", "v-not-back", "v-back-by-k", "not-normalized",
             "row-sign", "strided-blocks", "signs-restarted", "signs-dropped", "scale-twice",
             "heads-modulo", "window-longer", "window-shorter", "self-unseen", "sinks-dropped")
SHIFTED = ("shift-rotated", "shift-dropped", "shift-backwards")
QUICK = {"adapter": PREDICTED[:4] + PREDICTED[7:8] + PREDICTED[9:10] + PREDICTED[11:12] + SHIFTED[:1],
         "lines": ("signs-restarted", "shift-rotated"), "http": ("k-not-rotated", "shift-rotated")}
SEEN_WITH_F16 = ("scale-twice", "heads-modulo", "window-longer", "window-shorter", "self-unseen",
                 "sinks-dropped")


class Remembered(Ours):
    """What was computed for one fault is not computed again for the next."""
    known = {}

    def predict(self, *question, **mistake):
        key = repr((question, mistake))
        if key not in self.known:
            self.known[key] = super().predict(*question, **mistake)
        return self.known[key]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("judged") / "judged.gguf")
    fake_engine.write_model(path)
    return Remembered(path, CELLS, threads=1)


@pytest.fixture(autouse=True)
def environment(monkeypatch, ours):
    paths = [HERE, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("FAKE_FAULT", raising=False)
    for name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
        monkeypatch.setenv(name, "1")


def judge(ours, route, configs, only):
    one = trials.Judge(ROUTES[route](), ours, rotkv.mistakes(), TOKENS, POSITIONS)
    if configs[0] is not F16:
        one.floor = FLOOR  # of this engine: it is not asked again for each fault
    try:
        return one, one.run(configs, only)
    finally:
        one.engine.close()


def told(results, verdict):
    return [one for one in results if one.verdict == verdict]


@pytest.mark.parametrize("route", ROUTES)
def test_an_engine_without_a_fault_is_right(ours, route):
    began = time.monotonic()
    one, results = judge(ours, route, [F16, Q4], ())
    assert not told(results, verdict.WRONG), results
    assert not told(results, verdict.UNTOLD), results
    expected = {"tokens", "predictions", "one by one", "shift", "save and restore",
                "restore, switch flipped"}
    if route == "lines":  # the example is asked for less
        expected = {"predictions", "shift"}
    assert {result.trial for result in told(results, verdict.RIGHT)} == expected
    assert one.floor < FLOOR and report.status(results) == 0
    assert all(result.kld < 1e-6 for result in results if result.trial == "predictions")
    assert time.monotonic() - began < 300, "from the build to a verdict in five minutes"


def faults(route):
    return PREDICTED + SHIFTED if FULL else QUICK[route]


@pytest.mark.parametrize("route, fault", [(r, f) for r in ROUTES for f in faults(r)])
def test_a_planted_fault_is_found_and_named(ours, route, fault, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", fault)
    config = F16 if fault in SEEN_WITH_F16 else SIGNED if fault.startswith("signs") else Q4
    trial = "shift" if fault in SHIFTED else "predictions"
    one, results = judge(ours, route, [config], [trial])
    assert report.status(results) == 1
    wrong = told(results, verdict.WRONG)
    assert [result.nearest for result in wrong] == [fault]
    assert {result.trial for result in wrong} == {trial}
    words = report.markdown(one.identity, {}, "m", results, one.blind(), rotkv.mistakes())
    assert rotkv.mistakes()[fault] in words and report.FIXES[fault] in words
    assert wrong[0].smallest["tokens"] and "Smallest input" in words


@pytest.mark.parametrize("fault, trial, words", [
    ("switch-ignored", "predictions", "the other rotation"),
    ("tokens-without-bos", "tokens", "other tokens for 'Hello'"),
    ("one-by-one-late", "one by one", ""),
    ("restores-nothing", "save and restore", "nothing was restored"),
    ("restores-any", "restore, switch flipped", "rows of one are read"),
    ("dies-when-shifting", "shift", "SIGABRT"),
    ("not-a-number", "predictions", "not a number")])
def test_faults_around_the_cache(ours, fault, trial, words, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", fault)
    only = [trial.replace("save and ", "").replace("restore, switch flipped", "switch"), "predictions"]
    _, results = judge(ours, "adapter", [PLAIN if fault == "switch-ignored" else Q4], only)
    wrong = told(results, verdict.WRONG)
    assert wrong and {result.trial for result in wrong} == {trial}
    assert all(words in result.why + result.nearest for result in wrong)


def test_the_smallest_input_is_smallest(ours, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", "window-longer")
    _, results = judge(ours, "adapter", [F16], ["predictions"])
    length = len(told(results, verdict.WRONG)[0].smallest["tokens"])
    assert 16 < length < 24  # of windows of 16


def test_rows_that_are_none(ours):
    good = np.log(np.full(4, 0.25))
    np.testing.assert_array_equal(rows_of([good.tolist()], 4), [good])
    part = rows_of([{"1": good[1], "3": good[3]}], 4)
    assert np.isnan(part[0]).tolist() == [True, False, True, False]
    assert abs(kld(good[None], part)) < 1e-12
    other = np.log([0.1, 0.4, 0.2, 0.3])
    assert 0 < kld(good[None], rows_of([dict(enumerate(other[:2]))], 4)) < kld(good[None], other[None])
    for bad in [[good.tolist()[:3]], [[float("nan")] * 4], [[0.0] * 4], [{"0": 0.5}]]:
        with pytest.raises(ValueError):
            rows_of(bad, 4)


def run_judge(*flags):
    done = subprocess.run([os.path.join(PROGRAMS, "rotkv-judge"), *flags], capture_output=True,
                          text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_program(ours, tmp_path, monkeypatch):
    flags = ["-m", ours.path, "--engine", "fake_engine:FakeEngine", "-c", str(CELLS), "--tokens",
             str(TOKENS), "--positions", str(POSITIONS), "--caches", "q4_0", "--rotation", "on",
             "--trials", "predictions", "-t", "1"]
    code, out, _ = run_judge(*flags, "--json", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert (code, found["status"]) == (0, 0) and "**right**: 2 right, 0 wrong" in out
    monkeypatch.setenv("FAKE_FAULT", "v-not-back")
    code, out, _ = run_judge(*flags, "--json", "-")
    found = json.loads(out)
    assert (code, found["status"]) == (1, 1)
    assert [one["nearest"] for one in found["results"]] == ["as asked", "v-not-back"]
    for bad in ["--caches", "q3_9"], ["--trials", "none"], ["--tokens", "999"], ["--json", ours.path], []:
        code, out, err = run_judge(*(flags + bad if bad else flags[:2]))
        assert code == 2 and err.startswith("rotkv-judge: error: ") and err.count("\n") == 1, err
    code, out, err = run_judge(*["-m", str(tmp_path / "none.gguf"), *flags[2:]])
    assert code == 1 and "none.gguf" in err and err.count("\n") == 1


def test_an_engine_that_is_none(ours, tmp_path):
    for command, words in ([str(tmp_path / "none")], "No such file"), (["true"], "died (status 0)"), (
            [sys.executable, "-c", "input(); print(1); input()"], "expected a JSON object"), (
            [sys.executable, "-c", "import time; input(); time.sleep(60)"], "no answer in"):
        one = trials.Judge(engines.Program(command, seconds=0.5), ours, {}, TOKENS, POSITIONS)
        results = one.run([F16])
        assert report.status(results) == 1 and words in results[0].why, results
        assert "nothing was judged" in report.verdict([]) and report.status([]) == 1
