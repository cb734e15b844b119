"""llama-server's interface, as an engine: /completion with n_probs, /tokenize, /slots. A server that
is there (Http), or one that is started for each cache (Server). Docs: docs/29-judge.md"""
import http.client
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

from .engine import Child, Engine, Failed, Refused, Unsupported

WORDS = 4096  # of a row that are asked for, the likeliest: a row of more is too long for JSON


class Http(Engine):
    """A server at an address; `started`: the cache it has, {"k", "v", "rotation"}, or None where
    whoever made this object has seen to it."""

    def __init__(self, address, started=None, seconds=600):
        self.address, self.started, self.seconds = address.rstrip("/"), started, seconds

    def ask(self, path, **body):
        request = urllib.request.Request(self.address + path,
                                         json.dumps(body).encode() if body else None,
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise self.refusal(error) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Failed(f"{self.address}{path}: {error}") from None

    @staticmethod
    def refusal(error):
        """llama-server refuses a slot's file with 400 and words; 500 and above is its own fault."""
        words = error.read().decode(errors="replace")
        try:
            words = json.loads(words)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            pass
        kind = (Unsupported if error.code in (404, 501) else
                Refused if 400 <= error.code < 500 and words.strip() else Failed)
        return kind(f"{error.code}: {words[:200]}")

    def open(self, **question):
        asked = {name: question[name] for name in ("k", "v", "rotation")}
        if self.started is not None and asked != self.started:
            raise Unsupported(f"the server was started with {self.started}")
        self.letter, self.context = self.a_letter(), question["context"]
        plain = self.ask("/tokenize", content="a", add_special=False)["tokens"]
        marked = self.ask("/tokenize", content="a", add_special=True)["tokens"]
        self.kept = int(marked[:1] != plain[:1])  # BOS: kept by a shift without being asked
        return {"name": "llama-server", "version": self.ask("/props").get("build_info", "unknown")}

    def a_letter(self):
        """A word that can be printed. The server shows no probabilities of a word that is half a
        character; what it shows is from before the bias that makes this one the next."""
        for letter in "aeb ":
            words = self.ask("/tokenize", content=letter, add_special=False)["tokens"]
            if len(words) == 1:
                return words[0]
        return None

    def tokenize(self, text):
        return self.ask("/tokenize", content=text, add_special=True, parse_special=False)["tokens"]

    def complete(self, prompt, word=None, **more):
        bias = self.letter if word is None else word
        return self.ask("/completion", prompt=prompt, temperature=0.0, id_slot=0,
                        logit_bias=[] if bias is None else [[bias, 1000.0]],
                        **{"n_probs": WORDS, "n_predict": 1, "n_keep": 0, **more})

    @staticmethod
    def rows(completion):
        """Each a {word: ln p}, of the words that were generated."""
        try:
            return [{word["id"]: word["logprob"] for word in row["top_logprobs"]}
                    for row in completion["completion_probabilities"]]
        except (KeyError, TypeError):
            raise Failed(f"no probabilities, but {str(completion)[:120]}") from None

    def predict(self, tokens, at, one_by_one=False):
        ends = range(at[-1] + 1) if one_by_one else at
        rows = {}
        for i in ends:
            found = self.complete(tokens[:i + 1], cache_prompt=one_by_one,
                                  n_probs=WORDS if i in at else 1)
            rows[i] = self.rows(found)[0]
        return [rows[i] for i in at]

    def shift(self, tokens, keep, drop, next):
        """The server shifts while it generates: the last tokens of the context, which are all one
        word, are generated, and so are those of `next`."""
        word, tail = tokens[-1], 0
        if len(tokens) + 1 != self.context:
            raise Unsupported(f"the server shifts when {self.context - 1} tokens are read")
        while tail < len(tokens) - 1 and tokens[-1 - tail] == word:
            tail += 1
        if any(one != word for one in next):
            raise Unsupported("the server shifts while it generates: expected one word at the end")
        answer = self.complete(tokens[:-tail], word, n_predict=tail + len(next) + 1,
                               n_keep=keep - self.kept, n_discard=drop, cache_prompt=False)
        rows = self.rows(answer)
        if len(rows) != tail + len(next) + 1:
            raise Unsupported(f"it ends when {self.context} cells are full, and does not shift")
        return rows[tail + 1:]

    def save(self, tokens, file):
        self.complete(tokens, cache_prompt=True)
        self.ask("/slots/0?action=save", filename=os.path.basename(file))

    def restore(self, file, tokens, next):
        self.ask("/slots/0?action=restore", filename=os.path.basename(file))
        rows = []
        for i in range(len(next)):
            found = self.complete(tokens + next[:i + 1], cache_prompt=True)
            again = found.get("timings", {}).get("prompt_n", 1)
            if again > 1:
                raise Unsupported(f"it reads {again} tokens again instead of the saved cache")
            rows += self.rows(found)
        return rows


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server(Http):
    """A server that is started for each `open`: the words of its command may hold {model} {k} {v}
    {context} {port} {folder} {signs} {flash}."""

    def __init__(self, command, seconds=600):
        super().__init__("", None, seconds)
        self.command, self.child = command, None

    def open(self, **question):
        self.close()
        port = free_port()
        words = {**question, "port": port, "flash": "off" if question["v"] == "f32" else "on"}
        self.address = f"http://127.0.0.1:{port}"
        self.child = Child([word.format(**words) for word in self.command], question["rotation"],
                           stdout=subprocess.DEVNULL)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            try:
                super().ask("/health")
                return super().open(**question)
            except (Failed, Unsupported):
                if self.child.process.poll() is not None:
                    raise Failed(self.child.last_words()) from None
                time.sleep(0.02)
        raise Failed(f"{self.address} does not answer")

    def ask(self, path, **body):
        try:
            return super().ask(path, **body)
        except Failed:
            for _ in range(20):  # it may be about to end
                if self.child.process.poll() is not None:
                    raise Failed(self.child.last_words()) from None
                time.sleep(0.02)
            raise

    def lives(self):
        return self.child is not None and self.child.process.poll() is None

    def close(self):
        if self.child is not None:
            self.child.close()
        self.child = None
