"""A small run of tests/vector_search.py, on vectors made here: with ROTKV_FULL alone.
Docs: docs/27-vector-search.md"""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import gguf_file  # noqa: E402

ROWS, D = 1200, 64


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    vectors = np.random.default_rng(5).standard_normal((ROWS, D)).astype(np.float32)
    file = gguf_file.GgufFile()
    file.tensors["token_embd.weight"] = gguf_file.Tensor([D, ROWS], 0, vectors.tobytes())
    model, out = str(folder / "vectors.gguf"), str(folder / "table.json")
    file.write(model)
    subprocess.run([sys.executable, os.path.join(HERE, "vector_search.py"), model, "--rows", "1024",
                    "--queries", "150", "--parts", "16,8", "--json", out], check=True)
    with open(out) as found:
        return {line["name"]: line for line in json.load(found)}


@pytest.mark.skipif(not os.environ.get("ROTKV_FULL"), reason="ROTKV_FULL is not set")
def test_recall_grows_with_bits(table):
    at_ten = {name: line["recall"][2] for name, line in table.items()}
    assert at_ten["R, q8_0"] > 0.97
    codes = [at_ten[f"R, tqmse{bits}"] for bits in (1, 2, 3, 4)]
    assert codes == sorted(codes)
    assert codes[0] < 0.5 < codes[3]
    # What is right on the average is worse to search by than a code of as many bits.
    assert at_ten["R, tqprod4:orthogonal"] < at_ten["R, tqmse4:lsq"]
    assert table["R, tqmse4"]["bits"] == 4.25
    # Normal numbers are as normal unrotated.
    assert abs(at_ten["tqmse3"] - at_ten["R, tqmse3"]) < 0.05
