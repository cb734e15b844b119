"""The engine that tools/judge/example_adapter.py stands before, in the tests: the fake one."""
import os

from fake_engine import FakeModel

NAME, VERSION = "a fake program", "1"


class Engine(FakeModel):
    def __init__(self, model, k, v, rotation, signs):
        super().__init__(model, k, v, rotation, signs, os.environ.get("FAKE_FAULT") or None)

    def logprobs(self, tokens):
        self.clear()
        return self.read(tokens)

    def shifted(self, tokens, keep, drop, next):
        self.logprobs(tokens)
        self.shift(keep, drop)
        return [self.read([token])[0] for token in next]
