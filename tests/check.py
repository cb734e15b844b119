#!/usr/bin/env python3
"""The rules that no compiler knows: docs and code name each other, includes go one way, names,
sizes and words. One line a failure: FILE:LINE: what was found, what was expected.

Usage: tests/check.py [ROOT]"""
import glob
import os
import re
import shutil
import subprocess
import sys

from standard_headers import lacking

SOURCES = (".h", ".c", ".cpp", ".cu", ".cuh", ".metal", ".msl", ".js", ".py")
MAX_LINES = 400
MAX_PAGE = {"docs/CONTRIBUTING.md": 80}  # pages that must stay short, and their lines
PAGES_WITHOUT_CODE_LINE = ["docs/CONTRIBUTING.md"]
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}
# Spelled in two halves, so that this file passes its own check.
BANNED = ["/wo" "rk/", "/tm" "p/", "shared/" "docs", "TO" "DO", "FIX" "ME",
          "py" "pi.org", "python" "hosted.org", "deb." "debian.org"]

# Who may include whom: quoted includes are paths from the root, angle brackets are libraries.
# A place is a folder, or "tools base": the files of tools/ on which programs and rooms are built.
TOOLS_BASE = {"tools/backends", "tools/beside_program", "tools/choose_words", "tools/cli",
              "tools/ladder_backends", "tools/layer_words", "tools/llama_spellings",
              "tools/loaded_model", "tools/model_precision", "tools/notes", "tools/number_flags",
              "tools/output_paths", "tools/ranks", "tools/rotation_flags",
              "tools/rotation_of_both", "tools/sampling", "tools/unread_cells"}
ALL_REF = {"ref", "ref/files", "ref/text", "ref/measure", "ref/cases", "ref/zoo"}
ALL_TOOLS = {"tools", "tools base", "tools/watch", "tools/compare", "tools/parity"}
BACKENDS = {"fast", "cuda", "metal"}  # from ref only the CONTRACT
CONTRACT = {f"ref/{name}.h" for name in
            "types ops ops_experts experts backend guarded_memory half error quant rotation format cache_type "
            "kv_cache".split()}
MAY_INCLUDE = {  # place: the places, and single headers, that it may include beside its own
    "ref": set(),
    "ref/files": {"ref"},
    "ref/text": {"ref", "ref/files"},  # a vocabulary comes from a GGUF file
    "ref/measure": {"ref", "ref/files", "ref/text"},
    "ref/zoo": {"ref"},
    "ref/cases": {"ref", "ref/files"},  # the rows of `restore` save and load
    "fast": {"ref"},
    "cuda": {"ref"},
    "metal": {"ref"},
    "tools/watch": ALL_REF,
    "tools base": ALL_REF | BACKENDS | {"tools/watch"},
    "tools/compare": ALL_REF | {"tools base", "tools/watch"},
    "tools/parity": ALL_REF | {"tools/backends.h"},
    "tools/playground": ALL_REF,
    "tools/bindings": ALL_REF | {"tools base", "tools/compare", "tools/watch",
                                 "tools/programs.h", "tools/parity/parity.h",
                                 "tools/parity/mistaken_backend.h"},
    # What means anything is behind these.
    "tools/bindings python": {"tools/bindings/rotkv.h"},
    "tools": ALL_REF | ALL_TOOLS,
    "tests": ALL_REF | BACKENDS | ALL_TOOLS | {"tools/bindings", "tools/playground"},
}
MAY_ALSO = {  # what single files may include beyond that, and why
    "ref/model_load.cpp": {"ref/files"},  # a model comes from a GGUF file
    "ref/architecture.cpp": {"ref/files"},  # and so do its numbers
    "ref/architecture_keys.cpp": {"ref/files"},
    "ref/architecture_kinds.cpp": {"ref/files"},
    "ref/architecture_rope.cpp": {"ref/files"},
    "ref/file_weights.cpp": {"ref/files"},
    "tools/parity/case_files.cpp": {"tools/cli.h"},  # read_text
}
LIBRARIES = {  # beginning of an include in angle brackets: where it may stand
    "CLI/": ["tools/"],
    "Eigen/": ["tools/calibrat"],
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
    "nanobind/": ["tools/bindings/python_"],
    "Python.h": [],  # nanobind stands before it
}
REF_EXCEPTIONS = {"ref/files/gguf.cpp": {"fcntl.h", "sys/mman.h", "sys/stat.h", "unistd.h"},
                  "ref/files/output_file.cpp": {"unistd.h"},
                  "ref/files/partial_names.cpp": {"unistd.h"},
                  "ref/text/pretokenizer.cpp": {"pcre2.h"}}
