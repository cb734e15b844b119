"""rotkv-eval on tiny models: a run that was cut goes on to the same file, judges and figures against
cases worked out by hand."""
import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import rotkv

pytest.importorskip("jinja2")
stats = pytest.importorskip("scipy.stats")
from rotkv.eval import __main__ as program  # noqa: E402
from rotkv import whole_file  # noqa: E402
from rotkv.eval import figures, known_files, problems, published, shipped  # noqa: E402
from rotkv.eval.chat import ChatTemplate, prompt_tokens, with_bos  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import random_models  # noqa: E402
from gguf_file import STRING  # noqa: E402

PROGRAMS = os.environ["ROTKV_PROGRAMS"]
EVAL = os.path.join(PROGRAMS, "rotkv-eval")
EXACT, COARSE = "k=f32,v=f32", "k=q4_0,v=q4_0,rot=off"
TEMPLATE = ("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
            "{% if effort is defined %}effort {{ effort }}{% endif %}"
            "{% if add_generation_prompt %}[answer]{% endif %}")


def add_template(file):
    file.keys["tokenizer.chat_template"] = (STRING, TEMPLATE)


def spoil(file):
    """V is turned on its way into the cache, and nobody turns it back."""
    h = np.array([[(-1) ** bin(i & j).count("1") for j in range(64)] for i in range(64)]) / 8
    for name, tensor in file.tensors.items():
        if name.endswith("attn_v.weight"):
            rows = np.frombuffer(tensor.data, np.float32).reshape(-1, 64, tensor.extents[0])
            turned = np.einsum("ij,kje->kie", h, rows).astype(np.float32)
            file.tensors[name] = tensor._replace(data=turned.tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("eval")


@pytest.fixture(scope="module")
def path(folder):
    return random_models.write(str(folder), "smollm3", add_template)


@pytest.fixture(scope="module")
def model(path):
    return rotkv.Model(path, rotkv.Backend("ref"))


# ---- chats ----

def test_control_tokens_are_the_templates(model):
    template = ChatTemplate(model, {"effort": "low"})
    eos, bos = model.eos, model.bos
    sly = "a</s>b<s></s>"
    tokens = prompt_tokens(model, problems.problem_of(
        "t", {"id": 1, "messages": [{"role": "user", "content": sly}], "answer": "x",
              "check": "exact"}, "here"), lambda: template).tolist()
    assert tokens.count(eos) == 1 and tokens[0] == bos and tokens.count(bos) == 1
    text = model.detokenize(np.array(tokens, np.int32)).decode()
    assert text == f"<s>[user]{sly}</s>effort low[answer]"
    plain = problems.problem_of("t", {"id": 1, "prompt": "x</s>", "answer": "x",
                                      "check": "exact"}, "here")
    assert prompt_tokens(model, plain, None).tolist()[-1] == eos
    assert with_bos(model, [5]) == [bos, 5] and with_bos(model, [bos, 5]) == [bos, 5]


def test_a_file_without_a_template_needs_a_prompt(folder):
    bare = rotkv.Model(random_models.write(str(folder), "smollm3", stem="bare"))
    with pytest.raises(problems.Failed, match="chat_template.*a problem with messages needs it"):
        ChatTemplate(bare)


# ---- judges ----

@pytest.mark.parametrize("check, answer, text, right", [
    ("exact", "a b", " a b\n", True), ("exact", "a b", "a  b", False),
    ("contains", "Rome", "It is Rome.", True), ("contains", "Rome", "rome", False),
    ("regex", r"^\s*\d+$", " 42", True), ("regex", r"^\d+$", "4 2", False),
    ("number", "1200", "so 1,200", True), ("number", "1200", r"\boxed{1200} of 7", True),
    ("number", "42", "42.0", True), ("number", "42", "41 or 42 or 43", False),
    ("number", "-3", "x = -3.", True), ("number", "42", "none", False),
    ("choice", "B", "The answer is (B), not C.", True), ("choice", "B", "B) because A", True),
    ("choice", "A", "The answer is a bit hard: B", False), ("choice", "C", r"\boxed{\text{C}}", True),
    ("choice", "A", "A man walks", False),
    ("number", ".5", "The answer is 5", False), ("number", "0.5", ".5", True),
    ("number", "1000", "1e3", True), ("number", "-5", "\u22125", True), ("number", "5", "\u22125", False),
    ("number", "4", "3-4", True), ("number", "2", r"\boxed{\frac{1}{2}}", False),
    ("number", "16", r"\boxed{2^{16}}", False), ("number", "65536", r"\boxed{65536}", True),
    ("choice", "B", r"A? \boxed{B}", True), ("choice", "B", "I do not know", False),
    ("choice", "B", "the answer: C", False)])
def test_judges(check, answer, text, right):
    assert problems.judge(check, answer, text) is right


@pytest.mark.parametrize("change, says", [
    ({"check": "near"}, "expected check to be"), ({"prompt": None}, "prompt to be a text"),
    ({"messages": []}, "one of them"), ({"extra": 1}, "found extra"),
    ({"check": "number", "answer": "x"}, "a number as the answer"), ({"most": 0}, "above 0"),
    ({"check": "regex", "answer": "("}, "regex"), ({"answer": " "}, "not empty"),
    ({"check": "choice", "answer": "Z"}, "a letter"), ({"stop": "x"}, "a list of texts")])
def test_bad_problems_are_named(change, says):
    line = {"id": 1, "prompt": "p", "answer": "x", "check": "exact", **change}
    with pytest.raises(problems.Failed, match=f"line 3: .*{says}"):
        problems.problem_of("t", line, "line 3")


# ---- problems that are made, and those of others ----

@pytest.mark.parametrize("words", [*shipped.TASKS, "needle:sentences=3,depth=1", "lookup:pairs=2"])
def test_made_problems_can_be_solved_from_their_prompts(words):
    name = words.split(":")[0]
    for number, one in enumerate(shipped.made_task(words, 12, 5).problems):
        assert one.is_right(f" {one.answer}") and not one.is_right(" no")
        assert one == shipped.made_task(words, 40, 5).problems[number]
        last = one.prompt.splitlines()[-1]
        if name == "addition":
            a, b = last.rstrip(" =").split(" + ")
            assert int(a) + int(b) == int(one.answer)
        elif name == "brackets":
            opened = last.removeprefix("open: ").removesuffix(" close:").split()
            assert one.answer.split() == [shipped.PAIRS[each] for each in reversed(opened)]
        elif name == "copy":
            assert one.prompt.splitlines()[-2] == f"List: {one.answer}."
        else:
            key = last if name == "lookup" else last[last.rindex(" the ") + 1:] if \
                name == "needle" else last.rpartition("Again: the ")[2]
            assert one.prompt.count(f"{key} {one.answer}") == 1
    assert shipped.made_task(words, 1, 6).problems[0] != shipped.made_task(words, 1, 5).problems[0]


def test_depth_is_a_place():
    for depth, place in ("0", 0), ("0.5", 5), ("1", 10):
        one = shipped.made_task(f"lookup:pairs=11,depth={depth}", 1, 1).problems[0]
        assert one.prompt.splitlines()[place].startswith(one.prompt.splitlines()[-1])
    for words in "needle:depth=2", "copy:words=0", "copy:pairs=3", "song", "needle:sentences":
        with pytest.raises(problems.Failed):
            shipped.made_task(words, 1, 1)


def test_files_of_others(tmp_path):
    source, made = tmp_path / "source", str(tmp_path / "made.jsonl")
    source.write_text('{"question": "2 + 2?", "answer": "2 and 2 are <<2+2=4>>4\\n#### 1,004"}\n')
    known_files.write_known("gsm8k", str(source), made, 0)
    assert problems.read_task(made).problems[0].is_right(r"\boxed{1004}")
    source.write_text('[{"problem": "What?", "answer": 70}]')
    known_files.write_known("aime25", str(source), made, 0)
    assert problems.read_task(made).problems[0].is_right("it is 070")
    rows = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
    (tmp_path / "g.csv").write_text(rows + "Why?,yes,no,maybe,never\n" * 20)
    known_files.write_known("gpqa", str(tmp_path / "g.csv"), made, 0)
    task = problems.read_task(made)
    for one in task.problems:
        assert f"{one.answer}) yes\n" in one.messages[0]["content"] + "\n"
    assert {one.answer for one in task.problems} == set("ABCD")
    with pytest.raises(problems.Failed, match="row 1: expected the field problem or question"):
        known_files.write_known("aime25", str(tmp_path / "g.csv"), made, 0)


# ---- figures ----

def rows_of(rights, task="t", samples=1, text="x"):
    return [{"task": task, "id": str(i // samples), "sample": i % samples, "right": bool(right),
             "text": f"{text}{right}", "tokens": 3, "end": "stop"}
            for i, right in enumerate(rights)]


def test_figures_by_hand():
    for right, attempts in (76, 240), (0, 7), (5, 5):
        known = stats.binomtest(right, attempts).proportion_ci(method="wilson")
        assert figures.wilson(right / attempts, attempts) == pytest.approx(known)
    base, other = [1] * 9 + [0] * 11, [1] * 1 + [0] * 8 + [1] * 1 + [0] * 10
    found = figures.figures_of(rows_of(other), rows_of(base))
    assert (found.better, found.worse, found.changed) == (1, 8, 9)
    assert found.p == pytest.approx(2 * (1 + 9) / 2 ** 9) and found.difference == -7 / 20
    low, high = found.difference_interval
    assert -0.65 < low < -0.5 and -0.15 < high < -0.05
    same = figures.figures_of(rows_of(base), rows_of(base))
    assert same.p == 1 and same.difference == 0 and same.changed == 0
    assert same.difference_interval[1] == pytest.approx(1 - 0.025 ** (1 / 20))
    sure = figures.figures_of(rows_of([1] * 20))
    assert sure.bootstrap == sure.wilson and sure.bootstrap[0] < 0.9  # no point


def test_samples_of_a_problem_are_no_problems():
    alone = figures.figures_of(rows_of([1, 0] * 10))
    alike = figures.figures_of(rows_of([1] * 8 + [0] * 8 + [1] * 8 + [0] * 8, samples=8))
    assert alike.attempts == 32 and alike.problems == 4 and alike.score == 0.5
    width = [one.bootstrap[1] - one.bootstrap[0] for one in (alone, alike)]
    assert width[1] > 1.5 * width[0]  # 4 problems, not 32


def test_what_can_be_seen():
    wanted = 2.8016 * (0.2 / 100) ** 0.5
    assert figures.least_difference(100, 0.2) == pytest.approx(wanted, rel=1e-3)
    assert figures.least_difference(50, 0.0) == 6 / 50  # fewer on one side never reach p 0.05
    lines = published.published_table(["old=31.7", "new=37.1"], 30, 8).splitlines()
    assert "26.1 .. 37.8" in lines[1] and "+5.4" in lines[-1]
    low, high, p = published.difference(0.5, 0.5, 100)
    assert low == pytest.approx(-high) and p == 1


# ---- the program ----

def evaluate(*arguments, code=0):
    said, warned = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        assert program.main(arguments) == code, warned.getvalue()
    return said.getvalue() if code == 0 else warned.getvalue()


@pytest.fixture(scope="module")
def tasks(folder, model):
    """What the model itself says under an exact cache is right: 100 %."""
    names = []
    for name in "one", "two":
        names.append(str(folder / f"{name}.jsonl"))
        prompts = [f"the {name} {i} and" for i in range(10)]
        with open(names[-1], "w", encoding="ascii") as file:
            for i, prompt in enumerate(prompts):
                said = model.generate(with_i32(model, prompt), 6, EXACT)
                text = model.detokenize(said).decode(errors="replace")
                file.write(json.dumps({"id": i, "prompt": prompt, "answer": text or "-",
                                       "check": "exact", "most": 6}) + "\n")
    return names


def with_i32(model, text):
    return np.array(with_bos(model, model.tokenize(text, add_special=False).tolist()), np.int32)


def plan(path, tasks, *more):
    return ["run", "-m", path, "--backend", "ref", "--task", tasks[0], "--task", tasks[1], "--base",
            EXACT, "--cache", COARSE, "--cache", "k=f32,v=f32,rot=off", "--group", "4", "--streams",
            "3", *more]


def test_equal_caches_differ_in_no_answer_and_a_fault_is_the_floor(folder, path, tasks):
    stated = str(folder / "right.json")
    picture = ["--plot", stated + ".png"] if importlib.util.find_spec("matplotlib") else []
    (folder / "text").write_text("the words of a text and the numbers 1 2 3 4 5\n" * 40)
    said = evaluate(*plan(path, tasks, "--json", stated, "--csv", stated + ".csv", *picture,
                          "--kld", str(folder / "text"), "--kld-chunks", "1"))
    assert not picture or os.path.getsize(picture[1]) > 10_000
    with open(stated + ".csv", encoding="utf-8") as file:
        assert len(file.readlines()) == 1 + 3 * 3
    with open(stated, encoding="utf-8") as file:
        cells = {(c["task"], c["cache"]): c for c in json.load(file)["cells"]}
    assert cells["all tasks", EXACT]["score"] == 1
    equal = cells["all tasks", "k=f32,v=f32,rot=off"]
    assert equal["changed"] == 0 and equal["difference"] == 0 and equal["p"] == 1
    coarse = cells["all tasks", COARSE]
    assert coarse["score"] < 1 and coarse["attempts"] == 20
    single = "  ".join(f"{100 * cells[name, COARSE]['score']:5.1f}" for name in ("one", "two"))
    assert f"{COARSE}  {coarse['bytes_per_token']:>6}  {single}" in said
    assert said.count("Kendall's tau") == 1
    wrong = random_models.write(str(folder), "smollm3", spoil, stem="wrong")
    cells = json.loads(evaluate(*plan(wrong, tasks, "--json", "-")))["cells"]
    assert all(cell["score"] < 0.1 for cell in cells)


def test_a_cache_that_only_f16_is_read_of_has_no_score(folder, path, tasks, model):
    """Prompts and six tokens of answer at most: what covers them all is refused before anything is
    answered, what covers the answers that there were behind them, and again from their file."""
    out = str(folder / "f16.jsonl")
    ids = [json.loads(line)["prompt"] for line in open(tasks[0], encoding="ascii")]
    prompts = [len(with_i32(model, text)) for text in ids]
    run = lambda words, code, *more: evaluate(  # noqa: E731
        "run", "-m", path, "--backend", "ref", "--task", tasks[0], "--base", EXACT, "--cache",
        f"k=q4_0,v=q4_0,{words}", "-n", "6", *more, code=code)
    assert "nothing of few bits" in run(f"recent={max(prompts) + 6}", 1, "--out", out)
    assert not os.path.exists(out)
    assert "100.0" in run("recent=2", 0)
    for _ in range(2):
        assert "nothing of few bits" in run(f"recent={max(prompts) + 5}", 1, "--out", out)
        assert os.path.getsize(out) > 1000


def test_a_run_that_was_cut_goes_on_to_the_same_file(folder, path, tasks):
    out = str(folder / "answers.jsonl")
    drawn = plan(path, tasks, "--backend", "fast", "-t", "1", "--out", out, "--temp", "1",
                 "--samples", "2", "--seed", "3")

    def written():
        with open(out, "rb") as file:
            return file.read()

    def start_from(content):
        with open(out, "wb") as file:
            file.write(content)

    first = evaluate(*drawn, "--json", out + ".json")
    whole, lines = written(), written().splitlines(keepends=True)
    with open(out + ".json", encoding="utf-8") as file:
        changed = {(c["task"], c["cache"]): c["changed"] for c in json.load(file)["cells"]}
    assert changed["all tasks", COARSE] > 0 == changed["all tasks", "k=f32,v=f32,rot=off"]
    assert len(lines) == 1 + 3 * 2 * 5
    for cut in 0, 10, len(b"".join(lines[:4])) + 7, len(whole) - 1, len(whole):
        start_from(whole[:cut])
        assert evaluate(*drawn) == first and written() == whole
    assert "seed: the file has 3, this run 4" in evaluate(*drawn[:-1], "4", code=1)
    start_from(b"somebody's notes\nand more\n")
    assert "something else" in evaluate(*drawn, code=1) and written().startswith(b"somebody's")
    os.remove(out)
    with subprocess.Popen([EVAL, *drawn], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          env={**os.environ, "ROTKV_PYTHON": sys.executable}) as killed:
        while killed.poll() is None and not (os.path.exists(out) and written().count(b"\n") > 3):
            time.sleep(0.002)
        killed.send_signal(signal.SIGKILL)
    assert whole.startswith(written().rpartition(b"\n")[0])
    assert evaluate(*drawn) == first and written() == whole


@pytest.mark.parametrize("code, more, says", [
    (2, ["--samples", "2"], "at --temp 0"), (2, ["--keep", "3"], "expected --shift"),
    (2, ["--shift"], "expected -c"), (2, ["--cache", "k=q9"], "k=q9"), (1, ["--json", "/none/x"], "folder"),
    (2, ["--kld-chunks", "3"], "expected --kld"), (2, ["--print-prompt", "--csv", "x"], "--print-prompt"),
    (2, ["--template-var", "x"], "KEY=VALUE"), (2, ["-c", "3"], "problem 0: a prompt of"),
    (1, ["--task", "none.jsonl"], "none.jsonl")])
def test_what_contradicts_itself_is_one_line(path, tasks, code, more, says):
    said = evaluate(*plan(path, tasks, *more), code=code)
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize("name, part, more", [
    ("matplotlib", "matplotlib", ["--plot", "a.png"]), ("scipy", "scipy.stats", [])])
def test_a_library_that_a_run_ends_with_is_missing_before_it_begins(path, tasks, tmp_path, monkeypatch, name, part, more):
    monkeypatch.setitem(sys.modules, part, None)
    monkeypatch.chdir(tmp_path)
    arguments = plan(path, tasks, *more)
    said = evaluate(*arguments, code=1)
    assert f"needs the Python package {name}" in said and said.count("\n") == 1 and not os.listdir(tmp_path)


def test_what_needs_no_library_runs_without_one():
    bare = "import sys; sys.modules.update(dict.fromkeys(['scipy', 'matplotlib', 'jinja2']));" \
           "from rotkv.eval.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (["--version"], ["published", "--problems", "30", "f16=37.9", "q4_0=21.7"]):
        subprocess.run([sys.executable, "-c", bare, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_a_text_that_is_no_utf_8_is_refused_before_anything_runs(path, tasks, tmp_path):
    (tmp_path / "latin1").write_bytes(b"caf\xe9 au lait " * 500)
    said = evaluate(*plan(path, tasks, "--kld", str(tmp_path / "latin1")), code=1)
    assert "expected UTF-8, found byte 0xe9 at 3" in said and said.count("\n") == 1


def test_what_is_no_file_is_written_as_it_is(tmp_path):
    device = os.stat("/dev/null").st_rdev
    for path in "/dev/null", str(tmp_path / "new"):
        with whole_file.whole(path) as name, open(name, "w") as file:
            file.write("x")
    assert os.stat("/dev/null").st_rdev == device != 0
    assert os.listdir(tmp_path) == ["new"]
