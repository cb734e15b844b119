"""Tokens per second of many streams beside one.

Docs: docs/31-tasks.md"""
import statistics
import time

import numpy as np

from .problems import Failed
from .streams import Request, Streams

TEXT = "It was a quiet evening, and nobody in the village had yet heard the news. "


class Endless:
    """A model whose texts never end by themselves: every stream has equally much to do."""

    def __init__(self, model):
        self.model, self.ends = model, np.zeros(0, np.int32)

    def __getattr__(self, name):
        return getattr(self.model, name)


def speeds(model, cache, counts, tokens, rounds, prompt_tokens, say):
    """{streams: median tokens of answers per second}, and of each round the ratio of the last to
    the first. All counts take turns, so that whatever else the machine does falls on all."""
    ids = model.tokenize(TEXT * (1 + prompt_tokens // 10))
    if len(ids) < prompt_tokens:
        raise Failed(f"--prompt: expected at most {len(ids)}")
    request = Request(ids[:prompt_tokens], tokens)
    found = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            streams = Streams(Endless(model), cache, count, prompt_tokens + tokens)
            streams.answer_all([request] * count)  # memory is touched, clocks are up
            start = time.monotonic()
            streams.answer_all([request] * count)
            found[count].append(count * tokens / (time.monotonic() - start))
            say(f"round {number + 1}: {count} streams, {found[count][-1]:.1f} tokens/s")
    ratios = [last / first for first, last in zip(found[counts[0]], found[counts[-1]])]
    return {count: statistics.median(of) for count, of in found.items()}, ratios
