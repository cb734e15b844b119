#!/usr/bin/env python3
"""The proof that the tests can fail: each patch of tests/mutants breaks one line of a copy of the
sources, and the tests must name it. A crash or a build error is no proof; a mutant that survives
is a missing test.

Usage: tests/mutate.py [NAME...]"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutate"
SOURCES, BUILD = WORK / "source", WORK / "build"
ROOMS = ["ref", "fast", "cuda", "metal", "tools", "tests", "docs"]
# Files and text have proofs of their own; here the question is whether the numbers are watched.
TESTS = "~tokenizer*~pretokenizer*~gguf*"


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", **options)


def refresh():
    """Brings the copy up to date; files that are the same keep their times, and stay built."""
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and not (ROOT / path.relative_to(SOURCES)).exists():
            path.unlink()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            target = SOURCES / path.relative_to(ROOT)
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != path.read_bytes():
                shutil.copyfile(path, target)
    for name in ["CMakeLists.txt", "dependencies.cmake"]:
        shutil.copyfile(ROOT / name, SOURCES / name)


def build():
    return run(["cmake", "--build", str(BUILD), "--target", "rotkv-tests", "--parallel"])


def verdict():
    """(killed by which test, or what happened instead)"""
    tests = run([str(BUILD / "rotkv-tests"), TESTS, "--abort", "-r", "xml"], timeout=600,
                cwd=SOURCES)
    if tests.returncode == 0:
        return None, "survived"
    names = re.findall(r'<TestCase name="([^"]*)"', tests.stdout)
    if tests.returncode < 0 or not names or 'success="false"' not in tests.stdout:
        return None, f"ended with {tests.returncode} and no failed assertion"
    return names[-1], ""


def judge(patch):
    """One mutant: applied, built, tested, taken back."""
    apply = ["git", "apply", "--unidiff-zero", str(patch)]
    if run(apply, cwd=SOURCES).returncode != 0:
        return None, "does not apply"
    try:
        made = build()
        return verdict() if made.returncode == 0 else (None, "does not build")
    finally:
        run(apply + ["--reverse"], cwd=SOURCES)


def main(wanted):
    patches = [p for p in sorted((ROOT / "tests" / "mutants").glob("*.patch"))
               if not wanted or p.stem in wanted]
    refresh()
    configured = run(["cmake", "-S", str(SOURCES), "-B", str(BUILD), "-G", "Ninja", "-DROTKV_CUDA=OFF"])
    if configured.returncode != 0 or build().returncode != 0:
        sys.exit("mutate.py: the sources themselves do not build")
    if verdict() != (None, "survived"):
        sys.exit("mutate.py: the sources themselves do not pass")
    survivors = 0
    for patch in patches:
        killer, why = judge(patch)
        survivors += killer is None
        print(f"{patch.stem:28} {'killed by ' + killer if killer else 'NOT KILLED: ' + why}",
              flush=True)
    print(f"{len(patches)} mutants, {len(patches) - survivors} killed, {survivors} not")
    sys.exit(survivors != 0 or not patches)


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    main(sys.argv[1:])