ROOMS = {place.split("/")[0] for place in MAY_INCLUDE if " " not in place}

failures = []


def fail(path, line, message):
    failures.append(f"{path}:{line}: {message}")


def project_files():
    for folder, folders, names in os.walk("."):
        folders[:] = sorted(d for d in folders if d not in (".git", "__pycache__", ".venv")
                            and not (folder == "." and d.startswith("build")))
        for name in sorted(set(names) - {".git"}):  # of a worktree
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
    most = MAX_LINES if is_source else MAX_PAGE.get(path, count)
    if count > most:
        fail(path, count, f"{count} lines, expected at most {most}")
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


def place_of(path):
    """The row of MAY_INCLUDE that speaks of a file, or the folder that has none."""
    if os.path.splitext(path)[0] in TOOLS_BASE:
        return "tools base"
    if path.startswith("tools/bindings/python_"):
        return "tools/bindings python"
    folder = os.path.dirname(path)
    while folder not in MAY_INCLUDE and folder.split("/")[0] not in ("ref", "tools"):
        folder = os.path.dirname(folder)
    return folder


def check_direction(path, number, header):
    here, there = place_of(path), place_of(header)
    if here not in MAY_INCLUDE:
        fail(path, number, f"the folder {here}, expected its line in MAY_INCLUDE of check.py")
    elif not {there, header} & ({here} | MAY_INCLUDE[here] | MAY_ALSO.get(path, set())):
        allowed = sorted({here} | MAY_INCLUDE[here] | MAY_ALSO.get(path, set()))
        fail(path, number, f'"{header}" of {there}, expected only {", ".join(allowed)} here')
    elif here in BACKENDS and there == "ref" and header not in CONTRACT:
        fail(path, number, f'"{header}", expected only contract headers of ref: '
             + " ".join(sorted(CONTRACT)))


def check_includes(path, lines):
    for number, line in enumerate(lines, 1):
        if found := re.match(r"\s*#\s*include\s*<([^>]+)>", line):
            check_library(path, number, found[1])
        elif found := re.match(r'\s*#\s*include\s*"([^"]+)"', line):
            header = found[1]
            if re.fullmatch(r"tools/bindings/rotkv\w*\.h", path):  # installed: beside each other
                header = os.path.join("tools/bindings", header)
            if os.path.isfile(header):
                check_direction(path, number, header)
            else:
                fail(path, number, f'"{header}", expected a path from the root that exists')


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
    """A chapter begins with its title, then `Code: ref/a.cpp, ...`: paths that exist."""
    if not re.match(r"# .*\n\nCode: ", "\n".join(lines[:3])):
        fail(path, 3, "no Code line, expected '# Title', an empty line, 'Code: ref/...'")
    elif not paths_of_code_line(lines):
        fail(path, 3, "a Code line without a path, expected 'Code: ref/...'")
    for name in paths_of_code_line(lines):
        if not os.path.exists(name):
            fail(path, 3, f"{name}, expected a file that exists")


def paths_of_code_line(lines):
    """`lines` of a page: what its third line names."""
    return re.findall(r"[\w.-]+(?:/[\w.-]+)+(?<!\.)", "".join(lines[2:3]))


