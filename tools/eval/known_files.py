"""Problem sets that people have, as problems of ours. Nothing is fetched: each function takes the
rows of a file as it is published, JSON lines, JSON or CSV.

  aime25  {problem, answer}: a whole number                     messages, number
  gsm8k   {question, answer}: "... #### 18"                     messages, number
  gpqa    {Question, Correct Answer, Incorrect Answer 1 .. 3}   messages, choice; letters are drawn

Docs: docs/31-tasks.md"""
import csv
import json
import re

from .draws import Draws, seed_of
from .problems import BadFile
from ..whole_file import whole

BOXED = "Put your final answer within \\boxed{}."


def rows_of(path):
    """The rows of a file; what is published in parquet can be written as JSON lines first."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            if path.endswith(".csv"):
                return list(csv.DictReader(file))
            text = file.read()
        rows = json.loads(text) if text.lstrip().startswith("[") else \
            [json.loads(line) for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise BadFile(f"{path}: expected CSV (.csv), a JSON list or JSON lines: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise BadFile(f"{path}: expected rows that are objects")
    return rows


def field(row, where, *names):
    """The first of these that a row has, as text."""
    for name in names:
        if row.get(name) not in (None, ""):
            return str(row[name])
    raise BadFile(f"{where}: expected the field {' or '.join(names)}, found {', '.join(row)}")


def chat(text):
    return [{"role": "user", "content": text}]


def aime25(row, where, number, seed):
    return {"messages": chat(f"{field(row, where, 'problem', 'question')}\n\n{BOXED}"),
            "answer": field(row, where, "answer"), "check": "number"}


def gsm8k(row, where, number, seed):
    answer = re.search(r"####\s*(.+?)\s*$", field(row, where, "answer"))
    if answer is None:
        raise BadFile(f"{where}: expected an answer that ends in '#### NUMBER'")
    return {"messages": chat(f"{field(row, where, 'question')}\n\n{BOXED}"), "answer": answer[1],
            "check": "number"}


def gpqa(row, where, number, seed):
    right = field(row, where, "Correct Answer").strip()
    others = [field(row, where, f"Incorrect Answer {i}").strip() for i in (1, 2, 3)]
    options = Draws(seed_of(seed, "gpqa", number)).some_of([right, *others], 4)
    lines = "\n".join(f"{letter}) {option}" for letter, option in zip("ABCD", options))
    text = (f"{field(row, where, 'Question').strip()}\n\n{lines}\n\n"
            "Put the letter of the right answer within \\boxed{}.")
    return {"messages": chat(text), "answer": "ABCD"[options.index(right)], "check": "choice"}


KNOWN = {"aime25": aime25, "gsm8k": gsm8k, "gpqa": gpqa}


def write_known(kind, source, path, seed):
    """Writes a file of ours; how many problems it has."""
    rows = rows_of(source)
    lines = [{"id": str(number), **KNOWN[kind](row, f"{source}, row {number + 1}", number, seed)}
             for number, row in enumerate(rows)]
    with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(lines)
