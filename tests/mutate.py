#!/usr/bin/env python3
"""The proof that the tests can fail: each patch of tests/mutants breaks one line of a copy of the
sources, and the tests must name it. A crash or a build error is no proof; a mutant that survives
is a missing test.

Patches of tests/mutants/cuda break kernels and are judged on a device, by the cases that their
second line names. Where the device is another machine than the compiler: --cuda --keep DIR here,
then --judge DIR there.

Usage: tests/mutate.py [--cuda] [--keep DIR] [NAME...]
       tests/mutate.py --judge DIR"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MUTANTS = ROOT / "tests" / "mutants"
WORK = ROOT / "build" / "mutate"
SOURCES = WORK / "source"
PACKAGES = ROOT / "build" / "python_packages"  # ./dev puts nanobind and pytest there
ROOMS = ["ref", "fast", "cuda", "metal", "tools", "tests", "docs"]
# Files and text take long and see only mutants of their own rooms.
SLOW_TESTS = "~tokenizer*~pretokenizer*~gguf*"
SLOW_ROOMS = ("ref/files/", "ref/text/")


def run(command, **options):
    """The finished process; one that hung ends with 124."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=900, **options)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "")


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
                shutil.copy(path, target)  # with its mode: plot.py is a program
    for name in ["CMakeLists.txt", "dependencies.cmake"]:
        shutil.copyfile(ROOT / name, SOURCES / name)


def files_of(patch):
    return re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.M)


def apply(patch, *options):
    """Whether the patch changed every file that it names. Outside of the repository: inside it git
    takes paths for those of the repository, skips them and calls that success."""
    if not all((SOURCES / name).is_file() for name in files_of(patch)):
        return False
    before = {name: (SOURCES / name).read_bytes() for name in files_of(patch)}
    done = run(["git", "apply", "--unidiff-zero", *options, str(patch)], cwd=SOURCES,
               env={**os.environ, "GIT_CEILING_DIRECTORIES": str(WORK)})
    return done.returncode == 0 and before and all(
        (SOURCES / name).read_bytes() != old for name, old in before.items())


class Host:
    """Mutants that the tests of a build without CUDA must kill."""
    patches = MUTANTS
    build_dir = WORK / "build"
    flags = ["-DROTKV_CUDA=OFF", f"-DROTKV_PYTHON_PACKAGES={PACKAGES}"]

    def build(self, target):
        return run(["cmake", "--build", str(self.build_dir), "--target", target, "--parallel"])

    def test_binary(self, slow):
        """(the test that failed, or None; what happened instead)"""
        tests = run([str(self.build_dir / "rotkv-tests"), "--abort", "-r", "xml"]
                    + ([] if slow else [SLOW_TESTS]), cwd=SOURCES)
        if tests.returncode == 0:
            return None, "survived"
        names = re.findall(r'<TestCase name="([^"]*)"', tests.stdout)
        if tests.returncode < 0 or not names or 'success="false"' not in tests.stdout:
            return None, f"ended with {tests.returncode} and no failed assertion"
        return names[-1], ""

    def test_programs(self):
        """The same for the tests that meet the programs as a user does."""
        if self.build("all").returncode != 0:
            return None, "the programs do not build"
        for test in sorted((SOURCES / "tests").glob("test_*.py")):
            if test.name in ("test_docs.py", "test_mpi.py"):  # of pages, and of the same programs
                continue
            if test.name.startswith("test_python_"):  # pytest's, below
                continue
            done = run([sys.executable, str(test), str(self.build_dir)], cwd=SOURCES)
            failed = re.search(r"^(?:FAIL|ERROR): (\w+)", done.stdout, re.M)
            if done.returncode != 0 and "AssertionError" in done.stdout:
                return f"{test.name}: {failed[1]}" if failed else test.name, ""
        return self.test_package()

    def test_package(self):
        """The same for the Python package, where it is built."""
        done = run([sys.executable, str(SOURCES / "tests/run_python_tests.py"), str(self.build_dir),
                    "ON", str(PACKAGES)], cwd=SOURCES,
                   env={**os.environ, "COLUMNS": "300"})  # or names push the reason out of the line
        failed = re.search(r"^FAILED tests/test_python_\w+\.py::(.*?) - (assert|AssertionError)",
                           done.stdout, re.M)
        return (f"test_python: {failed[1]}", "") if failed else (None, "survived")

    def judge(self, patch):
        if self.build("rotkv-tests").returncode != 0:
            return None, "does not build"
        files = files_of(patch) if patch else []
        killer, why = self.test_binary(not patch or any(f.startswith(SLOW_ROOMS) for f in files))
        if killer is None and why == "survived" and any(f.startswith("tools/") for f in files):
            return self.test_programs()
        return killer, why


