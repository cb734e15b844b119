#!/usr/bin/env python3
"""The rules that no compiler knows: docs and code name each other, includes go one way, names,
sizes and words. One line a failure: FILE:LINE: what was found, what was expected.

Usage: tests/check.py [ROOT]"""
import os
import re
import sys

SOURCES = (".h", ".cpp", ".cu", ".cuh", ".metal", ".mm", ".py")
MAX_LINES = 400
PAGES_WITHOUT_CODE_LINE = ["docs/CONTRIBUTING.md"]
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}
# Spelled in two halves, so that this file passes its own check.
BANNED = ["/wo" "rk/", "/tm" "p/", "shared/" "docs", "TO" "DO", "FIX" "ME",
          "py" "pi.org", "python" "hosted.org", "deb." "debian.org"]

# Who may include whom: quoted includes are paths from the root, angle brackets are libraries.
CONTRACT = {f"ref/{name}.h" for name in
            "types ops half error quant rotation kv_cache".split()}
MAY_INCLUDE = {  # room: (rooms, ref headers only from the contract)
    "ref": ({"ref"}, False),
    "fast": ({"ref", "fast"}, True),
    "cuda": ({"ref", "cuda"}, True),
    "metal": ({"ref", "metal"}, True),
    "tools": ({"ref", "fast", "cuda", "metal", "tools"}, False),
    "tests": ({"ref", "fast", "cuda", "metal", "tools", "tests"}, False),
}
LIBRARIES = {  # beginning of an include in angle brackets: where it may stand
    "CLI/": ["tools/"],
    "catch2/": ["tests/catch.h", "tests/main.cpp"],
    "benchmark/": ["tools/bench"],
    "xtensor": ["tools/", "tests/"],
    "xtl/": ["tools/", "tests/"],
    "xsimd/": ["fast/"],
    "omp.h": ["fast/", "tools/", "tests/"],
    "dnnl": ["fast/"],
    "oneapi/": ["fast/"],
    "fmt/": ["tools/", "tests/"],
    "nlohmann/": ["tools/", "tests/"],
}
REF_EXCEPTIONS = {"ref/files/gguf.cpp": {"fcntl.h", "sys/mman.h", "sys/stat.h", "unistd.h"},
                  "ref/text/pretokenizer.cpp": {"pcre2.h"}}

failures = []


def fail(path, line, message):
    failures.append(f"{path}:{line}: {message}")


def project_files():
    for folder, folders, names in os.walk("."):
        folders[:] = sorted(d for d in folders if d not in (".git", "__pycache__", ".venv")
                            and not (folder == "." and d.startswith("build")))
        for name in sorted(names):
            yield os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")


def read(path):
    """Lines of a text file, None for binary ones."""
    with open(path, "rb") as file:
        data = file.read()
    if b"\0" in data[:4096]:
        return None
    return data.decode("utf-8", "backslashreplace").split("\n")


def check_names(path):
    for word in re.split(r"[^a-z]+", path.lower()):
        if word in SAYS_NOTHING:
            fail(path, 1, f"a name with '{word}', expected one that says what is inside")


def check_text(path, lines):
    is_source = path.endswith(SOURCES) or path == "dev"
    count = len(lines) - (lines[-1] == "")
    if is_source and count > MAX_LINES:
        fail(path, count, f"{count} lines, expected at most {MAX_LINES}")
    for number, line in enumerate(lines, 1):
        if is_source and not line.isascii():
            odd = next(c for c in line if not c.isascii())
            fail(path, number, f"character U+{ord(odd):04X}, expected ASCII in a source")
        if re.match(r'TEST_CASE\("[^"]*;', line):
            fail(path, number, "a ';', expected none in a test's name: CMake's lists break there")
        for word in BANNED:
            if word in line:
                fail(path, number, f"'{word}', expected no such word in the project")


def check_library(path, number, header):
    if path.startswith("ref/"):
        if not re.fullmatch(r"[a-z_]+", header) and header not in REF_EXCEPTIONS.get(path, ()):
            fail(path, number, f"<{header}>, expected only standard C++ headers in ref")
        return
    for beginning, places in LIBRARIES.items():
        if header.startswith(beginning) and not path.startswith(tuple(places)):
            fail(path, number, f"<{header}>, expected only in {' '.join(places)}")


def check_includes(path, lines):
    rooms, contract_only = MAY_INCLUDE[path.split("/")[0]]
    for number, line in enumerate(lines, 1):
        if found := re.match(r"\s*#\s*include\s*<([^>]+)>", line):
            check_library(path, number, found[1])
        elif found := re.match(r'\s*#\s*include\s*"([^"]+)"', line):
            header = found[1]
            room = header.split("/")[0]
            if not os.path.isfile(header):
                fail(path, number, f'"{header}", expected a path from the root that exists')
            elif room not in rooms:
                fail(path, number, f'"{header}", expected only {" ".join(sorted(rooms))} here')
            elif contract_only and room == "ref" and header not in CONTRACT:
                fail(path, number, f'"{header}", expected only contract headers of ref: '
                     + " ".join(sorted(CONTRACT)))


