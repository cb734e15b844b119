#!/usr/bin/env python3
"""A model and the same with V's rotation in its weights (rotkv-fuse), in llama.cpp, whose cache has
K in f16 and V in q4_0, with its own rotation on and off. Both at once turn back, H H = 1: of the
four runs two and two are one and the same cache, and the table of KLDs between them shows which.
Weights in f32 say it most clearly: with others llama.cpp rounds activations to 8 bits.

llama.cpp comes from the Python package xllamacpp. Each of its runs is a process of its own, since
it reads LLAMA_ATTN_ROT_DISABLE once.

Usage: tests/fused_beside.py MODEL FUSED TEXT [WORDS]"""
import json
import math
import os
import re
import subprocess
import sys

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

CONTEXT = 512
RUNS = [  # of which file, LLAMA_ATTN_ROT_DISABLE, what V is
    (0, "1", "plain"), (1, "0", "turned twice"), (0, "0", "rotated by llama.cpp"),
    (1, "1", "rotated in the weights")]


def ask(model, text, words):
    """Prints the predictions behind so many words of the text, [[[token, log p]]]: those that end
    behind its first CONTEXT characters, which are fewer tokens."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = model, CONTEXT, 1
    params.n_gpu_layers, params.verbosity = 0, 0
    params.warmup = params.fit_params = False
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F16
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q4_0
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    server = xllamacpp.Server(params)
    ends = [match.start() for match in re.finditer(r"\s", text)]  # of words
    ends = [end for end in ends if end > CONTEXT][:int(words)]
    rows = []
    for end in ends:
        answer = server.handle_completions({"prompt": text[:end], "n_predict": 1, "n_probs": 2000,
                                            "temperature": 0.0, "cache_prompt": True})
        answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
        content = answer["choices"][0]["logprobs"]["content"][0]
        rows.append([[word["id"], word["logprob"]] for word in content["top_logprobs"]])
    print(json.dumps(rows), flush=True)
    os._exit(0)  # the server's threads would not end


def kld(base, other):
    """Over the words that both list, the 2000 most likely: what is left out is below e-4."""
    found = dict(map(tuple, other))
    return sum(math.exp(log_p) * (log_p - found[word]) for word, log_p in base if word in found)


def main(model, fused, text, words="64"):
    if xllamacpp is None:
        sys.exit("SKIPPED: there is no Python package xllamacpp")
    rows = []
    for which, disabled, _ in RUNS:
        done = subprocess.run([sys.executable, __file__, "--ask", (model, fused)[which], text, words],
                              capture_output=True, text=True, check=True,
                              env={**os.environ, "LLAMA_ATTN_ROT_DISABLE": disabled})
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'mean KLD from':24}" + "".join(f"{what:>24}" for *_, what in RUNS))
    for (*_, what), base in zip(RUNS, rows):
        means = [sum(map(kld, base, other)) / len(base) for other in rows]
        print(f"{what:24}" + "".join(f"{mean:24.6f}" for mean in means))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        with open(sys.argv[3]) as file:
            ask(sys.argv[2], file.read(), sys.argv[4])
    elif len(sys.argv) in (4, 5):
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)
