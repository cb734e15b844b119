"""The judge's adapters for llama-cpp-python, mlx-lm and vLLM, whose modules are stood for by the fake
engine: what they ask of the packages, and that the answers land where they belong. xllamacpp itself
is judged where it is installed."""
import ctypes
import importlib.util
import os
import sys
import types

import numpy as np
import pytest

import rotkv
from rotkv.judge import engine as engines
from rotkv.judge import report, trials, verdict
from rotkv.judge.ours import Ours

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import fake_engine  # noqa: E402

CELLS, TOKENS = 48, 24
F16 = verdict.Config("f16", "f16", None, None)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("adapters") / "judged.gguf")
    fake_engine.write_model(path)
    return Ours(path, CELLS, threads=1)


def module(monkeypatch, name, **members):
    made = types.ModuleType(name)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def put_llama_cpp(monkeypatch, ours):
    kinds = {"GGML_TYPE_F16": "f16", "GGML_TYPE_Q4_0": "q4_0"}

    class Llama:
        def __init__(self, model_path, n_ctx, type_k, type_v, logits_all, **flags):
            assert logits_all and set(flags) == {"n_gpu_layers", "flash_attn", "swa_full", "verbose"}
            self.model = self.ctx = fake_engine.FakeModel(model_path, type_k, type_v, True)
            self.scores, self.n_tokens = np.zeros((n_ctx, ours.plain.n_vocab)), 0

        def tokenize(self, text, add_bos, special):
            assert add_bos and not special
            return ours.tokenize(text.decode())

        def reset(self):
            self.n_tokens = 0

        def eval(self, tokens):
            if self.n_tokens == 0:
                self.model.clear()
            rows = self.model.read(list(tokens))
            self.scores[self.n_tokens:self.n_tokens + len(tokens)] = rows + 7  # logits, not ln p
            self.n_tokens += len(tokens)

    removed = []

    def add(model, sequence, first, end, difference):
        assert removed == [(1, first)] and end == CELLS - 1 and difference == 1 - first
        model.shift(1, first - 1)

    def load(model, path, sequence, tokens, capacity, count):
        model.load(path.decode())
        with open(path.decode() + ".ids") as file:
            ids = [int(word) for word in file.read().split()]
        tokens[:len(ids)] = ids
        ctypes.cast(count, ctypes.POINTER(ctypes.c_size_t))[0] = len(ids)
        return 1

    def save(model, path, sequence, tokens, count):
        model.save(path.decode())
        with open(path.decode() + ".ids", "w") as file:
            file.write(" ".join(str(one) for one in tokens[:count]))
        return 1

    module(monkeypatch, "llama_cpp", Llama=Llama, __version__="0", llama_token=ctypes.c_int32,
           llama_get_memory=lambda ctx: ctx, llama_memory_clear=lambda model, data: model.clear(),
           llama_memory_seq_rm=lambda model, s, first, end: removed.append((first, end)),
           llama_memory_seq_add=add, llama_state_seq_save_file=save,
           llama_state_seq_load_file=load, **kinds)


def put_mlx_lm(monkeypatch, ours):
    class Array(np.ndarray):
        def astype(self, kind):
            return np.asarray(self).astype(kind)

    class Model:
        def __call__(self, tokens, cache):
            return (cache.read(np.asarray(tokens)[0].tolist()) - 3)[None].view(Array)

    class Tokenizer:
        def encode(self, text):
            return ours.tokenize(text)

    def new(_model):
        return fake_engine.FakeModel(ours.path, "f16", "f16", None)

    def load(path):
        cache = new(None)
        cache.load(path)
        return cache

    core = module(monkeypatch, "mlx.core", array=np.array, float32=np.float32)
    module(monkeypatch, "mlx", core=core)
    cache = module(monkeypatch, "mlx_lm.models.cache", make_prompt_cache=new, load_prompt_cache=load,
                   save_prompt_cache=lambda path, cache: cache.save(path))
    models = module(monkeypatch, "mlx_lm.models", cache=cache)
    module(monkeypatch, "mlx_lm", load=lambda path: (Model(), Tokenizer()), models=models)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")


