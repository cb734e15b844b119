#!/usr/bin/env python3
"""fake_engine.py behind as much of llama-server's HTTP as the judge asks: one slot, prompts of token
numbers, greedy words, and a shift when the context is full.

Usage: tests/fake_server.py -m MODEL -ctk TYPE -ctv TYPE -c CELLS --port N --slot-save-path FOLDER
LLAMA_ATTN_ROT_DISABLE and FAKE_FAULT are read from the environment."""
import argparse
import http.server
import json
import os

import numpy as np

from fake_engine import FakeEngine, FakeModel


class Slot:
    """What the server holds: the tokens that its cache is of."""

    def __init__(self, flags):
        self.fault = os.environ.get("FAKE_FAULT") or None
        self.signs = None if flags.signs == "None" else int(flags.signs)
        self.model = FakeModel(flags.model, flags.ctk, flags.ctv,
                               os.environ.get("LLAMA_ATTN_ROT_DISABLE", "0") == "0", self.signs,
                               self.fault)
        self.cells, self.folder, self.tokens = flags.context, flags.slot_save_path, []
        self.words = FakeEngine()
        self.words.fault, self.words.path = self.fault, flags.model

    def tokenize(self, content, add_special=False, parse_special=False):
        tokens = self.words.tokenize(content)
        marked = self.fault != "tokens-without-bos"
        return {"tokens": tokens if add_special or not marked else tokens[1:]}

    def complete(self, prompt, n_predict, n_keep=0, n_discard=0, cache_prompt=True, logit_bias=(),
                 **_):
        known = 0
        if cache_prompt and self.tokens == prompt[:len(self.tokens)] and len(self.tokens) < len(prompt):
            known = len(self.tokens)
        else:
            self.model.clear()
        rows = [self.model.read(prompt[known:])[-1]]
        self.tokens = list(prompt)
        for _ in range(n_predict - 1):
            word = logit_bias[0][0] if logit_bias else int(rows[-1].argmax())
            if len(self.tokens) + 1 >= self.cells:  # full but for one cell; BOS is kept too
                keep = n_keep + 1
                drop = n_discard or (len(self.tokens) - keep) // 2
                self.model.shift(keep, drop)
                del self.tokens[keep:keep + drop]
            rows.append(self.model.read([word])[-1])
            self.tokens.append(word)
        return {"timings": {"prompt_n": len(prompt) - known},
                "completion_probabilities": [self.probabilities(row) for row in rows]}

    @staticmethod
    def probabilities(row):
        return {"top_logprobs": [{"id": int(word), "logprob": float(row[word])}
                                 for word in np.argsort(-row)]}

    def slot(self, action, filename):
        path = os.path.join(self.folder, filename)
        if action == "save":
            self.model.save(path)
            with open(path + ".tokens", "w") as file:
                json.dump(self.tokens, file)
        else:
            self.model.load(path)
            with open(path + ".tokens") as file:
                self.tokens = json.load(file)
        return {"filename": filename}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        known = {"/health": {"status": "ok"}, "/props": {"build_info": "fake"}}
        self.reply(known.get(self.path, {}), 200 if self.path in known else 404)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked.pop("id_slot", None)
        slot, (path, _, query) = self.server.slot, self.path.partition("?action=")
        try:
            if path == "/tokenize":
                self.reply(slot.tokenize(**asked))
            elif path == "/completion":
                self.reply(slot.complete(**asked))
            else:
                self.reply(slot.slot(query, **asked))
        except ValueError as error:
            self.reply({"error": {"message": str(error)}}, 400)
        except KeyError as error:
            self.reply({"error": {"message": str(error)}}, 500)


def main():
    parser = argparse.ArgumentParser()
    for name in "model", "ctk", "ctv", "context", "port", "slot-save-path", "signs":
        short = {"model": ["-m"], "ctk": ["-ctk"], "ctv": ["-ctv"], "context": ["-c"]}.get(name, [])
        parser.add_argument(*short, "--" + name, type=int if name in ("context", "port") else str)
    flags = parser.parse_args()
    server = http.server.HTTPServer(("127.0.0.1", flags.port), Handler)
    server.slot = Slot(flags)
    server.serve_forever()


if __name__ == "__main__":
    main()
