"""rotkv.outliers() and its like against the programs of that name on the same model and text: what
--json writes to the digit, the same words for what is wrong, and a run that can be ended."""
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import rotkv
from rotkv import programs

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import model_with_text  # noqa: E402
from model_with_text import TEXT  # noqa: E402

PROGRAMS = os.environ["ROTKV_PROGRAMS"]
CUT = {"ctx": 32, "chunks": 4}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return model_with_text.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(path):
    return rotkv.Model(path, rotkv.Backend("fast", threads=1))


def run(name, path, *arguments):
    text = ["-f", os.path.join(os.path.dirname(path), "text")]
    if name == "fuse" and "--verify" not in arguments:
        text = []
    return subprocess.run([os.path.join(PROGRAMS, "rotkv-" + name), "-m", path, *text, "-t", "1",
                           *arguments], capture_output=True, text=True)


def stated(name, path, *arguments):
    done = run(name, path, *arguments, "--json", "-", *([] if name == "fuse" else ["--quiet"]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without(document, *keys):
    """The document less what belongs to one run alone, at any depth."""
    if isinstance(document, dict):
        return {key: without(value, *keys) for key, value in document.items() if key not in keys}
    return [without(one, *keys) for one in document] if isinstance(document, list) else document


def test_outliers_are_the_programs(model, path):
    found = rotkv.outliers(model, TEXT, k="q4_0", v="tqmse3", ctx=32, chunks=1)
    assert found == stated("outliers", path, "-c", "32", "--chunks", "1", "-ctk", "q4_0", "-ctv",
                           "tqmse3")
    assert found["chunks"] == 1 and {v["type"] for v in found["verdicts"]} == {"q4_0", "tqmse3"}


def test_sweep_is_the_programs_with_a_file_and_without(model, path, tmp_path):
    out, words = str(tmp_path / "sweep.jsonl"), {"k": ["q4_0", "q8_0"], "v": "q4_0", "rot": "off,64"}
    own = ("text", "seconds")
    wanted = stated("sweep", path, "-c", "32", "--chunks", "2", "-ctk", "q4_0,q8_0", "-ctv", "q4_0",
                    "--rot", "off,64", "--out", out)
    found = rotkv.sweep(model, TEXT, **words, ctx=32, chunks=2)
    assert without(found, *own) == without(wanted, *own) and len(found["cells"]) == 4
    with open(out) as file:
        lines = file.readlines()
    with open(out, "w") as file:
        file.writelines(lines[:3])  # the header and two of four cells
    so_far = rotkv.sweep(model, TEXT, **words, ctx=32, chunks=2, out=out, so_far=True)
    assert [cell.get("unsupported") for cell in so_far["cells"]][2:] == ["not run"] * 2
    assert so_far["cells"][:2] == wanted["cells"][:2]
    gone_on = rotkv.sweep(model, TEXT, **words, ctx=32, chunks=2, out=out)
    assert without(gone_on, *own) == without(wanted, *own)
    with open(out) as file:
        assert file.readlines()[:3] == lines[:3]


def test_search_is_the_programs(model, path):
    found = rotkv.search(model, TEXT, bits=(5, 9), types=("q8_0", "q4_0"), rot="auto", held_out=2,
                         groups=2, **CUT)
    wanted = stated("search", path, "-c", "32", "--chunks", "4", "--held-out", "2", "--bits", "5,9",
                    "--types", "q8_0,q4_0", "--rot", "auto", "--groups", "2")
    assert without(found, "text", "seconds") == without(wanted, "text", "seconds")
    assert len(found["budgets"]) == 2 and found["not_numbers"] == []


def test_calibrate_is_the_programs_and_its_matrices_turn(model, path, tmp_path):
    found = rotkv.calibrate(model, TEXT, kind="pca", held_out=1, rows=16, **CUT)
    wanted = stated("calibrate", path, "-c", "32", "--chunks", "4", "--held-out", "1", "--rows", "16",
                    "--kind", "pca", "-o", str(tmp_path / "m"))
    for side in "k", "v":
        matrices = found[side].pop("matrices")
        np.testing.assert_array_equal(matrices, np.load(tmp_path / f"m-{side}.npy"))
        assert matrices.shape == (model.n_layers, 1, 128, 128)
        np.testing.assert_allclose(matrices[1, 0] @ matrices[1, 0].T, np.eye(128), atol=1e-5)
    assert found == wanted


def test_fuse_is_the_programs_byte_by_byte(model, path, tmp_path):
    ours, theirs = str(tmp_path / "ours.gguf"), str(tmp_path / "theirs.gguf")
    found = rotkv.fuse(model, ours, rot_v="64:7", verify=TEXT, tokens=16)
    wanted = stated("fuse", path, "-o", theirs, "--rot-v", "64:7", "--verify", "-n", "16")
    assert without(found, "output") == without(wanted, "output")
    assert found["verified"]["same"] and found["output"] == ours
    with open(ours, "rb") as a, open(theirs, "rb") as b:
        assert a.read() == b.read()


@pytest.mark.parametrize("name, arguments, flags", [
    ("outliers", {"k": "q9"}, ("-ctk", "q9")),
    ("outliers", {"ctx": 2}, ("-c", "2")),
    ("outliers", {"chunks": 0}, ("--chunks", "0")),
    ("sweep", {"rot": "xx"}, ("--rot", "xx", "--out", "s")),
    ("sweep", {"rot": "48"}, ("--rot", "48", "--out", "s")),
    ("sweep", {"place": "ends=q8_0:3"}, ("--place", "ends=q8_0:3", "--out", "s")),
    ("sweep", {"so_far": True, "out": "none"}, ("--so-far", "--out", "none")),
    ("sweep", {"k": "q4_0", "v": "q4_0", "ctx": 32, "place": "first=2,recent=30"},
     ("-ctk", "q4_0", "-ctv", "q4_0", "-c", "32", "--place", "first=2,recent=30", "--out", "s")),
    ("search", {"bits": 5, "bytes": 900}, ("--bits", "5", "--bytes", "900")),
    ("search", {"chunks": 4}, ("--chunks", "4")),
    ("calibrate", {"kind": "svd"}, ("--kind", "svd", "-o", "m")),
    ("calibrate", {"ctx": 4096}, ("-c", "4096", "-o", "m")),
    ("fuse", {"output": "f.gguf", "rot_v": "xx"}, ("-o", "f.gguf", "--rot-v", "xx")),
    ("fuse", {"output": "no/such/f.gguf"}, ("-o", "no/such/f.gguf")),
    ("fuse", {"output": "f.gguf", "tokens": 16}, ("-o", "f.gguf", "-n", "16")),
])
def test_what_is_wrong_has_the_programs_words_and_code(model, path, tmp_path, monkeypatch, name,
                                                       arguments, flags):
    monkeypatch.chdir(tmp_path)
    done = run(name, path, *flags)
    with pytest.raises(rotkv.Error) as caught:
        getattr(rotkv, name)(model, *([] if name == "fuse" else [TEXT]), **arguments)
    assert str(caught.value) in done.stderr
    assert done.returncode == (2 if caught.value.code == "usage" else 1)
    assert os.listdir(tmp_path) == []


def test_values_are_the_words_of_a_command_line():
    for value, words in ((None, []), (False, []), (True, ["--a-b"]), (np.bool_(False), []),
                         (np.bool_(True), ["--a-b"]), (0, ["--a-b=0"]), (np.int64(3), ["--a-b=3"]),
                         (np.float32(0.5), ["--a-b=0.5"]), (("q4_0", "q8_0"), ["--a-b=q4_0,q8_0"]),
                         (b"a/file", ["--a-b=a/file"]), (pathlib.PurePath("a", "file"), ["--a-b=a/file"])):
        assert programs._flags(a_b=value) == words, value
    assert programs._flags(k="q4_0", ctx=8) == ["--cache-type-k=q4_0", "--ctx-size=8"]


def test_flags_that_are_none_are_refused(model):
    for program, flags in (("outliers", ["--json", "-"]), ("outliers", ["-m", "x"]), ("sweep", ["-fa"]),
                           ("perplexity", []), ("calibrate", ["x"])):
        with pytest.raises(rotkv.Error) as caught:
            programs.run_program(model, program, flags, TEXT.encode())
        assert caught.value.code == "usage"


CALLS = [lambda model, **how: rotkv.outliers(model, TEXT, k="q4_0", v="q4_0", **CUT, **how),
         lambda model, **how: rotkv.sweep(model, TEXT, k="q4_0", v="q4_0", batch=32, **CUT, **how),
         lambda model, **how: rotkv.search(model, TEXT, bits=9, types="q8_0", rot="off", held_out=2,
                                           **CUT, **how),
         lambda model, **how: rotkv.calibrate(model, TEXT, kind="pca", rows=8, **CUT, **how),
         lambda model, **how: rotkv.fuse(model, "fused.gguf", **how)]


@pytest.mark.parametrize("call", CALLS)
def test_progress_comes_to_its_end_and_an_exception_ends_the_work(model, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    seen = []

    def fail(done, every):
        seen.append((done, every))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        call(model, progress=fail)
    assert len(seen) == 1 and 1 == seen[0][0] <= seen[0][1] and os.listdir(tmp_path) == []
    with pytest.raises(rotkv.Error) as caught:
        call(model, progress=lambda *_: True)
    assert caught.value.code == "cancelled"
    seen = []
    call(model, progress=lambda *at: seen.append(at))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1] and all(done <= every for done, every in seen)


def test_others_run_meanwhile(model):
    turns, over = [0], threading.Event()

    def count():
        while not over.is_set():
            turns[0] += 1

    other = threading.Thread(target=count)
    other.start()
    before = turns[0]
    CALLS[0](model)
    during = turns[0] - before
    over.set()
    other.join()
    assert during > 1000  # nobody counts while somebody else holds the GIL


def test_a_figure_that_is_not_a_number_is_said(monkeypatch, model):
    monkeypatch.setattr(programs, "run_program",
                        lambda *_: ('{"kld": null, "not_numbers": ["K in q4_0: none"]}', {}))
    with pytest.warns(RuntimeWarning, match="K in q4_0: none"):
        assert rotkv.sweep(model, TEXT)["kld"] is None


def functions_with_words():
    """{name: the parameters that are str}, of the stub."""
    with open(os.path.join(os.path.dirname(rotkv.__file__), "_rotkv.pyi"), encoding="utf-8") as file:
        stub = file.read()
    found, scope = {}, ""
    for line in stub.split("\n"):
        if one := re.match(r"class (\w+)", line):
            scope = one[1] + "."
        elif re.match(r"(def|@)", line):
            scope = ""
        if one := re.match(r"\s*def (\w+)\((.*)\)", line):
            words = re.findall(r"(\w+): (?:Sequence\[)?(?:Rotation \| )?str\b", one[2])
            found[scope + one[1]] = set(words)
    return {name: words for name, words in found.items() if words}


def test_no_text_is_cut_at_a_zero(model, tmp_path):
    """Every function that takes words, each of them with a 0 inside; texts may have one."""
    zero, x, ids = "k=q4_0\0,v=q4_0", np.zeros((2, 64), np.float32), np.zeros(2, np.int32)
    rows, codes = x[:, None], np.zeros((1, 2, 1, 256), np.uint8)
    store = {"k_cache": codes, "v_cache": codes, "k": rows, "v": rows, "cell": ids}
    read = {"q": rows, "k_cache": codes, "v_cache": codes, "position": ids, "q_position": ids}
    move = {"k_cache": codes, "d": 64, "difference": ids, "config": rotkv.Rope(64)}
    types = {"k_type": "f32", "v_type": "f32"}
    rotations = {"k_rotation": "64", "v_rotation": "64"}
    cache = rotkv.Cache("k=f32,v=f32", cells=4, kv_heads=1, d_k=64)
    calls = {  # what else they need, and good words
        "Backend.__init__": (rotkv.Backend, {}, {"name": "ref", "mistake": "self-unseen"}),
        "Cache.__init__": (rotkv.Cache, {"cells": 4, "kv_heads": 1, "d_k": 64}, {"words": "k=f32"}),
        "Cache.bytes": (cache.bytes, {"layer": 0}, {"side": "k"}),
        "Cache.load": (cache.load, {}, {"path": "x"}),
        "Cache.save": (cache.save, {}, {"path": str(tmp_path / "x")}),
        "Model.__init__": (rotkv.Model, {}, {"path": "x", "precision": "gemm=f16"}),
        "Model.cache": (model.cache, {"cells": 2}, {"words": "k=f32"}),
        "Model.capture": (model.capture, {"tokens": ids}, {"cache": "k=f32"}),
        "Model.generate": (model.generate, {"prompt": ids, "most": 1}, {"cache": "k=f32"}),
        "Model.kld": (model.kld, {"text": TEXT}, {"caches": "k=f32", "base": "k=f32"}),
        "Model.logprobs": (model.logprobs, {"tokens": ids}, {"cache": "k=f32"}),
        "Model.perplexity": (model.perplexity, {"text": TEXT}, {"cache": "k=f32"}),
        "Model.text": (model.text, {}, {"key": "general.name"}),
        "Rope.__init__": (rotkv.Rope, {"n_rot": 64}, {"pairs": "norm"}),
        "attention": (rotkv.attention, read, {**types, **rotations, "precision": "f32"}),
        "decode": (rotkv.decode, {"codes": codes, "d": 64}, {"type": "f32", "side": "k"}),
        "dequantize": (rotkv.dequantize, {"codes": codes, "d": 64}, {"type": "f32"}),
        "encode": (rotkv.encode, {"x": x}, {"type": "f32", "side": "k"}),
        "kv_shift": (rotkv.kv_shift, move, {"k_type": "f32", "rotation": "64"}),
        "kv_store": (rotkv.kv_store, store, {**types, **rotations}),
        "policy": (rotkv.policy, {"d_k": 64}, {"cache": "k=f32"}),
        "quantize": (rotkv.quantize, {"x": x}, {"type": "f32"}),
        "run_case": (rotkv.run_case, {}, {"name": "hadamard/rot=64"}),
        "run_program": (programs.run_program, {"model": model, "text": b""},
                        {"program": "sweep", "flags": "--rot"}),
        "Rotation.__init__": (rotkv.Rotation, {}, {"words": "64"}),
    }
    takes_texts = {"Model.kld": {"text"}, "Model.perplexity": {"text"}, "Model.tokenize": {"text"},
                   "cases": {"containing"}}  # of any bytes; a part of a name
    for name, words in functions_with_words().items():
        words -= takes_texts.get(name, set())
        function, others, good = calls.get(name, (None, {}, {}))
        assert words <= set(good), f"{name}: expected a call with {words}"
        for parameter in words:
            for bad in zero, "\0", good[parameter] + "\0" + good[parameter]:
                given = {key: [value] if key in ("caches", "flags") else value
                         for key, value in {**good, parameter: bad}.items()}
                with pytest.raises(rotkv.Error) as caught:
                    function(**others, **given)
                assert "expected" in str(caught.value), (name, parameter)
                assert caught.value.code == "bad argument", (name, parameter, caught.value)
    for function in (rotkv.outliers, rotkv.calibrate):
        with pytest.raises(rotkv.Error, match="expected a text without a 0"):
            function(model, TEXT, k=zero)
