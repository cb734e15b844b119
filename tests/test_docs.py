#!/usr/bin/env python3
"""What the pages say is what happens: their Python is run and must print what stands below it,
their commands must select something, chapter 8's table must be the one that the programs print.

A block that needs a large file says so in the line above it, <!-- needs NAME -->: it gets the file
as its argument, and is skipped aloud where ./dev's folder of models does not have it. One that takes
longer says <!-- needs NAME and ROTKV_FULL --> and is left to ./dev test --full. A page's
blocks run in a new folder with these files, demo.txt and some of tests/; programs are on the PATH.

Usage: tests/test_docs.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import difflib
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

import run_notebooks
from fetched_models import MODELS

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
PROGRAMS = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/release")
PACKAGE = os.path.join(PROGRAMS, "python", "rotkv")
BESIDE = ("tools/demo.txt", "tests/gguf_file.py", "tests/numpy_engine.py", "tests/numpy_blocks.py")
NOISE = re.compile(r"\b(0e\+00|\de-1[4-9])\b")  # what is left of a difference that should be 0

# Runs the blocks of one page in order, in one namespace; numpy's settings end with the process.
RUNNER = """
import contextlib, io, json, sys
found, names = [], {"__name__": "__main__"}
for block in json.load(sys.stdin):
    sys.argv[1:] = block["arguments"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\\n" * block["line"] + block["text"], block["page"], "exec"), names)
    found.append(printed.getvalue())
json.dump(found, sys.stdout)
"""


def python_with_numpy():
    for python in (sys.executable, "/usr/bin/python3"):  # the system's, where another comes first
        if os.path.exists(python) and not subprocess.run(
                [python, "-c", "import numpy"], capture_output=True).returncode:
            return python
    raise RuntimeError("no Python with numpy, expected what ./dev test installs")


def pages():
    names = glob.glob("*.md", root_dir=ROOT) + glob.glob("*/*.md", root_dir=ROOT)
    return sorted(name.replace(os.sep, "/") for name in names if not name.startswith("build"))


def read(page):
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        return file.read()


def fenced_blocks(page):
    """Of every block: its first line's number, language, text, and the line above its fence."""
    blocks, fence, start = [], None, 0
    lines = read(page).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("```"):
            continue
        if fence is None:
            fence, start = line.strip()[3:].strip(), number
            continue
        blocks.append({"line": start, "end": number, "language": fence, "page": page,
                       "text": "".join(part + "\n" for part in lines[start:number - 1]),
                       "above": lines[start - 2] if start > 1 else ""})
        fence = None
    return blocks


def programs_of(page):
    """The page's Python, each block with the output that is stated for it, or None."""
    blocks, programs = fenced_blocks(page), []
    for block, after in zip(blocks, blocks[1:] + [None]):
        if block["language"] != "python":
            continue
        below = after and after["language"] == "" and after["line"] == block["end"] + 2
        programs.append({**block, "stated": after["text"] if below else None})
    return programs


# What a chapter of the course has, and the pages that are none: why, each says itself in these words.
PIECES = ("picture", "math", "Python", "code", "backends", "answers")
REFERENCE = {"docs/00-glossary.md": "what the chapters call things, to be looked up",
             "docs/25-bindings.md": "two interfaces, with a short program for each part",
             "docs/30-findings.md": "a list of what was found, each with its proof",
             "docs/33-claims.md": "seven sentences, and what becomes of each"}
DRAWN = re.compile(r"-->|<--| -> |[-+|]-{3,}|^ +[|v]$|^\S+ +\|", re.M)
FORMULA = re.compile(r"\$\$|[\w)|'\]] (?:[<>]?=|<) [^=\n]*(?:[\w)|\]] ?[-+*/^|.] ?[\w(|]|\w\(|[sS]um |sqrt |\w \w)")


def pieces_of(page):
    """Which of PIECES a page has."""
    text, outputs = read(page), {program["end"] + 2 for program in programs_of(page)}
    blocks, exercises = fenced_blocks(page), len(text.partition("\n## Exercises\n")[0].split("\n"))
    answers = text.partition("<summary>Answers</summary>")
    answered = len(answers[0].split("\n")) if answers[1] else exercises
    typed = re.compile(r"\$ |\./dev |rotkv-|python3 |mpirun |====")  # a command, or what one printed
    plain = [block["text"] for block in blocks if not block["language"] and block["line"] not in outputs
             and not typed.match(block["text"])]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    formulas = [block for block in plain if not DRAWN.search(block)] + re.findall(r"^    .*", prose, re.M) + re.findall(r"`([^`\n]+)`", prose)
    changes = " ".join(re.findall(r"\*\*What ([^*]*) change", text))
    runs = [program["line"] for program in programs_of(page)]
    found = {"picture": re.search(r"^!\[|[Ii]n pictures: \[", text, re.M) or any(map(DRAWN.search, plain)),
             "math": any(map(FORMULA.search, formulas)) or "$$" in text,
             "Python": any(line < exercises for line in runs),
             "code": any(re.fullmatch(r"\w+ \w+/\S+", block["language"]) for block in blocks),
             "backends": all(room in changes for room in ("fast", "cuda", "metal")),
             "answers": any(line > answered for line in runs)}
    return {name for name in PIECES if found[name]}


def cases_named_like(pattern):
    done = subprocess.run([os.path.join(PROGRAMS, "rotkv-cases"), "list", "--case", pattern],
                          capture_output=True, text=True, timeout=300)
    return done.stdout.split()


def tests_named_like(pattern):
    done = subprocess.run(["ctest", "-N", "--test-dir", PROGRAMS, "-R", pattern],
                          capture_output=True, text=True, timeout=300)
    return re.findall(r"^ *Test +#\d+: (.*)$", done.stdout, re.M)


class Docs(unittest.TestCase):
    def run_page(self, page, programs):
        """Runs what can be run here; gives the pairs (program, what it printed)."""
        ready = []
        for program in programs:
            needs = re.fullmatch(r"<!-- needs (\S+)( and ROTKV_FULL)? -->", program["above"])
            if needs and needs[2] and not os.environ.get("ROTKV_FULL"):
                print(f"\nSKIPPED {page}:{program['line']}: left to ROTKV_FULL=1", flush=True)
                continue
            path = needs and os.path.join(MODELS, needs[1])
            if path and not os.path.exists(path):
                print(f"\nSKIPPED {page}:{program['line']}: needs {path}", flush=True)
                continue
            if "import rotkv\n" in program["text"] and not os.path.exists(PACKAGE):
                print(f"\nSKIPPED {page}: the Python package was not built", flush=True)
                break  # what follows may stand on it
            ready.append({**program, "arguments": [path] if path else []})
        with tempfile.TemporaryDirectory() as folder:
            needed = {path for program in ready for path in program["arguments"]}
            for path in needed | {os.path.join(ROOT, name) for name in BESIDE}:
                os.symlink(path, os.path.join(folder, os.path.basename(path)))
            done = subprocess.run([python_with_numpy(), "-c", RUNNER], input=json.dumps(ready),
                                  capture_output=True, text=True, timeout=900, cwd=folder,
                                  env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1",
                                       "PYTHONPATH": os.path.dirname(PACKAGE) + os.pathsep +
                                       os.environ.get("PYTHONPATH", ""), "PATH": PROGRAMS + os.pathsep + os.environ["PATH"]})
        self.assertEqual(done.returncode, 0, done.stderr)
        return zip(ready, json.loads(done.stdout))

    def test_python_prints_what_stands_below_it(self):
        found = 0
        for page in pages():
            programs = programs_of(page)
            found += len(programs)
            if not programs:
                continue
            with self.subTest(page):
                for program in programs:
                    self.assertIsNotNone(program["stated"], f"{page}:{program['line']}: Python, "
                                         "expected its output in the block below")
                for program, printed in self.run_page(page, programs):
                    lines = [NOISE.sub("rounding", text).split("\n")
                             for text in (program["stated"], printed)]
                    difference = "\n".join(difflib.unified_diff(
                        *lines, f"{page}:{program['line']} states", "it prints", lineterm=""))
                    self.assertEqual(difference, "", "\n" + difference)
        self.assertGreater(found, 0)

    def test_operations_of_chapter_8(self):
        done = subprocess.run([os.path.join(PROGRAMS, "rotkv-cases"), "page"],
                              capture_output=True, text=True, timeout=300)
        row = re.compile(r"^\| (\w+) \| \d+ \| (\w+)", re.M)
        held = {op: kind for op, kind in row.findall(done.stdout)
                if op not in ("restore", "path")}  # a file's; several, one after the other
        self.assertGreater(len(held), 0, done.stderr)
        table = read("docs/08-backends.md").split("## The operations")[1].split("\n\n")[1]
        stated = {op: kind for names, kind in
                  re.findall(r"^\| (`[^|]*`) \|.*\| (\w+) \|$", table, re.M)
                  for op in re.findall(r"`(\w+)`", names)}
        self.assertEqual(stated, held)

    def test_the_posters_figures_are_those_of_the_pages(self):
        """Every figure of a table stands on the page that the first link below the table names."""
        number, found = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])"), 0
        tables = re.findall(r"((?:^\|.*\n)+)\n[^\[|]*\[[^\]]*\]\(([^)#]*)", read("docs/poster.md"), re.M)
        for table, page in tables:
            known = set(number.findall(read(os.path.normpath(os.path.join("docs", page)))))
            cells = [cell for row in table.splitlines()[2:] for cell in row.strip("|").split("|")[1:]]
            figures = [figure for cell in cells for figure in number.findall(cell)]
            found += len(figures)
            with self.subTest(page):
                self.assertEqual([figure for figure in figures if figure not in known], [])
        self.assertGreater(found, 30)

    def test_every_exercise_has_an_answer(self):
        """Under its number below "Answers", or in brackets at its own end."""
        found = 0
        for page in pages():
            _, exercises, rest = read(page).partition("\n## Exercises\n")
            asked, _, answers = rest.partition("Answers")
            numbers = {number for which in re.findall(r"^\*\*([\d, ]+)\.\*\*", answers, re.M)
                       for number in which.split(", ")}
            for number, text in re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^$)", asked, re.M | re.S):
                found += 1
                with self.subTest(f"{page}: exercise {number}"):
                    self.assertTrue(number in numbers or re.search(r"\)\*?\s*$", text), text)
        self.assertGreater(found, 90)

    def test_chapters_have_the_pieces_of_the_course(self):
        """A picture, a formula, Python that is run, a part of the code, what each backend changes, and
        answers to exercises that are run."""
        chapters = {page for page in pages() if re.match(r"docs/\d\d-", page)} - set(REFERENCE)
        self.assertGreater(len(chapters), 28)
        for page in sorted(chapters):
            with self.subTest(page):
                self.assertEqual([piece for piece in PIECES if piece not in pieces_of(page)], [], "are missing")
        for page, reason in REFERENCE.items():
            with self.subTest(page):
                self.assertTrue(f"\n\nReference, not a chapter: {reason}.\n\n" in read(page), "expected its sentence")

    def test_notebooks_are_compared_by_words_and_figures(self):
        for stored, fresh, per_cent, same in (("KLD 0.120", "KLD 0.13", 5, False), ("KLD 0.120", "KLD 0.13", 50, True),
                                              ("KLD 0.12", "PPL 0.12", 50, False), ("1.9e-09 off", "6e-10 off", 5, True),
                                              ("KLD 0.00012", "KLD 0.0003", 50, False), ("0.04 +- 1", "0.04 +- 2", 5, False)):
            with self.subTest(f"{stored} and {fresh}, {per_cent} %"):
                self.assertEqual(run_notebooks.difference(stored, fresh, per_cent) is None, same)

    def test_minutes_of_the_reading_paths(self):
        """README's are words of what is linked, 250 a minute, and commands beside them."""
        row = next(line for line in read("README.md").splitlines() if re.match(r"\| \d+ minutes", line))
        for cell in row.strip("| ").split(" | "):
            stated, named = int(cell.split()[0]), cell.split(" Behind it")[0]
            words = sum(len(read(os.path.normpath(path)).split()) for path in re.findall(r"\]\(([^)]*)\)", named))
            with self.subTest(cell):
                self.assertLessEqual(abs(words / 250 + (10 if "ten of them commands" in cell else 0) - stated), 5)

    def test_commands_select_tests(self):
        asked = {(page, name) for page in pages()
                 for name in re.findall(r"\./dev test -R ([^\s`]+)", read(page))}
        self.assertGreater(len(asked), 0)
        for page, name in sorted(asked):
            with self.subTest(f"{page}: ./dev test -R {name}"):
                self.assertNotEqual(tests_named_like(name), [])

    def test_mutants_name_tests(self):
        """The last column of chapter 9's first table, and, of kernels, of its second."""
        host, kernels = read("docs/09-proof.md").split("| mutant of a kernel |")
        rows = re.findall(r"^\| ([\w-]+) \| .* \| (.*) \|$", host, re.M)[1:]
        self.assertGreater(len(rows), 0)
        self.assertEqual({test for _, test in rows} - set(tests_named_like(".")), set())
        cases = re.findall(r"^\| ([\w-]+) \| .* \| `(.*)` \|$", kernels, re.M)
        self.assertGreater(len(cases), 0)
        for name, case in cases:
            with self.subTest(name):
                self.assertIn(f"\ncases: {case}\n", read(f"tests/mutants/cuda/{name}.patch"))
                pattern, *_ = case.split()  # and flags of rotkv-cases (tests/mutate.py)
                self.assertNotEqual(cases_named_like(pattern), [])

    def test_commands_select_cases(self):
        command = re.compile(r"rotkv-cases (?:list|run|dump)\b[^\n`|]*? --case '?([^\s'`]+)")
        asked = {(page, name) for page in pages() for name in command.findall(read(page))}
        self.assertGreater(len(asked), 0)
        for page, name in sorted(asked):
            if name != "NAME":
                with self.subTest(f"{page}: --case {name}"):
                    self.assertNotEqual(cases_named_like(name), [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
