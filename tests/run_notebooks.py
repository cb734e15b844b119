#!/usr/bin/env python3
"""Executes notebooks afresh and compares what their cells print with what is stored in them: the
same words, and numbers within 5 %. With --write the fresh outputs are stored instead.

A code cell that begins with "# Picture: docs/NAME.png" draws what stands there: the file must be the
picture that is stored in the notebook, and is written with it.

Notebooks that read a model or import rotkv are skipped aloud where there is none.

Usage: tests/run_notebooks.py PROGRAMS MODEL [NOTEBOOK.ipynb]... [--write]"""
import base64
import glob
import json
import os
import re
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PICTURE = re.compile(r"# Picture: (docs/[\w-]+\.png)\n")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
TOLERANCE = 0.05


def printed(notebook):
    """The text that each cell printed."""
    return ["".join(output.get("text", "") for output in cell.get("outputs", []))
            for cell in notebook.cells if cell.cell_type == "code"]


def difference(stored, fresh):
    """What is not the same, or None."""
    if NUMBER.sub("#", stored) != NUMBER.sub("#", fresh):
        return f"expected\n{stored}found\n{fresh}"
    for a, b in zip(NUMBER.findall(stored), NUMBER.findall(fresh)):
        x, y = float(a), float(b)
        if abs(x - y) > TOLERANCE * max(abs(x), abs(y)) and max(abs(x), abs(y)) > 1e-3:
            return f"expected {a}, found {b}, in\n{fresh}"
    return None


def pictures(notebook):
    """(path from the root, bytes) of the pictures that are files as well."""
    for cell in notebook.cells:
        named = PICTURE.match(cell.source) if cell.cell_type == "code" else None
        if named:
            drawn = [output.data["image/png"] for output in cell.outputs if "data" in output]
            yield named[1], base64.b64decode("".join(drawn[:1]))


def changed_pictures(notebook):
    """Files that are not the pictures that are stored."""
    for name, drawn in pictures(notebook):
        path = os.path.join(ROOT, name)
        if not os.path.exists(path) or open(path, "rb").read() != drawn:
            yield name


def execute(path, nbformat, client):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client(notebook, timeout=1800, kernel_name="python3",
           resources={"metadata": {"path": os.path.dirname(path)}}).execute()
    return notebook


def tidy(notebook):
    """Without what differs from run to run and from machine to machine."""
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"],
                         "language_info": {"name": "python"}}
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.metadata, cell.execution_count = {}, number + 1
        for output in cell.outputs:
            output.pop("metadata", None)
            if output.output_type == "display_data":
                output["metadata"] = {}
                output["data"] = {"image/png": output["data"]["image/png"]}
    return notebook


def missing(notebook, model):
    """Why it cannot run here, or None."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    if "ROTKV_MODEL" in code and not os.path.exists(model):
        return f"no model {model}"
    if re.search(r"^import rotkv$", code, re.MULTILINE):
        found = subprocess.run([sys.executable, "-c", "import rotkv"], capture_output=True, text=True)
        if found.returncode:
            return f"{sys.executable} says {found.stderr.strip().splitlines()[-1]}"
    return None


def main(programs, model, *names, write):
    try:
        import matplotlib  # noqa: F401, the notebooks draw
        import nbformat
        from nbclient import NotebookClient
    except ImportError as error:
        print(f"SKIPPED notebooks: {error} (Debian: python3-nbclient python3-ipykernel python3-matplotlib)")
        return 77
    os.environ["ROTKV_PROGRAMS"] = os.path.abspath(programs)
    os.environ["ROTKV_MODEL"] = os.path.abspath(model)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [
        os.path.abspath(os.path.join(programs, "python")), os.environ.get("PYTHONPATH", "")]))
    os.environ.pop("MPLBACKEND", None)
    failures = 0
    for path in names or sorted(glob.glob(os.path.join(os.path.dirname(__file__), "../notebooks/*.ipynb"))):
        stored = nbformat.read(path, as_version=4)
        lacking = missing(stored, model)
        if lacking:
            print(f"SKIPPED {os.path.basename(path)}: {lacking}")
            continue
        fresh = execute(os.path.abspath(path), nbformat, NotebookClient)
        if write:
            with open(path, "w") as file:
                json.dump(tidy(fresh), file, indent=1, ensure_ascii=False)
                file.write("\n")
            for name, drawn in pictures(fresh):
                with open(os.path.join(ROOT, name), "wb") as file:
                    file.write(drawn)
            continue
        for name in changed_pictures(stored):
            failures += 1
            print(f"{os.path.basename(path)}: {name} is not the picture that is stored here")
        for number, (a, b) in enumerate(zip(printed(stored), printed(fresh)), 1):
            wrong = difference(a, b)
            if wrong:
                failures += 1
                print(f"{os.path.basename(path)}: code cell {number}: {wrong}")
        print(f"{os.path.basename(path)}: {len(printed(fresh))} code cells, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*(word for word in sys.argv[1:] if word != "--write"), write="--write" in sys.argv))