class Device:
    """Mutants of kernels: a case of the table must fail on the device."""
    patches = MUTANTS / "cuda"
    build_dir = WORK / "build-cuda"
    flags = ["-DROTKV_CUDA=ON", "-DROTKV_NATIVE=OFF", "-DROTKV_MPI=OFF"]

    def __init__(self, keep):
        self.keep = keep

    def judge(self, patch):
        made = run(["cmake", "--build", str(self.build_dir), "--target", "rotkv-cases",
                    "--parallel"])
        if made.returncode != 0:
            return None, "does not build"
        cases = cases_of(patch) if patch else "hadamard/rot=64"
        if self.keep is None:
            return run_cases(self.build_dir / "rotkv-cases", cases)
        folder = self.keep / (patch.stem if patch else "none")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.build_dir / "rotkv-cases", folder)
        run(["strip", str(folder / "rotkv-cases")])
        (folder / "cases").write_text(cases)
        return None, "survived" if patch is None else "kept"


def cases_of(patch):
    """The second line of a patch of tests/mutants/cuda: the pattern of the cases that see it, and
    "--guard front" where tensors must begin on 16 bytes for its kernel to run."""
    return patch.read_text().splitlines()[1].removeprefix("cases: ")


def run_cases(program, cases):
    pattern, *options = cases.split()
    done = run([str(program), "run", "--backend", "cuda", "--case", pattern, *options])
    if ", 0 no device" not in done.stdout:
        return None, "no device: " + done.stdout[-200:]
    failed = re.search(r"^FAIL (\S+)", done.stdout, re.M)
    if failed:
        return failed[1], ""
    return None, "survived" if done.returncode == 0 else f"ended with {done.returncode}"


def report(name, killer, why):
    """Prints the verdict; whether the mutant lives."""
    if why == "kept":
        print(f"{name:32} kept, to be judged on a device", flush=True)
        return False
    print(f"{name:32} {'killed by ' + killer if killer else 'NOT KILLED: ' + why}", flush=True)
    return killer is None


def mutate(how, wanted):
    patches = [p for p in sorted(how.patches.glob("*.patch")) if not wanted or p.stem in wanted]
    refresh()
    configured = run(["cmake", "-S", str(SOURCES), "-B", str(how.build_dir), "-G", "Ninja",
                      "-DCMAKE_BUILD_TYPE=Release", *how.flags])
    if configured.returncode != 0:
        sys.exit("mutate.py: the sources themselves cannot be configured\n" + configured.stdout)
    killer, why = how.judge(None)
    if (killer, why) != (None, "survived"):
        sys.exit(f"mutate.py: the sources themselves do not pass: {killer or why}")
    survivors = 0
    for patch in patches:
        if apply(patch):
            killer, why = how.judge(patch)
            if not apply(patch, "--reverse"):
                sys.exit(f"mutate.py: {patch.stem} cannot be taken back")
        else:
            killer, why = None, "does not apply"
        survivors += report(patch.stem, killer, why)
    verdict = "kept" if getattr(how, "keep", None) else "killed"
    print(f"{len(patches)} mutants, {len(patches) - survivors} {verdict}, {survivors} not")
    sys.exit(survivors != 0 or not patches)


def judge_kept(folder):
    survivors, folders = 0, sorted(p for p in folder.iterdir() if (p / "cases").exists())
    for kept in folders:
        killer, why = run_cases(kept / "rotkv-cases", (kept / "cases").read_text())
        if kept.name == "none":  # the sources as they are
            if (killer, why) != (None, "survived"):
                sys.exit(f"mutate.py: the sources themselves do not pass: {killer} {why}")
            continue
        survivors += report(kept.name, killer, why)
    print(f"{len(folders) - 1} mutants, {len(folders) - 1 - survivors} killed, {survivors} not")
    sys.exit(survivors != 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuda", action="store_true", help="those of tests/mutants/cuda")
    parser.add_argument("--keep", type=pathlib.Path, help="keep each program in this folder")
    parser.add_argument("--judge", type=pathlib.Path, help="run what --keep kept")
    parser.add_argument("names", nargs="*")
    flags = parser.parse_args()
    if flags.judge:
        judge_kept(flags.judge)
    mutate(Device(flags.keep) if flags.cuda else Host(), flags.names)


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    main()
