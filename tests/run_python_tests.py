#!/usr/bin/env python3
"""Runs tests/test_python_*.py by pytest on the package that was built; says so where none was.

Usage: tests/run_python_tests.py FOLDER_WITH_THE_PROGRAMS BUILT(ON|OFF) FOLDER_OF_PYTHON_PACKAGES"""
import glob
import importlib.util
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    folder, built, packages = sys.argv[1:4]
    sys.path.append(packages)
    reason = ("the package was not built: no headers of Python's, no nanobind, or a sanitizer"
              if built != "ON" else
              "no pytest" if importlib.util.find_spec("pytest") is None else None)
    if reason:
        print(f"SKIPPED tests/test_python_*.py: {reason}")
        return 77
    paths = [os.path.join(folder, "python"), packages, os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider",
         *sorted(glob.glob(os.path.join(HERE, "test_python_*.py")))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
             "ROTKV_PROGRAMS": folder, "PYTHONDONTWRITEBYTECODE": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
