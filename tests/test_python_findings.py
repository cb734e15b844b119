"""Chapter 30's programs, each of at most ten lines, run again on the installed llama.cpp, each in a
process of its own since some end it: they print what the page says, or end as it says."""
import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import random_models  # noqa: E402
import shift_models  # noqa: E402

with open(os.path.join(HERE, "../docs/30-findings.md"), encoding="utf-8") as file:
    PAGE = file.read()
FOUND = re.findall(r"^```py\n(.*?)^```\n\n```\n(.*?)^```", PAGE, re.M | re.S)


def test_the_page_has_programs_of_ten_lines():
    assert len(FOUND) == PAGE.count("```py") >= 6
    for program, _ in FOUND:
        assert program.count("\n") <= 10, program
        compile(program, "30-findings.md", "exec")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("SKIPPED: there is no Python package xllamacpp")
    stated, found = re.search(r"xllamacpp==(\S+?)`", PAGE)[1], importlib.metadata.version("xllamacpp")
    if stated != found:
        pytest.skip(f"SKIPPED: the page is about xllamacpp {stated}, found {found}")
    path = str(tmp_path_factory.mktemp("findings"))
    for module in shift_models, random_models:
        line = re.search(rf"^python3 tests/{module.__name__}.py \. (.*)$", PAGE, re.M)[1]
        for name in line.split():
            module.write(path, name)
    return path


@pytest.mark.parametrize("program, stated", FOUND)
def test_a_program_ends_as_the_page_says(program, stated, folder):
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "GGML_NO_BACKTRACE": "1"}, timeout=600)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        why = re.search(r"ggml-cpu/.*", done.stderr)
        assert name + (f": {why[0]}" if why else "") + "\n" == stated
    else:
        assert (done.returncode, done.stdout) == (0, stated), done.stderr[-300:]
