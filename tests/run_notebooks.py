#!/usr/bin/env python3
"""Executes notebooks afresh and compares what their cells print with what is stored in them: the
same words, and numbers within 5 %. With --write the fresh outputs are stored instead.

A code cell that says "# Within N %: WHY" has another bound. What a coarse cache costs a model depends
on the order of sums, which is a processor's own, and of few tokens it moves by a standard error.

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
WITHIN = re.compile(r"^# Within (\d+) %: ", re.MULTILINE)
PER_CENT = 5
ROUNDING = 1e-6  # and below: what rounding alone leaves, as a difference or as a KLD, is no figure
START = 600  # seconds that a kernel may take to answer where other programs keep the machine busy


def printed(notebook):
    """The text that each code cell printed, and how far its numbers may be off, in per cent."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            said = WITHIN.search(cell.source)
            yield ("".join(output.get("text", "") for output in cell.get("outputs", [])),
                   int(said[1]) if said else PER_CENT)


def difference(stored, fresh, per_cent=PER_CENT):
    """What is not the same, or None."""
    if re.sub(" *#", " #", NUMBER.sub("#", stored)) != re.sub(" *#", " #", NUMBER.sub("#", fresh)):
        return f"expected\n{stored}found\n{fresh}"
    for a, b in zip(NUMBER.findall(stored), NUMBER.findall(fresh)):
        x, y = float(a), float(b)
        if abs(x - y) > per_cent / 100 * max(abs(x), abs(y)) and max(abs(x), abs(y)) > ROUNDING:
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
    client(notebook, timeout=1800, startup_timeout=START, kernel_name="python3",
           resources={"metadata": {"path": os.path.dirname(path)}}).execute()
    return notebook


def faults(stored, fresh):
    """What is not as it is stored, one text each."""
    for name in changed_pictures(stored):
        yield f"{name} is not the picture that is stored here"
    for number, ((a, per_cent), (b, _)) in enumerate(zip(printed(stored), printed(fresh)), 1):
        wrong = difference(a, b, per_cent)
        if wrong:
            yield f"code cell {number}: {wrong}"


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
        found = list(faults(stored, fresh))
        failures += len(found)
        for wrong in found:
            print(f"{os.path.basename(path)}: {wrong}")
        print(f"{os.path.basename(path)}: {sum(1 for _ in printed(fresh))} code cells, {len(found)} failures",
              flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*(word for word in sys.argv[1:] if word != "--write"), write="--write" in sys.argv))
