"""Tokens per second of many streams beside one.

Docs: docs/31-tasks.md"""
import statistics
import time

import numpy as np

from .streams import Request, Streams

TEXT = "It was a quiet evening, and nobody in the village had yet heard the news. "


class Endless:
    """A model whose texts never end by themselves: every stream has equally much to do."""

    def __init__(self, model):
        self.model, self.ends = model, np.zeros(0, np.int32)

    def __getattr__(self, name):
        return getattr(self.model, name)


def speeds(model, cache, counts, tokens, rounds, prompt_tokens, say):
    """[(streams, tokens of answers per second, and per second of this process's processors)], a
    median each, and of each round the ratio of the last to the first, in both units. All counts
    take turns, so that whatever else the machine does falls on all; processor seconds are what is
    left to compare where it does much else."""
    ids = model.tokenize(TEXT * (1 + prompt_tokens // 10))
    request = Request(ids[:prompt_tokens], tokens)
    found = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            streams = Streams(Endless(model), cache, count, prompt_tokens + tokens)
            streams.answer_all([Request(request.prompt, 1)] * count)  # memory is touched
            wall, processor = time.monotonic(), time.process_time()
            streams.answer_all([request] * count)
            found[count].append((count * tokens / (time.monotonic() - wall),
                                 count * tokens / (time.process_time() - processor)))
            say(f"round {number + 1}: {count} streams, {found[count][-1][0]:.1f} tokens/s")
    ratios = [[last[unit] / first[unit] for first, last in zip(found[counts[0]], found[counts[-1]])]
              for unit in (0, 1)]
    medians = [(count, *(statistics.median(one[unit] for one in of) for unit in (0, 1)))
               for count, of in found.items()]
    return medians, ratios