def check_code_block(path, number, name, block):
    """A block tagged with a path stands in that file word for word, indentation aside."""
    if not os.path.isfile(name):
        fail(path, number, f"code from {name}, which does not exist")
        return
    wanted = "\n".join(line.strip() for line in block)
    if wanted not in "\n".join(line.strip() for line in read(name) or []):
        fail(path, number, f"a code block that is not in {name}, expected its very lines")


def anchors_of(path):
    """What '#...' in a link to a page may say: its headings, spelled as GitHub spells them."""
    text = re.sub(r"^```.*?^```", "", "\n".join(read(path)), flags=re.M | re.S)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.M)}


def check_links(path, number, line):
    here = os.path.dirname(path)
    plain = re.sub(r"`[^`]*`", "", line)
    for word, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", plain):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = os.path.normpath(os.path.join(here, name)) if name else path
        if not os.path.exists(file):
            fail(path, number, f"link to {target}, expected a file that exists")
        elif anchor and anchor not in anchors_of(file):
            fail(path, number, f"link to {target}, expected a heading of that page")
        number_of = re.match(r"docs/(\d\d)-", file)
        says = re.fullmatch(r"(?:chapter )?(\d+)", word)
        if number_of and says and int(says[1]) != int(number_of[1]):
            fail(path, number, f"link [{word}] to {target}, expected the chapter's own number")
    for word, target in re.findall(r"`(\w+)` in \[`[^`]*`\]\(([^)#]+)\)", line):
        file = os.path.join(here, target)
        if os.path.isfile(file) and not re.search(rf"\b{word}\b", "\n".join(read(file))):
            fail(path, number, f"{word} in {target}, expected it there")
    for name in re.findall(r"`([\w-]+/[\w./*-]*)`", line):
        if name.split("/")[0] in ROOMS and "NAME" not in name and not glob.glob(name):
            fail(path, number, f"{name}, expected a path that exists")


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
            check_links(path, number, line)
    if block is not None:
        fail(path, start, "a code block that never ends")


def check_mutants():
    """Every mutant has its line in the page that lists them, every line its mutant, and every
    mutant the code that it changes."""
    page = "docs/09-proof.md"
    listed = set(re.findall(r"^\| ([\w-]+) \|", "\n".join(read(page)), re.M)) - {"mutant"}
    there = {os.path.basename(path)[:-6] for path in glob.glob("tests/mutants/**/*.patch",
                                                               recursive=True)}
    for name in sorted(listed ^ there):
        fail(page, 1, f"mutant {name}, expected both in the table and in tests/mutants")
    if shutil.which("git") is None:
        print("SKIPPED: whether mutants apply: no git")
        return
    for path in sorted(glob.glob("tests/mutants/**/*.patch", recursive=True)):
        done = subprocess.run(["git", "apply", "--check", "--unidiff-zero", path],
                              capture_output=True, text=True)
        if done.returncode != 0:
            fail(path, 1, "expected a patch of the sources as they are, found " +
                 done.stderr.partition("\n")[0])


def check_chapters():
    """One number a chapter: in its name, its title, and the README's list; and every source of
    ref/ is on the Code line of at least one of them."""
    names = sorted(name for name in os.listdir("docs") if re.match(r"\d\d-.*\.md$", name))
    for number, name in enumerate(names):
        if not name.startswith(f"{number:02}-"):
            fail(f"docs/{name}", 1, f"expected the number {number:02}, one for each chapter")
        if not read(f"docs/{name}")[0].startswith(f"# {int(name[:2])}. "):
            fail(f"docs/{name}", 1, f"another title, expected '# {int(name[:2])}. ...'")
    page = "\n".join(read("README.md"))
    listed = re.findall(r"^(\d+)\. \[.*?\]\(docs/(\d\d-[^)]*)\)", page, re.M)
    if listed != [(str(int(name[:2])), name) for name in names]:
        fail("README.md", 1, "another reading list, expected every chapter under its number")
    named = {path for name in names for path in paths_of_code_line(read(f"docs/{name}"))}
    formats = set(glob.glob("ref/zoo/format_*.cpp"))  # one file each, that says what it is itself
    for path in sorted(set(glob.glob("ref/**/*.cpp", recursive=True)) - named - formats):
        fail(path, 1, "on no chapter's Code line, expected one that explains it")


