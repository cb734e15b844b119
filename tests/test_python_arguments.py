"""Arguments of the Python package that do not fit: whatever is wrong is refused by the argument's name,
in every function, and what would be taken for something else is not taken."""
import ast
import inspect
import pathlib

import numpy as np
import pytest

import model_with_text
import rotkv

N, D = 4, 64
IDS = np.arange(N, dtype=np.int32)
ROWS = np.random.default_rng(1).standard_normal((N, 1, D)).astype(np.float32)
CODES = rotkv.quantize(ROWS, "q8_0")
ROPE, REF = rotkv.Rope(D), rotkv.Backend("ref")
LOGITS = ROWS[:, 0, :11]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arguments")


@pytest.fixture(scope="module")
def path(folder):
    return model_with_text.write(folder)


@pytest.fixture(scope="module")
def model(path):
    return rotkv.Model(path, REF)


def cells(*_):
    return np.zeros((1, N, 1, 256), np.uint8)


def good_calls(model, path, folder):
    """{name: (function, one good value of every argument)}."""
    cache, own = rotkv.Cache("k=f32,v=f32", 2 * N, 1, D), model.cache("k=f32,v=f32", 8)
    cache.place(IDS)
    rows = {"x": ROWS, "type": "q8_0", "layer": 0, "kv_head": 0, "side": "k", "positions": None}
    text = model_with_text.TEXT
    measured = {"ctx": 32, "batch": 32, "chunks": 1, "progress": None}
    batch = {"cache": own, "tokens": IDS, "positions": IDS, "streams": None}
    return {
        "Rotation": (rotkv.Rotation, {"words": "64"}),
        "Backend": (rotkv.Backend, {"name": "ref", "threads": 1, "mistake": ""}),
        "Rope": (rotkv.Rope, {"n_rot": D, "pairs": "norm", "base": 1e4, "frequency_factors": [1.0] * 32,
                              "linear_factor": 1.0, "yarn_ext_factor": 0.0, "yarn_attn_factor": 1.0,
                              "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "original_context": 0}),
        "Cache": (rotkv.Cache, {"words": "k=q8_0", "cells": 8, "kv_heads": 1, "d_k": D, "d_v": D,
                                "layers": 1, "streams": 1, "backend": REF}),
        "Model": (rotkv.Model, {"path": path, "backend": REF, "precision": ""}),
        "policy": (rotkv.policy, {"cache": "k=q8_0", "d_k": D, "d_v": D}),
        "formats": (rotkv.formats, {"d": D}),
        "cases": (rotkv.cases, {"containing": "hadamard"}),
        "run_case": (rotkv.run_case, {"name": "hadamard/rot=64", "backend": REF}),
        "hadamard": (rotkv.hadamard, {"x": ROWS, "block": 64, "signs": 7, "inverse": True,
                                      "backend": REF}),
        "quantize": (rotkv.quantize, {"x": ROWS, "type": "q8_0", "backend": REF}),
        "dequantize": (rotkv.dequantize, {"codes": CODES, "type": "q8_0", "d": D, "backend": REF}),
        "encode": (rotkv.encode, rows),
        "decode": (rotkv.decode, {**rows, "codes": CODES, "d": D} | {"x": None}),
        "rope": (rotkv.rope, {"x": ROWS, "positions": IDS, "config": ROPE, "backend": REF}),
        "kv_store": (rotkv.kv_store, {
            "k_cache": cells(), "v_cache": cells(), "k": ROWS, "v": ROWS, "cell": IDS, "k_type": "f32",
            "v_type": "f32", "k_rotation": "64", "v_rotation": "none", "stream": None, "backend": REF}),
        "attention": (rotkv.attention, {
            "q": ROWS, "k_cache": cells(), "v_cache": cells(), "position": IDS, "q_position": IDS,
            "k_type": "f32", "v_type": "f32", "k_rotation": "64", "v_rotation": "none", "scale": 1.0,
            "softcap": 0.0, "window": 0, "chunked": False, "sinks": None, "q_stream": None, "lse": False,
            "precision": "f32", "backend": REF}),
        "kv_shift": (rotkv.kv_shift, {"k_cache": cells(), "k_type": "f32", "d": D, "difference": IDS,
                                      "config": ROPE, "rotation": "64", "backend": REF}),
        "nll": (rotkv.nll, {"hidden": ROWS[:, 0], "weight": ROWS[:, 0], "target": IDS, "softcap": 0.0,
                            "backend": REF}),
        "kld": (rotkv.kld, {"hidden_a": ROWS[:, 0], "hidden_b": ROWS[:, 0], "weight": ROWS[:, 0],
                            "softcap": 0.0, "backend": REF}),
        "nll_of_logits": (rotkv.nll_of_logits, {"logits": LOGITS, "target": IDS}),
        "kld_of_logits": (rotkv.kld_of_logits, {"a": LOGITS, "b": LOGITS}),
        "Cache.place": (cache.place, {"positions": IDS, "streams": None}),
        "Cache.store": (cache.store, {"layer": 0, "k": ROWS, "v": ROWS}),
        "Cache.attend": (cache.attend, {"layer": 0, "q": ROWS, "scale": 1.0, "softcap": 0.0, "window": 0,
                                        "d_v": D, "lse": False}),
        "Cache.positions": (cache.positions, {"stream": 0}),
        "Cache.bytes": (cache.bytes, {"layer": 0, "side": "k", "stream": 0}),
        "Cache.shift": (cache.shift, {"first": 0, "end": 0, "difference": 0, "rope": ROPE, "stream": 0}),
        "Cache.remove": (cache.remove, {"first": 0, "end": 0, "stream": 0}),
        "Cache.save": (cache.save, {"path": str(folder / "saved")}),
        "Cache.load": (cache.load, {"path": str(folder / "saved")}),
        "Model.text": (model.text, {"key": "general.architecture"}),
        "Model.tokenize": (model.tokenize, {"text": "a", "add_special": True, "parse_special": False}),
        "Model.detokenize": (model.detokenize, {"tokens": IDS}),
        "Model.generate": (model.generate, {"prompt": IDS, "most": 1, "cache": "k=f16", "temperature": 0.5,
                                            "seed": 7, "progress": None}),
        "Model.logprobs": (model.logprobs, {"tokens": IDS, "cache": "k=f16"}),
        "Model.perplexity": (model.perplexity, {"text": text, "cache": "k=f16", **measured}),
        "Model.kld": (model.kld, {"text": text, "caches": ["k=f16"], "base": "k=f32", **measured}),
        "Model.capture": (model.capture, {"tokens": IDS, "cache": "k=f16"}),
        "Model.cache": (model.cache, {"words": "k=f16", "cells": 8, "streams": 1}),
        "Model.forward": (model.forward, batch),
        "Model.next_tokens": (model.next_tokens, {**batch, "behind": IDS, "temperature": 0.0,
                                                  "draws": None}),
        "Model.logits": (model.logits, {"hidden": np.zeros((1, model.width), np.float32)}),
    }


def described():
    """{name: {argument: whether it has a default}} of every function of the stub that takes any."""
    stub = pathlib.Path(rotkv.__file__).with_name("_rotkv.pyi").read_text()
    found = {}
    for at in ast.parse(stub).body:
        of = at.name + "." if isinstance(at, ast.ClassDef) else ""
        for one in at.body if of else [at]:
            if not isinstance(one, ast.FunctionDef) or one.name == "__eq__":
                continue
            names = [arg.arg for arg in one.args.args if arg.arg != "self"]
            with_default = names[len(names) - len(one.args.defaults):]
            if names:
                found[at.name if one.name == "__init__" else of + one.name] = {
                    name: name in with_default for name in names}
    return found


def refused(function, words, /, *arguments, **named):
    with pytest.raises(TypeError, match=f"^{words}$"):
        function(*arguments, **named)


def test_what_does_not_fit_is_refused_by_the_arguments_name(model, path, folder):
    calls, functions = good_calls(model, path, folder), described()
    assert set(calls) == set(functions) - {"run_program"}
    for name, (function, values) in calls.items():
        arguments, called = functions[name], name.rpartition(".")[2]
        good = {argument: values[argument] for argument in arguments}
        function(**good)
        for argument, has_default in arguments.items():
            for wrong in (object(), 1j, ...):
                refused(function, f"{argument}: expected .*, found {type(wrong).__name__}",
                        **good | {argument: wrong})
            if not has_default:
                refused(function, f"{argument}: expected .*, found NoneType", **good | {argument: None})
                refused(function, f"{called}: expected {argument}, found none",
                        **{one: value for one, value in good.items() if one != argument})
        first = next(iter(good))
        refused(function, f"{called}: expected {', '.join(good)}, found 'other'", **good, other=1)
        refused(function, f"{called}: expected one {first}, found two", good[first], **good)
        refused(function, f"{called}: expected at most {len(good)} arguments, found {len(good) + 1}",
                *good.values(), 1)


def test_of_two_arguments_that_are_one_object_the_one_that_does_not_fit_is_named():
    refused(rotkv.rope, "positions: .*", ROWS, ROWS, ROPE)
    rows = ROWS[:, 0]
    refused(rotkv.nll, "target: .*", rows, rows, rows)


def test_a_keyword_that_is_no_text_is_refused():
    with pytest.raises(UnicodeEncodeError):
        rotkv.hadamard(ROWS, **{"\ud800": 1})


def test_programs_as_functions_name_them_too(model, tmp_path):
    for function in (rotkv.outliers, rotkv.sweep, rotkv.search, rotkv.calibrate, rotkv.fuse):
        good = {"model": model, "text": "words"}
        if function is rotkv.fuse:
            good = {"model": model, "output": str(tmp_path / "out")}
        for argument in inspect.signature(function).parameters:
            named = "text" if argument == "verify" else argument
            refused(function, f"{named}: expected .*, found object", **good | {argument: object()})
            if argument in ("k", "v", "rot", "bits", "chunks"):
                for wrong in (["q8_0", {}], {"q8_0": 1}):
                    refused(function, f"{argument}: expected .*, found dict", **good | {argument: wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("positions", [
    np.array([0.0, 0.5, 1.7, 3.0]), np.array([True, False, True, True]), np.array([0, 1, 2, 2 ** 33]),
    np.array([0, 1, 2, 2 ** 64 - 1], np.uint64), np.array(["0", "1", "2", "3"])])
def test_integers_are_not_cut_off_nor_wrapped(positions):
    words = rf"positions: expected an array of int32, or of integers that fit, found .*ndarray of {positions.dtype}"
    refused(rotkv.rope, words, ROWS, positions, ROPE)


def test_integers_of_any_width_are_taken():
    expected = rotkv.rope(ROWS, IDS, ROPE)
    for kind in (np.int8, np.uint8, np.int64, np.uint64):
        np.testing.assert_array_equal(rotkv.rope(ROWS, IDS.astype(kind), ROPE), expected)
    np.testing.assert_array_equal(rotkv.rope(ROWS, np.repeat(IDS.astype(np.int64), 2)[::2], ROPE), expected)
    refused(rotkv.dequantize, "codes: .*, found .*ndarray of int64", CODES.astype(np.int64) + 256, "q8_0", D)


def test_what_is_written_in_place_is_never_a_copy():
    """An array that had to be copied would get the rows, and be thrown away."""
    locked = cells()
    locked.flags.writeable = False
    for wrong in (np.zeros((1, N, 1, 512), np.uint8)[..., ::2], cells().view(np.int8), locked,
                  np.zeros((1, N, 1, 256))):
        for name in ("k_cache", "v_cache"):
            both = {"k_cache": cells(), "v_cache": cells()} | {name: wrong}
            refused(rotkv.kv_store, f"{name}: expected an array of uint8, packed, .*", **both, k=ROWS,
                    v=ROWS, cell=IDS, k_type="f32", v_type="f32")
        refused(rotkv.kv_shift, "k_cache: .*", wrong, "f32", D, IDS, ROPE)


def test_numbers_out_of_range_are_refused_by_name():
    for call, words in (
            (lambda: rotkv.dequantize(CODES, "q8_0", 2 ** 63), r"d: expected -2\^63 .. 2\^63 - 1, found"),
            (lambda: rotkv.Backend("ref", 2 ** 31), r"threads: expected -2\^31 .. 2\^31 - 1, found"),
            (lambda: rotkv.hadamard(ROWS, signs=-1), r"signs: expected 0 .. 2\^64 - 1, found -1"),
            (lambda: rotkv.cases("\ud800"), "containing: expected a str that UTF-8 can hold")):
        with pytest.raises(rotkv.Error, match=f"^{words}") as caught:
            call()
        assert caught.value.code == "bad argument"


def test_what_a_callback_raises_is_not_an_argument_that_does_not_fit(model):
    """It calls a function itself, and with the wrong array."""
    def progress(*_):
        rotkv.hadamard("no array")

    refused(model.generate, "x: expected an array of float32, found str", IDS, 2, progress=progress)


def test_what_would_change_nothing_is_refused(model):
    cache, held = model.cache("k=f32,v=f32", 8), cells()

    def turned(**yarn):
        return rotkv.rope(ROWS, IDS, rotkv.Rope(D, **yarn))

    for call, words in (
            (lambda: model.generate(IDS, 2, seed=0), "seed: expected a temperature above 0"),
            (lambda: model.next_tokens(cache, IDS, IDS, IDS[:1], draws=np.array([0.5])),
             "draws: expected none at temperature 0"),
            (lambda: rotkv.attention(ROWS, held, held, IDS, IDS, "f32", "f32", chunked=True),
             "chunked: expected a window"),
            (lambda: turned(original_context=4096), "yarn_ext_factor: expected more than 0"),
            (lambda: turned(yarn_beta_fast=16), "yarn_ext_factor: expected more than 0"),
            (lambda: turned(yarn_beta_slow=2), "yarn_ext_factor: expected more than 0"),
            (lambda: rotkv.fuse(model, "fused.gguf", tokens=16), "--verify")):
        with pytest.raises(rotkv.Error, match=words):
            call()
    assert cache.positions().size == 0
    yarn = {"yarn_ext_factor": 1.0, "linear_factor": 4.0, "original_context": 4096}
    assert not np.array_equal(turned(**yarn, yarn_beta_fast=4), turned(**yarn))
