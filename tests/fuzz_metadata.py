#!/usr/bin/env python3
"""One key of a model's metadata changed, retyped, removed or added: rotkv and llama.cpp both refuse
the file, or both read the same tokens and agree in perplexity. What they knowingly do differently
stands in metadata_departures.py, each with its reason.

llama.cpp comes from the Python package xllamacpp: its server answers prompts of token numbers with
the log-probabilities of the whole vocabulary, here in a process of its own, since llama.cpp may
abort: a refusal. Each prefix of a window is a prompt; windows, BOS and scored half are
llama-perplexity's. After all single changes come random pairs of them.

Usage: tests/fuzz_metadata.py [--seconds N] [--seed S] [--programs DIR] [--only REGEX] MODEL...
Exit status: 0, 1 for a disagreement that is not listed, 2 for usage."""
import argparse
import collections
import json
import math
import multiprocessing
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from gguf_file import GgufFile
from metadata_changes import key_changes
from metadata_departures import DEPARTURES, NUMBERS, REFUSES, TAKES, TOKENS

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

CONTEXT, WINDOWS = 64, 2
CPU_SECONDS, SECONDS = 20, 120  # for one model; beyond the latter the machine is busy: no verdict
TOLERANCE = 1e-4     # of the perplexity, relative
UNCHANGED = 1e-3     # of a file as it is: beyond it there is noise, such as llama.cpp's Q8 activations
TEXT = """ The rain in Spain stays mainly in the plain, they said; 12345 drops of it, then 67 more.
"What's that?" asked the old man  (twice, with two spaces).\tNobody knew: na\u00efve caf\u00e9, 10 \u00b0C, <s> no
token </s> but text. \u0391\u0392\u0393 and \u6f22\u5b57 are bytes here. I'll go, you'd stay, we've been; it's DONE!!!

All happy families are alike; each unhappy family is unhappy in its own way. 3.14159 * 2 = 6.28318.
"""

def departure(kind, changes):
    """The reason for which the two may disagree, or None."""
    changes = [change.split(", ", 1)[1] if " of 4, " in change else change for change in changes]
    for kinds, pattern, reason in DEPARTURES:
        if kind in kinds and any(re.fullmatch(pattern, change) for change in changes):
            return reason
    return None


# What the two programs say: ("refused", why), ("nan", tokens), ("ppl", tokens, value),
# ("fault", what) for a crash, or ("late",).

def set_limits():
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def run_rotkv(program, model, text, folder, backend="fast"):
    json_file, base = os.path.join(folder, "rotkv.json"), os.path.join(folder, "rotkv.kld")
    for old in (json_file, base):
        if os.path.exists(old):
            os.remove(old)
    command = [program, "-m", model, "-f", text, "-c", str(CONTEXT), "-b", str(CONTEXT), "--chunks",
               str(WINDOWS), "-ctk", "f32", "-ctv", "f32", "--backend", backend, "-t", "1",
               "--quiet", "--json", json_file, "--kl-divergence-base", base]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS,
                              preexec_fn=set_limits)
    except subprocess.TimeoutExpired:
        return ("late",)
    if done.returncode not in (0, 1, 2):
        return "fault", "exit status %d: %s" % (done.returncode, done.stderr[-300:])
    if not os.path.exists(json_file):
        return "refused", done.stderr.strip()
    with open(json_file) as file:
        found = json.load(file)
    with open(base, "rb") as file:
        data = file.read()
    context, _, windows = struct.unpack_from("<3i", data, 8)
    tokens = [found["bos"]] if found["bos"] is not None else []
    tokens += list(struct.unpack_from("<%di" % (context * windows), data, 20))
    if found["not_numbers"]["count"] or not isinstance(found["ppl"], float):
        return "nan", tokens
    return "ppl", tokens, found["ppl"]


