"""Many texts at once are the texts that each would be alone, on a tiny model: rotkv-eval's streams,
and the call that reads a batch and chooses what comes behind it."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import rotkv
from rotkv.eval import problems
from rotkv.eval.draws import Draws, seed_of
from rotkv.eval.streams import Request, Speaker, Streams

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import random_models  # noqa: E402

PROGRAMS = os.environ["ROTKV_PROGRAMS"]
EXACT, COARSE = "k=f32,v=f32", "k=q4_0,v=q4_0,rot=off"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def path(folder):
    return random_models.write(str(folder), "smollm3")


@pytest.fixture(scope="module")
def model(path):
    return rotkv.Model(path, rotkv.Backend("ref"))


def requests_of(model, count=7, most=12, **more):
    """Prompts of different lengths, answers of different lengths."""
    return [Request(model.tokenize("the " * (1 + 5 * i) + "and"), most - i, seed=i, **more)
            for i in range(count)]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_each_text_is_the_one_it_would_be_alone(model, temperature):
    requests = requests_of(model)
    for count in 1, 3:
        answers = Streams(model, COARSE, count, 64, temperature).answer_all(requests)
        for request, answer in zip(requests, answers):
            alone = model.generate(request.prompt, request.most, COARSE, temperature,
                                   request.seed if temperature > 0 else None)
            assert list(answer.tokens) == alone.tolist()
            assert answer.end == ("most" if len(alone) == request.most else "end")


def test_a_prompt_is_read_beside_answers_in_pieces(model, monkeypatch):
    whole = Streams(model, EXACT, 3, 64).answer_all(requests_of(model))
    monkeypatch.setattr("rotkv.eval.streams.TOKENS_OF_A_STEP", 5)
    assert Streams(model, EXACT, 3, 64).answer_all(requests_of(model)) == whole


def test_next_tokens_are_those_of_the_logits(model):
    """Whatever rows are asked for, in whatever order, and whoever is read beside them."""
    tokens = model.tokenize("the and the and the")
    at, ids = np.arange(len(tokens), dtype=np.int32), np.array([4, 1, 2, 2, 0], np.int32)
    logits = model.logits(model.forward(model.cache(COARSE, 64), tokens, at)).astype(np.float64)
    uniform = np.array([0, 0.25, 0.5, 0.999, 0.75])
    sums = np.cumsum(np.exp((logits - logits.max(1, keepdims=True)) / 0.7), axis=1)
    drawn = [np.searchsorted(sums[i], u * sums[i, -1], "right") for i, u in zip(ids, uniform)]
    for count in 5, 1, 0:
        found = model.next_tokens(model.cache(COARSE, 64), tokens, at, ids[:count], None, 0.7,
                                  uniform[:count])
        assert found.tolist() == drawn[:count]
    many = np.tile(ids, 30)  # more rows than one call of logits takes
    for rows in ids, at, many:
        found = model.next_tokens(model.cache(COARSE, 64), tokens, at, rows)
        assert found.tolist() == logits[rows].argmax(1).tolist()
    for bad, says in (dict(behind=[len(tokens)]), f"0 to {len(tokens) - 1}"), (dict(temperature=1.0), "draws"), \
            (dict(temperature=-1.0), "0 or more"), (dict(draws=[1.0], temperature=1.0), "less than"), \
            (dict(draws=[0.5, 0.5]), "expected 1 numbers, found 2"):
        given = {"behind": [0], "temperature": 0.0, "draws": None, **bad}
        with pytest.raises(rotkv.Error, match=says):
            model.next_tokens(model.cache(COARSE, 64), tokens, at, np.array(given["behind"], np.int32),
                              None, given["temperature"],
                              given["draws"] and np.array(given["draws"], np.float64))


def test_a_cache_of_another_model_is_refused(model, path):
    other = rotkv.Model(path)
    cache = other.cache("k=f16,v=f16", 8)
    one, none = np.ones(1, np.int32), np.zeros(1, np.int32)
    for read in (lambda: model.forward(cache, one, none),
                 lambda: model.next_tokens(cache, one, none, none)):
        with pytest.raises(rotkv.Error, match="this model's cache"):
            read()
    assert other.forward(cache, one, none).shape[0] == 1


def test_logits_that_are_no_numbers_end_a_run(folder):
    def spoil_output(file):
        for name, tensor in file.tensors.items():
            if name in ("output.weight", "token_embd.weight"):
                rows = np.frombuffer(tensor.data, np.float32).copy()
                rows[-tensor.extents[0]:] = np.nan  # the last word's
                file.tensors[name] = tensor._replace(data=rows.tobytes())
    bad = rotkv.Model(random_models.write(str(folder), "smollm3", spoil_output, stem="nan"))
    prompt = bad.tokenize("the and")
    with pytest.raises(rotkv.Error, match="not finite numbers behind token 1 of the batch"):
        Streams(bad, EXACT, 1, 24).answer_all([Request(prompt[:2], 3)])


def test_random_numbers_are_the_requests():
    assert Draws(0).bits() == 0xE220A8397B1DCDAF
    assert len({seed_of(0, "a", 1, 2), seed_of(0, "a", 12), seed_of(0, "a1", 2)}) == 3


def test_a_token_has_the_bytes_that_it_has_behind_others(model):
    speaker = Speaker(model)
    for before in (model.bos, 5, 70):
        for token in range(model.n_vocab):
            both, one = (model.detokenize(np.array(each, np.int32))
                         for each in ([before, token], [before]))
            assert speaker.bytes_of(token) == both[len(one):]


def test_a_text_ends_at_a_stop_which_is_not_part_of_it(model):
    request = requests_of(model, 1)[0]
    whole = Streams(model, EXACT, 1, 64).answer_all([request])[0]
    stop = whole.text[5:7]
    answer = Streams(model, EXACT, 1, 64).answer_all(
        [Request(request.prompt, request.most, (b"never met", stop))])[0]
    assert answer.end == "stop" and answer.text == whole.text[:whole.text.find(stop)]
    assert answer.tokens == whole.tokens[:len(answer.tokens)]


def test_a_full_stream_ends_or_is_shifted_as_rotkv_generate_does_it(model, path):
    prompt = model.tokenize("the and the and the")
    full = Streams(model, EXACT, 2, 24).answer_all([Request(prompt, 60)] * 3)
    assert {(one.end, len(prompt) + len(one.tokens)) for one in full} == {("full", 25)}
    shifted = Streams(model, EXACT, 2, 24, keep=len(prompt)).answer_all([Request(prompt, 60)] * 3)
    done = subprocess.run(
        [os.path.join(PROGRAMS, "rotkv-generate"), "-m", path, "--backend", "ref", "-p",
         "the and the and the", "-n", "60", "-c", "24", "--shift", "--keep", "-1", "-ctk", "f32",
         "-ctv", "f32", "--json", "-"], capture_output=True, text=True, check=True)
    stated = json.loads(done.stdout)
    for one in shifted:
        assert list(one.tokens) == stated["tokens"] and one.shifts == stated["shift"]["times"] > 1
    with pytest.raises(problems.Failed, match="expected 1 to 4"):
        Streams(model, EXACT, 1, 4).answer_all([Request(prompt, 1)])
    with pytest.raises(problems.Failed, match="at least 2 cells more"):
        Streams(model, EXACT, 1, 24, keep=23).answer_all([Request(prompt, 1)])
