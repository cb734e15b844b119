"""What is tried on an engine. Docs: docs/29-judge.md"""
import os
import tempfile

import numpy as np

from .engine import Failed, Refused, Unsupported
from .ours import ASKED, NOT_QUANTIZED, OF_SHIFTS, OTHER
from .rows import kld, rows_of
from .verdict import NOT_ASKED, RIGHT, UNTOLD, WRONG, Result, Scale, judged

TEXT = """ The rain in Spain stays mainly in the plain, they said; 12345 drops of it, then 67 more.
"What's that?" asked the old man  (twice, with two spaces).\tNobody knew: it was 10 o'clock, and the
dog slept. All happy families are alike; each unhappy family is unhappy in its own way."""
TEXTS = ["Hello", " Hello  world\n", "I'll say it's 1234567.89!", "na\u00efve caf\u00e9 \u6f22\u5b57",
         "\n\n \n", "<s> no token </s> but text", TEXT]
NO_ANSWER = (ValueError, TypeError, KeyError)  # as it is read
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)


class Judge:
    """Runs trials of one engine on one model."""
    TRIALS = ("tokens", "predictions", "one by one", "shift", "restore", "switch")

    def __init__(self, engine, ours, mistakes, tokens=80, positions=20, report=lambda result: None,
                 engine_model=None):
        self.engine, self.ours, self.mistakes, self.report = engine, ours, mistakes, report
        self.engine_model = engine_model or ours.path
        self.tokens = ours.tokenize(TEXT)[:tokens]
        n = len(self.tokens)
        self.at = sorted({*range(min(4, n)), *np.linspace(0, n - 1, positions).astype(int).tolist()})
        self.exact = ours.predict("k=f32,v=f32", self.tokens, self.at)
        self.is_open, self.likely = None, []
        self.results, self.identity, self.tried_mistakes, self.shown = [], {}, set(), set()
        self.floor, self.scales = 0.0, {}
        self.folder = tempfile.TemporaryDirectory()

    def run(self, configs, only=()):
        """Every trial of every cache, or those of `only`; the first cache is that of the floor."""
        self.tried = only or self.TRIALS
        if not self.try_tokens(configs[0]):
            return self.results
        for config in configs:
            self.try_cache(config)
        for config in configs if "switch" in self.tried else []:
            if config.quantized() and config.rotation is not None:
                self.try_switch(config)
        self.engine.close()
        return self.results

    def open(self, config, rotation):
        """Unless it is: every question starts from an empty cache."""
        asked = (config.k, config.v, rotation)
        if asked == self.is_open and self.engine.lives():
            return True
        self.is_open = asked
        self.identity = self.engine.open(
            model=self.engine_model, k=config.k, v=config.v, rotation=rotation, signs=config.signs,
            context=self.ours.context, folder=self.folder.name) or self.identity
        return True

    def attempt(self, result, question, *arguments):
        """Asks; what comes back that is no answer is written into the result, and None returned."""
        try:
            return question(*arguments)
        except Unsupported as why:
            result.verdict, result.why = NOT_ASKED, str(why)
        except Failed as why:
            result.verdict, result.why = WRONG, str(why)
        except NO_ANSWER as error:
            result.verdict, result.why = WRONG, f"no answer to the question: {error}"
        return self.done(result)

    def done(self, result):
        self.results.append(result)
        self.report(result)

    def rows(self, found, count):
        if len(found) != count:
            raise ValueError(f"{len(found)} rows, expected {count}")
        return rows_of(found, self.ours.plain.n_vocab)

    def result(self, trial, config):
        return Result(trial, config.k, config.v, config.says())

    def hypotheses(self, config, method, names, *arguments):
        """{name: ours}: as asked, with the other rotation, with each mistake of `names`."""
        run, words = getattr(self.ours, method), config.words(config.rotation)
        all = {ASKED: run(words, *arguments)}
        if config.quantized():
            all[OTHER] = run(config.words(config.rotation is False), *arguments)
        for name in names:
            all[name] = run(words, *arguments, mistake=name)
            self.tried_mistakes.add(name)
            if kld(all[ASKED], all[name]) > 1e-9:  # more than the order of sums
                self.shown.add(name)
        return all

    def blind(self):
        """The mistakes that change nothing in what was tried."""
        return self.tried_mistakes - self.shown

    def explained(self, config, method, names, *arguments):
        """A function that puts a verdict on rows. The mistakes of a heavy model are computed where
        something is wrong; of others always, since a mistake may be nearer than what is right."""
        known = {}

        def judge(result, rows):
            for some in ([], names) if self.ours.heavy else (names,):
                if len(some) not in known:
                    known[len(some)] = self.hypotheses(config, method, some, *arguments)
                judged(result, rows, known[len(some)], self.scale(config))
                if result.verdict == RIGHT:
                    break
            return result

        return judge

    def scale(self, config):
        """The measures of a cache; what keys in q8_0 cost is asked once."""
        def cost(words):
            if words not in self.scales:
                self.scales[words] = kld(self.exact, self.ours.predict(words, self.tokens, self.at))
            return self.scales[words]

        rounded = config.k not in NOT_QUANTIZED
        return Scale(self.floor, cost(config.words(config.rotation)),
                     cost(self.ours.rounded_keys) if rounded else 0.0)

    def try_tokens(self, config):
        """Whether there is an engine at all; and its tokens."""
        result = Result("tokens")
        if not self.attempt(result, self.open, config, config.rotation):
            return False
        for text in TEXTS if "tokens" in self.tried else []:
            found = self.attempt(result, self.engine.tokenize, text)
            if found is None:
                return True
            expected = self.ours.tokenize(text)
            if list(found) != expected:
                result.verdict, result.why = WRONG, f"other tokens for {text[:40]!r}"
                result.smallest = {"text": text, "expected": expected, "found": list(found)}
                break
        else:
            result.verdict = RIGHT
        if "tokens" in self.tried:
            self.done(result)
        return True

    def try_cache(self, config):
        if not self.attempt(self.result("predictions", config), self.open, config, config.rotation):
            return
        names = [name for name in self.mistakes if name not in OF_SHIFTS]
        judge = self.explained(config, "predict", names, self.tokens, self.at)
        if "predictions" in self.tried or not self.floor:
            self.try_predictions(config, judge)
        for name, trial in (("one by one", lambda: self.try_one_by_one(config, judge)),
                            ("shift", lambda: self.try_shift(config)),
                            ("restore", lambda: self.try_restore(config))):
            alive = self.engine.lives() or self.attempt(self.result(name, config), self.open, config,
                                                        config.rotation)
            if name in self.tried and alive:
                trial()

    def predicted(self, one_by_one):
        return self.rows(self.engine.predict(self.tokens, self.at, one_by_one), len(self.at))

    def try_predictions(self, config, judge):
        result = self.result("predictions", config)
        rows = self.attempt(result, self.predicted, False)
        if rows is None:
            return
        judge(result, rows)
        wrong = result.verdict == WRONG and result.nearest in self.mistakes
        self.likely = [result.nearest] if wrong else []
        if not self.floor:
            self.floor = max(result.kld, 1e-9)
        if result.verdict == WRONG:
            result.smallest = self.shrunk(config, result)
        self.done(result)

    def try_one_by_one(self, config, judge):
        result = self.result("one by one", config)
        rows = self.attempt(result, self.predicted, True)
        if rows is not None:
            self.done(judge(result, rows))

    def shrunk(self, config, result):
        """The shortest beginning of the tokens, of those tried, that shows the difference: a tenth of
        it, where that is more than what its explanation leaves, or else half. With the word whose
        probability suffers most."""
        words, shown, below = config.words(config.rotation), None, 0
        named = result.nearest != ASKED
        enough = max(result.kld / 10, 4 * result.nearest_kld) if named else result.kld / 2
        lengths = [n for n in LENGTHS if n < len(self.tokens)] + [len(self.tokens)]
        while lengths:
            n = lengths.pop(0)
            tokens = self.tokens[:n]
            try:
                row = self.rows(self.engine.predict(tokens, [n - 1], False), 1)
            except (Failed, Unsupported, *NO_ANSWER):
                return {"tokens": tokens}
            ours = self.ours.predict(words, tokens, [n - 1])
            found = kld(ours, row)
            if found > enough:
                shown = self.told(tokens, ours[0], row[0], found)
            else:
                below = n
            if shown:  # between the longest that does not show it and the shortest that does
                half = (below + len(shown["tokens"])) // 2
                lengths = [half] if half > below else []
        return shown or {"tokens": self.tokens, "at": self.at}

    def told(self, tokens, ours, row, found):
        change = np.exp(ours) * np.abs(np.nan_to_num(ours - row))
        word = int(change.argmax())
        return {"tokens": tokens, "text": self.ours.text(tokens), "kld": found, "word": word,
                "expected": float(ours[word]), "found": float(row[word])}

    def shifted_input(self, cells):
        """A context that is full but for one cell and ends with one word again and again; half of it
        goes. So does llama-server."""
        n = cells - 1
        word = self.ours.plain.tokenize("a", add_special=False).tolist()[-1]
        tokens = (self.tokens * (n // len(self.tokens) + 1))[:n - 6] + [word] * 6
        return {"tokens": tokens, "keep": 1, "drop": (n - 1) // 2, "next": [word] * 4}

    def shifted(self, asked):
        return self.rows(self.engine.shift(**asked), len(asked["next"]))

    def try_shift(self, config):
        result, asked = self.result("shift", config), self.shifted_input(self.ours.context)
        found = self.attempt(result, self.shifted, asked)
        if found is None:
            result.smallest = asked if result.verdict == WRONG else None
            return
        names = [*OF_SHIFTS, *self.likely]  # which may be what predictions showed already
        judge = self.explained(config, "shift", names, *asked.values())
        if self.attempt(result, judge, result, found) is None:
            return
        if result.verdict == WRONG:
            result.smallest = self.smallest_shift(config, result, asked)
        self.done(result)

    def smallest_shift(self, config, result, largest):
        """The smallest context that shows half of it, of those that the engine shifts in."""
        for cells in LENGTHS:
            if not 12 <= cells < self.ours.context:
                continue
            asked = self.shifted_input(cells)
            try:
                found = self.shifted(asked)
            except (Failed, Unsupported, *NO_ANSWER):
                break
            ours = self.ours.shift(config.words(config.rotation), *asked.values())
            if kld(ours, found) > max(result.limit, result.kld / 2):
                return asked
        return largest

    def continued(self):
        """Tokens of which the first part is saved, and the positions behind it."""
        saved = len(self.tokens) // 2
        return saved, list(range(saved, min(saved + 8, len(self.tokens))))

    def save(self, name):
        file = os.path.join(self.folder.name, name)
        self.engine.save(self.tokens[:self.continued()[0]], file)
        return file

    def restored(self, file):
        saved, at = self.continued()
        next = [self.tokens[i] for i in at]
        return self.rows(self.engine.restore(file, self.tokens[:saved], next), len(at))

    def restored_or_refused(self, file):
        """Rows, or the refusal: of another rotation's file either is an answer."""
        try:
            return self.restored(file)
        except Refused as why:
            return why

    def of_restored(self, config):
        """What may stand behind a restored cache: also the new tokens alone."""
        _, at = self.continued()
        names = [] if self.ours.heavy else [name for name in self.mistakes if name not in OF_SHIFTS]
        all = self.hypotheses(config, "predict", names, self.tokens, at)
        alone = [self.tokens[i] for i in at]
        all["nothing was restored"] = self.ours.predict(config.words(config.rotation), alone,
                                                        list(range(len(alone))))
        return all

    def try_restore(self, config):
        result = self.result("save and restore", config)
        file = self.attempt(result, self.save, "cache")
        found = None if file is None else self.attempt(result, self.restored, file)
        if found is not None:
            self.done(judged(result, found, self.of_restored(config), self.scale(config)))

    def try_switch(self, config):
        """Saved under one setting, restored under the other. Right are a refusal and predictions
        that either setting would have made."""
        result = self.result("restore, switch flipped", config)
        if not self.attempt(result, self.open, config, config.rotation):
            return
        file = self.attempt(result, self.save, "switched")
        if file is None or not self.attempt(result, self.open, config, not config.rotation):
            return
        found = self.attempt(result, self.restored_or_refused, file)
        if found is None:
            return
        if isinstance(found, Refused):
            result.verdict, result.why = RIGHT, f"refused: {found}"
            return self.done(result)
        all, scale = self.of_restored(config), self.scale(config)
        either = [judged(self.result("", config), found, {ASKED: all[name]}, scale).verdict
                  for name in (ASKED, OTHER)]
        judged(result, found, all, scale)
        if RIGHT in either:
            result.verdict, result.why = RIGHT, ""
        elif UNTOLD in either:
            result.verdict, result.why = UNTOLD, "either rotation may be rounded otherwise by so much"
        else:
            result.verdict, result.nearest, result.nearest_kld = WRONG, "", None
            result.why = ("neither a refusal nor predictions of either rotation: rows of one are read "
                          "as rows of the other")
        self.done(result)
