"""Tasks that are made, not collected: each from a seed, with a difficulty that can be set. They ask
what a cache is for: what stood earlier, word for word.

In words: "needle", or "needle:sentences=40,depth=0.5". Prompts are plain text with examples in it,
so that models which never saw a chat can answer them too.

Docs: docs/31-tasks.md"""
import json

from .draws import Draws, seed_of
from .problems import Failed, task_of
from ..whole_file import whole

NAMES = ("Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Kate Leo Maria Noah Olga Paul Rosa "
         "Simon Tina Victor").split()
THINGS = ("apple bag boat book box car chair clock coat cup desk door hat key lamp phone "
          "ring").split()
COLOURS = "black blue brown green grey orange pink purple red white yellow".split()
PLACES = "bridge castle forest garden harbour island lake market mill river tower valley".split()
WEATHER = "bright calm cloudy cold dark dry mild misty quiet rainy sunny warm windy".split()
ACTS = "slept waited walked talked worked read rested played cooked sang".split()
PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def number(draws, count):
    """A number of so many digits."""
    return str(10 ** (count - 1) + draws.below(9 * 10 ** (count - 1)))


def placed(depth, count):
    """The place of one thing among `count`: depth 0 is the first, 1 the last."""
    return round(depth * (count - 1))


def needle(draws, depth, sentences, digits, needles):
    """A number said once, among sentences about nothing and other places' numbers."""
    places = draws.some_of(PLACES, needles)
    secrets = [f"The secret number of the {place} is {number(draws, digits)}." for place in places]
    told = [f"It was {draws.one_of(WEATHER)} and {draws.one_of(NAMES)} {draws.one_of(ACTS)}."
            for _ in range(sentences)]
    for secret in secrets[1:]:
        told.insert(draws.below(len(told) + 1), secret)
    told.insert(placed(depth, len(told) + 1), secrets[0])
    told.append(f"Remember: the secret number of the {places[0]} is")
    return " ".join(told), secrets[0].split()[-1].rstrip("."), "number", [".", "\n"]


def lookup(draws, depth, pairs, digits):
    """Keys with numbers, one a line; the key at a depth is asked for."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    keys = []
    while len(keys) < pairs:
        key = "".join(draws.one_of(letters) for _ in range(3))
        keys += [] if key in keys else [key]
    values = [number(draws, digits) for _ in keys]
    at = placed(depth, pairs)
    lines = "".join(f"{key}: {value}\n" for key, value in zip(keys, values))
    return f"{lines}\nAgain:\n{keys[at]}:", values[at], "number", ["\n"]


def copy(draws, words):
    """A list, said again. The other list is the example."""
    one, other = draws.some_of(THINGS + PLACES, words), draws.some_of(THINGS + COLOURS, words)
    text = f"List: {', '.join(one)}.\nAgain: {', '.join(one)}.\n\nList: {', '.join(other)}.\nAgain:"
    return text, ", ".join(other), "exact", [".", "\n"]


def addition(draws, digits, examples):
    """Two numbers of so many digits; the examples are other sums."""
    sums = [(int(number(draws, digits)), int(number(draws, digits)))
            for _ in range(examples + 1)]
    lines = "".join(f"{a} + {b} = {a + b}\n" for a, b in sums[:-1])
    a, b = sums[-1]
    return f"{lines}{a} + {b} =", str(a + b), "number", ["\n"]


def brackets(draws, length, examples):
    """What is open is closed, the last first."""
    def one():
        opened = [draws.one_of(sorted(PAIRS)) for _ in range(length)]
        return " ".join(opened), " ".join(PAIRS[each] for each in reversed(opened))

    pairs = [one() for _ in range(examples + 1)]
    lines = "".join(f"open: {opened} close: {closed}\n" for opened, closed in pairs[:-1])
    opened, closed = pairs[-1]
    return f"{lines}open: {opened} close:", closed, "exact", ["\n"]


def distractors(draws, depth, people, things):
    """Whose thing has which colour: each name and each thing is there several times, the pair
    once."""
    names, kinds = draws.some_of(NAMES, people), draws.some_of(THINGS, things)
    facts = [(name, kind, draws.one_of(COLOURS)) for name in names for kind in kinds]
    facts = draws.some_of(facts, len(facts))
    name, kind, colour = facts[placed(depth, len(facts))]
    told = " ".join(f"The {kind} of {name} is {colour}." for name, kind, colour in facts)
    return f"{told} Again: the {kind} of {name} is", colour, "exact", [".", "\n"]


# What can be set, and how it is set where nobody says; None: a depth that goes through DEPTHS.
TASKS = {"needle": (needle, {"depth": None, "sentences": 16, "digits": 6, "needles": 1}),
         "lookup": (lookup, {"depth": None, "pairs": 16, "digits": 4}),
         "copy": (copy, {"words": 12}),
         "addition": (addition, {"digits": 2, "examples": 6}),
         "brackets": (brackets, {"length": 5, "examples": 6}),
         "distractors": (distractors, {"depth": None, "people": 6, "things": 3})}
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LIMITS = {"depth": (0, 1), "sentences": (0, 100_000), "digits": (1, 18), "pairs": (1, 10_000),
          "needles": (1, len(PLACES)), "words": (1, len(THINGS)), "examples": (0, 1000),
          "length": (1, 100), "people": (1, len(NAMES)), "things": (1, len(THINGS))}


def settings_of(words):
    """("needle", {"sentences": 40, "depth": 0.5, ...}) of "needle:sentences=40,depth=0.5"."""
    name, _, rest = words.partition(":")
    if name not in TASKS:
        raise Failed(f"task {name!r}: expected a file that ends in .jsonl, or one of "
                     f"{', '.join(TASKS)}")
    settings = dict(TASKS[name][1])
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            settings[key] = (float if key == "depth" else int)(value)
            good = key in TASKS[name][1] and LIMITS[key][0] <= settings[key] <= LIMITS[key][1]
        except ValueError:
            good = False
        if not good:
            raise Failed(f"task {words!r}: {part!r}: expected a number for one of "
                         f"{', '.join(TASKS[name][1])}, in its limits")
    return name, settings


def lines_of_task(words, count, seed):
    """The problems of a task as objects. Number i is the same however many there are."""
    name, settings = settings_of(words)
    for i in range(count):
        own = {key: DEPTHS[i % len(DEPTHS)] if value is None else value
               for key, value in settings.items()}
        prompt, answer, check, stop = TASKS[name][0](Draws(seed_of(seed, words, i)), **own)
        yield {"id": str(i), "prompt": prompt, "answer": answer, "check": check, "stop": stop,
               "most": len(answer) + 8}  # a token is a letter at least: room for the right one


def made_task(words, count, seed):
    lines = lines_of_task(words, count, seed)
    return task_of(words, ((f"{words}, problem {i}", line) for i, line in enumerate(lines)))


def write_task(words, count, seed, path):
    with whole(path) as partial, open(partial, "w", encoding="ascii") as file:
        for line in lines_of_task(words, count, seed):
            file.write(json.dumps(line) + "\n")