def check_type_switches(path, lines, types):
    """A switch over DType names every type and has no default, so that a new one is missed where
    it is missing. The compiler says so too (-Wswitch), but not of code for a device."""
    first, depth, body = 0, 0, ""
    for number, line in enumerate(lines, 1):
        if not depth and re.match(r"\s*switch \(", line):
            first, body = number, ""
        if first:
            body += line + "\n"
            depth += line.count("{") - line.count("}")
            if depth > 0:
                continue
            named = set(re.findall(r"case DType::(\w+)", body))
            if named and (missing := sorted(types - named)):
                fail(path, first, f"a switch without {', '.join(missing)}, expected every DType")
            if named and re.search(r"\bdefault:", body):
                fail(path, first, "default: in a switch over DType, expected every type by name")
            first = 0


def check_header(path, lines):
    if "#pragma once" not in lines[:1]:
        fail(path, 1, "no '#pragma once', expected it on the first line")
    pages = [(n, m[1]) for n, line in enumerate(lines, 1)
             if (m := re.search(r"\bDocs: (\S*[^\s.])", line))]
    if not pages:
        fail(path, 1, "no 'Docs: docs/...', expected the page that explains this header")
    for number, page in pages:
        if not os.path.isfile(page):
            fail(path, number, f"Docs: {page}, expected a page that exists")


def check_code_line(path, lines):
    """A chapter begins with `Code: ref/a.cpp, ...`: paths that exist."""
    for number, line in enumerate(lines[:3], 1):
        if line.startswith("Code: "):
            paths = re.findall(r"[\w.-]+(?:/[\w.-]+)+", re.sub(r"\]\([^)]*\)", "]", line))
            if not paths:
                fail(path, number, "a Code line without a path, expected 'Code: ref/...'")
            for name in paths:
                if not os.path.exists(name.rstrip(".")):
                    fail(path, number, f"{name}, expected a file that exists")
            return
    fail(path, 1, "no Code line, expected 'Code: ref/...' within the first three lines")


def check_code_block(path, number, name, block):
    """A block tagged with a path stands in that file word for word, indentation aside."""
    if not os.path.isfile(name):
        fail(path, number, f"code from {name}, which does not exist")
        return
    wanted = "\n".join(line.strip() for line in block)
    if wanted not in "\n".join(line.strip() for line in read(name) or []):
        fail(path, number, f"a code block that is not in {name}, expected its very lines")


def check_markdown(path, lines):
    block, start, name = None, 0, None
    for number, line in enumerate(lines, 1):
        fence = re.match(r"\s*```\s*(\S*)\s*(\S*)", line)
        if fence and block is None:
            block, start, name = [], number, fence[2]
        elif fence:
            if name:
                check_code_block(path, start, name, block)
            block = None
        elif block is not None:
            block.append(line)
        else:
            for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                file = target.split("#")[0]
                if file and not re.match(r"[a-z]+:", file) and not os.path.exists(
                        os.path.join(os.path.dirname(path), file)):
                    fail(path, number, f"link to {target}, expected a file that exists")
    if block is not None:
        fail(path, start, "a code block that never ends")


def check_mutants():
    """Every mutant has its line in the page that lists them, and every line its mutant."""
    page = "docs/09-proof.md"
    listed = set(re.findall(r"^\| ([\w-]+) \|", "\n".join(read(page)), re.M)) - {"mutant"}
    there = {name[:-6] for name in os.listdir("tests/mutants") if name.endswith(".patch")}
    for name in sorted(listed ^ there):
        fail(page, 1, f"mutant {name}, expected both in the table and in tests/mutants")


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), ".."))
    count = 0
    types = set(re.findall(r"^    (\w+) = \d+,", "\n".join(read("ref/types.h")), re.M))
    for path in project_files():
        count += 1
        check_names(path)
        lines = read(path)
        if lines is None:
            continue
        check_text(path, lines)
        if path.split("/")[0] in MAY_INCLUDE and path.endswith(SOURCES[:-1]):
            check_includes(path, lines)
            check_type_switches(path, lines, types)
        if path.endswith((".h", ".cuh")) and path.split("/")[0] in MAY_INCLUDE:
            check_header(path, lines)
        if path.endswith(".md"):
            check_markdown(path, lines)
            if re.fullmatch(r"docs/[^/]+\.md", path) and path not in PAGES_WITHOUT_CODE_LINE:
                check_code_line(path, lines)
    check_mutants()
    for failure in failures:
        print(failure)
    print(f"check.py: {count} files, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
