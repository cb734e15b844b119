"""Problems, one a line of a file, and how an answer is judged.

  {"id": "7", "prompt": "12 + 30 =", "answer": "42", "check": "number", "stop": ["\\n"], "most": 8}

`prompt` is text as it stands, `messages` a chat for the model's own template: one of them. `stop`
and `most` are optional: texts behind which an answer is over, and its tokens at most.

Docs: docs/31-tasks.md"""
import dataclasses
import decimal
import hashlib
import importlib
import json
import os
import re

CHECKS = ("exact", "number", "choice", "regex", "contains")
# A sign belongs to a number that nothing stands before: 3-4 ends in 4.
NUMBER = re.compile(r"(?<![\w.])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?")
FIELDS = {"id", "prompt", "messages", "answer", "check", "stop", "most"}


class Failed(Exception):
    """What was asked for cannot be, in one line. `code` is the program's."""
    code = 2


class Missing(Failed):
    """What this machine has not."""
    code = 1


def needed(module, asked):
    """The module, which this package does not bring along: what was asked for needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        name = module.partition(".")[0]
        raise Missing(f"{asked} needs the Python package {name} ({missing}): "
                      f"pip install {name}, or apt install python3-{name}") from missing


class BadFile(Failed):
    """A file that cannot be read or written, or holds something else."""
    code = 1


@dataclasses.dataclass(frozen=True)
class Problem:
    task: str
    id: str
    prompt: str | None
    messages: tuple | None
    answer: str
    check: str
    stop: tuple
    most: int | None

    def is_right(self, text):
        return judge(self.check, self.answer, text)


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    problems: tuple

    def sha256(self):
        """Of all that an answer and its judgement depend on."""
        lines = [json.dumps(dataclasses.asdict(one), sort_keys=True) for one in self.problems]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def boxed(text):
    r"""What stands in the last \boxed{...}, braces in it balanced, or nothing."""
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return None
    begin, depth = begin + len("\\boxed{"), 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return re.sub(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}", r"\1", text[begin:end])
    return None


def number_in(text):
    """The number that an answer comes to: the only one in its last box, else its last one."""
    inside = boxed(text)
    found = NUMBER.findall((text if inside is None else inside).replace("\u2212", "-"))
    if not found or (inside is not None and len(found) > 1):
        return None
    return decimal.Decimal(found[-1].replace(",", ""))


def choice_in(text):
    """The letter that an answer comes to: in its last box, else behind the last "answer", else
    the one that it begins with."""
    inside = boxed(text)
    if inside is not None:
        found = re.fullmatch(r"\W*([A-J])\W*", inside)
        return found[1] if found else None
    behind = re.findall(r"(?:[Aa]nswer|ANSWER)(?:\s+is)?\W{0,5}\b([A-J])\b", text)
    begins = re.match(r"\W*([A-J])(?=[).:,\n]|\W*$)", text)
    return behind[-1] if behind else begins[1] if begins else None


def judge(check, answer, text):
    """Whether a text is right. White space around it never counts."""
    if check == "exact":
        return text.strip() == answer.strip()
    if check == "number":
        return number_in(text) == number_in(answer)
    if check == "choice":
        return choice_in(text) == answer.strip()
    if check == "regex":
        return re.search(answer, text) is not None
    return answer in text


def problem_of(task, line, where):
    """A line as it was read, checked."""
    def require(good, expected):
        if not good:
            raise BadFile(f"{where}: expected {expected}")

    require(isinstance(line, dict), "an object")
    unknown = sorted(set(line) - FIELDS)
    require(not unknown, f"the fields {', '.join(sorted(FIELDS))}, found {', '.join(unknown)}")
    require("id" in line and isinstance(line["id"], (str, int)), "an id")
    require(("prompt" in line) != ("messages" in line), "prompt or messages, one of them")
    require(isinstance(line.get("prompt", ""), str), "prompt to be a text")
    messages = line.get("messages")
    require(messages is None or (isinstance(messages, list) and messages and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and
        isinstance(one.get("content"), str) for one in messages)),
        "messages to be a list of {role, content}")
    check = line.get("check")
    require(check in CHECKS, f"check to be {', '.join(CHECKS)}, found {check!r}")
    answer = line.get("answer")
    require(isinstance(answer, (str, int)) and not isinstance(answer, bool), "an answer")
    answer = str(answer)
    require(check != "number" or NUMBER.fullmatch(answer.strip().replace("\u2212", "-")),
            "a number as the answer")
    require(check != "choice" or re.fullmatch("[A-J]", answer.strip()), "a letter A .. J")
    require(answer.strip(), "an answer that is not empty")
    if check == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            raise BadFile(f"{where}: the regex {answer!r}: {error}") from error
    stop, most = line.get("stop", []), line.get("most")
    require(isinstance(stop, list) and all(isinstance(one, str) and one for one in stop),
            "stop to be a list of texts")
    require(most is None or (type(most) is int and most > 0), "most to be a number above 0")
    return Problem(task, str(line["id"]), line.get("prompt"),
                   None if messages is None else tuple(messages), answer, check, tuple(stop), most)


def task_of(name, lines, limit=None):
    """A task of pairs (where, line)."""
    problems, seen = [], set()
    for where, line in lines:
        if limit is not None and len(problems) == limit:
            break
        one = problem_of(name, line, where)
        if one.id in seen:
            raise BadFile(f"{where}: the id {one.id!r} for a second time")
        seen.add(one.id)
        problems.append(one)
    if not problems:
        raise BadFile(f"{name}: expected at least one problem")
    return Task(name, tuple(problems))


def lines_of(path):
    """(where, object) of a file of JSON lines; empty lines count for nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield f"{path}:{number}", json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise BadFile(f"{path}:{number}: not JSON: {error}") from error


def read_task(path, limit=None):
    name = os.path.splitext(os.path.basename(path))[0]
    return task_of(name, lines_of(path), limit)