def put_vllm(monkeypatch, ours):
    class Llm:
        def __init__(self, model, max_model_len, kv_cache_dtype, max_logprobs, **flags):
            assert (max_model_len, kv_cache_dtype, max_logprobs) == (CELLS, "auto", -1)
            assert set(flags) == {"enable_prefix_caching", "seed"}
            self.model = fake_engine.FakeModel(model, "f16", "f16", None)

        def get_tokenizer(self):
            return types.SimpleNamespace(encode=ours.tokenize)

        def generate(self, prompts, sampling, use_tqdm):
            assert sampling == {"max_tokens": 1, "temperature": 0.0, "logprobs": -1,
                                "prompt_logprobs": -1}
            self.model.clear()
            rows = [{word: types.SimpleNamespace(logprob=float(p)) for word, p in enumerate(row)}
                    for row in self.model.read(prompts[0]["prompt_token_ids"])]
            return [types.SimpleNamespace(prompt_logprobs=[None] + rows[:-1],
                                          outputs=[types.SimpleNamespace(logprobs=rows[-1:])])]

    module(monkeypatch, "vllm", LLM=Llm, SamplingParams=dict, __version__="0")


class Direct(engines.Engine):
    """An adapter in this process, asked as the lines ask it."""

    def __init__(self, name):
        self.engine = engines.adapter(name)

    def __getattribute__(self, name):
        if name not in engines.QUESTIONS:
            return super().__getattribute__(name)
        names = {"tokenize": ("text",), "predict": ("tokens", "at", "one_by_one"),
                 "shift": ("tokens", "keep", "drop", "next"), "save": ("tokens", "file"),
                 "restore": ("file", "tokens", "next"), "open": ()}[name]

        def ask(*arguments, **question):
            found = engines.answer(self.engine, {"do": name, **dict(zip(names, arguments)),
                                                 **question})
            if "unsupported" in found:
                raise engines.Unsupported(found["unsupported"])
            if "error" in found:
                raise engines.Failed(found["error"])
            return found if name == "open" else found.get("tokens") or found.get("logprobs")

        return ask


CAN = {"llama-cpp-python": {"tokens", "predictions", "one by one", "shift", "save and restore"},
       "mlx-lm": {"tokens", "predictions", "one by one", "save and restore"},
       "vllm": {"tokens", "predictions"}}
PUT = {"llama-cpp-python": put_llama_cpp, "mlx-lm": put_mlx_lm, "vllm": put_vllm}


@pytest.mark.parametrize("name", PUT)
def test_an_adapter_gives_its_packages_answers(name, ours, monkeypatch):
    PUT[name](monkeypatch, ours)
    one = trials.Judge(Direct(name), ours, {}, TOKENS, 6)
    results = one.run([F16])
    wrong = [result for result in results if result.verdict == verdict.WRONG]
    assert not wrong and report.status(results) == 0, wrong
    assert {result.trial for result in results if result.verdict == verdict.RIGHT} == CAN[name]
    assert one.floor < 1e-6


@pytest.mark.parametrize("name", ["mlx-lm", "vllm"])
def test_an_adapter_refuses_what_its_package_has_not(name, ours, monkeypatch):
    PUT[name](monkeypatch, ours)
    results = trials.Judge(Direct(name), ours, {}, TOKENS, 6).run(
        [verdict.Config("q4_0", "q4_0", True, None)])
    assert [result.verdict for result in results] == [verdict.NOT_ASKED]
    assert report.status(results) == 1


def test_llama_cpp_is_right_about_a_model(ours):
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("SKIPPED: there is no Python package xllamacpp")
    configs = [F16, verdict.Config("q4_0", "q4_0", True, None),
               verdict.Config("q4_0", "q4_0", False, None)]
    model = Ours(ours.path, 256)
    one = trials.Judge(engines.Program(engines.adapter_command("xllamacpp")), model,
                       rotkv.mistakes(), TOKENS, 6)
    results = one.run(configs, ["tokens", "predictions", "one by one"])
    assert {result.verdict for result in results} == {verdict.RIGHT}, results
