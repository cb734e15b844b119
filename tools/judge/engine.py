"""What the judge asks of an engine, in Python and in lines. Docs: docs/29-judge.md

A Python adapter derives Engine and is run in a process of its own, which may die. Any other program
reads the same questions from its standard input, one JSON object a line, and answers each with one
line:

    {"do": "open", "model": "m.gguf", "k": "q4_0", "v": "q4_0", "rotation": true, "signs": null,
     "context": 256, "folder": "/dir"}     {"name": "my engine", "version": "1.2"}
    {"do": "tokenize", "text": "Once"}     {"tokens": [1, 9038]}
    {"do": "predict", "tokens": [1, 9038], "at": [1], "one_by_one": false}
                                           {"logprobs": [[-9.1, -3.2, ...]]}
    {"do": "shift", "tokens": [...], "keep": 1, "drop": 8, "next": [5, 5]}   {"logprobs": [...]}
    {"do": "save", "tokens": [...], "file": "/dir/cache"}                    {}
    {"do": "restore", "file": "/dir/cache", "tokens": [...], "next": [5]}    {"logprobs": [...]}

A row of logprobs is ln p of every word of the vocabulary, or an object {"word": ln p} of the likelier
ones. {"unsupported": "why"} leaves a question out, {"error": "why"} says that the engine refuses,
{"failed": "why"} that it or its adapter broke: no refusal."""
import importlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time


class Unsupported(Exception):
    """The engine cannot be asked this; the words say why."""


class Failed(Exception):
    """The engine died, or what it said is no answer; the words say how."""


class Refused(Failed):
    """The engine said no; the words are its own."""


class Engine:
    """An adapter. `open` comes first; every other question starts from an empty cache. Tokens are
    numbers as the engine reads them: nothing is put before them. What is not overridden is left out
    of the verdict."""

    def open(self, model, k, v, rotation, signs, context, folder):
        """Reads a model with a cache of so many cells, K and V of these types. rotation: whether
        quantized sides are rotated; None: as the engine likes. signs: the seed of random signs, or
        None for H alone. folder: where it may write. Returns {"name": .., "version": ..}."""
        raise NotImplementedError

    def tokenize(self, text):
        """The tokens of a text, with BOS and EOS where the vocabulary asks for them."""
        raise Unsupported("the adapter does not tokenize")

    def close(self):
        """No more questions."""

    def lives(self):
        """Can it be asked?"""
        return True

    def predict(self, tokens, at, one_by_one=False):
        """Rows of ln p: of the word behind tokens[i], for each i of `at`. one_by_one: no two tokens
        are in one batch, at least not the last ones; else the engine's own way."""
        raise NotImplementedError

    def shift(self, tokens, keep, drop, next):
        """Rows of ln p behind each token of `next`, read after `tokens` were and `drop` of them,
        behind the first `keep`, were removed and the later ones moved up."""
        raise Unsupported("the adapter does not shift")

    def save(self, tokens, file):
        """Reads tokens and saves the cache."""
        raise Unsupported("the adapter does not save")

    def restore(self, file, tokens, next):
        """Rows of ln p behind each token of `next`, read into the cache that save(tokens) wrote."""
        raise Unsupported("the adapter does not restore")


# What Python raises where an adapter is wrong itself: no word of the engine's.
OF_THE_ADAPTER = (TypeError, AttributeError, NameError, ImportError, LookupError)
QUESTIONS = ("open", "tokenize", "predict", "shift", "save", "restore")


def answer(engine, question):
    """One question, as an object, answered by an adapter."""
    question = dict(question)
    do = question.pop("do", None)
    if do not in QUESTIONS:
        return {"error": f"do: expected one of {', '.join(QUESTIONS)}, found {do!r}"}
    try:
        found = getattr(engine, do)(**question)
    except Unsupported as why:
        return {"unsupported": str(why)}
    except Exception as error:  # the engine's own: whatever else it throws is its answer
        words = (str(error) if isinstance(error, Failed) else
                 f"{type(error).__name__}: {error}").split("\n")[0]
        broke = isinstance(error, (Failed, *OF_THE_ADAPTER)) and not isinstance(error, Refused)
        return {"failed" if broke else "error": words}
    names = {"tokenize": "tokens", "predict": "logprobs", "shift": "logprobs", "restore": "logprobs"}
    if do in names:
        return {names[do]: [row.tolist() if hasattr(row, "tolist") else row for row in found]}
    return found or {}


