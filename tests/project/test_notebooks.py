"Notebooks as tests: a cell that raises, or shows something else than was saved, fails; what may vary does not."
# lane: here

import subprocess, sys

import nbformat
import pytest

import notebooks
from conftest import ROOT


def text(value):
    return [nbformat.v4.new_output("stream", name="stdout", text=value)]


def result(value, kind="text/plain"):
    return [nbformat.v4.new_output("execute_result", {kind: value, "text/plain": value})]


@pytest.mark.parametrize(
    "saved, now",
    [
        (text("took 1.3 s"), text("took 12 s")),
        (text("\r 10%\r100% done\n"), text("\r 5%\r 50%\r100% done\n")),
        (result("<Model at 0x7f8a01b2c3d4>"), result("<Model at 0x7f8a99999999>")),
        (text("one\ntwo\n"), text("one\n") + text("two\n")),
        ([], [nbformat.v4.new_output("stream", name="stderr", text="100%")]),
    ],
)
def test_what_may_vary(saved, now):
    cell = nbformat.v4.new_code_cell("x", outputs=now)
    assert notebooks.compare(cell, saved) is None


@pytest.mark.parametrize(
    "saved, now, said",
    [
        (text("182 calls, 745 steps"), text("184 calls, 753 steps"), "184 calls"),
        (text("x"), [], "-x"),
        ([], result("y"), "[+]y"),
        (result("<b>1</b>", "text/html"), result("<b>2</b>", "text/html"), "<b>2"),
        (result("AAAA", "image/png"), result("AAAB", "image/png"), "another picture"),
        (result("a" * 9000 + "b", "text/html"), result("a" * 9000 + "c", "text/html"), "character 9000"),
    ],
)
def test_what_may_not(saved, now, said):
    import re

    found = notebooks.compare(nbformat.v4.new_code_cell("x", outputs=now), saved)
    assert re.search(said, found)


def test_notebooks_run_as_tests(tmp_path):
    """One that holds, one that shows something else, one that raises, one that needs what is not installed; cells
    marked `varies` or `notest` are let alone."""
    cells = {
        "good": [
            ("print(6 * 7)", text("42\n")),
            ("print(7);", text("7\n")),
            ("#| varies\nprint(1)", text("2\n")),
            ("#| notest\n1 / 0", []),
        ],
        "other": [("print(6 * 7)", text("41\n"))],
        "broken": [("1 / 0", [])],
        "lacking": [("print(1)", []), ("#| needs json no_such_module\n1 / 0", [])],
    }
    for name, code in cells.items():
        made = [nbformat.v4.new_code_cell(source, outputs=outputs) for source, outputs in code]
        nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / f"{name}.ipynb")
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import pathlib, notebooks\n"
        "notebooks.ROOT = folder = pathlib.Path(sys.argv[2])\n"
        "notebooks.PASSED, notebooks.HEAVY = folder / 'passed.json', []\n"
        "notebooks.digest = lambda path: 'now'\n"
        "if __name__ == '__main__':\n"
        "    print(notebooks.test_all(sorted(folder.glob('*.ipynb'))))\n"
    )
    (tmp_path / "go.py").write_text(code)
    command = [sys.executable, tmp_path / "go.py", ROOT / "scripts", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.endswith("(1, 2, 1)\n"), done.stdout + done.stderr
    assert "ZeroDivisionError" in done.stdout and "+42" in done.stdout
    assert "skipped" in done.stdout and "lacking.ipynb: no_such_module is not installed" in done.stdout