def run_llama(model, text, letter, folder):
    """In a process of its own, which may abort, or never end."""
    log, fork = os.path.join(folder, "llama.txt"), multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=answer_llama, args=(there, log, model, text, letter))
    child.start()
    there.close()
    try:
        if here.poll(SECONDS):
            return tuple(here.recv())
        return ("late",)
    except EOFError:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file]
        why = [line for line in lines if re.search("error loading|ASSERT|Error|failed", line)]
        return "refused", (why or lines or ["it says nothing"])[0][-200:]
    finally:
        child.kill()
        child.join()
        here.close()


def answer_llama(pipe, log, model, text, letter):
    set_limits()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        pipe.send(llama_perplexity(model, text, letter))
    except Exception as error:  # the server refuses the model or the prompt
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    os._exit(0)  # the server's threads would not end


def serve_llama(model):
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
    params.warmup = params.fit_params = False
    params.swa_full = params.special = True
    params.verbosity = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def llama_perplexity(model, text, letter):
    """As llama-perplexity: its tokens, its BOS before each window, its scored half. `letter` is a
    printable token, without which the server gives no probabilities; these are before the bias
    that makes it the next one."""
    server = serve_llama(model)

    def ask(path, **body):
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(words, special):
        return ask("/tokenize", content=words, add_special=special, parse_special=False)["tokens"]

    plain, marked = tokenize("a", False), tokenize("a", True)
    before = marked[:1] if marked[1:1 + len(plain)] == plain else []
    if marked[len(before):] != plain:
        return "refused", "adds EOS, which llama-perplexity asserts not to be"
    with open(text, newline="", encoding="utf-8") as file:
        tokens = tokenize(file.read(), True)
    if len(tokens) < 2 * CONTEXT:
        return "refused", "%d tokens are not two windows" % len(tokens)
    tokens = tokens[:CONTEXT * WINDOWS]
    total = 0.0
    for start in range(0, len(tokens), CONTEXT):
        window = before + tokens[start + len(before):start + CONTEXT]
        scored = range(CONTEXT // 2 + 1, CONTEXT)
        answers = ask("/completion", prompt=[window[:at] for at in scored], n_predict=1,
                      n_probs=1 << 20, temperature=0.0, cache_prompt=True,
                      logit_bias=[[letter, 1000.0]])
        for at, answer in zip(scored, sorted(answers, key=lambda a: a["index"])):
            row = answer["completion_probabilities"][0]["top_logprobs"]
            value = next((w["logprob"] for w in row if w["id"] == window[at]), None)
            if value is None or not math.isfinite(value) or value < -1e6:
                return "nan", before + tokens
            total -= value
    return "ppl", before + tokens, math.exp(total / WINDOWS / (CONTEXT - CONTEXT // 2 - 1))


def disagreement(rotkv, llama, tolerance=TOLERANCE):
    """The kind, or None. What is not a number counts as a refusal: both say that it is useless."""
    if rotkv[0] == "fault":
        return "fault"
    if rotkv[0] != "ppl" or llama[0] != "ppl":
        if rotkv[0] != "ppl" and llama[0] != "ppl":
            return None
        return REFUSES if llama[0] == "ppl" else TAKES
    if rotkv[1] != llama[1]:
        return TOKENS
    return NUMBERS if abs(rotkv[2] / llama[2] - 1) > tolerance else None


def told(result):
    if result[0] == "nan":
        return "not a number"
    if result[0] != "ppl":
        return ": ".join(result)
    return "PPL %.6f" % result[2]


def read_exact(path):
    """The file; a GELU, which llama.cpp looks up in a table of f16, made to add nothing."""
    file = GgufFile.read(path)
    for name, tensor in file.tensors.items():
        if "gemma" in file.keys["general.architecture"][1] and name.endswith("ffn_down.weight"):
            file.tensors[name] = tensor._replace(data=bytes(len(tensor.data)))
    return file


class Fuzzer:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.program = os.path.join(options.programs, "rotkv-perplexity")
        self.text = os.path.join(folder, "text.txt")
        with open(self.text, "w", newline="", encoding="utf-8") as file:
            file.write(TEXT)
        self.counts = collections.Counter()
        self.findings = 0
        self.tolerance = {}  # by model: what moves no key moves each the same

    def compare(self, file, changes):
        model = os.path.join(self.folder, "changed.gguf")
        changed = GgufFile()
        changed.keys, changed.tensors = dict(file.keys), file.tensors
        for key, value in changes.items():
            if value is not None:
                changed.keys[key] = value
            elif key in changed.keys:
                del changed.keys[key]
        changed.write(model)
        letter = file.keys["tokenizer.ggml.tokens"][1][1].index("a")
        return (run_rotkv(self.program, model, self.text, self.folder),
                run_llama(model, self.text, letter, self.folder))

    def unchanged(self, path, file):
        """Whether the two agree about the file as it is."""
        rotkv, llama = self.compare(file, {})
        kind = disagreement(rotkv, llama, UNCHANGED)
        if kind is None and rotkv[0] == "ppl":
            difference = abs(rotkv[2] / llama[2] - 1)
            self.tolerance[path] = max(TOLERANCE, 5 * difference)
            print("%s: unchanged, PPL %.4f, relative difference %.1e" %
                  (path, rotkv[2], difference), flush=True)
            return True
        print("%s: left out, unchanged it gives rotkv: %s; llama.cpp: %s" %
              (path, told(rotkv), told(llama)), flush=True)
        return False

    def is_rounding(self, rotkv, llama):
        """Whether the difference is of the size of that to the sums in f64 of rotkv's reference:
        where a model decides between near equals, roundings move its perplexity."""
        model = os.path.join(self.folder, "changed.gguf")
        found = run_rotkv(self.program, model, self.text, self.folder, "ref")
        return found[0] == "ppl" and abs(rotkv - llama) < 4 * abs(found[2] - rotkv)

    def judge(self, path, file, labels, changes):
        rotkv, llama = self.compare(file, changes)
        if "late" in (rotkv[0], llama[0]):
            self.counts["no verdict in time"] += 1
            return
        self.counts["changes"] += 1
        kind = disagreement(rotkv, llama, self.tolerance[path])
        if kind is None:
            self.counts["both agree" if rotkv[0] == "ppl" else "both refuse"] += 1
            return
        if kind == NUMBERS and self.is_rounding(rotkv[2], llama[2]):
            self.counts["both agree, as far as another order of sums does"] += 1
            return
        reason = departure(kind, labels)
        if reason is not None:
            self.counts["departure, %s: %s" % (kind, reason)] += 1
            return
        self.findings += 1
        print("%s: %s\n    %s\n    rotkv:     %s\n    llama.cpp: %s" %
              (os.path.basename(path), "  +  ".join(labels), kind, told(rotkv), told(llama)),
              flush=True)

    def judge_all(self, every, files, end):
        """Every single change, then pairs of them, until `end`."""
        for path, label, changes in every:
            if time.time() > end:
                return
            self.judge(path, files[path], [label], changes)
        while every and not self.options.only and time.time() < end:
            path, label, changes = random.choice(every)
            _, second, more = random.choice([one for one in every if one[0] == path])
            self.judge(path, files[path], [label, second], {**changes, **more})

    def run(self):
        random.seed(self.options.seed)
        files = {path: read_exact(path) for path in self.options.models}
        files = {path: file for path, file in files.items() if self.unchanged(path, file)}
        every = [(path, label, changes) for path, file in files.items()
                 for label, changes in key_changes(file).items()
                 if re.search(self.options.only, label)]
        random.shuffle(every)
        end = time.time() + self.options.seconds
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.judge_all(every, files, end)
        except KeyboardInterrupt:
            print("ended early")
        print("%d single changes, %d of them tried" %
              (len(every), min(len(every), self.counts["changes"])))
        for name, count in sorted(self.counts.items()):
            print("%6d %s" % (count, name))
        print("%6d disagreements that are not listed" % self.findings)
        return 1 if self.findings or not files else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", default="build/release", metavar="DIR")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    options = parser.parse_args()
    if xllamacpp is None:
        print("fuzz_metadata: skipped, there is no Python package xllamacpp")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return Fuzzer(options, folder).run()


if __name__ == "__main__":
    sys.exit(main())
