"""The Python package on arrays, against numpy: the matrix itself, dense attention, packed blocks
written in numpy, sums of exponentials."""
import os
import sys

import numpy as np
import pytest

import rotkv

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy_blocks  # noqa: E402
from numpy_engine import matrix, signs  # noqa: E402

QUANTIZED = ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


@pytest.fixture
def random():
    return np.random.default_rng(7)


def floats(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


@pytest.fixture(params=["ref", "fast"])
def backend(request):
    return rotkv.Backend(request.param, threads=2)


@pytest.mark.parametrize("words", ["64", "128", "32:7"])
def test_hadamard_is_the_matrix(random, backend, words):
    x = floats(random, 3, 5, 128)
    rotation = rotkv.Rotation(words)
    h = np.kron(np.eye(128 // rotation.block), matrix(rotation.block))
    s = np.ones(128) if rotation.seed is None else signs(rotation.seed, 128)
    how = {"block": rotation.block, "signs": rotation.seed}
    y = rotkv.hadamard(x, **how, backend=backend)
    np.testing.assert_allclose(y, (x * s) @ h.T, atol=2e-6)
    np.testing.assert_array_equal(y, rotkv.hadamard(x, **how))  # exact: ref has the same bits
    np.testing.assert_allclose(rotkv.hadamard(y, **how, inverse=True), x, atol=2e-6)


def test_hadamard_by_default(random):
    x = floats(random, 3, 128)
    np.testing.assert_array_equal(rotkv.hadamard(x), rotkv.hadamard(x, 64, None, False))
    np.testing.assert_array_equal(rotkv.hadamard(x, block=0), x)
    np.testing.assert_array_equal(rotkv.hadamard(x, np.int64(32)), rotkv.hadamard(x, 32))


@pytest.mark.parametrize("arguments,kind,words", [
    ({"block": "64"}, TypeError, "^block: expected an int, found str$"),
    ({"block": 64.0}, TypeError, "^block: expected an int, found float$"),
    ({"block": rotkv.Rotation("64")}, TypeError, "^block: expected an int, found .*Rotation$"),
    ({"block": True}, TypeError, "^block: expected an int, found bool$"),
    ({"block": None}, TypeError, "^block: expected an int, found NoneType$"),
    ({"block": -64}, rotkv.Error, r"^block: expected 0 .. 2\^64 - 1, found -64$"),
    ({"block": 48}, rotkv.Error, "^hadamard: expected rotation block"),
    ({"block": 2 ** 63}, rotkv.Error, "^hadamard: expected rotation block"),
    ({"signs": "7"}, TypeError, "^signs: expected an int or None, found str$"),
    ({"signs": 2 ** 64}, rotkv.Error, "^signs: expected 0"),
    ({"block": 0, "signs": 7}, rotkv.Error, "^signs: expected a block that they are of")])
def test_hadamard_refuses_in_words(random, arguments, kind, words):
    with pytest.raises(kind, match=words):
        rotkv.hadamard(floats(random, 2, 128), **arguments)


@pytest.mark.parametrize("given,kind,words", [
    (64, TypeError, "expected a Rotation or its words, such as '64:7', found int$"),
    (None, TypeError, "expected a Rotation or its words, such as '64:7', found NoneType$"),
    ("on", rotkv.Error, "expected none, a block size or BLOCK:SEED, found 'on'$"),
    ("64:", rotkv.Error, "expected none, a block size or BLOCK:SEED, found '64:'$")])
def test_wrong_rotations_are_refused_in_words(random, given, kind, words):
    at, rows = np.arange(2, dtype=np.int32), floats(random, 2, 2, 64)
    cache, rope = cells(2, 64, "f32"), rotkv.Rope(64)
    calls = {
        "words": lambda: rotkv.Rotation(given),
        "k_rotation": lambda: rotkv.kv_store(cache, cache.copy(), rows, rows, at, "f32", "f32",
                                             k_rotation=given),
        "v_rotation": lambda: rotkv.attention(rows, cache, cache.copy(), at, at, "f32", "f32",
                                              v_rotation=given),
        "rotation": lambda: rotkv.kv_shift(cache, "f32", 64, at, rope, given)}
    for name, call in calls.items():
        name = name if kind is TypeError else "rotation"
        with pytest.raises(kind, match=f"^{name}: {words}"):
            call()
    assert not cache.any()


def test_rotations_in_words():
    assert str(rotkv.Rotation("64:7")) == "64:7" and rotkv.Rotation("64:7").seed == 7
    assert rotkv.Rotation("none").block == 0 and rotkv.Rotation("64") != rotkv.Rotation("32")
    assert rotkv.Rotation(rotkv.Rotation("64:7")) == rotkv.Rotation("64:7") != "64:7"
    k, v, why = rotkv.policy("k=q8_0,v=f16", 128)
    assert (str(k), str(v)) == ("128", "none")
    assert "K q8_0: rotation sylvester, block 128 (policy: q8_0 is quantized" in why
    assert "f16 is not quantized" in why
    with pytest.raises(rotkv.Error, match="no power of two|expected") as caught:
        rotkv.policy("k=q8_0,rot=48", 128)
    assert caught.value.code == "usage"


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantize_is_the_blocks_of_numpy(random, backend, kind):
    x = floats(random, 6, 96)
    x[1] *= 1000
    x[2, 5] = 40
    codes = rotkv.quantize(x, kind, backend=backend)
    expected = numpy_blocks.pack(kind, x)
    np.testing.assert_array_equal(codes, expected)
    back = rotkv.dequantize(codes, kind, 96, backend=backend)
    np.testing.assert_array_equal(back, numpy_blocks.unpack(kind, codes).astype(np.float32))
    np.testing.assert_array_equal(rotkv.encode(x, kind), codes)
    np.testing.assert_array_equal(rotkv.decode(codes, kind, 96), back)


# What a format leaves of normal numbers of variance 1, by law and not by what was seen
# (docs/20-zoo.md, "The laws"; tests/test_zoo_laws.cpp holds each format to its own).
MAX_1960 = {"tqmse1": 0.3634, "tqmse2": 0.1175, "tqmse3": 0.03454, "tqmse4": 0.009497}
ROUNDED_TO = {"f32": 24, "bf16": 8, "f16": 11}  # bits of a significand, half a unit off at most


def test_formats_of_the_zoo(random):
    n, d = 256, 64
    bits = rotkv.formats(d)
    assert bits["f32"] == 32 and bits["q8_0"] == 8.5 and bits["q4_0"] == 4.5
    assert len(bits) > 20 and all(0 < value <= 32 for value in bits.values())
    x, at = floats(random, n, d), np.arange(n, dtype=np.int32)
    errors = {}
    for name in bits:
        codes = rotkv.encode(x, name, positions=at)
        assert codes.shape == (n, round(bits[name] * d / 8))
        off = rotkv.decode(codes, name, d, positions=at) - x.astype(float)
        errors[name] = np.mean(off ** 2) / np.mean(x.astype(float) ** 2)
        if name in ROUNDED_TO:
            smallest = 2.0 ** (-14 if name == "f16" else -126)
            assert np.all(abs(off) <= np.maximum(abs(x), smallest) * 2.0 ** -ROUNDED_TO[name]), name
        else:  # the rate-distortion bound; and no nonsense: qjl:1 has pi / 2 - 1 / d
            assert 4 ** -bits[name] < errors[name] < 8, name
    for name, distortion in MAX_1960.items():
        # Values of a row whose norm is kept are less spread by 1 / d, and so is what they lose;
        # four standard errors, squares of errors being about as spread as they are large.
        chance = 4 / (n * d) ** 0.5 + 2 / d
        assert abs(errors[name] / distortion - 1) < chance, name
    for kind in QUANTIZED[:5]:  # a step is the range of 32 values by 2^b levels and their ends
        levels = {"q8_0": 127, "q5_1": 31, "q5_0": 16, "q4_1": 15, "q4_0": 8}[kind]
        blocks = x.reshape(-1, 32).astype(float)
        span = np.ptp(blocks, 1) if kind.endswith("_1") else abs(blocks).max(1)
        # Evenly over a step of its block, step^2 / 12, but for the ends of the range, which are
        # levels. q5_0 and q4_0 lack the level opposite to the largest value: what lies there is
        # cut by less than a step, step^2 / 3 on the average, in at most one value of 32.
        ends, cut = (2, 0) if kind.endswith("_1") else (1, 0 if kind == "q8_0" else 4 / 32)
        expected = np.mean((span / levels) ** 2 / 12) / np.mean(blocks ** 2) * (1 - ends / 32)
        chance = 4 / (n * d) ** 0.5
        assert -chance < errors[kind] / expected - 1 < chance + cut, kind
    with pytest.raises(rotkv.Error, match="q3_9"):
        rotkv.encode(x, "q3_9")


@pytest.mark.parametrize("pairs", ["norm", "neox"])
def test_rope_turns(random, backend, pairs):
    x = floats(random, 5, 2, 64)
    positions = np.array([0, 1, 7, 100, 4000], np.int32)
    rope = rotkv.Rope(48, pairs)
    angle = positions[:, None] * 10000.0 ** (-2 * np.arange(24) / 48)
    y = rotkv.rope(x, positions, rope, backend=backend)
    a, b = (x[..., 0:48:2], x[..., 1:48:2]) if pairs == "norm" else (x[..., :24], x[..., 24:48])
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    parts = [y[..., 0:48:2], y[..., 1:48:2]] if pairs == "norm" else [y[..., :24], y[..., 24:48]]
    np.testing.assert_allclose(parts[0], a * c - b * s, atol=1e-5)
    np.testing.assert_allclose(parts[1], a * s + b * c, atol=1e-5)
    np.testing.assert_array_equal(y[..., 48:], x[..., 48:])


def dense_attention(q, k, v, position, q_position, scale, window=0, softcap=0.0, sinks=None):
    group = q.shape[1] // k.shape[1]
    keys, values = np.repeat(k, group, 1).astype(float), np.repeat(v, group, 1).astype(float)
    scores = np.einsum("thd,chd->thc", q.astype(float), keys) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = q_position[:, None] - position[None]
    seen = (position >= 0) & (distance >= 0)
    if window:
        seen &= distance < window
    scores = np.where(seen[:, None], scores, -np.inf)
    if sinks is not None:
        scores = np.concatenate([scores, np.broadcast_to(sinks[None, :, None],
                                                         (*scores.shape[:2], 1))], 2)
    top = scores.max(2, keepdims=True)
    p = np.exp(scores - top)
    lse = np.log(p.sum(2)) + top[..., 0]
    p /= p.sum(2, keepdims=True)
    return np.einsum("thc,chd->thd", p[..., :len(position)], values), lse


def cells(n, d, kind):
    return np.zeros((1, n, 2, rotkv.quantize(np.zeros((1, d), np.float32), kind).shape[1]), np.uint8)


@pytest.mark.parametrize("kind,limit", [("f32", 1e-5), ("q8_0", 0.02), ("q4_0", 0.3)])
@pytest.mark.parametrize("options", [{}, {"window": 5}, {"softcap": 2.0}, {"sinks": True}])
def test_stored_rows_are_attended(random, backend, kind, limit, options):
    n, d = 12, 64
    k, v, q = floats(random, n, 2, d), floats(random, n, 2, d), floats(random, n, 4, d)
    k_cache, v_cache = cells(n, d, kind), cells(n, d, kind)
    where = random.permutation(n).astype(np.int32)
    options = dict(options)
    if "sinks" in options:
        options["sinks"] = floats(random, 4)
    rotkv.kv_store(k_cache, v_cache, k, v, where, kind, kind, k_rotation="64", v_rotation="32:3",
                   backend=backend)
    position = np.full(n, -1, np.int32)
    position[where] = np.arange(n)
    output, lse = rotkv.attention(q, k_cache, v_cache, position, np.arange(n, dtype=np.int32), kind,
                                  kind, k_rotation="64", v_rotation="32:3", lse=True,
                                  backend=backend, **options)
    expected, sums = dense_attention(q, k, v, np.arange(n), np.arange(n), d ** -0.5, **options)
    assert np.abs(output - expected).max() < limit and np.abs(lse - sums).max() < limit
    turned_k = rotkv.dequantize(k_cache, kind, d)[0, where]
    np.testing.assert_allclose(rotkv.hadamard(turned_k, 64, inverse=True), k, atol=limit * 3)


def test_shifted_keys_are_those_of_other_positions(random, backend):
    n, d = 6, 64
    k = floats(random, n, 2, d)
    rope = rotkv.Rope(d)
    at = np.arange(n, dtype=np.int32)
    stored = [rotkv.rope(k, at + by, rope) for by in (0, 3)]
    caches = []
    for rows in stored:
        k_cache, v_cache = cells(n, d, "f32"), cells(n, d, "f32")
        rotkv.kv_store(k_cache, v_cache, rows, rows, at, "f32", "f32", k_rotation="64")
        caches.append(k_cache)
    rotkv.kv_shift(caches[0], "f32", d, np.full((1, n), 3, np.int32), rope, "64", backend=backend)
    np.testing.assert_allclose(caches[0].view(np.float32), caches[1].view(np.float32), atol=2e-6)


def test_likelihoods(random, backend):
    a, b, w = floats(random, 5, 32), floats(random, 5, 32), floats(random, 40, 32)
    target = np.array([0, 39, 3, 3, 20], np.int32)
    logits = [x.astype(float) @ w.T.astype(float) for x in (a, b)]
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in logits)
    nll, top = rotkv.nll(a, w, target, backend=backend)
    np.testing.assert_allclose(nll, -log_p[np.arange(5), target], rtol=1e-5)
    np.testing.assert_array_equal(top, log_p.argmax(1))
    kld = (np.exp(log_p) * (log_p - log_q)).sum(1)
    np.testing.assert_allclose(rotkv.kld(a, b, w, backend=backend), kld, rtol=1e-4)
    as_f32 = [x.astype(np.float32) for x in logits]
    np.testing.assert_allclose(rotkv.kld_of_logits(*as_f32), kld, rtol=1e-5)
    np.testing.assert_allclose(rotkv.nll_of_logits(as_f32[0], target), nll, rtol=1e-5)
    as_f32[0][2, 3] = np.nan
    assert np.isnan(rotkv.kld_of_logits(*as_f32)).tolist() == [False, False, True, False, False]


def test_arrays_are_taken_as_they_lie(random):
    x = floats(random, 4, 64)
    wide = floats(random, 4, 128)
    np.testing.assert_array_equal(rotkv.hadamard(wide[:, ::2], 64),
                                  rotkv.hadamard(wide[:, ::2].copy(), 64))
    np.testing.assert_array_equal(rotkv.hadamard(x.astype(np.float64), 64),
                                  rotkv.hadamard(x, 64))
    assert rotkv.hadamard(np.zeros((0, 64), np.float32), 64).shape == (0, 64)
    assert rotkv.hadamard(floats(random, 2, 3, 2, 2, 2, 64), 64).shape == (2, 3, 2, 2, 2, 64)
    for bad in (x[0, :48], np.zeros((3, 0), np.float32)):
        with pytest.raises(rotkv.Error):
            rotkv.quantize(bad, "q8_0") if bad.size else rotkv.quantize(bad, "nothing")
    with pytest.raises(rotkv.Error, match="hadamard: expected rotation block"):
        rotkv.hadamard(x, 128)
    with pytest.raises(TypeError):
        rotkv.hadamard("no array", 64)


def test_torch_tensors_without_a_copy(random):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(floats(random, 4, 64))
    np.testing.assert_array_equal(rotkv.hadamard(x, 64), rotkv.hadamard(x.numpy(), 64))


class OnDevice:
    """A tensor as torch has it on a device: DLPack says where it is, cpu() copies it."""

    def __init__(self, array):
        self.array, self.copies = array, 0

    def __dlpack_device__(self):
        return 2, 0  # CUDA's number

    def __dlpack__(self, *_, **__):
        raise BufferError("memory of a device")

    def cpu(self):
        self.copies += 1
        return self.array


def test_tensors_of_a_device_are_copied_to_the_host(random):
    x, ids = floats(random, 4, 1, 64), np.arange(4, dtype=np.int32)
    held = OnDevice(x)
    np.testing.assert_array_equal(rotkv.hadamard(held, 64), rotkv.hadamard(x, 64))
    assert held.copies == 1
    codes = rotkv.quantize(x, "q8_0")
    np.testing.assert_array_equal(rotkv.dequantize(OnDevice(codes), "q8_0", 64),
                                  rotkv.dequantize(codes, "q8_0", 64))
    rope = rotkv.Rope(64)
    np.testing.assert_array_equal(rotkv.rope(x, OnDevice(ids), rope), rotkv.rope(x, ids, rope))
    cells = np.zeros((1, 4, 1, 256), np.uint8)
    with pytest.raises(TypeError):  # a copy would be written, and lost
        rotkv.kv_store(OnDevice(cells), cells.copy(), x, x, ids, "f32", "f32")
    with pytest.raises(TypeError):
        rotkv.hadamard(OnDevice("no array"), 64)


def test_attention_in_f16_where_the_backend_has_it(random, backend):
    q, ids = floats(random, 2, 1, 64), np.arange(2, dtype=np.int32)
    cells = rotkv.quantize(q[None], "f16").reshape(1, 2, 1, 128)
    how = {"k_type": "f16", "v_type": "f16", "backend": backend}
    given = (q, cells, cells, ids, ids)
    np.testing.assert_array_equal(rotkv.attention(*given, **how, precision="f32"),
                                  rotkv.attention(*given, **how))
    with pytest.raises(rotkv.Error) as caught:
        rotkv.attention(*given, **how, precision="f16")
    assert caught.value.code == "unsupported" and "f16" in str(caught.value)
    with pytest.raises(rotkv.Error, match="expected f32 or f16, found 'f64'"):
        rotkv.attention(*given, **how, precision="f64")


def test_backends_and_cases():
    assert set(rotkv.backends()) >= {"ref", "fast", "cuda"}
    assert all(rotkv.backends().values())
    with pytest.raises(rotkv.Error, match="unknown backend|expected"):
        rotkv.Backend("abacus")
    names = rotkv.cases("hadamard/rot=64")
    assert "hadamard/rot=64" in names and len(rotkv.cases()) > 1000
    assert rotkv.run_case("hadamard/rot=64", rotkv.Backend("fast"))[0] == "ok"
    with pytest.raises(rotkv.Error, match="hadamar"):
        rotkv.run_case("hadamar/rot=64")


def test_a_cache(random, backend, tmp_path):
    n, d = 9, 64
    words = "k=q8_0,v=q4_0,rot=on"
    k, v, q = floats(random, n, 2, d), floats(random, n, 2, d), floats(random, n, 4, d)
    cache = rotkv.Cache(words, cells=16, kv_heads=2, d_k=d, layers=2, backend=backend)
    assert "K q8_0: rotation sylvester, block 64" in str(cache)
    with pytest.raises(rotkv.Error, match="place"):
        cache.store(0, k, v)
    cache.place(np.arange(n, dtype=np.int32))
    cache.store(1, k, v)
    output, lse = cache.attend(1, q, lse=True)
    expected, _ = dense_attention(q, k, v, np.arange(n), np.arange(n), d ** -0.5)
    assert np.abs(output - expected).max() < 0.3 and lse.shape == (n, 4)
    held = cache.bytes(1, "k")
    np.testing.assert_array_equal(
        held, rotkv.quantize(rotkv.hadamard(k, 64), "q8_0").reshape(-1))
    cache.save(str(tmp_path / "cache"))
    other = rotkv.Cache(words, cells=20, kv_heads=2, d_k=d, layers=2)
    other.load(str(tmp_path / "cache"))
    np.testing.assert_array_equal(other.bytes(1, "k"), held)
    np.testing.assert_array_equal(other.positions(), np.arange(n))
    with pytest.raises(rotkv.Error, match="rotation of K") as caught:
        rotkv.Cache("k=q8_0,v=q4_0,rot=off", cells=20, kv_heads=2, d_k=d,
                    layers=2).load(str(tmp_path / "cache"))
    assert caught.value.code == "bad file"
    cache.remove(0, 2)
    cache.shift(2, n, -2, rotkv.Rope(d))
    assert cache.positions().tolist() == [-1, -1, *range(n - 2)]
    assert not np.array_equal(cache.bytes(1, "k"), held)
    cache.clear()
    assert cache.positions().size == 0


def test_stubs_and_docstrings():
    folder = os.path.dirname(rotkv.__file__)
    with open(os.path.join(folder, "_rotkv.pyi"), encoding="utf-8") as file:
        stub = file.read()
    assert os.path.exists(os.path.join(folder, "py.typed"))
    for name in rotkv.__all__:
        thing = getattr(rotkv, name)
        if callable(thing) and name != "Error":  # a limit of the stub
            assert f"def {name}(" in stub or f"class {name}" in stub or (
                thing.__module__ == "rotkv.programs" and "return" in thing.__annotations__), name
            assert thing.__doc__, name


@pytest.mark.parametrize("words", ["first=4", "recent=4", "ends=q8_0:1", "kbias=on", "rot=dense:1",
                                   "rot=kronecker"])
def test_what_needs_a_model_is_refused_without_one(words):
    cache = "k=q4_0,v=q4_0," + words
    with pytest.raises(rotkv.Error, match="model"):
        rotkv.Cache(cache, cells=16, kv_heads=2, d_k=64)
    with pytest.raises(rotkv.Error, match="model"):
        rotkv.policy(cache, 64, 64)
