"""rotkv-judge on a fake engine: right without a fault, and each planted fault found and named by a
Python adapter, by lines of JSON and by llama-server's HTTP, as docs/29-judge.md says. All routes are
timed together."""
import argparse
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.error

import numpy as np
import pytest

import rotkv
from rotkv.judge import engine as engines
from rotkv import whole_file
from rotkv.judge import __main__ as program
from rotkv.judge import http_engine, report, survey, trials, verdict
from rotkv.judge.ours import ASKED, OF_SHIFTS, Ours
from rotkv.judge.rows import kld, rows_of

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import fake_engine  # noqa: E402
import fault_routes  # noqa: E402
import random_models  # noqa: E402
from fault_routes import CELLS, F16, FLOOR, JUDGED, POSITIONS, Q4, ROUTES, TOKENS, Kit  # noqa: E402

PROGRAMS = os.environ["ROTKV_PROGRAMS"]
FULL = bool(os.environ.get("ROTKV_FULL"))
PLAIN = verdict.Config("q4_0", "q4_0", False, None)
QUICK = {"Python": ("k-not-rotated", "q-not-rotated", "v-not-back", "v-back-by-k", "signs-restarted",
                    "scale-twice", "window-longer", "shift-rotated"),
         "lines of JSON": ("signs-restarted", "shift-rotated"),
         "HTTP": ("k-not-rotated", "shift-rotated"), "kit's files": ("v-back-by-k", "window-shorter")}
with open(os.path.join(HERE, "../docs/29-judge.md"), encoding="utf-8") as file:
    PAGE = file.read()


def stated(fault):
    """{route: cell} of the page's table."""
    head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]]
                   for line in re.findall(r"^\| .*\|$", PAGE.split("## Every fault")[1], re.M)]
    return dict(zip(head, dict((row[0], row) for row in rows)[fault]))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("judged") / "judged.gguf")
    fake_engine.write_model(path)
    return Ours(path, CELLS, threads=1)


@pytest.fixture(autouse=True)
def environment(monkeypatch, ours):
    whole = dict(os.environ)
    fault_routes.set_environment(whole)
    for name, value in whole.items():
        monkeypatch.setenv(name, value)


def told(results, verdict):
    return [one for one in results if one.verdict == verdict]


@pytest.mark.parametrize("route", ROUTES)
def test_an_engine_without_a_fault_is_right(ours, route):
    began = time.monotonic()
    one, results = fault_routes.judged(ours, route, [F16, Q4], ())
    assert not told(results, verdict.WRONG), results
    assert not told(results, verdict.UNTOLD), results
    expected = {"tokens", "predictions", "one by one", "shift", "save and restore",
                "restore, switch flipped"}
    if route == "lines of JSON":  # the example is asked for less
        expected = {"predictions", "shift"}
    assert {result.trial for result in told(results, verdict.RIGHT)} == expected
    assert one.floor < FLOOR and report.status(results) == 0
    assert all(result.kld < 1e-6 for result in results if result.trial == "predictions")
    assert time.monotonic() - began < 300, "from the build to a verdict in five minutes"


def planted(routes):
    return [(route, fault) for route in routes for fault in (JUDGED if FULL else QUICK[route])]


