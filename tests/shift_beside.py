#!/usr/bin/env python3
"""One context shift whose result is known (shift_models.py), in rotkv and in llama.cpp: -ln p of the
word behind it, beside that of a fresh run over the surviving tokens; and, of llama.cpp, the KLD of
all words from its own fresh run.

llama.cpp comes from the Python package xllamacpp, without which its columns stay empty. Each of its
runs is a process of its own, since it may abort. It shifts when one cell is left, so that its
context of 256 is one of 255 here.

Usage: tests/shift_beside.py FOLDER_WITH_THE_PROGRAMS FOLDER_FOR_THE_MODELS [NAME...]"""
import csv
import importlib.metadata
import io
import json
import math
import os
import subprocess
import sys

import shift_models
from gguf_file import GgufFile

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

CELLS, CACHES = 255, ("f32", "q8_0")
DROPPED = (CELLS - 1) // 2
WORD = "b"  # which comes again and again at the end of the text
START = shift_models.letters(CELLS - 6)
TEXT = "." + START + WORD * (2 * CELLS + 2 * DROPPED)  # in the first place: BOS
SURVIVORS = TEXT[1 + DROPPED:CELLS + 1]                # and the first token behind the shift


def rotkv(programs, folder, model, text, position, *arguments):
    """-ln p of the text's next word at a position, for each cache."""
    path = os.path.join(folder, "text.txt")
    with open(path, "w") as file:
        file.write(text)
    flags = [part for kind in CACHES[1:] for part in ("--variant", f"k={kind},v={kind}")]
    table = subprocess.run([os.path.join(programs, "rotkv-kld"), "-m", model, "-f", path, "-c",
                            str(CELLS), "--chunks", "1", "--quiet", "--csv", "-", *flags,
                            *arguments], capture_output=True, text=True, check=True).stdout
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["position"] == str(position)]
    return [float(rows[0]["nll_base"])] + [float(row["nll"]) for row in rows]


def serve(model, kind):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = model, CELLS + 1, 1
    params.n_gpu_layers, params.verbosity = 0, 0
    params.warmup = params.fit_params = False
    params.ctx_shift = params.swa_full = True
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type,
                                                        "GGML_TYPE_" + kind.upper())
    flash = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = (flash.LLAMA_FLASH_ATTN_TYPE_DISABLED if kind == "f32" else
                              flash.LLAMA_FLASH_ATTN_TYPE_ENABLED)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def say(server, tokens, count):
    """What each of `count` words is predicted to be, [{token: log p}]; each is then WORD."""
    answer = server.handle_completions({
        "prompt": tokens, "n_predict": count, "n_probs": 1 << 16, "temperature": 0.0, "n_keep": 0,
        "cache_prompt": False, "logit_bias": [[ord(WORD), 1000.0]]})
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    if answer.get("choices") is None:
        sys.exit(str(answer))
    return [{word["id"]: word["logprob"] for word in row["top_logprobs"]}
            for row in answer["choices"][0]["logprobs"]["content"]]


def ask_llama(model, kind, bos):
    """Prints [fresh, shifted, KLD]; in a process of its own."""
    server = serve(model, kind)
    shifted = say(server, [bos, *map(ord, START)], 7)[6]
    fresh = say(server, [bos, *map(ord, SURVIVORS)], 1)[0]
    kld = sum(math.exp(log_p) * (log_p - shifted[word]) for word, log_p in fresh.items()
              if log_p > -1e6)
    print(json.dumps([-fresh[ord(WORD)], -shifted[ord(WORD)], kld]), flush=True)
    os._exit(0)  # the server's threads would not end


def llama_columns(model, kind, bos):
    if xllamacpp is None:
        return ""
    done = subprocess.run([sys.executable, __file__, "--ask", model, kind, str(bos)],
                          capture_output=True, text=True,
                          env={**os.environ, "GGML_NO_BACKTRACE": "1"})
    if done.returncode == 0:
        return "{:10.5f} {:10.5f} {:10.1e}".format(*json.loads(done.stdout.splitlines()[-1]))
    said = [line for line in done.stderr.splitlines() if line.strip()] or [""]
    where = next((line for line in said if "ggml" in line), said[-1])
    return f"   ends with {done.returncode}: {where.rpartition('/')[2][:60]}"


def beside(programs, folder, name):
    model = shift_models.write(folder, name)
    bos = GgufFile.read(model).keys["tokenizer.ggml.bos_token_id"][1]
    fresh = rotkv(programs, folder, model, SURVIVORS + WORD * 2 * CELLS, len(SURVIVORS))
    shifted = rotkv(programs, folder, model, TEXT[1:], CELLS, "--shift", "1")
    for kind, one, other in zip(CACHES, fresh, shifted):
        print(f"{name:15} {kind:5} {one:9.5f} {other:9.5f}  {llama_columns(model, kind, bos)}",
              flush=True)


def main(programs, folder, *names):
    version = "" if xllamacpp is None else importlib.metadata.version("xllamacpp")
    print(f"{'':21} {'rotkv':>9} {'':9}  {'llama.cpp (xllamacpp ' + version + ')':>32}")
    print(f"{'model':15} {'K, V':5} {'fresh':>9} {'shifted':>9}  {'fresh':>10} {'shifted':>10} "
          f"{'KLD':>10}")
    for name in names or shift_models.MODELS:
        beside(programs, folder, name)
    if xllamacpp is None:
        print("SKIPPED: llama.cpp: there is no Python package xllamacpp")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        ask_llama(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    if len(sys.argv) < 3 or any(name not in shift_models.MODELS for name in sys.argv[3:]):
        sys.exit(f"{__doc__}\nNames: {' '.join(shift_models.MODELS)}")
    main(*sys.argv[1:])
