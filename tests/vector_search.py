#!/usr/bin/env python3
"""Vector search in formats of the zoo, beside faiss: recall against bits (docs/27-vector-search.md).

Rows are a model's token embeddings, different ones, of length 1. Some are queries, the others are
searched: exactly, and by what decode(encode(row)) left of them. A query stays as it is.

Usage: tests/vector_search.py MODEL.gguf [--rows N] [--queries N] [--seed S] [--parts N,...]
           [--only WORD] [--json FILE]
Needs numpy, the package rotkv, and for the lines of faiss faiss-cpu; without, they are left out
aloud."""
import argparse
import json
import sys

import gguf_file
import numpy as np
import rotkv

TYPES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 12: "q4_k",
         13: "q5_k", 14: "q6_k", 20: "iq4_nl", 30: "bf16"}
PLAIN = ["q8_0", "q4_0", "iq4_nl", "tqmse4", "tqmse3", "tqmse2", "tqmse1", "exl3:2"]
TURNED = ["q8_0", "q4_0", "iq4_nl", "kivi:2-64", "sign",
          "tqmse4", "tqmse3", "tqmse2", "tqmse1", "tqmse4:lsq", "tqmse2:lsq", "tqmse1:unbiased",
          "tqprod4:orthogonal", "tqprod2:orthogonal", "tqprod2", "qjl:1-orthogonal"]
NEAREST = 10


def embeddings(path):
    """The rows of token_embd.weight that differ, f32, of length 1."""
    tensor = gguf_file.GgufFile.read(path).tensors["token_embd.weight"]
    d, words = tensor.extents
    kind = TYPES.get(tensor.type)
    if kind is None:
        sys.exit(f"{path}: embeddings of type {tensor.type} are not read here")
    codes = np.frombuffer(tensor.data, np.uint8).reshape(words, -1)
    rows = np.unique(rotkv.dequantize(codes, kind, d), axis=0)
    lengths = np.linalg.norm(rows, axis=1)
    return np.ascontiguousarray(rows[lengths > 0] / lengths[lengths > 0, None], np.float32)


def rotation(d, random):
    """Any rotation, each as likely as another: Q of a Gaussian matrix, signs fixed by R."""
    q, r = np.linalg.qr(random.standard_normal((d, d)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def nearest(scores):
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def recall(found, truth):
    """Of 1@1, 1@10, 10@10: the mean over queries, and its standard error."""
    first = truth[:, :1]
    of = [found[:, 0] == truth[:, 0], (found == first).any(axis=1),
          [len(set(a) & set(b)) / NEAREST for a, b in zip(found, truth)]]
    return [(np.mean(one), np.std(one, ddof=1) / len(truth) ** 0.5) for one in of]


def by_format(name, base, queries):
    codes = rotkv.encode(base, name)
    kept = rotkv.decode(codes, name, base.shape[1])
    return codes.shape[1], nearest(queries @ kept.T)


def faiss_indices(d, parts_of):
    """Name, index, bytes of what was learnt. Product quantization learns from the rows it keeps."""
    try:
        import faiss
    except ImportError as error:
        print(f"SKIPPED faiss: {error} (pip install faiss-cpu)", file=sys.stderr)
        return
    for parts in parts_of:
        yield (f"PQ, {parts} x 8 bits", faiss.IndexPQ(d, parts, 8, faiss.METRIC_INNER_PRODUCT),
               256 * d * 4)
    yield "R, RaBitQ", faiss.IndexRaBitQ(d, faiss.METRIC_INNER_PRODUCT), 4 * d


def lines(base, queries, truth, random, parts_of, wanted):
    d = base.shape[1]
    for name in filter(wanted, PLAIN):
        size, found = by_format(name, base, queries)
        yield name, 8 * size / d, recall(found, truth)
    turn = rotation(d, random)
    turned, asked = base @ turn.T, queries @ turn.T
    for name in [name for name in TURNED if wanted("R, " + name)]:
        size, found = by_format(name, turned, asked)
        yield "R, " + name, 8 * size / d, recall(found, truth)
    for name, index, learnt in faiss_indices(d, parts_of):
        if not wanted(name):
            continue
        rows, asking = (turned, asked) if name == "R, RaBitQ" else (base, queries)
        index.train(rows)
        index.add(rows)
        found = index.search(asking, NEAREST)[1]
        size = index.sa_code_size() + learnt / len(base)
        yield name, 8 * size / d, recall(found, truth)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=16384, help="that are searched")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", type=lambda text: [int(part) for part in text.split(",")],
                        default=[288, 192, 144, 72],
                        help="of product quantization, a byte each (default 288,192,144,72)")
    parser.add_argument("--only", default="", metavar="WORD", help="lines whose name has it")
    parser.add_argument("--json", metavar="FILE")
    asked = parser.parse_args()
    random = np.random.default_rng(asked.seed)
    rows = random.permutation(embeddings(asked.model))
    if len(rows) < asked.rows + asked.queries or asked.rows < 256 or asked.queries < 2:
        sys.exit(f"expected 256 rows and 2 queries or more, {len(rows)} together at most")
    queries, base = rows[:asked.queries], rows[asked.queries:asked.queries + asked.rows]
    truth = nearest(queries @ base.T)
    print(f"{len(base)} rows of {base.shape[1]} channels, {len(queries)} queries, seed {asked.seed}"
          "; R: rotated\n")
    print("| kept as | bits per value | 1@1 | 1@10 | 10@10 |\n|---|---|---|---|---|")
    table = []
    for name, bits, recalls in lines(base, queries, truth, random, asked.parts,
                                     lambda name: asked.only in name):
        figures = " | ".join(f"{mean:.3f} \u00b1 {error:.3f}" for mean, error in recalls)
        print(f"| {name} | {bits:.3f} | {figures} |", flush=True)
        table.append({"name": name, "bits": bits, "recall": [mean for mean, _ in recalls]})
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump(table, file)


if __name__ == "__main__":
    main()