@pytest.mark.parametrize("route, fault", planted(ROUTES))
def test_a_planted_fault_is_found_and_named(ours, route, fault, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", fault)
    one, results = fault_routes.judged_with(ours, route, fault)
    assert report.status(results) == 1
    wrong = told(results, verdict.WRONG)
    assert [result.nearest for result in wrong] == [fault]
    assert [result.trial for result in wrong] == ["shift" if fault in OF_SHIFTS else "predictions"]
    assert fault_routes.cell_of_judge(results, fault) == stated(fault)[route]
    words = report.Report(one.identity, {}, "m", results, one.blind()).markdown(rotkv.mistakes())
    assert rotkv.mistakes()[fault] in words and report.FIXES[fault] in words
    assert wrong[0].smallest["tokens"] and "Smallest input" in words


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return Kit(PROGRAMS, str(tmp_path_factory.mktemp("kit") / "cases"))


@pytest.mark.parametrize("route, fault", planted(["kit's files"]))
def test_the_kit_names_it_too(kit, route, fault):
    found = Kit.cell(kit.checked(fault), fault)
    assert re.match(r"(\d+) of the \1\b", found) and found == stated(fault)[route]


def test_nobody_names_what_is_right(kit):
    said = kit.checked()
    assert " 0 FAIL, 0 without results" in said
    assert Kit.cell(said, "v-not-back") == "NOT NAMED"
    assert fault_routes.cell_of_judge([verdict.Result("predictions", verdict=verdict.RIGHT)], "") == "NOT NAMED"


@pytest.mark.parametrize("fault, trial, words", [
    ("switch-ignored", "predictions", "the other rotation"),
    ("tokens-without-bos", "tokens", "other tokens for 'Hello'"),
    ("one-by-one-late", "one by one", ""),
    ("restores-nothing", "save and restore", "nothing was restored"),
    ("restores-any", "restore, switch flipped", "rows of one are read"),
    ("dies-when-shifting", "shift", "SIGABRT"),
    ("not-a-number", "predictions", "not a number"),
    ("restores-one-row", "restore, switch flipped", "1 rows, expected 8"),
    ("restores-nan", "restore, switch flipped", "not a number")])
def test_faults_around_the_cache(ours, fault, trial, words, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", fault)
    only = [trial.replace("save and ", "").replace("restore, switch flipped", "switch"), "predictions"]
    _, results = fault_routes.judged(ours, "Python", [PLAIN if fault == "switch-ignored" else Q4], only)
    wrong = told(results, verdict.WRONG)
    assert wrong and {result.trial for result in wrong} == {trial}
    assert all(words in result.why + result.nearest for result in wrong)


def test_what_is_no_refusal(ours, monkeypatch):
    """Restored under the other switch, an engine's own words are a refusal; what is no answer is not."""
    for raised, expected in ((engines.Refused("of another rotation"), verdict.RIGHT),
                             (engines.Failed("expected a JSON object"), verdict.WRONG),
                             (engines.Unsupported("reads it again"), verdict.NOT_ASKED)):
        one = trials.Judge(ROUTES["Python"](), ours, {}, TOKENS, POSITIONS)
        one.floor = FLOOR

        def restore(*_):
            raise raised

        monkeypatch.setattr(one.engine, "restore", restore)
        result, = one.run([Q4], ["switch"])
        assert (result.verdict, str(raised) in result.why) == (expected, True), result


@pytest.mark.parametrize("raised, said", [
    (ValueError("of another rotation"), ("error", "ValueError: of another rotation")),
    (engines.Refused("400: no room"), ("error", "400: no room")),
    (engines.Failed("500: a bug"), ("failed", "500: a bug")),
    *((kind("x"), ("failed", f"{kind.__name__}: ")) for kind in (
        TypeError, AttributeError, NameError, UnboundLocalError, ModuleNotFoundError, KeyError, IndexError)),
    (engines.Unsupported("never"), ("unsupported", "never"))])
def test_an_adapters_own_mistake_is_no_refusal(raised, said):
    class Adapter(engines.Engine):
        def restore(self, file, tokens, next):
            raise raised

    (kind, words), = engines.answer(Adapter(), {"do": "restore", "file": "", "tokens": [], "next": []}).items()
    assert kind == said[0] and words.startswith(said[1])
    assert "failed" in engines.answer(Adapter(), {"do": "restore", "path": ""})  # not its parameter


def test_what_a_server_refuses_and_what_breaks_it():
    for code, body, kind in ((400, b'{"error": {"message": "Unable to restore slot"}}', engines.Refused),
                             (400, b"", engines.Failed), (500, b'{"error": {"message": "x"}}', engines.Failed),
                             (503, b"busy", engines.Failed), (501, b"no slots", engines.Unsupported)):
        error = urllib.error.HTTPError("http://x", code, "", None, io.BytesIO(body))
        assert type(http_engine.Http.refusal(error)) is kind, (code, body)


@pytest.mark.parametrize("route", ["Python", "HTTP"])
def test_an_engine_that_breaks_over_a_file_is_wrong(ours, route, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", "breaks-when-restoring")
    _, results = fault_routes.judged(ours, route, [Q4], ["switch"])
    assert [(one.trial, one.verdict) for one in results] == [("restore, switch flipped", verdict.WRONG)]
    assert results[0].why == {"Python": "KeyError: 'no such part'", "HTTP": "500: 'no such part'"}[route]


def test_the_smallest_input_is_smallest(ours, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", "window-longer")
    _, results = fault_routes.judged(ours, "Python", [F16], ["predictions"])
    length = len(told(results, verdict.WRONG)[0].smallest["tokens"])
    assert 16 < length < 24  # of windows of 16


@pytest.mark.parametrize("off, expected", [(0.03, verdict.RIGHT), (0.08, verdict.UNTOLD),
                                           (0.16, verdict.WRONG)])
def test_what_other_rounding_may_be_is_not_called_wrong(off, expected):
    """A cache that costs 0.01 nats: right up to a quarter of it, wrong beyond twice as much."""
    rows = np.log([[0.5 + off, 0.5 - off]])  # 2 off^2 nats and a little from even odds
    found = verdict.judged(verdict.Result("predictions"), rows, {ASKED: np.log([[0.5, 0.5]])},
                           verdict.Scale(floor=1e-6, cost=0.01))
    assert found.verdict == expected and found.limit == pytest.approx(0.0025, rel=0.01)
    # A known mistake that is a third as far is named all the same.
    found = verdict.judged(verdict.Result("predictions"), rows, {
        ASKED: np.log([[0.5, 0.5]]), "v-not-back": np.log([[0.55, 0.45]])},
        verdict.Scale(floor=1e-6, cost=0.01))
    assert (found.verdict == verdict.WRONG) == (off > 0.07)


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


def test_what_ours_does_not_shift_is_not_judged(ours, monkeypatch, tmp_path):
    """States of recurrent layers: an engine may answer, but nothing stands beside it."""
    hybrid = Ours(random_models.write(str(tmp_path), "qwen3next"), CELLS, threads=1)
    tokens = hybrid.tokenize("a text")
    with pytest.raises(engines.Unsupported, match="rotkv does not shift this model: recurrent state"):
        hybrid.shift("k=f16,v=f16", tokens, 1, 2, tokens[:1])
    with pytest.raises(rotkv.Error, match="expected") as caught:  # a mistake of the judge's own
        ours.shift("k=f16,v=f16", tokens, 0, 1 << 29, tokens[:1])
    assert caught.value.code != "unsupported"
    monkeypatch.setattr(ours, "shift", hybrid.shift)
    _, results = fault_routes.judged(ours, "Python", [Q4], ["shift"])
    assert [(one.verdict, one.why[:14]) for one in results] == [(verdict.NOT_ASKED, "rotkv does not")]


def test_several_models_are_one_table():
    """Caches stand together where the same came of them; what a cell says is what the report says."""
    def made(found, rotation, kind="q4_0", **more):
        return verdict.Result("shift", kind, kind, rotation, found, **more)

    results = [made(verdict.RIGHT, "-", "f16"), made(verdict.WRONG, "on", kld=0.5, nearest="v-not-back"),
               made(verdict.WRONG, "on", "q8_0", kld=0.02, nearest="v-not-back"),
               made(verdict.WRONG, "off", why="the engine died (SIGABRT): ops.cpp:321: not implemented"),
               made(verdict.WRONG, "off", "q8_0", why="the engine died (SIGSEGV): without a word")]
    assert survey.outcome(results) == (
        "f16: right; q4_0 q8_0 rotated: WRONG: v-not-back (KLD 0.0200 .. 0.5000); "
        "q4_0 not rotated: SIGABRT: ops.cpp:321: not implemented; q8_0 not rotated: SIGSEGV")
    unexplained = made(verdict.WRONG, "on", kld=0.3, nearest="v-not-back", why="beyond 0.1, by none")
    assert survey.outcome([unexplained]) == "WRONG (KLD 0.3000)"
    assert survey.outcome(results[:1]) == "right" and survey.outcome([]) == "-"
    untold = [made(verdict.UNTOLD, "on", why="x"), made(verdict.NOT_ASKED, "off", why="no | way")]
    table = survey.markdown([report.Report({"name": "a"}, {"model": "x"}, "one.gguf", results, set()),
                             report.Report({"name": "a"}, {"model": "y"}, "two.gguf", untold, set())])
    assert "| one | f16: right; " in table and "not asked: no \\| way |" in table
    assert "2 models: 1 right, 4 wrong, 1 that cannot be told, 1 not asked" in table
    assert report.notes(results + untold + [made(verdict.UNTOLD, "off", "q8_0", why="x")]) == [
        "- shift with K q4_0, V q4_0, rotation on; with K q8_0, V q8_0, rotation off, cannot tell: x",
        "- shift with K q4_0, V q4_0, rotation off, not asked: no | way"]


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
    code, out, err = run_judge("-m", ours.path, *flags[1:], "--json", str(tmp_path / "both.json"))
    both = json.loads((tmp_path / "both.json").read_text())
    assert code == 1 and [one["results"] for one in both] == [found["results"]] * 2
    assert out.count("| judged | f16: right; q4_0 rotated: WRONG: v-not-back") == 2, out
    for bad in ["--caches", "q3_9"], ["--trials", "none"], ["--tokens", "999"], ["--json", ours.path], [
            "--engine-model", "a", "-m", ours.path, ours.path], []:
        code, out, err = run_judge(*(flags + bad if bad else flags[:2]))
        assert code == 2 and err.startswith("rotkv-judge: error: ") and err.count("\n") == 1, err
    code, out, err = run_judge(*["-m", str(tmp_path / "none.gguf"), *flags[2:]])
    assert (code, out) == (1, "") and "none.gguf" in err and err.count("\n") == 1


def test_what_was_judged_is_shown_before_an_end(ours, tmp_path, monkeypatch, capsys):
    """The second of two models is none, or Ctrl-C comes: the first one's report is there."""
    def judged(given, path, *_):
        if path != ours.path:
            raise raised
        result = verdict.Result("tokens", verdict=verdict.RIGHT)
        return report.Report({"name": "a"}, {"model": "x"}, "first.gguf", [result], set())

    monkeypatch.setattr(program, "judged", judged)
    second = str(tmp_path / "second.gguf")
    for raised, status in ((rotkv.Error("not a GGUF"), 1), (OSError("no room"), 1), (KeyboardInterrupt(), 130)):
        for more in [], ["--json", "-"]:
            monkeypatch.setattr(sys, "argv", ["rotkv-judge", "-m", ours.path, second, "--program", "x", *more])
            with pytest.raises(SystemExit) as ended:
                program.main()
            out, err = capsys.readouterr()
            assert ended.value.code == status and err.startswith("rotkv-judge: error: ")
            if more:
                assert [one["model"] for one in json.loads(out)] == ["first.gguf"]
            else:
                assert "| first | right |" in out and "1 model: 1 right" in out


def test_where_figures_can_be_written(ours, tmp_path, monkeypatch):
    """What is no file is asked itself, of a link what it leads to: whoever runs this."""
    real, links = tmp_path / "real", tmp_path / "links"
    real.mkdir(), links.mkdir()
    (links / "x.json").symlink_to(real / "x.json")
    reader, writer = os.pipe()
    locked = {os.path.realpath("/dev"), str(links), os.path.dirname(os.path.realpath(f"/dev/fd/{writer}"))}
    monkeypatch.setattr(program.os, "access", lambda path, _: str(path) not in locked)

    def check(path):
        program.check_output(argparse.Namespace(json=str(path), model=[ours.path]))

    for path in "/dev/null", f"/dev/fd/{writer}", links / "x.json", real / "y.json", "-":
        check(path)
    locked.add(str(real))
    for path, status in ((links / "x.json", 1), (real / "y.json", 1), (real, 1), ("", 1), (ours.path, 2)):
        with pytest.raises(SystemExit) as ended:
            check(path)
        assert ended.value.code == status, path
    with whole_file.whole(f"/dev/fd/{writer}") as name, open(name, "w") as file:
        file.write("x")
    assert os.read(reader, 9) == b"x"
    os.close(reader), os.close(writer)


def test_an_engine_that_is_none(ours, tmp_path):
    for command, words in ([str(tmp_path / "none")], "No such file"), (["true"], "died (status 0)"), (
            [sys.executable, "-c", "input(); print(1); input()"], "expected a JSON object"), (
            [sys.executable, "-c", "import time; input(); time.sleep(60)"], "no answer in"):
        one = trials.Judge(engines.Program(command, seconds=0.5), ours, {}, TOKENS, POSITIONS)
        results = one.run([F16])
        assert report.status(results) == 1 and words in results[0].why, results
        assert "nothing was judged" in report.verdict([]) and report.status([]) == 1
    for name, code, words in ("none", 2, "module:Class"), ("vllm", 1, "is not installed in"):
        if importlib.util.find_spec(name) is None:
            found = run_judge("-m", ours.path, "--engine", name)
            assert found[:2] == (code, "") and words in found[2] and found[2].count("\n") == 1, found
    for flags, words in (("--program", "x", "--python", "y"), "expected --engine"), (
            ("--engine", "xllamacpp", "--signs", "7"), "no random signs"), (
            ("--server", "x {model}", "--signs", "7"), "{signs}"):
        found = run_judge("-m", ours.path, *flags)
        assert found[:2] == (2, "") and words in found[2] and found[2].count("\n") == 1, found
