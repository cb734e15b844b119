"""Many texts at once: each is a stream of one cache, and one that is finished makes room for the
next (continuous batching). A step reads one token of every text under way and, beside them, as
much of new prompts as fits.

Reading and the choice of tokens are one call, and the choice is that of docs/14-generate.md. Its
random number depends on the request and on how many tokens came before, never on the cache or on
who else is under way.

Docs: docs/31-tasks.md"""
import collections
import dataclasses

import numpy as np

from .draws import Draws
from .problems import Failed

TOKENS_OF_A_STEP = 512


@dataclasses.dataclass(frozen=True)
class Request:
    prompt: np.ndarray  # tokens, i32
    most: int           # tokens of the answer
    stop: tuple = ()    # of bytes
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    tokens: tuple
    text: bytes  # without the stop
    end: str     # "end": the vocabulary's, "stop": a text's; not ended: "most", "full"
    shifts: int = 0


class Text:
    """A request under way in a stream."""

    def __init__(self, number, request, stream, keep):
        self.number, self.request, self.stream = number, request, stream
        self.keep = keep              # of the first tokens, at a shift; None: there is none
        self.draws = Draws(request.seed)
        self.unread = request.prompt.tolist()  # tokens that the cache has not seen
        self.cells = 0                         # of the stream in use
        self.shifts = 0
        self.tokens, self.bytes = [], b""

    def take(self, speaker, token):
        """One more token; how the text ended, or None."""
        if token in speaker.endings:
            return "end"
        known = len(self.bytes)  # and in it no stop
        self.bytes += speaker.bytes_of(token)
        self.tokens.append(token)
        self.unread = [token]
        found = [at for at in (self.bytes.find(stop, max(0, known + 1 - len(stop)))
                               for stop in self.request.stop) if at >= 0]
        if found:
            self.bytes = self.bytes[:min(found)]
            return "stop"
        return "most" if len(self.tokens) == self.request.most else None

    def answer(self, end):
        return Answer(tuple(self.tokens), self.bytes, end, self.shifts)


class Speaker:
    """A rotkv.Model, and what a text needs to know of its vocabulary."""

    def __init__(self, model):
        self.model, self.known = model, {}
        self.endings = frozenset(int(token) for token in model.ends)

    def bytes_of(self, token):
        """Of a token behind any other: a space in front belongs to it, as text_behind() of
        tools/generation.h has it."""
        if token not in self.known:
            once, twice = (self.model.detokenize(np.full(count, token, np.int32))
                           for count in (1, 2))
            self.known[token] = twice[len(once):]
        return self.known[token]


class Streams:
    """S streams of one cache.

    cells: of a stream. keep: a full stream is shifted, and so many of its first tokens stay, -1:
    those of its prompt; None: its text ends there, "full"."""

    def __init__(self, model, words, streams, cells, temperature=0.0, keep=None):
        self.speaker, self.temperature, self.keep = Speaker(model), temperature, keep
        self.cells, self.free = cells, list(range(streams))[::-1]
        self.cache = model.cache(words, cells=cells, streams=streams)
        if keep is not None:
            self.cache.shift(0, 0, 0)  # of no token, but refused like any other

    def keep_of(self, request):
        return len(request.prompt) if self.keep == -1 else self.keep

    def answer_all(self, requests, done=lambda number: None):
        """The answers, in the order of the requests. `done` hears of each as it ends."""
        for request in requests:
            if not 0 < len(request.prompt) <= self.cells:
                raise Failed(f"a prompt of {len(request.prompt)} tokens, expected 1 to "
                             f"{self.cells}")
            if self.keep is not None and self.cells - self.keep_of(request) < 2:
                raise Failed(f"expected at least 2 cells more than the {self.keep_of(request)} "
                             f"tokens that stay at a shift, found {self.cells}")
        answers = [None] * len(requests)
        waiting, under_way = collections.deque(enumerate(requests)), []
        self.cache.clear()
        while waiting or under_way:
            while waiting and self.free:
                number, request = waiting.popleft()
                under_way.append(Text(number, request, self.free.pop(), self.keep_of(request)))
            ended = self.step(under_way)
            for text, end in ended:
                answers[text.number] = text.answer(end)
                under_way.remove(text)
                self.cache.remove(0, self.cells, stream=text.stream)
                self.free.append(text.stream)
                done(text.number)
        return answers

    def step(self, under_way):
        """Reads one batch; texts that ended by it, and how."""
        ended, parts, room = [], [], TOKENS_OF_A_STEP
        for text in sorted(under_way, key=lambda one: len(one.unread) > 1):  # answers go first
            count = min(len(text.unread), room)
            if count == 0:
                break
            if text.cells + count > self.cells and not self.make_room(text):
                ended.append((text, "full"))
                continue
            parts.append((text, count))
            room -= count
        if not parts:
            return ended
        heard = [text for text, count in parts if count == len(text.unread)]
        for text, token in zip(heard, self.read(parts)):
            end = text.take(self.speaker, token)
            if end is not None:
                ended.append((text, end))
        return ended

    def read(self, parts):
        """The tokens of these texts into the cache; what comes behind those that are all read."""
        tokens, positions, streams, behind, draws = [], [], [], [], []
        for text, count in parts:
            tokens += text.unread[:count]
            positions += range(text.cells, text.cells + count)
            streams += [text.stream] * count
            text.unread, text.cells = text.unread[count:], text.cells + count
            if not text.unread:
                behind.append(len(tokens) - 1)
                draws.append(text.draws.uniform() if self.temperature else 0.0)
        tokens, positions, behind, streams = (np.array(numbers, np.int32) for numbers in
                                              (tokens, positions, behind, streams))
        return self.speaker.model.next_tokens(self.cache, tokens, positions, behind, streams,
                                              self.temperature,
                                              np.array(draws) if self.temperature > 0 else None).tolist()

    def make_room(self, text):
        """Drops the older half of what does not stay. Source: ref/context_shift.h."""
        if text.keep is None:
            return False
        dropped = (text.cells - text.keep) // 2
        self.cache.remove(text.keep, text.keep + dropped, stream=text.stream)
        self.cache.shift(text.keep + dropped, text.cells, -dropped, stream=text.stream)
        text.cells, text.shifts = text.cells - dropped, text.shifts + 1
        return True