def check_room_pages():
    """The pages of ref, fast, cuda, metal and tools/bindings name every file of their folder; two
    tables every program; the limit of lines is the one that is enforced."""
    for room in ("ref", "fast", "cuda", "metal", "tools/bindings"):
        text = "\n".join(read(f"{room}/README.md"))
        for path in sorted(glob.glob(f"{room}/*.*")):
            name = os.path.basename(path)
            if path.endswith(SOURCES) and f"`{name}`" not in text:
                fail(f"{room}/README.md", 1, f"no word of {name}, expected every file of the room")
    for path in sorted(glob.glob("tools/**/*.h", recursive=True)):
        if f"`{path[6:]}`" not in "\n".join(read("tools/README.md")):
            fail("tools/README.md", 1, f"no word of {path[6:]}, expected every header of tools/")
    page = "docs/CONTRIBUTING.md"
    if f"Files up to {MAX_LINES} lines" not in "\n".join(read(page)):
        fail(page, 1, f"another limit of lines, expected 'Files up to {MAX_LINES} lines'")
    built = re.search(r"set\(rotkv_programs ([^)]*)\)", "\n".join(read("CMakeLists.txt")))[1].split()
    built += re.findall(r"^rotkv-([\w-]+) = ", "\n".join(read("pyproject.toml")), re.M)
    for page in ("README.md", "tools/README.md"):
        listed = re.findall(r"^\| `rotkv-([\w-]+)` \|", "\n".join(read(page)), re.M)
        for name in sorted(set(listed) ^ {name.replace("_", "-") for name in built}):
            fail(page, 1, f"rotkv-{name}, expected both in the table and in CMakeLists.txt")


def check_operations():
    """Every operation has rows in the table and a test that runs them."""
    lines = [line for path in glob.glob("ref/ops*.h") for line in read(path)]
    named = set(re.findall(r'char\* name = "(\w+)"', "\n".join(lines)))
    lines = [line for path in glob.glob("ref/cases/cases*.h") for line in read(path)]
    rows = set(re.findall(r'^    "(\w+)/', "\n".join(lines), re.M))
    tests = set(re.findall(r'^TEST_CASE\("parity: (\w+)"\)',
                           "\n".join(read("tests/test_parity.cpp")), re.M))
    for name in sorted(named - rows):
        fail("ref/cases/cases.h", 1, f"no row of {name}, expected some of every operation")
    for name in sorted(rows ^ tests):
        fail("tests/test_parity.cpp", 1, f"{name}, expected both rows of it and a test")


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), ".."))
    types = set(re.findall(r"^    (\w+) = \d+,", "\n".join(read("ref/types.h")), re.M))
    for count, path in enumerate(project_files(), 1):
        check_names(path)
        lines = read(path)
        if lines is None:
            continue
        check_text(path, lines)
        if path.split("/")[0] in ROOMS and path.endswith(SOURCES[:-1]):
            check_includes(path, lines)
            check_type_switches(path, lines, types)
            for number, name, header in lacking(path):
                fail(path, number, f"std::{name}, expected an include of <{header}>")
        if path.endswith((".h", ".cuh")) and path.split("/")[0] in ROOMS:
            check_header(path, lines)
        if path.endswith(".md"):
            check_markdown(path, lines)
            if re.fullmatch(r"docs/[^/]+\.md", path) and path not in PAGES_WITHOUT_CODE_LINE:
                check_code_line(path, lines)
    for check in check_mutants, check_operations, check_chapters, check_room_pages:
        check()
    for failure in failures:
        print(failure)
    print(f"check.py: {count} files, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
