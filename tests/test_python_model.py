"""The Python package on a tiny model, against the programs' figures on the same file."""
import json
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import rotkv

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import model_with_text  # noqa: E402
import random_models  # noqa: E402
from model_with_text import TEXT  # noqa: E402

PROGRAMS = os.environ["ROTKV_PROGRAMS"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return model_with_text.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(path):
    return rotkv.Model(path, rotkv.Backend("fast", threads=2))


def program(name, path, *arguments):
    done = subprocess.run([os.path.join(PROGRAMS, name), "-m", path, "-t", "2", "-c", "64", "-f",
                           os.path.join(os.path.dirname(path), "text"), "--json", "-", *arguments],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_perplexity_is_the_programs(model, path):
    stated = program("rotkv-perplexity", path, "-ctk", "q4_0", "-ctv", "q8_0")
    found = model.perplexity(TEXT, "k=q4_0,v=q8_0", ctx=64)
    assert found["ppl"] == stated["ppl"] and found["ppl_error"] == stated["ppl_err"]
    assert (found["scored"], found["windows"]) == (stated["scored"], stated["chunks"])


def test_logprobs_are_the_perplexitys(model, path):
    stated = program("rotkv-perplexity", path, "-ctk", "q4_0", "-ctv", "q8_0")
    ids, scored = model.tokenize(TEXT.removesuffix("\n")), []
    for start in range(0, 64 * stated["chunks"], 64):
        window = ids[start:start + 64].copy()
        if stated["bos"] is not None:
            window[0] = stated["bos"]
        scored.append(model.logprobs(window, "k=q4_0,v=q8_0")[32:63])
    ppl = np.exp(-np.mean(np.concatenate(scored)))
    assert abs(ppl / stated["ppl"] - 1) < 1e-6


def test_logits_are_those_of_the_logprobs(tmp_path):
    """Of a model with a final softcap; more rows than a backend takes at once."""
    path = random_models.write(str(tmp_path), "gemma4-moe")
    model = rotkv.Model(path, rotkv.Backend("fast", threads=2))
    ids = model.tokenize(TEXT)[:150]
    cache = model.cache("k=q8_0,v=q8_0", cells=150)
    logits = model.logits(model.forward(cache, ids, np.arange(150, dtype=np.int32)))
    assert logits.shape == (150, model.n_vocab) and np.abs(logits).max() < 30
    rows = logits.astype(np.float64)
    rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
    found = rows[np.arange(149), ids[1:]]
    np.testing.assert_allclose(found, model.logprobs(ids, "k=q8_0,v=q8_0"), atol=2e-5)
    for bad in (np.zeros((2, model.width + 1), np.float32), np.zeros(model.width, np.float32)):
        with pytest.raises(rotkv.Error, match="expected packed f32"):
            model.logits(bad)


def test_a_backend_makes_the_mistake_it_is_asked_for(path):
    """Each of the model's mistakes moves its predictions; those it cannot make change no bit."""
    plain, moved = rotkv.Model(path, rotkv.Backend("fast", threads=1)), set()
    ids = plain.tokenize(TEXT)[:20]
    base = plain.logprobs(ids, "k=q4_0,v=q4_0")
    for name, words in rotkv.mistakes().items():
        backend = rotkv.Backend("fast", threads=1, mistake=name)
        assert words in str(backend)
        found = rotkv.Model(path, backend).logprobs(ids, "k=q4_0,v=q4_0")
        if np.abs(found - base).max() > 0.02:
            moved.add(name)
        else:
            np.testing.assert_allclose(found, base, atol=1e-3)
    assert moved == {"k-not-rotated", "q-not-rotated", "v-not-back", "v-back-by-k", "not-normalized",
                     "row-sign", "strided-blocks", "scale-twice", "self-unseen"}
    models = [rotkv.Model(path, rotkv.Backend("fast", threads=1, mistake=name))
              for name in ("", "signs-dropped")]
    caches = [one.cache("k=q4_0,v=q4_0", 20) for one in models]
    for at in range(len(ids)):  # a token at a time, whose products wait for each other
        rows = [one.forward(cache, ids[at:at + 1], np.array([at], np.int32))
                for one, cache in zip(models, caches)]
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-3)
    with pytest.raises(rotkv.Error, match="expected one of k-not-rotated, "):
        rotkv.Backend("ref", mistake="none")


def test_a_model_in_a_precision(model, path):
    """What cannot be is refused by the operation that cannot; f32 is what nobody asked for."""
    backend = rotkv.Backend("ref", threads=1)
    ids = model.tokenize(TEXT)[:8]
    base = rotkv.Model(path, backend).logprobs(ids)
    same = rotkv.Model(path, backend, precision="gemm=f32,attention=f32").logprobs(ids)
    np.testing.assert_array_equal(same, base)
    with pytest.raises(rotkv.Error) as caught:
        rotkv.Model(path, backend, precision="attention=f16").logprobs(ids)
    assert caught.value.code == "unsupported" and "f16" in str(caught.value)
    for words in "attention=bf16", "gemm=f64", "f16", "gemm=f32,gemm=f32", "gemm=f32 ":
        with pytest.raises(rotkv.Error) as caught:
            rotkv.Model(path, backend, precision=words)
        assert caught.value.code == "usage" and "expected" in str(caught.value)


def test_words_of_a_cache_mean_what_they_mean_in_programs(model, path):
    stated = program("rotkv-perplexity", path, "-ctk", "q4_0", "-ctv", "q4_0", "--place",
                     "first=4,recent=8,ends=q8_0:1")
    words = "k=q4_0,v=q4_0,first=4,recent=8,ends=q8_0:1"
    assert model.perplexity(TEXT, words, ctx=64)["ppl"] == stated["ppl"]
    ids = model.tokenize(TEXT)[:60]
    plain, f16 = model.logprobs(ids, "k=q4_0,v=q4_0"), model.logprobs(ids, "k=f16,v=f16")
    kept = model.logprobs(ids, "k=q4_0,v=q4_0,first=58")[:-1]  # all but the last in f16
    np.testing.assert_allclose(kept, f16[:-1], atol=2e-3)
    assert np.abs(plain - f16).max() > 0.02
    with pytest.raises(rotkv.Error, match="ends: expected at most"):
        model.logprobs(ids, "k=q4_0,v=q4_0,ends=q8_0:99")
    with pytest.raises(rotkv.Error, match="bias"):
        model.logprobs(ids, "k=q4_0,v=q4_0,kbias=on")


@pytest.mark.parametrize("words, least", [("recent=12", 13), ("first=5,recent=7", 13), ("first=12", 13)])
def test_a_cache_that_only_f16_is_read_of_is_refused(model, words, least):
    """Of `least` tokens in a row the last reads one of few bits, of fewer none; the last token of
    logprobs() and the last that is generated read nothing."""
    ids, words = model.tokenize(TEXT)[:least + 1], "k=q4_0,v=q8_0," + words
    for call in (lambda n: model.logprobs(ids[:n + 1], words), lambda n: model.cache(words, n),
                 lambda n: model.generate(ids[:n], 1, words),
                 lambda n: model.perplexity(TEXT, words, ctx=n + 1, chunks=1),
                 lambda n: model.kld(TEXT, [words], ctx=n + 1, chunks=1)):
        call(least)
        with pytest.raises(rotkv.Error, match=f"{least - 1} tokens in a row .*, nothing of few bits") as caught:
            call(least - 1)
        assert caught.value.code == "bad argument"


def test_kld_is_the_programs(model, path):
    caches = ["k=q4_0,v=q4_0", "k=tqmse3,v=q8_0"]
    # In batches of one window both: products of more tokens at once may round otherwise.
    stated = program("rotkv-kld", path, "-b", "64", *[w for c in caches for w in ("--variant", c)])
    found = model.kld(TEXT, caches, ctx=64, batch=64)
    assert list(found) == caches
    text = json.dumps(stated)
    for cache in caches:
        assert 0 < found[cache]["kld"] < 1 and 0.5 < found[cache]["same_top"] < 1
        assert json.dumps(found[cache]["kld"]) in text and json.dumps(found[cache]["ppl"]) in text


def test_text_and_tokens(model):
    text = "three words \u00e9\n"
    ids = model.tokenize(text, add_special=False)
    assert ids.dtype == np.int32 and model.detokenize(ids).decode() == text
    assert ids.max() < model.n_vocab
    with pytest.raises(rotkv.Error):
        model.detokenize(np.array([10 ** 6], np.int32))


def test_generate_takes_the_likeliest(model):
    ids = model.tokenize("line 1 of")
    text = model.generate(ids, 8, cache="k=f32,v=f32")
    alone = ids
    for token in text:
        cache = model.cache("k=f32,v=f32", cells=64)
        hidden = model.forward(cache, alone, np.arange(len(alone), dtype=np.int32))
        assert hidden.shape == (len(alone), model.width)
        options = [model.logprobs(np.append(alone, np.int32(word)), "k=f32,v=f32")[-1]
                   for word in (token, (token + 1) % model.n_vocab, (token + 7) % model.n_vocab)]
        assert options[0] == max(options)
        alone = np.append(alone, token)
    drawn = [model.generate(ids, 8, temperature=2.0, seed=seed).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_ends_and_texts_of_the_file(model):
    assert model.eos in model.ends.tolist()
    assert model.text("general.name") == "smollm3"
    for key in "no.such.key", "smollm3.block_count":
        with pytest.raises(rotkv.Error, match=key):
            model.text(key)


def test_capture_is_what_the_cache_holds(model):
    ids = model.tokenize(TEXT)[:20]
    rows = model.capture(ids)
    assert sorted(rows) == list(range(model.n_layers)) and set(rows[0]) == {"q", "k", "v"}
    cache = model.cache("k=f32,v=f32,rot=off", cells=20)
    model.forward(cache, ids, np.arange(20, dtype=np.int32))
    for side in "k", "v":
        held = cache.bytes(1, side).view(np.float32).reshape(rows[1][side].shape)
        np.testing.assert_array_equal(held, rows[1][side])


def test_progress_ends_the_work(model):
    seen = []
    with pytest.raises(rotkv.Error) as caught:
        model.perplexity(TEXT, ctx=64, batch=64, progress=lambda *at: seen.append(at) or True)
    assert caught.value.code == "cancelled" and len(seen) == 1 and seen[0][0] == 1 < seen[0][1]

    def fail(_done, _every):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.perplexity(TEXT, ctx=64, batch=64, progress=fail)


def test_progress_is_a_bar_where_tqdm_is(model, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total):
            self.total, self.n, self.steps, self.closed = total, 0, 0, False
            bars.append(self)

        def update(self, n):
            self.n, self.steps = self.n + n, self.steps + 1

        def close(self):
            self.closed = True

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    found = model.perplexity(TEXT, ctx=64, batch=64, progress=True)
    bar, = bars
    assert bar.closed and bar.n == bar.total == bar.steps > 1
    assert found == model.perplexity(TEXT, ctx=64, batch=64, progress=False)
    assert found == model.perplexity(TEXT, ctx=64, batch=64) and len(bars) == 1
    monkeypatch.setattr(Bar, "update", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.perplexity(TEXT, ctx=64, batch=64, progress=True)
    assert bars[1].closed
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="tqdm"):
        model.perplexity(TEXT, ctx=64, batch=64, progress=True)


def test_threads_share_a_model(model):
    ids = model.tokenize(TEXT)[:40]
    alone, found = model.logprobs(ids), []
    threads = [threading.Thread(target=lambda: found.append(model.logprobs(ids))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(np.array_equal(one, alone) for one in found)


def test_errors_have_the_programs_words(path, tmp_path):
    with pytest.raises(rotkv.Error) as caught:
        rotkv.Model(str(tmp_path / "none.gguf"))
    assert caught.value.code == "io" and "none.gguf" in str(caught.value)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(rotkv.Error) as caught:
        rotkv.Model(str(tmp_path / "broken.gguf"))
    done = subprocess.run([os.path.join(PROGRAMS, "rotkv-perplexity"), "-m",
                           str(tmp_path / "broken.gguf"), "-f", path], capture_output=True, text=True)
    assert str(caught.value) in done.stderr