def serve(engine):
    """Answers what comes on the standard input. What the engine prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        out.write(json.dumps(answer(engine, json.loads(line))) + "\n")
        out.flush()
    os._exit(0)  # an engine's threads may not end


BUILT_IN = {"xllamacpp": ".llama_engines:XLlamaCpp", "llama-cpp-python": ".llama_engines:LlamaCppPython",
            "mlx-lm": ".other_engines:MlxLm", "vllm": ".other_engines:Vllm"}
PACKAGES = {"xllamacpp": "xllamacpp", "llama-cpp-python": "llama_cpp", "mlx-lm": "mlx_lm", "vllm": "vllm"}


def adapter(name):
    """A new adapter: one of BUILT_IN, module:Class or file.py:Class."""
    module, _, kind = BUILT_IN.get(name, name).rpartition(":")
    if module.endswith(".py"):
        spec = importlib.util.spec_from_file_location("adapter", module)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    else:
        loaded = importlib.import_module(module, __package__)
    return getattr(loaded, kind)()


class Child:
    """A process of the engine's, with llama.cpp's switch set in its environment. What it says on its
    standard error is kept."""

    def __init__(self, command, rotation, **pipes):
        environment = dict(os.environ, GGML_NO_BACKTRACE="1")
        environment.pop("LLAMA_ATTN_ROT_DISABLE", None)
        if rotation is not None:
            environment["LLAMA_ATTN_ROT_DISABLE"] = "0" if rotation else "1"
        self.said = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(command, stderr=self.said, env=environment, **pipes)
        except OSError as error:
            self.said.close()
            raise Failed(f"{command[0]}: {error.strerror}") from None

    def last_words(self):
        """How it ended, and why, of what it said."""
        code = self.process.wait()
        self.said.seek(0)
        lines = [line.strip() for line in self.said.read().decode(errors="replace").splitlines()]
        lines = [line for line in lines if line] or ["without a word"]
        why = [line for line in lines if any(w in line for w in ("ASSERT", "abort", "ggml-"))]
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"the engine died ({how}): {(why or lines[-1:])[0].rpartition('/')[2][:120]}"

    def close(self):
        self.process.kill()
        self.process.wait()
        for stream in self.process.stdin, self.process.stdout, self.said:
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass


class Program(Engine):
    """Asks a program in lines. It is started for each `open`, and may die: Failed then has its
    signal and why."""

    def __init__(self, command, seconds=600):
        self.command, self.seconds, self.child = command, seconds, None

    def open(self, **question):
        self.close()
        self.buffer = b""
        self.child = Child(self.command, question["rotation"], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
        return self.ask("open", **question)

    def close(self):
        if self.child is not None:
            self.child.close()
        self.child = None

    def lives(self):
        return self.child is not None

    def line(self):
        """The next line of its answers; b"" where it ended."""
        end = time.monotonic() + self.seconds
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            stdout = self.child.process.stdout
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                self.close()
                raise Failed(f"no answer in {self.seconds:g} seconds")
            found = os.read(stdout.fileno(), 1 << 20)
            if not found:
                return b""
            self.buffer += found
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def ask(self, do, **question):
        if self.child is None:
            raise Failed("the engine is not there any more")
        try:
            self.child.process.stdin.write(json.dumps({"do": do, **question}).encode() + b"\n")
            self.child.process.stdin.flush()
            line = self.line()
        except BrokenPipeError:
            line = b""
        if not line:
            words = self.child.last_words()
            self.close()
            raise Failed(words)
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failed(f"expected a JSON object, found {line[:60].decode(errors='replace')!r}")
        if "unsupported" in found:
            raise Unsupported(found["unsupported"])
        if "failed" in found:
            raise Failed(found["failed"])
        if "error" in found:
            raise Refused(found["error"])
        return found

    def tokenize(self, text):
        return self.ask("tokenize", text=text)["tokens"]

    def predict(self, tokens, at, one_by_one=False):
        return self.ask("predict", tokens=tokens, at=at, one_by_one=one_by_one)["logprobs"]

    def shift(self, tokens, keep, drop, next):
        return self.ask("shift", tokens=tokens, keep=keep, drop=drop, next=next)["logprobs"]

    def save(self, tokens, file):
        self.ask("save", tokens=tokens, file=file)

    def restore(self, file, tokens, next):
        return self.ask("restore", file=file, tokens=tokens, next=next)["logprobs"]


def missing_package(name, python=sys.executable):
    """The package without which that Python has no such engine of BUILT_IN, or None."""
    package = PACKAGES[name]
    asked = [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"]
    return package if subprocess.run(asked, stderr=subprocess.DEVNULL, check=False).returncode else None


def adapter_command(name, python=sys.executable):
    """What runs an adapter in a process of its own, by a Python that need not have rotkv."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [python, "-c", f"import sys; sys.path.insert(0, {folder!r}); "
            f"from judge.engine import adapter, serve; serve(adapter({name!r}))"]
